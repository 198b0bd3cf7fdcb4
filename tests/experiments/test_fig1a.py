"""How the change is spread over features, on random statistics."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sts_utils.experiments import fig1a


def test_share_of_the_top(run):
    numbers = fig1a.compute(run)
    shares = [np.sort(a.dh2.sum(0))[-8:].sum() / a.dh2.sum() for a in run.actual]
    assert numbers.top.value == pytest.approx(np.mean(shares))
    assert numbers.top.low < numbers.top.value < numbers.top.high
    figure, caption = fig1a.fig1a(numbers, run)
    assert f"hold {np.mean(shares):.1%} of the total" in caption
    assert "uniform shift would give 20.0%" in caption and "0 features did not move" in caption
    in_bins = [sum(p.get_height() for p in bars) for bars in figure.axes[0].containers]
    assert in_bins == [40, 8]
    plt.close(figure)
    (claim,) = fig1a.claims(numbers, run)
    assert claim.estimate.value == pytest.approx(np.mean(shares) - 0.2)
