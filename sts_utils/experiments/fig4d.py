"""Fig 4d: the correlation with dims of smaller shift in place of D_N."""

from collections.abc import Iterator

from matplotlib.figure import Figure

from sts_utils.results import Claim, Result, r_panel
from sts_utils.runs.run import Run
from sts_utils.scores import PAPER_SCORES
from sts_utils.stats import Correlation, combined

#: How many ranges of N ranks, of which D_N is the first.
RANGES = 6


def compute(run: Run) -> dict[str, dict[str, Correlation]]:
    """Range of ranks, like "101–200", -> metric -> r with the dims of those ranks."""
    n, ranked = run.profile.top_n, run.ranked
    starts = range(0, min(RANGES * n, len(ranked[0]) - n + 1), n)
    ranges = {f"{i + 1}–{i + n}": [dims[i : i + n] for dims in ranked] for i in starts}
    return {name: run.correlations(dims) for name, dims in ranges.items()}


def fig4d(numbers: dict[str, dict[str, Correlation]], run: Run) -> tuple[Figure, str]:
    """r of each range of ranks."""
    what = f"{run.profile.domains}, with these dims in place of D_N"
    label, theirs = "ranks of the shifted dims used", "falls for dims of smaller shift"
    return r_panel("Fig 4d", numbers, label, what, theirs, rotate=20)


def claims(numbers: dict[str, dict[str, Correlation]], run: Run) -> Iterator[Claim]:
    """The first range predicts better than the later ones."""
    first, *later = numbers.values()
    for metric in PAPER_SCORES if later else ():
        rows = [first[metric], *(row[metric] for row in later)]
        gap = combined(lambda r: r[0] - r[1:].mean(0), rows)
        words = f"{metric}: r of ranks 1 to {run.profile.top_n} minus the mean of later ranges"
        yield Claim("fig4d", "dims of smaller shift predict worse", words, gap)


RESULTS = (Result(fig4d, "Fig 4d: which ranks of shifted dims"),)
