"""Overlap of estimated and actual dims, on random statistics."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sts_utils import stats
from sts_utils.experiments import fig2a
from sts_utils.method import shift

SPACES = {"SAE": ("SAE features", "dh2", 8), "raw": ("raw dims", "dr2", 3)}


def top(seed, field, k):
    return set(np.argsort(-getattr(seed, field).sum(0))[:k])


def test_overlap_by_hand(run):
    numbers = fig2a.compute(run)
    for space, (_, field, k) in SPACES.items():  # 8 of 40, and a fifth of 16
        pairs = zip(run.train, run.actual, strict=True)
        by_hand = np.mean([len(top(a, field, k) & top(b, field, k)) / k for a, b in pairs])
        assert numbers[space].k == k and numbers[space].at_k.value == pytest.approx(by_hand)
    claims = [claim.estimate.value for claim in fig2a.claims(numbers, run)]
    sae, raw = numbers["SAE"].at_k.value, numbers["raw"].at_k.value
    assert claims == pytest.approx([sae - 0.2, sae - raw])


def test_overlap_of_drawn_dims(run):
    both = [run.shifts(side) for side in ("train", "actual")]
    overlap = run.overlap()
    tops = [[[set(np.argsort(-row)[:8]) for row in seeds] for seeds in side] for side in both]
    draws = zip(*tops, strict=True)
    shares = np.array([[len(a & b) / 8 for a, b in zip(*of, strict=True)] for of in draws])
    assert overlap.value == pytest.approx(shares[0].mean())
    np.testing.assert_allclose(overlap.draws, stats.over_seeds(shares[1:]))
    np.testing.assert_allclose(both[0][0], [x.dh2.sum(0) / x.n.sum() for x in run.train])


def test_lines_are_the_overlaps(run):
    figure, caption = fig2a.fig2a(fig2a.compute(run), run)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    for label, field, _ in SPACES.values():
        size = getattr(run.train[0], field).shape[1]
        for percent, value in zip(*lines[label].get_data(), strict=True):
            k = round(percent * size / 100)
            pairs = zip(run.train, run.actual, strict=True)
            by_hand = [len(top(a, field, k) & top(b, field, k)) / k for a, b in pairs]
            assert value == pytest.approx(np.mean(by_hand))
    sides = [[shift.shifted_dims(seed, 8) for seed in side] for side in (run.train, run.actual)]
    direct = [shift.overlap(a, b, 8) for a, b in zip(*sides, strict=True)]
    assert f"SAE features: {np.mean(direct):.0%}" in caption
    plt.close(figure)
