"""Fig 1a: how the change that SFT makes is spread over SAE features."""

from collections.abc import Iterator
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from sts_utils.method import shift
from sts_utils.results import SAE_COLOUR, Claim, Result
from sts_utils.runs.run import Run
from sts_utils.stats import Estimate


class Numbers(NamedTuple):
    """`moved` [S, F] shifts by SFT, and the share of the total that the top N hold."""

    moved: np.ndarray
    top: Estimate


def compute(run: Run) -> Numbers:
    """Each feature's shift between the untouched and the fine-tuned model, by seed."""
    return Numbers(run.shifts("actual")[0], run.top_share(run.profile.top_n))


def fig1a(numbers: Numbers, run: Run) -> tuple[Figure, str]:
    """Distribution of the shift that SFT gave each SAE feature, and what the top N hold."""
    moved, n, top = numbers.moved.mean(0), run.profile.top_n, numbers.top
    figure, axis = plt.subplots(figsize=(3.4, 2.5))
    positive = moved[moved > 0]
    bins = np.geomspace(positive.min(), positive.max(), 50)
    axis.hist(positive, bins=bins, color="0.75")
    held = f"top {n}: {top.value:.0%} of the total"
    axis.hist(np.sort(moved)[-n:], bins=bins, color=SAE_COLOUR, label=held)
    label = r"shift after SFT, $E_x(\Delta h_j)^2$"
    axis.set(xscale="log", yscale="log", xlabel=label, ylabel="SAE features")
    figure.legend(frameon=False, loc="outside upper right")
    gini = np.mean([shift.gini(seed) for seed in numbers.moved])
    return figure, (
        "Fig 1a. Shift of each SAE feature between the untouched and the fine-tuned model on "
        f"held-out training-set questions. The {n} most shifted of {len(moved)} features hold "
        f"{top.value:.1%} of the total (95% interval {top.low:.1%} to {top.high:.1%}; a uniform "
        f"shift would give {n / len(moved):.1%}; Gini {gini:.2f}; {len(moved) - len(positive)} "
        "features did not move). The paper: 25% of the total in the top 100 (Qwen2.5-7B)."
    )


def claims(numbers: Numbers, run: Run) -> Iterator[Claim]:
    """The top N hold more than N features of a uniform shift would."""
    n = run.profile.top_n
    statistic = f"share of the change in the top {n}, minus that of a uniform shift"
    gap = numbers.top - n / numbers.moved.shape[1]
    yield Claim("fig1a", "SFT moves few features", statistic, gap)


RESULTS = (Result(fig1a, "Fig 1a: how the change by SFT is spread over SAE features"),)
