"""Shifted dimensions D_N: which features move, and how concentrated the movement is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from sts_utils.method.extract import FeatureStats
from sts_utils.stats import counts


@dataclass(frozen=True)
class ShiftedDims:
    """Feature ids ranked by their shift, largest first, and the shift of each."""

    ids: np.ndarray
    shift: np.ndarray

    def __getitem__(self, n: slice) -> "ShiftedDims":
        return ShiftedDims(self.ids[n], self.shift[n])

    def __len__(self) -> int:
        return len(self.ids)


def shift(stats: FeatureStats, definition: str = "paper", raw: bool = False) -> np.ndarray:
    """Each feature's shift, [F] (or [d_model] with `raw`, for the residual stream's own dims).

    `paper`: E_x (Δh_j)², the mean over query tokens. `released_code`: their sum; it ranks alike.
    """
    field = "dr2" if raw else "dh2"
    if definition == "paper":
        return stats.mean(field)
    if definition == "released_code":
        return getattr(stats, field).sum(0, dtype=np.float64)
    raise ValueError(f"definition {definition!r}: choose paper or released_code")


def shifted_dims(
    stats: FeatureStats, n: int | None = 100, definition: str = "paper", raw: bool = False
) -> ShiftedDims:
    """D_N = TopN_j E_x (h_j(x; Θ) − h_j(x_0, y_0, …, x; Θ))². Ties go to the lower id.

    `n=None` ranks every feature. Raises ValueError for n larger than the SAE.
    """
    moved = shift(stats, definition, raw)
    ids = np.arange(len(moved)) if raw else stats.features
    if n is not None and not 1 <= n <= len(moved):
        raise ValueError(
            f"top_n is {n}, but there are only {len(moved)} features: choose 1..{len(moved)}"
        )
    order = np.argsort(-moved, kind="stable")[:n]
    return ShiftedDims(ids[order], moved[order])


def overlap(a: ShiftedDims, b: ShiftedDims, k: int) -> float:
    """Share of the top-k dims of `a` that are among the top-k of `b` (Fig 2a). Chance is k / F."""
    return len(np.intersect1d(a.ids[:k], b.ids[:k])) / k


def top_share(moved: np.ndarray, k: int | np.ndarray) -> np.ndarray:
    """Share of the total shift that the k most shifted dims hold (Fig 1a, 2b)."""
    cumulative = np.concatenate([[0.0], np.cumsum(np.sort(moved)[::-1])])
    return cumulative[np.asarray(k)] / cumulative[-1]


def draws(
    features: Sequence[FeatureStats],
    raw: bool = False,
    n: int = 200,
    groups: Mapping[str, str] = MappingProxyType({}),
) -> np.ndarray:
    """[B, S, F] shifts of each seed's features under a bootstrap over its questions.

    `groups`: example id -> template; a template's questions are drawn together, alike for seeds.
    """
    field = "dr2" if raw else "dh2"
    shifts = []
    for item in features:
        weights = counts([groups.get(i, i) for i in item.ids], n)
        shifts.append((weights @ getattr(item, field)) / (weights @ item.n)[:, None])
    return np.stack(shifts, 1)
