"""The SAE-based transferability score (STS) of a domain, before any training."""

import numpy as np

from sts_utils.method.extract import FeatureStats
from sts_utils.method.shift import ShiftedDims

#: The paper's two scores.
PAPER_SCORES = ("sts_act", "sts_icl")


def expectation(
    sums: np.ndarray, tokens: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """E_x̃ over a domain's tokens, from `sums` [Q, …] and `tokens` [Q] a query: […].

    With `weights` [B, Q], how often a bootstrap draws each query, [B, …].
    """
    if weights is None:
        return sums.sum(0) / tokens.sum()
    total = weights @ tokens
    return (weights @ sums) / (total if sums.ndim == 1 else total[:, None])


def sts_act(
    domain: FeatureStats, dims: ShiftedDims, definition: str = "paper", weights=None
) -> np.ndarray:
    """STS_act(T̃) = E_x̃ Σ_{j∈D_N} h_j(x̃; Θ): how active the shifted dims are in the domain.

    `definition: released_code` is the mean over D_N of h_j². A number, or [B] with `weights`.
    """
    field = "h" if _is_paper(definition) else "h2"
    return expectation(_over_dims(domain, field, dims, definition), _tokens(domain), weights)


def sts_icl(
    domain: FeatureStats, dims: ShiftedDims, definition: str = "paper", weights=None
) -> np.ndarray:
    """STS_ICL(T̃) = E_x̃ Σ_{j∈D_N} (h_j(x̃_0, ỹ_0, …, x̃; Θ) − h_j(x̃; Θ))²: how far the domain's
    own demonstrations move the shifted dims.

    `definition: released_code` is the mean over D_N. A number, or [B] with `weights`.
    """
    return expectation(_over_dims(domain, "dh2", dims, definition), _tokens(domain), weights)


def _over_dims(domain: FeatureStats, field: str, dims: ShiftedDims, definition: str) -> np.ndarray:
    """[Q] a field's sum over D_N; its mean in the released code."""
    sums = getattr(domain, field)[:, columns(domain, dims)].sum(1, dtype=np.float64)
    return sums if _is_paper(definition) else sums / len(dims)


def _tokens(domain: FeatureStats) -> np.ndarray:
    return domain.n.astype(np.float64)


def _is_paper(definition: str) -> bool:
    if definition not in ("paper", "released_code"):
        raise ValueError(f"definition {definition!r}: choose paper or released_code")
    return definition == "paper"


def columns(stats: FeatureStats, dims: ShiftedDims) -> np.ndarray:
    """[N] where the features of D_N stand in `stats`. Raises ValueError where one is missing."""
    places = np.searchsorted(stats.features, dims.ids)
    if (places >= len(stats.features)).any() or (stats.features[places] != dims.ids).any():
        raise ValueError("these statistics do not hold every feature of D_N: extract them again")
    return places
