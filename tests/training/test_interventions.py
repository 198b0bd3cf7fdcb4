"""Zeroed features and selective maps, against the formulas on the tiny model."""

import copy

import numpy as np
import pytest
import torch

from sts_utils import corpora, models, saes, train
from sts_utils.saes import SelectiveMaps, edited, zeroed

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
    pre = (rows - biased.b_dec).double() @ biased.W_enc.double() + biased.b_enc.double()
    top = pre.topk(8)
    h = torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
    chosen = top.indices[..., :3].unique().tolist()
    expected = rows - h[..., chosen] @ biased.W_dec[chosen].double()
    found = zeroed(biased, chosen, np.inf)(rows)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)


def test_sinks_stay_as_they_are(biased, rows):
    rows[0, 0] *= 100
    found = zeroed(biased, range(512), rows[0, 0].norm().item() - 1)(rows)
    assert torch.equal(found[0, 0], rows[0, 0])
    assert (found - rows).abs().amax(-1).flatten()[1:].min() > 0


def test_the_edit_is_what_the_next_block_reads(whole, biased):
    """Given the stream of another text after block 0, the model goes on with that text."""
    before = logits(whole)
    with torch.inference_mode():
        other = whole(IDS + 1, output_hidden_states=True)
    with edited(whole, {0: lambda residual: other.hidden_states[1]}):
        torch.testing.assert_close(logits(whole), other.logits)
    with edited(whole, {0: zeroed(biased, [], np.inf)}):
        assert torch.equal(logits(whole), before)


@pytest.fixture
def maps(biased):
    second = saes.load("random-4x-layer1", 64).to(models.device())
    chosen = {0: (biased, [3, 77, 200]), 1: (second, range(256))}
    return SelectiveMaps(chosen).to(models.device())


def test_a_map_adds_the_chosen_features_decoded_by_it(whole, biased, maps, rows):
    expected = logits(whole)
    with edited(whole, maps.edits({0: np.inf, 1: np.inf})):
        assert torch.equal(logits(whole), expected)  # maps start at zero
    rows[1, 2] *= 100  # a sink
    with torch.no_grad():
        maps.maps["0"].normal_()
        found = maps.edits({0: 90.0, 1: np.inf})[0](rows)
        expected = rows + biased.encode(rows)[..., [3, 77, 200]] @ maps.maps["0"]
    expected[1, 2] = rows[1, 2]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_training_moves_the_maps_and_nothing_else(profile, tokenizer, biased, maps):
    model = models.load_model("tiny").requires_grad_(False)
    model.selective, trainable = maps, {"selective.maps.0", "selective.maps.1"}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == trainable
    before, sae_before = copy.deepcopy(model.state_dict()), copy.deepcopy(biased.state_dict())
    how = (profile.sft, corpora.load("gsm-symbolic", 0, 8), 1e-2, 0, "maps")
    with edited(model, maps.edits({0: np.inf, 1: np.inf})):
        train.train_answers(model.train(), tokenizer, *how, warmup=0)
    after = model.state_dict()
    assert {key for key in after if not torch.equal(before[key], after[key])} == trainable
    assert all(torch.equal(biased.state_dict()[key], value) for key, value in sae_before.items())
    assert all(p.grad is None for n, p in model.named_parameters() if n not in trainable)
