"""SAEs of public releases: saved again whatever their loader leaves, and read in part."""

import pytest
import torch
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig, TopKSAE
from sae_lens.saes.topk_sae import TopKSAEConfig

from sts_utils import saes

SIZE = {"d_in": 16, "d_sae": 64, "dtype": "float32", "device": "cpu"}


def made(kind):
    torch.manual_seed(0)
    sae = {
        "relu": lambda: StandardSAE(StandardSAEConfig(**SIZE)),
        "jumprelu": lambda: JumpReLUSAE(JumpReLUSAEConfig(**SIZE)),
        "topk": lambda: TopKSAE(TopKSAEConfig(**SIZE, k=8)),
    }[kind]()
    sae.W_enc.data = torch.randn(64, 16).T  # as dictionary_learning's loader leaves it
    sae.b_enc.data, sae.b_dec.data = torch.randn(64), torch.randn(16)
    if kind == "jumprelu":
        sae.threshold.data = torch.rand(64)
    return sae


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "topk"])
def test_what_a_loader_leaves_is_saved_and_loaded_again(kind, tmp_path, monkeypatch):
    public = made(kind)
    with pytest.raises(ValueError, match="contiguous"):
        made(kind).save_model(tmp_path / "before")
    monkeypatch.setattr(saes.SAE, "from_pretrained", lambda release, sae_id: public)
    sae = saes.load("release/id", 16)
    sae.save_model(tmp_path / "after")
    again = saes.load(str(tmp_path / "after"), 16)
    rows = torch.randn(5, 16)
    assert torch.equal(saes.encode(sae, rows), saes.encode(again, rows))


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "topk"])
def test_chosen_features_are_those_of_the_whole(kind):
    sae, rows, chosen = made(kind), torch.randn(33, 16), [5, 60, 0, 17]
    whole = saes.encode(sae, rows)
    assert (whole[:, chosen] > 0).any() and (whole[:, chosen] == 0).any()
    torch.testing.assert_close(saes.encode(sae, rows, chosen), whole[:, chosen])


def test_only_the_chosen_features_are_computed(monkeypatch):
    sae = made("relu")
    monkeypatch.setattr(sae, "encode", lambda rows: pytest.fail("all features were computed"))
    assert saes.encode(sae, torch.randn(2, 16), [1]).shape == (2, 1)


def mirror_of_rows():
    """An SAE that writes each row as its positive and negative parts: nothing is left over."""
    sae = StandardSAE(StandardSAEConfig(**SIZE | {"d_sae": 32}))
    eye = torch.eye(16)
    sae.W_enc.data, sae.W_dec.data = torch.cat([eye, -eye], 1), torch.cat([eye, -eye])
    sae.b_enc.data.zero_(), sae.b_dec.data.zero_()
    return sae


def test_an_sae_of_another_model_is_one_line():
    rows = [torch.randn(40, 16), torch.randn(24, 16)]
    saes.check(mirror_of_rows(), "release/layer_9/average_l0_16", rows)
    saes.check(mirror_of_rows(), "a/folder", rows)
    with pytest.raises(
        ValueError, match=r"of 64 rows it leaves 0% .* with 16 features a row \(stated: 109\)"
    ):
        saes.check(mirror_of_rows(), "release/layer_9/average_l0_109", rows)
    for kind in ("relu", "topk"):
        with pytest.raises(ValueError, match="check model, layer and sae") as error:
            saes.check(made(kind), "release/id", rows)
        assert "\n" not in str(error.value)


def test_the_repository_of_a_release_is_sae_lens_s():
    name = "gemma-scope-9b-it-res/layer_31/width_131k/average_l0_22"
    assert saes.repository(name) == "google/gemma-scope-9b-it-res"
    with pytest.raises(ValueError, match="not in sae-lens's list"):
        saes.repository("gemma-scope-9b-it-res/layer_31")
