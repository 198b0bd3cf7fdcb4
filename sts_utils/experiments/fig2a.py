"""Fig 2a: do demonstrations in context find the dims that SFT moves?"""

from collections.abc import Iterator
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from sts_utils import stats
from sts_utils.method import shift
from sts_utils.results import CHANCE_COLOUR, RAW_COLOUR, SAE_COLOUR, Claim, Result
from sts_utils.runs.run import Run
from sts_utils.stats import Estimate


class Curve(NamedTuple):
    """Overlap of the top-k dims with its interval, for `ks` of `size` dims, and that at `k`."""

    ks: np.ndarray
    size: int
    overlap: np.ndarray
    low: np.ndarray
    high: np.ndarray
    k: int
    at_k: Estimate


def compute(run: Run) -> dict[str, Curve]:
    """Space ("SAE", "raw") -> overlap of estimated (ICL) and actual (SFT) dims."""
    curves = {}
    for space, raw in (("SAE", False), ("raw", True)):
        sides = [run.shifts(side, raw) for side in ("train", "actual")]
        size = sides[0].shape[-1]
        ks = np.unique(np.maximum(1, np.round(np.geomspace(0.002, 1.0, 40) * size)).astype(int))
        overlaps = shift.overlaps(*[side[: 1 + CURVE_DRAWS] for side in sides], ks)
        low, high = stats.interval(stats.over_seeds(overlaps[1:]))
        k = run.overlap_size(size)
        curves[space] = Curve(ks, size, overlaps[0].mean(0), low, high, k, run.overlap(raw))
    return curves


#: Draws of the curves' bands; the number at N has all.
CURVE_DRAWS = 100


def fig2a(numbers: dict[str, Curve], run: Run) -> tuple[Figure, str]:
    """Overlap of the dims that ICL finds with those that SFT moves, against how many are taken."""
    figure, axis = plt.subplots(figsize=(3.4, 2.6))
    at = {}
    looks = {"SAE": ("SAE features", SAE_COLOUR), "raw": ("raw dims", RAW_COLOUR)}
    for space, (label, colour) in looks.items():
        curve, x = numbers[space], 100 * numbers[space].ks / numbers[space].size
        axis.plot(x, curve.overlap, color=colour, label=label)
        axis.fill_between(x, curve.low, curve.high, color=colour, alpha=0.25, lw=0)
        e = curve.at_k
        interval = f"95% interval {e.low:.0%} to {e.high:.0%}"
        at[space] = f"{e.value:.0%} ({interval}) at the top {curve.k} of {curve.size}"
    grid = np.geomspace(0.2, 100)
    axis.plot(grid, grid / 100, color=CHANCE_COLOUR, ls="--", label="chance")
    axis.set(xscale="log", xlabel="top dims taken (% of all)", ylim=(0, 1.02))
    axis.set_ylabel("overlap, ICL and SFT")
    look = {"ncols": 3, "columnspacing": 1.0, "handlelength": 1.5}
    figure.legend(frameon=False, loc="outside upper center", **look)
    return figure, (
        "Fig 2a. Share of the dims most shifted by demonstrations in context (estimated, before "
        "training) that are also among the most shifted by SFT (actual). SAE features: "
        f"{at['SAE']}; raw residual dims: {at['raw']}, the same fraction. The x axis is a fraction "
        "of dims, so that one chance line serves both. The paper: 57% at the top 100 of the SAE, "
        "raw far lower."
    )


def claims(numbers: dict[str, Curve], run: Run) -> Iterator[Claim]:
    """The overlap is above chance, and above that of raw dims at the same fraction."""
    n, sae = run.profile.top_n, numbers["SAE"]
    claim, gap = "demonstrations find the dims that SFT moves", sae.at_k - sae.k / sae.size
    yield Claim("fig2a", claim, f"overlap at {n} minus chance", gap)
    statistic = "overlap, SAE minus raw, at the same fraction of dims"
    gap = sae.at_k - numbers["raw"].at_k
    yield Claim("fig2a", "SAE features show it better than raw dims", statistic, gap)


RESULTS = (
    Result(fig2a, "Fig 2a: overlap of the dims that demonstrations find and those that SFT moves"),
)
