"""Every score of domains that reads D_N: the paper's two, and ours, which compare domains."""

from collections.abc import Callable, Sequence

import numpy as np

from sts_utils.method.extract import FeatureStats
from sts_utils.method.score import columns, expectation, sts_act, sts_icl
from sts_utils.method.shift import ShiftedDims


def relative_activity(h: np.ndarray) -> np.ndarray:
    """[…, D, F] log of a feature's mean activation in a domain over its mean over the domains.

    A hundredth of the mean is added to both, so that a feature silent in one domain counts as that
    and no less. `h` […, D, F] are the domains' mean activations.
    """
    mean = h.mean(-2, keepdims=True)
    return np.log((h + 0.01 * mean + 1e-4) / (1.01 * mean + 1e-4))


def sts_relative(
    domains: Sequence[FeatureStats], dims: ShiftedDims, weights: Sequence | None = None, **_
) -> np.ndarray:
    """STS_rel(T̃) = mean_{j∈D_N} log(E_T̃ h_j / mean over domains): how much more active D_N's
    features are in a domain than in the others (ours). [D], or [B, D] with `weights` [D][B, Q].
    """
    return relative_activity(_means(domains, "h", dims, weights)).mean(-1)


def shift_cosine(
    domains: Sequence[FeatureStats], dims: ShiftedDims, towards: np.ndarray, weights=None, **_
) -> np.ndarray:
    """Cosine on D_N of a domain's mean signed shift and the training set's, `towards` [F] (ours).

    [D], or [B, D] with `weights`, [B, Q] a domain. Above zero: both move alike.
    """
    return cosine(towards[dims.ids], _means(domains, "dh", dims, weights))


def _means(domains, field: str, dims: ShiftedDims, weights) -> np.ndarray:
    """[D, N] means of a field over each domain's tokens; [B, D, N] with `weights`."""
    drawn = weights if weights is not None else [None] * len(domains)
    means = [
        expectation(getattr(d, field)[:, columns(d, dims)].astype(np.float64), d.n, w)
        for d, w in zip(domains, drawn, strict=True)
    ]
    return np.stack(means, axis=-2)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine along the last axis; 0 where a side is 0."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.divide((a * b).sum(-1), norms, out=np.zeros_like(norms), where=norms > 0)


# --- the list of scores ----------------------------------------------------------------------


def _of_each(score: Callable) -> Callable:
    """A score of one domain as a score of several, which does not compare them."""

    def scores(domains, dims, *, definition="paper", weights=None, towards=None):
        drawn = weights if weights is not None else [None] * len(domains)
        pairs = zip(domains, drawn, strict=True)
        return np.stack([score(d, dims, definition, w) for d, w in pairs], axis=-1)

    return scores


#: Every score of domains that reads D_N, by name: (domains, dims, …) -> [D] or [B, D].
SCORES: dict[str, Callable] = {
    "sts_act": _of_each(sts_act),
    "sts_icl": _of_each(sts_icl),
    "sts_relative": sts_relative,
    "cosine": shift_cosine,
}


def over_domains(name: str, domains: Sequence[FeatureStats], dims: ShiftedDims, **how):
    """[D] the score `name` of each domain, or [B, D] with `weights`, [B, Q] for each domain.

    `how`: `definition` of the paper's scores, `weights`, and `towards` [F] of the cosine.
    """
    if name not in SCORES:
        raise ValueError(f"score {name!r}: choose from {', '.join(SCORES)}")
    return SCORES[name](domains, dims, **how)
