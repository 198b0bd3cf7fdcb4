"""Fig 1a: how the change that SFT makes is spread over SAE features."""

from collections.abc import Iterator
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from sts_utils.results import PALETTE, SAE_COLOUR, Claim, Result
from sts_utils.runs.run import Run, held
from sts_utils.stats import Estimate


class Numbers(NamedTuple):
    """Shifts by SFT, and the share of their total that N features hold.

    | field | is |
    |---|---|
    | moved | [S, F] shifts |
    | activity | [S, F] mean activations in the untouched model |
    | top | share of the N most moved |
    | active | share of the N most active |
    | in_proportion | of the N most moved, if each feature's shift were in proportion to E h² |
    """

    moved: np.ndarray
    activity: np.ndarray
    top: Estimate
    active: Estimate
    in_proportion: Estimate


def compute(run: Run) -> Numbers:
    """Each feature's shift between the untouched and the fine-tuned model, by seed."""
    moved, n = run.shifts("actual"), run.profile.top_n
    if not moved[0].any():  # one step is all warm-up
        raise ValueError("SFT moved no feature: raise sft.lr, sft.examples or sft.epochs")
    activity, squares = (run.shifts("train", field=field) for field in ("h", "h2"))
    shares = [held(*of, n) for of in ((moved, moved), (moved, activity), (squares, squares))]
    return Numbers(moved[0], activity[0], *shares)


def fig1a(numbers: Numbers, run: Run) -> tuple[Figure, str]:
    """Distribution of the shift that SFT gave each SAE feature, and what N features hold."""
    moved, n = numbers.moved.mean(0), run.profile.top_n
    figure, axis = plt.subplots(figsize=(3.4, 2.9))
    positive = moved[moved > 0]
    bins = np.geomspace(positive.min(), positive.max(), 50)
    axis.hist(positive, bins=bins, color="0.75", label=f"all {len(moved)} features")
    top, active = np.sort(moved)[-n:], moved[np.argsort(-numbers.activity.mean(0))[:n]]
    label = f"{n} most moved: {numbers.top.value:.0%} of the change"
    axis.hist(top, bins=bins, color=SAE_COLOUR, label=label)
    label = f"{n} most active: {numbers.active.value:.0%}"
    axis.hist(active, bins=bins, histtype="step", color=PALETTE[1], lw=1.2, label=label)
    label = r"shift after SFT, $E_x(\Delta h_j)^2$"
    axis.set(xscale="log", yscale="log", xlabel=label, ylabel="SAE features")
    figure.legend(frameon=False, loc="outside upper center", fontsize=8)
    return figure, (
        f"Fig 1a. Shift of each SAE feature by SFT, on held-out training-set questions. The {n} "
        f"most moved of {len(moved)} hold {_said(numbers.top)} of the total, the {n} most active "
        f"before SFT {_said(numbers.active)}; if all moved alike {n / len(moved):.1%}, if in "
        f"proportion to squared activity {_said(numbers.in_proportion)}. 95% intervals. The paper: "
        "25% in the top 100 (Qwen2.5-7B)."
    )


def _said(e: Estimate) -> str:
    return f"{e.value:.1%} [{e.low:.1%}, {e.high:.1%}]"


def claims(numbers: Numbers, run: Run) -> Iterator[Claim]:
    """The change is more concentrated than activity; that it is not uniform needs no test, for the
    top N of any shift hold more than N of a uniform one."""
    claim = "SFT's change is more concentrated than the activity of features"
    top = f"share in the top {run.profile.top_n}"
    statistic = f"{top} of the change, minus that of a change in proportion to squared activity"
    yield Claim("fig1a", claim, statistic, numbers.top - numbers.in_proportion)


RESULTS = (Result(fig1a, "Fig 1a: how the change by SFT is spread over SAE features"),)
