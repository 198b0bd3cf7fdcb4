"""The paper's architectures without their weights.

From configs with the true public dims, on the meta device, and as three-layer random copies that go
through the whole extraction path.
"""

import numpy as np
import pytest
import torch
import yaml
from rehearsal import families
from rehearsal.families import CHATS, NAMES, PUBLIC
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from transformers import AutoModelForCausalLM, Gemma2Config

from sts_utils import config, corpora, models, prompts, saes
from sts_utils import features as extract
from sts_utils.features import Hook
from sts_utils.store import DATA


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def copy(name, tmp_path_factory):
    """(folder, tokenizer) of a random model of the family, three narrow blocks."""
    made, dims = PUBLIC[name]
    tokenizer = families.tokenizer(name)
    small = dict(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128)
    small |= dict(num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)
    small |= dict(initializer_range=0.2)
    if made is Gemma2Config:  # windows shorter than the demonstrations, and a cap that bites
        small |= dict(head_dim=32, sliding_window=16, attn_logit_softcapping=2.0)
    folder = tmp_path_factory.mktemp(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(made(**(dims | small))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, models.load_tokenizer(str(folder))


@pytest.fixture(scope="module")
def pairs(copy):
    shown = [corpora.load("gsm-symbolic", 1, 2), corpora.load("gsm-symbolic", 2, 2)]
    return prompts.prompt_pairs(copy[1], corpora.load("gsm-symbolic", 3, 6), shown, 8192)


# --- the real architecture, on the meta device ---------------------------------------------------


def test_the_real_architecture_fits_the_profile(name):
    made, dims = PUBLIC[name]
    profile = config.load(name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(made(**dims))
    # the table that `check` falls back to without the hub
    table = yaml.safe_load((DATA / "models.yaml").read_text(encoding="utf-8"))
    assert sum(p.numel() for p in model.parameters()) == table[profile.model]
    # the last block is no place for the paper's SAE
    assert 0 <= profile.layer < dims["num_hidden_layers"] - 1
    backbone = models.truncate(model, profile.layer)
    with torch.no_grad():
        ids = torch.zeros(1, 8, dtype=torch.long, device="meta")
        mask = torch.zeros(1, 1, 8, 8, device="meta")  # given, since building one looks at values
        hidden = backbone(ids, attention_mask=mask, use_cache=False).last_hidden_state
    assert len(backbone.layers) == profile.layer + 1 and hidden.shape == (1, 8, dims["hidden_size"])


def test_gemma_scope_s_config_is_the_profile_s():
    """The one family whose SAE configs sae-lens knows without asking the hub."""
    profile = config.load("gemma2-9b")
    release, _, sae_id = profile.sae.partition("/")
    found = saes.load_sae_config_from_huggingface(release, sae_id)
    assert (found["architecture"], found["d_in"], found["d_sae"]) == ("jumprelu", 3584, 131_072)
    assert found["metadata"]["hook_name"] == saes.hook_point(profile.layer)
    assert saes.layer(profile.sweep.layers[0]) == 9


# --- chat templates ------------------------------------------------------------------------------


def test_the_query_s_span_is_the_question_and_nothing_else(name, copy, pairs):
    _, _, before, after = CHATS[name]
    _, tokenizer = copy
    for query, pair in zip(corpora.load("gsm-symbolic", 3, 6), pairs, strict=True):
        for prompt in pair:
            start, stop = prompt.span
            assert tokenizer.decode(prompt.ids[start:stop]) == query.query
            assert tokenizer.decode(prompt.ids[:start]).endswith(before)
            assert tokenizer.decode(prompt.ids[stop:]) == after
            assert prompt.ids.count(tokenizer.bos_token_id) == (name != "qwen2.5-7b")
        plain, icl = pair
        assert plain.query == icl.query and len(icl.context) > 3 * len(plain.context)


# --- the whole path on a small copy --------------------------------------------------------------


def random_sae(kind):
    metadata = SAEMetadata(hook_name=saes.hook_point(1))
    cfg = dict(d_in=64, d_sae=256, device="cpu", dtype="float32", metadata=metadata)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if kind == "jumprelu":
            sae = JumpReLUSAE(JumpReLUSAEConfig(**cfg, apply_b_dec_to_input=False))
            sae.threshold.data.uniform_(0.5, 3.0)
        elif kind == "relu":
            sae = StandardSAE(StandardSAEConfig(**cfg, normalize_activations="layer_norm"))
        else:
            sae = TopKSAE(TopKSAEConfig(**cfg, k=8, normalize_activations="constant_norm_rescale"))
        for parameter in (sae.W_enc, sae.b_enc, sae.b_dec):
            parameter.data.normal_(std=0.5)
    return sae


def by_hand(kind, sae, x):
    """The SAE's features of rows x, from its definition and its own normalisation."""
    if kind == "jumprelu":
        pre = x @ sae.W_enc + sae.b_enc
        return pre.relu() * (pre > sae.threshold)
    if kind == "relu":
        x = x - x.mean(-1, keepdim=True)
        x = x / (x.std(-1, keepdim=True) + 1e-5)
        return ((x - sae.b_dec) @ sae.W_enc + sae.b_enc).relu()
    x = x * 64**0.5 / x.norm(dim=-1, keepdim=True)
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    top = pre.topk(8, dim=-1)
    return torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())


@torch.no_grad()
def after_block(model, ids, layer):
    """Residual rows [tokens, d_model] that leave block `layer`, not the last, of a whole model."""
    hidden = model(torch.tensor([ids]), use_cache=False, output_hidden_states=True).hidden_states
    return hidden[layer + 1][0].float()  # what enters the next block


@pytest.mark.parametrize("kind", ["jumprelu", "relu", "topk"])
def test_extraction_reads_the_block_s_output_through_any_sae(copy, pairs, kind):
    """The truncated model with cached contexts, against the whole one and the SAE's definition."""
    folder, _ = copy
    eager = {"attn_implementation": "eager", "dtype": torch.float32}
    whole = AutoModelForCausalLM.from_pretrained(folder, **eager).eval()
    backbone = models.load_truncated(str(folder), 1)
    assert len(backbone.layers) == 2
    sae = random_sae(kind)
    hook = Hook(1, random_sae(kind).to(backbone.device), np.inf)
    (stats,) = extract.feature_stats(pairs, backbone, [hook])
    for i, (plain, icl) in enumerate(pairs):
        r, r_icl = (after_block(whole, p.ids, 1)[slice(*p.span)] for p in (plain, icl))
        with torch.no_grad():
            h, h_icl = (by_hand(kind, sae, rows).double() for rows in (r, r_icl))
        assert stats.n[i] == len(plain.query)
        np.testing.assert_allclose(stats.r[i], r.double().sum(0), rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(stats.h[i], h.sum(0), rtol=2e-3, atol=2e-2)
        # a feature near its threshold may fire on one side of rounding alone: compare the whole
        np.testing.assert_allclose(stats.dh2[i].sum(), (h_icl - h).square().sum(), rtol=5e-3)
    assert stats.dh2.sum() > 0 and 0 < (stats.h.sum(0) > 0).mean() <= 1
