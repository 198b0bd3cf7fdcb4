"""Labels of features against a slow loop and planted ones."""

import copy

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from sts_utils import run
from sts_utils.experiments import labels
from sts_utils.features import Hook


def slow_label(column, kinds, top):
    order = sorted(range(len(kinds)), key=lambda i: (-column[i], i))[:top]
    counts = [sum(column[i] > 0 and kinds[i] == k for i in order) for k in range(3)]
    if not sum(counts):
        return [np.nan] * 3, -1
    best = [k for k in range(3) if counts[k] == max(counts)]
    return [c / sum(counts) for c in counts], best[0] if len(best) == 1 else -1


def test_votes_and_labels_equal_a_slow_loop(notebook_functions):
    rng, kinds = np.random.default_rng(0), np.repeat([0, 1, 2], 8)
    peaks = rng.gamma(1.0, size=(24, 60)) * (rng.random((24, 60)) < 0.3)
    peaks[:, 0] = 0.0  # silent
    peaks[:, 1] = np.isin(np.arange(24), [2, 9]) * 1.0  # a tie of two kinds
    votes = labels.votes(peaks, kinds, top=5)
    expected, label = zip(*[slow_label(peaks[:, j], kinds, 5) for j in range(60)], strict=True)
    np.testing.assert_allclose(votes, expected)
    np.testing.assert_array_equal(notebook_functions("14_labels").labelled(votes), label)
    assert np.isnan(votes[0]).all() and label[:2] == (-1, -1) and set(label) == {-1, 0, 1, 2}


def test_sinks_and_what_comes_before_are_silent(backbone, sae):
    ids = [1, 50, 900, 33, 17]
    with torch.inference_mode():
        rows = backbone(torch.tensor([ids], device=backbone.device)).last_hidden_state[0]
        h, norms = sae.encode(rows), rows.norm(dim=-1)
    whole = labels.activations(backbone, Hook(0, sae, np.inf), ids, [3, 5], first=2)
    torch.testing.assert_close(whole[2:], h[2:, [3, 5]])
    assert not whole[:2].any()
    sink = int(norms[2:].argmax()) + 2
    some = labels.activations(backbone, Hook(0, sae, float(norms[2:].max())), ids, [3, 5], first=2)
    rest = [t for t in range(5) if t != sink]
    assert not some[sink].any() and torch.equal(some[rest], whole[rest])


def test_promoted_tokens_are_those_of_the_highest_logits(profile, whole, tokenizer):
    (words,) = labels.promoted(profile, np.array([7]))
    direction = whole.model.norm(run.sae(profile).W_dec[7:8])
    best = whole.lm_head(direction)[0].argmax().item()
    assert words[0] == tokenizer.decode([best]).strip() and len(words) == labels.WORDS


def test_shares_and_recall_of_planted_labels(notebook_functions):
    """40 features: a third each of mathematics, code and dialogue, D_N mathematics but for one."""
    kinds = np.repeat([0, 1, 2], 20)
    ranked = np.r_[0:7, 14, 7:14, 15:40]  # one feature of code among the first of mathematics
    kind = np.repeat([0, 1, 2], [14, 14, 12])
    noise = np.random.default_rng(0).random((60, 40)) * 0.01
    peaks = np.where(kinds[:, None] == kind[None, :], 2.0, 0.1) + noise
    seeds = [ranked, ranked]
    share, recall = notebook_functions("14_labels").shares(
        peaks, kinds, seeds, top=10, sizes=(8, 15, 99), draws=5
    )
    shared = {kind: [of[n].value for n in (8, 15, "all")] for kind, of in share.items()}
    assert shared["math"] == pytest.approx([7 / 8, 14 / 15, 14 / 40])
    assert shared["code"] == pytest.approx([1 / 8, 1 / 15, 14 / 40])
    assert shared["dialogue"] == pytest.approx([0, 0, 12 / 40]) and len(share["math"]) == 3
    # top 500 becomes the upper half: 20 of 40, all 14 of mathematics and 6 of code
    expected = {"math": 1.0, "code": 6 / 14, "chance": 0.5}
    assert {name: e.value for name, e in recall.items()} == pytest.approx(expected)
    assert share["math"][8].low == pytest.approx(7 / 8)  # redrawn texts label alike


def test_texts_are_equally_many_of_each_kind_and_begin_with_bos(profile, tokenizer, monkeypatch):
    """Gemma-2 without BOS is broken; SmolLM2 has none."""
    plain, kinds = labels.texts(profile)
    assert list(np.bincount(kinds)) == [profile.labels.samples] * 3 and len(plain) == len(kinds)
    bos = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    with_bos = copy.deepcopy(tokenizer)
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)]
    )
    monkeypatch.setattr(labels.questions, "tokenizer", lambda *_: with_bos)
    tokens = profile.labels.tokens
    assert labels.texts(profile)[0] == [[bos, *ids][:tokens] for ids in plain]
