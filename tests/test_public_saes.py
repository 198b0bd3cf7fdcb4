"""SAEs of public releases: saved again whatever their loader leaves, and read in part."""

import pytest
import torch
from sae_lens import saes as lens

from sts_utils import saes

SIZE = {"d_in": 16, "d_sae": 64, "dtype": "float32", "device": "cpu"}


def made(kind):
    torch.manual_seed(0)
    sae = {
        "relu": lambda: lens.StandardSAE(lens.StandardSAEConfig(**SIZE)),
        "jumprelu": lambda: lens.JumpReLUSAE(lens.JumpReLUSAEConfig(**SIZE)),
        "topk": lambda: lens.TopKSAE(lens.TopKSAEConfig(**SIZE, k=8)),
    }[kind]()
    sae.W_enc.data = torch.randn(64, 16).T  # as dictionary_learning's loader leaves it
    sae.b_enc.data, sae.b_dec.data = torch.randn(64), torch.randn(16)
    if kind == "jumprelu":
        sae.threshold.data = torch.rand(64)
    return sae


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "topk"])
def test_an_sae_is_saved_again_and_its_chosen_features_are_those_of_the_whole(
    kind, tmp_path, monkeypatch
):
    monkeypatch.setattr(saes.SAE, "from_pretrained", lambda release, sae_id: made(kind))
    sae, rows, chosen = saes.load("release/id", 16), torch.randn(33, 16), [5, 60, 0, 17]
    sae.save_model(tmp_path / "after")  # of views safetensors writes nothing
    whole = saes.encode(saes.load(str(tmp_path / "after"), 16), rows)
    assert torch.equal(saes.encode(sae, rows), whole)
    assert (whole[:, chosen] > 0).any() and (whole[:, chosen] == 0).any()
    if kind == "relu":  # others are not computed
        monkeypatch.setattr(sae, "encode", None)
    torch.testing.assert_close(saes.encode(sae, rows, chosen), whole[:, chosen])


def test_an_sae_of_another_model_is_one_line():
    mirror, eye = (lens.StandardSAE(lens.StandardSAEConfig(**SIZE | {"d_sae": 32})), torch.eye(16))
    mirror.W_enc.data, mirror.W_dec.data = torch.cat([eye, -eye], 1), torch.cat([eye, -eye])
    mirror.b_enc.data.zero_(), mirror.b_dec.data.zero_()  # each row's parts: nothing is left over
    rows = [torch.randn(40, 16), torch.randn(24, 16)]
    saes.check(mirror, "release/layer_9/average_l0_16", rows)
    saes.check(mirror, "a/folder", rows)
    wrong = r"of 64 rows it leaves 0% .* with 16 features a row \(stated: 109\)"
    with pytest.raises(ValueError, match=wrong):
        saes.check(mirror, "release/layer_9/average_l0_109", rows)
    with pytest.raises(ValueError, match=r"^[^\n]*check model, layer and sae$"):
        saes.check(made("relu"), "release/id", rows)
    name = "gemma-scope-9b-it-res/layer_31/width_131k/average_l0_22"
    assert saes.repository(name) == "google/gemma-scope-9b-it-res"
