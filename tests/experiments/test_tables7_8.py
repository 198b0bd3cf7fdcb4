"""Labels of features against a slow loop and planted ones."""

import copy

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from sts_utils.experiments import tables7_8
from sts_utils.features import Hook
from sts_utils.results import paper


def slow_label(column, kinds, top):
    order = sorted(range(len(kinds)), key=lambda i: (-column[i], i))[:top]
    counts = [sum(column[i] > 0 and kinds[i] == k for i in order) for k in range(3)]
    if not sum(counts):
        return [np.nan] * 3, -1
    best = [k for k in range(3) if counts[k] == max(counts)]
    return [c / sum(counts) for c in counts], best[0] if len(best) == 1 else -1


def test_votes_and_labels_equal_a_slow_loop():
    rng, kinds = np.random.default_rng(0), np.repeat([0, 1, 2], 8)
    peaks = rng.gamma(1.0, size=(24, 60)) * (rng.random((24, 60)) < 0.3)
    peaks[:, 0] = 0.0  # silent
    peaks[:, 1] = np.isin(np.arange(24), [2, 9]) * 1.0  # a tie of two kinds
    votes = tables7_8.votes(peaks, kinds, top=5)
    expected, label = zip(*[slow_label(peaks[:, j], kinds, 5) for j in range(60)], strict=True)
    np.testing.assert_allclose(votes, expected)
    np.testing.assert_array_equal(tables7_8.labelled(votes), label)
    assert np.isnan(votes[0]).all() and label[:2] == (-1, -1) and set(label) == {-1, 0, 1, 2}


def test_peaks_are_the_highest_activations(backbone, sae):
    sequences = [[1, 50, 900, 33], [1, 7, 8, 9, 4000, 12]]
    peaks = tables7_8.peaks(backbone, Hook(0, sae, np.inf), sequences)
    for row, sequence in zip(peaks, sequences, strict=True):
        with torch.inference_mode():
            ids = torch.tensor([sequence], device=backbone.device)
            h = sae.encode(backbone(ids).last_hidden_state[0])
        np.testing.assert_allclose(row, h[1:].max(0).values.cpu(), rtol=1e-5)


def test_shares_and_recall_of_planted_labels():
    """40 features: a third each of mathematics, code and dialogue, D_N mathematics but for one."""
    kinds = np.repeat([0, 1, 2], 20)
    ranked = np.r_[0:7, 14, 7:14, 15:40]  # one feature of code among the first of mathematics
    kind = np.repeat([0, 1, 2], [14, 14, 12])
    noise = np.random.default_rng(0).random((60, 40)) * 0.01
    peaks = np.where(kinds[:, None] == kind[None, :], 2.0, 0.1) + noise
    labels = tables7_8.Labels(peaks, kinds, kinds)
    seeds = [ranked, ranked]
    share, recall = tables7_8.shares(labels, seeds, top=10, sizes=(8, 15, 99), draws=5)
    shared = {kind: [of[n].value for n in (8, 15, "all")] for kind, of in share.items()}
    assert shared["math"] == pytest.approx([7 / 8, 14 / 15, 14 / 40])
    assert shared["code"] == pytest.approx([1 / 8, 1 / 15, 14 / 40])
    assert shared["dialogue"] == pytest.approx([0, 0, 12 / 40]) and len(share["math"]) == 3
    # top 500 becomes the upper half: 20 of 40, all 14 of mathematics and 6 of code
    # which is the mean over draws of fewer of them
    expected = {"math": 1.0, "code": 6 / 14, "chance": 0.5}
    assert {name: e.value for name, e in recall.items()} == pytest.approx(expected)
    assert share["math"][8].low == pytest.approx(7 / 8)  # redrawn texts label alike


def test_texts_are_equally_many_of_each_kind(profile):
    texts, kinds = tables7_8.texts(profile)
    assert list(np.bincount(kinds)) == [profile.labels.samples] * 3 and len(texts) == len(kinds)
    assert max(map(len, texts)) <= profile.labels.tokens


def test_texts_begin_with_the_bos_of_a_model_that_has_one(profile, tokenizer, monkeypatch):
    """Gemma-2 without BOS is broken; SmolLM2 has none."""
    plain = tables7_8.texts(profile)[0]
    bos = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    with_bos = copy.deepcopy(tokenizer)
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)]
    )
    monkeypatch.setattr(tables7_8.samples, "tokenizer", lambda *_: with_bos)
    tokens = profile.labels.tokens
    assert tables7_8.texts(profile)[0] == [[bos, *ids][:tokens] for ids in plain]
    seen = []
    monkeypatch.setattr(tables7_8.generation, "chat_text", lambda _, text: seen.append(text) or "x")
    with pytest.raises(AttributeError):  # no model: the prompts are made before it is asked
        tables7_8.judged(None, with_bos, [[bos, *plain[0]]])
    assert seen and "<|endoftext|>" not in seen[0]


def test_tables_7_and_8(made, run, ours):
    kinds = {kind: {n: made() for n in (50, 100, 200, "all")} for kind in tables7_8.KINDS}
    share = kinds["math"]
    recall = {n: made() for n in ("math", "code", "chance")}
    numbers = tables7_8.Numbers(kinds, recall)
    seven, caption = tables7_8.table7(numbers, run)
    eight, said = tables7_8.table8(numbers, run)
    assert max(len(text.split()) for text in (caption, said)) <= 60
    for table, of in ((seven, share), (eight, recall)):
        for (_, row), e in zip(table.iterrows(), of.values(), strict=True):
            ours(row, e)
    assert list(seven.dims) == ["D_50", "D_100", "D_200", "all labelled"]
    assert list(seven.code) == [e.value for e in kinds["code"].values()]
    assert list(seven.dialogue) == [e.value for e in kinds["dialogue"].values()]
    more = [share[n].value / share["all"].value for n in (50, 100, 200)]
    np.testing.assert_allclose(seven.enrichment, [*more, np.nan])
    ratios = share[50].draws / share["all"].draws
    sides = seven[["enrichment low", "enrichment high"]].iloc[0]
    np.testing.assert_allclose(sides, np.percentile(ratios, [2.5, 97.5]))
    theirs = paper("table07_math_share").math_percent
    np.testing.assert_allclose(seven["paper's share"].astype(float), [*theirs / 100, np.nan])
    theirs = paper("table08_recall").set_index("annotation").recall_percent_in_top500
    expected = [theirs["math"] / 100, theirs["code"] / 100, np.nan]
    np.testing.assert_allclose(eight.paper.astype(float), expected)
    claims = list(tables7_8.claims(numbers, run))
    assert [c.figure for c in claims] == ["table7"] * 3 + ["table8"]
    assert [c.estimate.value for c in claims[:3]] == pytest.approx([of - 1 for of in more])
    assert claims[0].estimate.low == pytest.approx(np.percentile(ratios - 1, 2.5))
