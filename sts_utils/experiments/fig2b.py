"""Fig 2b: how concentrated SFT's change is, in SAE features and in raw residual dims."""

from collections.abc import Iterator
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from sts_utils import stats
from sts_utils.results import CHANCE_COLOUR, RAW_COLOUR, SAE_COLOUR, Claim, Result
from sts_utils.runs.run import Run
from sts_utils.stats import Estimate


class Curve(NamedTuple):
    """[F] share of the total that the top k dims hold, with its interval, for every k."""

    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    top: Estimate


def compute(run: Run) -> dict[str, Curve]:
    """Space ("SAE", "raw") -> the curve, and the share of its top 1%."""
    curves = {}
    for space, raw in (("SAE", False), ("raw", True)):
        moved = -np.sort(-run.shifts("actual", raw), axis=-1)
        shares = moved.cumsum(-1) / moved.sum(-1, keepdims=True)
        low, high = stats.interval(stats.over_seeds(shares[1:]))
        top = run.top_share(max(1, round(0.01 * moved.shape[-1])), raw)
        curves[space] = Curve(shares[0].mean(0), low, high, top)
    return curves


def fig2b(numbers: dict[str, Curve], run: Run) -> tuple[Figure, str]:
    """Share of SFT's total change that the top-x% dims hold."""
    figure, axis = plt.subplots(figsize=(3.4, 2.6))
    at = {}
    looks = {"SAE": ("SAE features", SAE_COLOUR), "raw": ("raw dims", RAW_COLOUR)}
    for space, (label, colour) in looks.items():
        curve = numbers[space]
        size = len(curve.share)
        ks = np.unique(np.maximum(1, np.round(np.geomspace(0.002, 1, 60) * size)).astype(int))
        x, i = 100 * ks / size, ks - 1
        axis.plot(x, curve.share[i], color=colour, label=label)
        axis.fill_between(x, curve.low[i], curve.high[i], color=colour, alpha=0.25, lw=0)
        k = max(1, round(0.01 * size)) - 1
        interval = f"{curve.low[k]:.0%} to {curve.high[k]:.0%}"
        at[space] = f"{curve.share[k]:.0%} (95% interval {interval})"
    uniform = {"color": CHANCE_COLOUR, "ls": "--", "label": "all alike"}
    axis.plot(np.geomspace(0.2, 100), np.geomspace(0.002, 1), **uniform)
    axis.set(xscale="log", xlabel="top dims taken (% of all)", ylim=(0, 1.02))
    axis.set_ylabel("share of SFT's change")
    look = {"ncols": 3, "columnspacing": 1.0, "handlelength": 1.5}
    figure.legend(frameon=False, loc="outside upper center", **look)
    return figure, (
        f"Fig 2b. How concentrated SFT's change is: the top 1% of SAE features hold {at['SAE']}, "
        f"the top 1% of raw residual dims {at['raw']}. Bands: 95% intervals; dashed: all dims "
        "moved alike. The paper: raw is flatter."
    )


def claims(numbers: dict[str, Curve], run: Run) -> Iterator[Claim]:
    """The top 1% of SAE features hold more than the top 1% of raw dims."""
    claim = "the change is more concentrated in SAE features than in raw dims"
    gap = numbers["SAE"].top - numbers["raw"].top
    yield Claim("fig2b", claim, "share of the top 1%, SAE minus raw", gap)


RESULTS = (Result(fig2b, "Fig 2b: how concentrated the change is, SAE and raw"),)
