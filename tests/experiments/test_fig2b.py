"""Concentration of the change, on random statistics."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sts_utils import scores as shift
from sts_utils.experiments import fig2b


def test_top_share_by_hand(run):
    numbers = fig2b.compute(run)
    for space, field in (("SAE", "dh2"), ("raw", "dr2")):  # the top 1% is one dim of either
        moved = [getattr(a, field).sum(0) for a in run.actual]
        by_hand = np.mean([m.max() / m.sum() for m in moved])
        assert numbers[space].top.value == pytest.approx(by_hand)
    (claim,) = fig2b.claims(numbers, run)
    gap = numbers["SAE"].top.value - numbers["raw"].top.value
    assert claim.estimate.value == pytest.approx(gap)


def test_lines_are_the_shares(run):
    figure, caption = fig2b.fig2b(fig2b.compute(run), run)
    assert len(caption.split()) <= 60
    (line,) = (x for x in figure.axes[0].lines if x.get_label() == "SAE features")
    x, y = line.get_data()
    moved = [shift.shift(a) for a in run.actual]
    expected = [np.mean([shift.top_share(m, round(p * 40 / 100)) for m in moved]) for p in x]
    np.testing.assert_allclose(y, expected)
    plt.close(figure)
