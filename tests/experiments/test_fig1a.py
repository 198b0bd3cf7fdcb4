"""How the change is spread over features, on random statistics."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sts_utils.experiments import fig1a


def test_shares_by_hand(run):
    """Of the 8 of 40 features most moved, most active, and the most moved in proportion to h²."""
    numbers, shares = fig1a.compute(run), []
    for before, after in zip(run.train, run.actual, strict=True):
        moved, squares = after.dh2.sum(0), before.h2.sum(0)
        most_active = np.argsort(-before.h.sum(0))[:8]
        of = moved[np.argsort(-moved)[:8]], moved[most_active]
        shares.append([*(part.sum() / moved.sum() for part in of)])
        shares[-1].append(np.sort(squares)[-8:].sum() / squares.sum())
    by_hand = np.mean(shares, 0)
    estimates = numbers.top, numbers.active, numbers.in_proportion
    assert [e.value for e in estimates] == pytest.approx(by_hand)
    assert all(e.low < e.value < e.high for e in estimates[:2])
    assert numbers.active.value < numbers.top.value
    (claim,) = fig1a.claims(numbers, run)
    assert claim.estimate.value == pytest.approx(by_hand[0] - by_hand[2])
    assert claim.estimate.low < claim.estimate.value < claim.estimate.high


def test_histograms_and_caption(run):
    numbers = fig1a.compute(run)
    figure, caption = fig1a.fig1a(numbers, run)
    for e in (numbers.top, numbers.active, numbers.in_proportion):
        assert f"{e.value:.1%} [{e.low:.1%}, {e.high:.1%}]" in caption
    assert "if all moved alike 20.0%" in caption and len(caption.split()) <= 60
    all_, top = figure.axes[0].containers[:2]
    assert [sum(p.get_height() for p in bars) for bars in (all_, top)] == [40, 8]
    outline = figure.axes[0].patches[-1]
    heights, moved = outline.get_xy()[:, 1], numbers.moved.mean(0)
    edges = np.geomspace(moved.min(), moved.max(), 50)
    active = moved[np.argsort(-numbers.activity.mean(0))[:8]]
    counted = np.histogram(active, edges)[0]
    assert counted.sum() == 8 and set(heights) >= set(counted)
    plt.close(figure)


def test_a_fine_tuning_that_moved_nothing_is_one_line(run):
    run.actual = [replace(of, dh=0 * of.dh, dh2=0 * of.dh2) for of in run.actual]
    with pytest.raises(ValueError, match=r"SFT moved no feature: raise sft\.lr"):
        fig1a.compute(run)
