"""Zeroed features and selective maps, against the formulas on the tiny model."""

import copy

import numpy as np
import pytest
import torch

from sts_utils import corpora, models, saes, train
from sts_utils.interventions import SelectiveMaps, edited, zeroed

IDS = torch.tensor([[5, 900, 17, 4000, 33, 2], [8, 12, 700, 61, 9, 1500]]).to(models.device())


@pytest.fixture(scope="module")
def biased():
    """A random SAE with a decoder bias, as a trained one has."""
    sae = saes.load("random-8x", 64).to(models.device())
    torch.manual_seed(1)
    sae.b_dec.data.normal_(std=0.01)
    return sae


@pytest.fixture
def rows():
    torch.manual_seed(2)
    return torch.randn(2, 6, 64).to(models.device())


@torch.inference_mode()
def logits(model):
    return model(IDS).logits


def test_zeroing_takes_out_the_features_own_parts(biased, rows):
    top = [biased.encode(row[None])[0].topk(3).indices.tolist() for row in rows.flatten(0, 1)]
    chosen = sorted({j for ids in top for j in ids})
    found = zeroed(biased, chosen, np.inf)(rows)
    for r, after in zip(rows.flatten(0, 1).double(), found.flatten(0, 1), strict=True):
        pre = (r - biased.b_dec.double()) @ biased.W_enc.double() + biased.b_enc.double()
        active = pre.topk(8).indices.tolist()
        assert set(active) & set(chosen)
        expected = r - sum(max(pre[j], 0) * biased.W_dec[j].double() for j in active if j in chosen)
        torch.testing.assert_close(after.double(), expected, rtol=0, atol=1e-4)


def test_all_features_zeroed_leave_error_and_bias_and_none_change_nothing(whole, biased, rows):
    error = rows - biased.decode(biased.encode(rows))
    found = zeroed(biased, range(512), np.inf)(rows)
    torch.testing.assert_close(found, error + biased.b_dec, rtol=0, atol=1e-4)
    expected = logits(whole)
    with edited(whole, {0: zeroed(biased, [], np.inf)}):
        assert torch.equal(logits(whole), expected)


def test_sinks_stay_as_they_are(biased, rows):
    rows[0, 0] *= 100
    limit = rows[0, 0].norm().item() - 1
    found = zeroed(biased, range(512), limit)(rows)
    assert torch.equal(found[0, 0], rows[0, 0])
    assert (found - rows).abs().amax(-1).flatten()[1:].min() > 0


def test_the_edit_reaches_what_follows_its_block_alone(whole, biased):
    """Zeroed in the running model = zeroed between two halves of it run by hand."""
    edit = zeroed(biased, range(512), np.inf)
    with torch.inference_mode():
        hidden = whole(IDS, output_hidden_states=True).hidden_states
        n = IDS.shape[1]
        positions = torch.arange(n, device=IDS.device)[None]
        causal = torch.full((1, 1, n, n), -np.inf, device=IDS.device).triu(1)
        rotary = whole.model.rotary_emb(hidden[1], positions)
        placed = {"position_embeddings": rotary, "position_ids": positions}
        after = whole.model.layers[1](edit(hidden[1]), attention_mask=causal, **placed)
        by_hand = whole.lm_head(whole.model.norm(after[0] if isinstance(after, tuple) else after))
    with edited(whole, {0: edit}):
        torch.testing.assert_close(logits(whole), by_hand, rtol=1e-4, atol=1e-4)


# --- selective maps ----------------------------------------------------------------------------


@pytest.fixture
def maps(biased):
    second = saes.load("random-4x-layer1", 64).to(models.device())
    return SelectiveMaps({0: (biased, [3, 77, 200]), 1: (second, [1, 2])}).to(models.device())


def test_a_map_adds_the_chosen_features_decoded_by_it(whole, biased, maps, rows):
    expected = logits(whole)
    with edited(whole, maps.edits({0: np.inf, 1: np.inf})):
        assert torch.equal(logits(whole), expected)  # maps start at zero
    rows[1, 2] *= 100
    with torch.no_grad():
        maps.maps["0"].normal_()
        found = maps.edits({0: 90.0, 1: np.inf})[0](rows)
    h = biased.encode(rows)
    expected = rows + h[..., [3, 77, 200]] @ maps.maps["0"]
    expected[1, 2] = rows[1, 2]  # a sink
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=1e-3)


def test_training_moves_the_maps_and_nothing_else(profile, tokenizer, biased):
    settings = profile.sft.model_copy(update={"epochs": 3})  # the first step warms up
    model = models.load_model("tiny").requires_grad_(False)
    second = saes.load("random-4x-layer1", 64).to(models.device())
    maps = SelectiveMaps({0: (biased, range(512)), 1: (second, range(256))})
    model.selective = maps.to(models.device())
    trainable = {"selective.maps.0", "selective.maps.1"}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == trainable
    before, sae_before = copy.deepcopy(model.state_dict()), copy.deepcopy(biased.state_dict())
    examples = corpora.load("gsm-symbolic", 0, 8)
    with edited(model, maps.edits({0: np.inf, 1: np.inf})):
        train.train_answers(model.train(), tokenizer, settings, examples, 1e-2, 0, "maps")
    moved = {
        key for key, value in model.state_dict().items() if not torch.equal(before[key], value)
    }
    assert moved == trainable
    assert all(torch.equal(biased.state_dict()[key], value) for key, value in sae_before.items())
    assert all(p.grad is None for n, p in model.named_parameters() if n not in trainable)
