"""The SAE-based transferability score (STS) of a domain, as per-query parts and as one number."""

import numpy as np

from sts_utils.method.extract import FeatureStats
from sts_utils.method.shift import ShiftedDims

METRICS = ("sts_act", "sts_icl")


def parts(
    stats: FeatureStats, dims: ShiftedDims, metric: str, definition: str = "paper"
) -> tuple[np.ndarray, np.ndarray]:
    """(sums, tokens), both [Q]: a score is sum(sums) / sum(tokens), so a bootstrap can draw queries.

    | metric | definition: paper | definition: released_code |
    |---|---|---|
    | sts_act | Σ_{j∈D_N} h_j | mean over D_N of h_j² |
    | sts_icl | Σ_{j∈D_N} (Δh_j)² | mean over D_N of (Δh_j)² |
    """
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r}: choose from {', '.join(METRICS)}")
    if definition not in ("paper", "released_code"):
        raise ValueError(f"definition {definition!r}: choose paper or released_code")
    columns = np.searchsorted(stats.features, dims.ids)
    if (columns >= len(stats.features)).any() or (stats.features[columns] != dims.ids).any():
        raise ValueError("these statistics do not hold every feature of D_N: extract them again")
    field = {"sts_act": "h" if definition == "paper" else "h2", "sts_icl": "dh2"}[metric]
    sums = getattr(stats, field)[:, columns].sum(1, dtype=np.float64)
    if definition == "released_code":
        sums = sums / len(dims)
    return sums, stats.n.astype(np.float64)


def sts_act(stats: FeatureStats, dims: ShiftedDims, definition: str = "paper") -> float:
    """STS_act(T̃) = E_x̃ Σ_{j∈D_N} h_j(x̃; Θ): how active the shifted dims are in the domain."""
    sums, tokens = parts(stats, dims, "sts_act", definition)
    return sums.sum() / tokens.sum()


def sts_icl(stats: FeatureStats, dims: ShiftedDims, definition: str = "paper") -> float:
    """STS_ICL(T̃) = E_x̃ Σ_{j∈D_N} (h_j(x̃_0, ỹ_0, …, x̃) − h_j(x̃))²: how far the domain's own
    demonstrations move the shifted dims."""
    sums, tokens = parts(stats, dims, "sts_icl", definition)
    return sums.sum() / tokens.sum()


def relative_activity(h: np.ndarray) -> np.ndarray:
    """[..., D, F] log of each feature's mean activation in a domain over its mean over the domains, h [..., D, F].

    A hundredth of the mean is added to both, so that a feature silent in one domain counts as that and no less.
    """
    mean = h.mean(-2, keepdims=True)
    return np.log((h + 0.01 * mean + 1e-4) / (1.01 * mean + 1e-4))


def sts_relative(h: np.ndarray, dims: ShiftedDims) -> np.ndarray:
    """[..., D] STS_rel(T̃) = mean_{j∈D_N} log(E_T̃ h_j / mean over domains): how much more active the shifted dims are
    in a domain than in the others (ours; chosen on the design half of the positive control, with a contrastive D_N).

    `h` [..., D, F] are the domains' mean activations of every feature.
    """
    return relative_activity(h[..., dims.ids]).mean(-1)
