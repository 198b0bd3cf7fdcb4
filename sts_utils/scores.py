"""The paper's two steps on sums of features: shifted dimensions D_N, and each domain's score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sts_utils.features import FeatureStats
from sts_utils.stats import parts

PAPER_SCORES = ("sts_act", "sts_icl")


@dataclass(frozen=True)
class ShiftedDims:
    """Feature ids ranked by their shift, largest first, and the shift of each."""

    ids: np.ndarray
    shift: np.ndarray

    def __getitem__(self, n: slice) -> "ShiftedDims":
        return ShiftedDims(self.ids[n], self.shift[n])

    def __len__(self) -> int:
        return len(self.ids)


# Step 1: which features move.
def shift(stats: FeatureStats, definition: str = "paper", raw: bool = False) -> np.ndarray:
    """Each feature's shift, [F] (or [d_model] with `raw`, for the residual stream's own dims).

    `paper`: E_x (Δh_j)², the mean over query tokens. `released_code`: their sum; it ranks alike."""
    field = "dr2" if raw else "dh2"
    paper = definition == "paper"
    return stats.mean(field) if paper else getattr(stats, field).sum(0, dtype=np.float64)


def shifted_dims(stats: FeatureStats, n=100, definition="paper", raw=False) -> ShiftedDims:
    """D_N = TopN_j E_x (h_j(x; Θ) − h_j(x_0, y_0, …, x; Θ))². Ties go to the lower id.

    `n=None` ranks every feature. Raises ValueError for n larger than the SAE."""
    moved = shift(stats, definition, raw)
    ids = np.arange(len(moved)) if raw else stats.features
    if n is not None and not 1 <= n <= len(moved):
        raise ValueError(f"top_n is {n}, but there are {len(moved)} features: choose fewer")
    order = np.argsort(-moved, kind="stable")[:n]
    return ShiftedDims(ids[order], moved[order])


def overlap(a: ShiftedDims, b: ShiftedDims, k: int) -> float:
    """Share of the top-k dims of `a` that are among the top-k of `b` (Fig 2a). Chance is k / F."""
    return len(np.intersect1d(a.ids[:k], b.ids[:k])) / k


def overlaps(a: np.ndarray, b: np.ndarray, ks: np.ndarray) -> np.ndarray:
    """[..., K] overlap of the top-k sets of two arrays of shifts [..., F], for every k at once."""
    ranks, most = [], max(ks)
    for x in (a, b):  # of the first `most` dims alone: sorting 131,072 takes long
        top = np.sort(np.argpartition(-x, most - 1, axis=-1)[..., :most], axis=-1)
        order = np.argsort(-np.take_along_axis(x, top, -1), axis=-1, kind="stable")
        ranks.append(np.full(x.shape, most))
        np.put_along_axis(ranks[-1], np.take_along_axis(top, order, -1), np.arange(most), -1)
    worst = np.maximum(*ranks)  # a dim is in both top-k sets when its worse rank is < k
    return np.stack([(worst < k).sum(-1) for k in ks], axis=-1) / ks


def shifts(features: Sequence[FeatureStats], field: str, groups: Mapping[str, str]) -> np.ndarray:
    """[1 + CUTS × GROUPS, S, F] means of a field of each seed's features, of all questions and then
    without each part of these in turn (stats.parts); `groups`: example id -> template."""
    found = []
    for stats in features:
        weights = parts([groups.get(i, i) for i in stats.ids])
        found.append((weights @ getattr(stats, field)) / (weights @ stats.n)[:, None])
    return np.stack(found, 1)


# Step 2: the score of a domain.
def expectation(sums: np.ndarray, tokens: np.ndarray, weights=None) -> np.ndarray:
    """E_x̃ over a domain's tokens, from `sums` [Q, …] and `tokens` [Q] a query: […].
    With `weights` [B, Q], how often a bootstrap draws each query, [B, …]."""
    if weights is None:
        return sums.sum(0) / tokens.sum()
    return ((weights @ sums).T / (weights @ tokens)).T


def sts_act(domain: FeatureStats, dims: ShiftedDims, definition="paper", weights=None):
    """STS_act(T̃) = E_x̃ Σ_{j∈D_N} h_j(x̃; Θ): how active the shifted dims are in the domain.

    `definition: released_code` is the mean over D_N of h_j². A number, or [B] with `weights`."""
    field = "h" if definition == "paper" else "h2"
    return _over_dims(domain, field, dims, definition, weights)


def sts_icl(domain: FeatureStats, dims: ShiftedDims, definition="paper", weights=None):
    """STS_ICL(T̃) = E_x̃ Σ_{j∈D_N} (h_j(x̃_0, ỹ_0, …, x̃; Θ) − h_j(x̃; Θ))²: how far the domain's
    own demonstrations move the shifted dims.

    `definition: released_code` is the mean over D_N. A number, or [B] with `weights`."""
    return _over_dims(domain, "dh2", dims, definition, weights)


def _over_dims(domain: FeatureStats, field: str, dims: ShiftedDims, definition: str, weights):
    """The expectation of a field's sum over D_N; of its mean in the released code."""
    sums = getattr(domain, field)[:, columns(domain, dims)].sum(1, dtype=np.float64)
    sums = sums if definition == "paper" else sums / len(dims)
    return expectation(sums, domain.n.astype(np.float64), weights)


def columns(stats: FeatureStats, dims: ShiftedDims) -> np.ndarray:
    """[N] where the features of D_N stand in `stats`. Raises ValueError where one is missing."""
    places = np.searchsorted(stats.features, dims.ids)
    if (places >= len(stats.features)).any() or (stats.features[places] != dims.ids).any():
        raise ValueError("these statistics do not hold every feature of D_N: extract them again")
    return places


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine along the last axis; 0 where a side is 0."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.divide((a * b).sum(-1), norms, out=np.zeros_like(norms), where=norms > 0)


def over_domains(
    name: str, domains: Sequence, dims: ShiftedDims, definition="paper", weights=None, towards=None
) -> np.ndarray:
    """[D] the score `name` of each domain's FeatureStats; [B, D] with `weights`, [B, Q] of each.
    `name`: sts_act, sts_icl, or cosine (ours): on D_N, of a domain's mean signed shift and the
    training set's, `towards` [F]; above zero both move alike."""
    drawn = zip(domains, weights or [None] * len(domains), strict=True)
    if name in PAPER_SCORES:
        score = sts_act if name == "sts_act" else sts_icl
        return np.stack([score(d, dims, definition, w) for d, w in drawn], axis=-1)
    if name != "cosine":
        raise ValueError(f"score {name!r}: choose sts_act, sts_icl or cosine")
    sums = [d.dh[:, columns(d, dims)].astype(np.float64) for d in domains]
    means = [expectation(of, d.n, w) for of, (d, w) in zip(sums, drawn, strict=True)]
    return cosine(towards[dims.ids], np.stack(means, axis=-2))
