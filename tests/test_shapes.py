"""The paper's architectures without their weights: from configs with the true public dims, and as
three-layer random copies that go through the whole extraction path. SAEs of public releases: read
whole and in part, saved again whatever their loader leaves, and refused at another model."""

import re

import numpy as np
import pytest
import torch
import yaml
from rehearsal import hub
from rehearsal.families import FAMILIES, PUBLIC
from sae_lens import saes as lens
from transformers import AutoModelForCausalLM

from sts_utils import config, corpora, models, prompts, saes
from sts_utils.features import Hook, feature_stats
from sts_utils.store import DATA


@pytest.fixture(scope="module", params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def copy(name, tmp_path_factory):
    """(folder, tokenizer) of a random model of the family, three narrow blocks."""
    small = dict(num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)
    small |= dict(initializer_range=0.2)
    if name == "gemma2-9b":  # windows shorter than the demonstrations, and a cap that bites
        small |= dict(sliding_window=16, attn_logit_softcapping=2.0)
    folder = tmp_path_factory.mktemp(name)
    hub.model(name, folder, **small)
    return str(folder), models.load_tokenizer(str(folder))


@pytest.fixture(scope="module")
def pairs(copy):
    shown = [corpora.load("gsm-symbolic", 1, 2), corpora.load("gsm-symbolic", 2, 2)]
    return prompts.prompt_pairs(copy[1], corpora.load("gsm-symbolic", 3, 6), shown, 8192)


def test_the_real_architecture_fits_the_profile(name):
    (made, dims), profile = PUBLIC[name], config.load(name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(made(**dims))
    # the table that `check` falls back to without the hub
    table = yaml.safe_load((DATA / "models.yaml").read_text(encoding="utf-8"))
    assert model.num_parameters() == table[profile.model]
    assert profile.layer < dims["num_hidden_layers"] - 1  # the last is no place for an SAE
    if name == "gemma2-9b":  # the one family whose SAE configs sae-lens knows without the hub
        assert saes.layer(profile.sae) == profile.layer and saes.layer(profile.sweep.layers[0]) == 9


def test_the_query_s_span_is_the_question_and_nothing_else(name, copy, pairs):
    (before, after), (_, tokenizer) = FAMILIES[name]["around"], copy
    for query, pair in zip(corpora.load("gsm-symbolic", 3, 6), pairs, strict=True):
        assert pair[0].query == pair[1].query
        for prompt in pair:
            head, asked, tail = re.split("[⟦⟧]", prompts.decoded(tokenizer, prompt))
            assert (asked, tail) == (query.query, after) and head.endswith(before)
            assert prompt.ids.count(tokenizer.bos_token_id) == (name != "qwen2.5-7b")


KINDS = ("relu", "jumprelu", "topk")


def made(kind):
    """A random SAE, and its features of rows x from its definition and its own normalisation."""
    torch.manual_seed(1)
    cfg = dict(d_in=64, d_sae=256, device="cpu", dtype="float32")
    if kind == "jumprelu":
        sae = lens.JumpReLUSAE(lens.JumpReLUSAEConfig(**cfg, apply_b_dec_to_input=False))
        sae.threshold.data.uniform_(0.5, 3.0)
    elif kind == "relu":
        sae = lens.StandardSAE(lens.StandardSAEConfig(**cfg, normalize_activations="layer_norm"))
    else:
        cfg |= {"k": 8, "normalize_activations": "constant_norm_rescale"}
        sae = lens.TopKSAE(lens.TopKSAEConfig(**cfg))
    for parameter in (sae.W_enc, sae.b_enc, sae.b_dec):
        parameter.data.normal_(std=0.5)
    sae.W_enc.data = sae.W_enc.data.T.contiguous().T  # as dictionary_learning's loader leaves it

    def features(x):
        if kind == "jumprelu":
            pre = x @ sae.W_enc + sae.b_enc
            return pre.relu() * (pre > sae.threshold)
        if kind == "relu":
            x = x - x.mean(-1, keepdim=True)
            x = x / (x.std(-1, keepdim=True) + 1e-5)
            return ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu()
        pre = (x * 8 / x.norm(dim=-1, keepdim=True) - sae.b_dec) @ sae.W_enc + sae.b_enc
        top = pre.topk(8, dim=-1)
        return torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())

    return sae, features


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_extraction_reads_the_block_s_output_through_any_sae(copy, pairs, kind):
    """The truncated model with cached contexts, against the whole one and the SAE's definition."""
    eager = {"attn_implementation": "eager", "dtype": torch.float32}
    whole = AutoModelForCausalLM.from_pretrained(copy[0], **eager).eval()
    backbone = models.load_truncated(copy[0], 1)
    assert len(backbone.layers) == 2
    sae, features = made(kind)
    (stats,) = feature_stats(pairs, backbone, [Hook(1, sae.to(backbone.device), np.inf)])
    sae.to("cpu")
    for i, pair in enumerate(pairs):
        rows = []
        for prompt in pair:  # what enters the block behind it
            out = whole(torch.tensor([prompt.ids]), use_cache=False, output_hidden_states=True)
            rows.append(out.hidden_states[2][0].float()[slice(*prompt.span)])
        h, h_icl = (features(r).double() for r in rows)
        assert stats.n[i] == len(pair[0].query)
        np.testing.assert_allclose(stats.r[i], rows[0].double().sum(0), rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(stats.h[i], h.sum(0), rtol=2e-3, atol=2e-2)
        # a feature near its threshold may fire on one side of rounding alone: compare the whole
        np.testing.assert_allclose(stats.dh2[i].sum(), (h_icl - h).square().sum(), rtol=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_an_sae_is_saved_again_and_read_in_part_as_the_whole(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(saes.sae_lens().SAE, "from_pretrained", lambda *_: made(kind)[0])
    sae, rows, chosen = saes.load("release/id", 64), torch.randn(33, 64), [5, 60, 0, 17]
    sae.save_model(tmp_path / "after")  # of views safetensors writes nothing
    whole = saes.encode(saes.load(str(tmp_path / "after"), 64), rows)
    assert torch.equal(saes.encode(sae, rows), whole)
    assert (whole[:, chosen] > 0).any() and (whole[:, chosen] == 0).any()
    if kind == "relu":  # others are not computed
        monkeypatch.setattr(sae, "encode", None)
    torch.testing.assert_close(saes.encode(sae, rows, chosen), whole[:, chosen])


def test_an_sae_of_another_model_is_one_line():
    size, eye = {"d_in": 16, "d_sae": 32, "dtype": "float32", "device": "cpu"}, torch.eye(16)
    mirror = lens.StandardSAE(lens.StandardSAEConfig(**size))
    mirror.W_enc.data, mirror.W_dec.data = torch.cat([eye, -eye], 1), torch.cat([eye, -eye])
    mirror.b_enc.data.zero_(), mirror.b_dec.data.zero_()  # each row's parts: nothing is left over
    rows = [torch.randn(40, 16), torch.randn(24, 16)]
    saes.check(mirror, "release/layer_9/average_l0_16", rows)
    saes.check(mirror, "a/folder", rows)
    wrong = r"of 64 rows it leaves 0% .* with 16 features a row \(stated: 109\)"
    with pytest.raises(ValueError, match=wrong):
        saes.check(mirror, "release/layer_9/average_l0_109", rows)
    with pytest.raises(ValueError, match=r"^[^\n]*check model, layer and sae$"):
        saes.check(made("relu")[0], "release/id", [torch.randn(64, 64)])
    name = "gemma-scope-9b-it-res/layer_31/width_131k/average_l0_22"
    assert saes.repository(name) == "google/gemma-scope-9b-it-res"
