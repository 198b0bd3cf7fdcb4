"""Fig 2a: do demonstrations in context find the dims that SFT moves?"""

from collections.abc import Iterator
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sts_utils import stats
from sts_utils.config import Profile
from sts_utils.results import PALETTE, RAW_COLOUR, SAE_COLOUR, Claim, Result
from sts_utils.runs import features
from sts_utils.runs.plan import Step
from sts_utils.runs.run import Run, overlap, overlaps
from sts_utils.stats import Estimate


class At(NamedTuple):
    """Overlap of the top `k` dims, and the chance of that."""

    k: int
    overlap: Estimate
    chance: float

    @property
    def above(self) -> Estimate:
        """Overlap minus chance."""
        return self.overlap - self.chance

    def __str__(self) -> str:
        e = self.overlap
        return f"{e.value:.0%} [{e.low:.0%}, {e.high:.0%}]"


class Curve(NamedTuple):
    """Overlap, with what SFT moves, of the top k of `size` dims with its interval, for `ks`; that
    `at_n` dims, and at the same `fraction` of dims as N is of the SAE's."""

    ks: np.ndarray
    size: int
    overlap: np.ndarray
    low: np.ndarray
    high: np.ndarray
    at_n: At
    fraction: At


#: Name -> (what ranks the dims: side, raw, field, as `Run.shifts` takes them; label; colour).
RANKINGS = {
    "SAE": (("train", False, None), "demonstrations, SAE features", SAE_COLOUR),
    "raw": (("train", True, None), "demonstrations, raw dims", RAW_COLOUR),
    "active": (("train", False, "h"), "most active SAE features", PALETTE[2]),
    "prose": (("prose", False, None), "prose in context, SAE features", PALETTE[4]),
}
#: Draws of the curves' bands; the numbers at N have all.
CURVE_DRAWS = 100


def compute(run: Run) -> dict[str, Curve]:
    """Name of RANKINGS -> overlap of its top dims with those that SFT moves most."""
    curves = {}
    moved = {raw: run.shifts("actual", raw) for raw in (False, True)}
    for name, ((side, raw, field), *_) in RANKINGS.items():
        ranked, actual = run.shifts(side, raw, field=field), moved[raw]
        size = ranked.shape[-1]
        ks = np.unique(np.round(np.geomspace(1, size, 40)).astype(int))
        drawn = overlaps(ranked[: 1 + CURVE_DRAWS], actual[: 1 + CURVE_DRAWS], ks)
        low, high = stats.interval(stats.over_seeds(drawn[1:]))
        taken = min(run.profile.top_n, size), run.overlap_size(size)
        at = [At(k, overlap(ranked, actual, k), k / size) for k in taken]
        curves[name] = Curve(ks, size, drawn[0].mean(0), low, high, *at)
    return curves


def steps(profile: Profile) -> list[Step]:
    """The training questions under prose, of every seed."""
    kind, read = "features of the training set (D_N) on prose", features.extract_prose
    return [Step(kind, read, (profile, seed), "01_extract") for seed in profile.seeds]


def fig2a(numbers: dict[str, Curve], run: Run) -> tuple[Figure, str]:
    """Overlap of the dims that ICL finds with those that SFT moves, by number and fraction."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.6, 3.1), sharey=True)
    _curves(left, numbers, dict.fromkeys(RANKINGS, 1.0))
    left.set(xlabel="top dims taken", ylabel="overlap with what SFT moves")
    _curves(right, numbers, {name: 100 / curve.size for name, curve in numbers.items()})
    right.set(xlabel="top dims taken (% of all)")
    look = {"ncols": 2, "columnspacing": 1.5, "handlelength": 1.5}
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside upper center", frameon=False, **look
    )
    n, at = run.profile.top_n, {name: curve.at_n for name, curve in numbers.items()}
    return figure, (
        f"Fig 2a. Share of each ranking's top dims that are among SFT's; bands: 95% intervals; "
        f"dashed: chance. Top {n}: demonstrations {at['SAE']} (chance {at['SAE'].chance:.0%}), "
        f"most active features {at['active']}, prose {at['prose']}, raw dims {at['raw']} (chance "
        f"{at['raw'].chance:.0%}). Same fraction, {numbers['raw'].fraction.k} raw dims: "
        f"{numbers['raw'].fraction}. The paper: 57% at 100, raw far lower."
    )


def _curves(axis: Axes, numbers: dict[str, Curve], scale: dict[str, float]) -> None:
    """Each curve with its interval and its chance over k × scale."""
    for name, (_, label, colour) in RANKINGS.items():
        curve, x = numbers[name], numbers[name].ks * scale[name]
        axis.plot(x, curve.overlap, color=colour, label=label)
        axis.fill_between(x, curve.low, curve.high, color=colour, alpha=0.2, lw=0)
        if name in ("SAE", "raw"):  # the others are SAE features too
            axis.plot(x, curve.ks / curve.size, color=colour, ls="--", lw=0.8)
    axis.set(xscale="log", ylim=(0, 1.02))


def claims(numbers: dict[str, Curve], run: Run) -> Iterator[Claim]:
    """The overlap is above chance, above that of raw dims, of activity and of any context."""
    n, sae, raw = run.profile.top_n, numbers["SAE"], numbers["raw"]
    claim = "demonstrations find the dims that SFT moves"
    yield Claim("fig2a", claim, f"overlap at {n} minus chance", sae.at_n.above)
    than = {
        "active": ("activity", "the most active features"),
        "prose": ("prose in context", "what prose moves"),
    }
    for name, (what, dims) in than.items():
        claim = f"demonstrations find more of what SFT moves than {what} does"
        gap = sae.at_n.overlap - numbers[name].at_n.overlap
        yield Claim("fig2a", claim, f"overlap at {n}, D_N minus {dims}", gap)
    claim = "SAE features show it better than raw dims"
    statistic = f"overlap above chance, SAE minus raw, {raw.at_n.k} dims of each"
    yield Claim("fig2a", claim, statistic, sae.at_n.above - raw.at_n.above)
    same = f"same fraction, {sae.at_n.k} and {raw.fraction.k} dims"
    statistic = f"overlap above chance, SAE minus raw, {same}"
    yield Claim("fig2a", claim, statistic, sae.fraction.above - raw.fraction.above)


RESULTS = (
    Result(fig2a, "Fig 2a: overlap of the dims that demonstrations find and those that SFT moves"),
)
