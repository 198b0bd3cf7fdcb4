"""Overlap of estimated and actual dims, on random statistics."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sts_utils import stats
from sts_utils.experiments import fig2a
from sts_utils.runs import features, samples

#: Name -> what ranks the dims, by hand: (side, field); the field of SFT's; dims at N and, of 40 or
#: 16, at the same fraction.
BY_HAND = {
    "SAE": ("train", "dh2", "dh2", 8, 8),
    "raw": ("train", "dr2", "dr2", 8, 3),
    "active": ("train", "h", "dh2", 8, 8),
    "prose": ("prose", "dh2", "dh2", 8, 8),
}


def top(seed, field, k):
    return set(np.argsort(-getattr(seed, field).sum(0))[:k])


def by_hand(run, name, k):
    """Overlap at k, mean over seeds."""
    side, field, moved, *_ = BY_HAND[name]
    pairs = zip(getattr(run, side), run.actual, strict=True)
    return np.mean([len(top(a, field, k) & top(b, moved, k)) / k for a, b in pairs])


def test_overlap_by_hand(run):
    numbers = fig2a.compute(run)
    for name, (*_, n, same) in BY_HAND.items():
        curve = numbers[name]
        for at, k in ((curve.at_n, n), (curve.fraction, same)):
            assert at.k == k and at.overlap.value == pytest.approx(by_hand(run, name, k))
            assert at.chance == k / curve.size
    claims = [claim.estimate.value for claim in fig2a.claims(numbers, run)]
    at_8 = {name: by_hand(run, name, 8) for name in BY_HAND}
    expected = [at_8["SAE"] - 0.2, at_8["SAE"] - at_8["active"], at_8["SAE"] - at_8["prose"]]
    expected += [(at_8["SAE"] - 0.2) - (at_8["raw"] - 0.5)]
    expected += [(at_8["SAE"] - 0.2) - (by_hand(run, "raw", 3) - 3 / 16)]
    assert claims == pytest.approx(expected)


def test_overlap_of_drawn_dims(run):
    both = [run.shifts(side) for side in ("train", "actual")]
    overlap = run.overlap()
    tops = [[[set(np.argsort(-row)[:8]) for row in seeds] for seeds in side] for side in both]
    draws = zip(*tops, strict=True)
    shares = np.array([[len(a & b) / 8 for a, b in zip(*of, strict=True)] for of in draws])
    assert overlap.value == pytest.approx(shares[0].mean())
    np.testing.assert_allclose(overlap.draws, stats.over_seeds(shares[1:]))
    np.testing.assert_allclose(both[0][0], [x.dh2.sum(0) / x.n.sum() for x in run.train])


def test_every_side_sees_the_same_questions_redrawn(run):
    """So that differences are paired: what ranks alike has no difference, in no draw."""
    run.prose = [replace(of, dh2=of.dh2 * 3) for of in run.train]
    numbers = fig2a.compute(run)
    gap = numbers["SAE"].at_n.overlap - numbers["prose"].at_n.overlap
    assert gap.value == 0 and not gap.draws.any()


def test_lines_are_the_overlaps(run):
    numbers = fig2a.compute(run)
    figure, caption = fig2a.fig2a(numbers, run)
    for axis, percent in zip(figure.axes, (False, True), strict=True):
        lines = {line.get_label(): line for line in axis.lines}
        bands = dict(zip(BY_HAND, axis.collections, strict=True))
        for name, (_, label, _) in fig2a.RANKINGS.items():
            curve = numbers[name]
            x, y = lines[label].get_data()
            ks = np.round(x * curve.size / 100) if percent else x
            assert y == pytest.approx([by_hand(run, name, int(k)) for k in ks])
            corners = bands[name].get_paths()[0].vertices
            for place, low, high in zip(x, curve.low, curve.high, strict=True):
                assert {low, high} <= set(corners[corners[:, 0] == place, 1])
        chance = [line.get_data() for line in axis.lines if line.get_linestyle() == "--"]
        for (x, y), size in zip(chance, (40, 16), strict=True):
            np.testing.assert_allclose(y, x / (100 if percent else size))
    for name in BY_HAND:
        assert f"{by_hand(run, name, 8):.0%} [" in caption
    assert f"3 raw dims: {by_hand(run, 'raw', 3):.0%}" in caption and len(caption.split()) <= 60
    plt.close(figure)


def test_prose_is_as_long_as_the_demonstrations(profile, monkeypatch):
    monkeypatch.setattr(features, "extract", lambda _, __, ___, pairs, ____: pairs())
    own, prose = samples.training_pairs(profile, 1), features.extract_prose(profile, 1)
    for (plain, icl), (same, other) in zip(own, prose, strict=True):
        assert plain == same and icl.query == other.query and icl.context != other.context
        assert len(other.context) == pytest.approx(len(icl.context), rel=0.1)


def test_the_step_reads_the_same_questions(profile):
    step, _ = fig2a.steps(profile)
    prose, own = step.compute(*step.args), features.extract_train(profile, profile.seeds[0])
    assert prose.ids == own.ids and not np.allclose(prose.dh2, own.dh2)
    np.testing.assert_allclose(prose.h, own.h, rtol=1e-3, atol=1e-4)
