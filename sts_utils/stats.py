"""Correlations over domains with their uncertainty: bootstrap over questions and seeds, permutations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

#: Domains that enter a correlation: all of them, or the paper's selection by the outcome (the paper's protocol).
SELECTIONS = ("all", "paper")
CHANGES = ("absolute", "signed")


@dataclass(frozen=True)
class Observations:
    """What a correlation over domains is computed from, question by question.

    | field | shape | is |
    |---|---|---|
    | domains | D names | |
    | sums, tokens | [S seeds][D domains] arrays [Q] | parts of the score (`score.parts`) |
    | changes | [D domains] arrays [S, Q'] | performance after − before, the same questions in every seed |
    """

    domains: tuple[str, ...]
    sums: Sequence[Sequence[np.ndarray]]
    tokens: Sequence[Sequence[np.ndarray]]
    changes: Sequence[np.ndarray]

    def scores(self) -> np.ndarray:
        """[S, D] scores: Σ sums / Σ tokens."""
        both = zip(self.sums, self.tokens, strict=True)
        return np.array([[s.sum() / t.sum() for s, t in zip(*row, strict=True)] for row in both])

    def mean_changes(self) -> np.ndarray:
        """[S, D] mean change of performance."""
        return np.array([change.mean(1) for change in self.changes]).T


def select(change: np.ndarray, selection: str, each: int = 4) -> np.ndarray:
    """[..., k] indices of the domains kept: all, or the `each` largest and smallest |change|."""
    order = np.argsort(np.abs(change), axis=-1, kind="stable")
    if selection == "all" or change.shape[-1] <= 2 * each:
        return np.sort(order, axis=-1)
    if selection != "paper":
        raise ValueError(f"selection {selection!r}: choose from {', '.join(SELECTIONS)}")
    return np.concatenate([order[..., :each], order[..., -each:]], axis=-1)


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson r along the last axis; 0 where either is constant."""
    x = x - x.mean(-1, keepdims=True)
    y = y - y.mean(-1, keepdims=True)
    scale = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (x * y).sum(-1) / scale, 0.0)


def _r(x: np.ndarray, change: np.ndarray, selection: str, kind: str, rank: bool = False) -> np.ndarray:
    """[...] correlation of scores x [..., D] with changes [..., D] over the selected domains."""
    y = np.abs(change) if kind == "absolute" else change
    kept = select(change, selection)
    x, y = np.take_along_axis(x, kept, -1), np.take_along_axis(y, kept, -1)
    if rank:
        x, y = scipy_stats.rankdata(x, axis=-1), scipy_stats.rankdata(y, axis=-1)
    return pearson(x, y)


def bootstrap(observed: Observations, draws: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """([B, S, D] scores, [B, S, D] changes) of `draws` replicates.

    A replicate draws seeds, and within every domain evaluation questions (the same for all seeds,
    as they were asked) and score queries, all with replacement.
    """
    rng = np.random.default_rng(seed)
    n_seeds, n_domains = len(observed.sums), len(observed.domains)
    picked = rng.integers(n_seeds, size=(draws, n_seeds))
    scores, changes = np.empty((2, draws, n_seeds, n_domains))
    for d in range(n_domains):
        change = observed.changes[d]
        q = change.shape[1]
        weights = rng.multinomial(q, np.full(q, 1 / q), size=draws) / q
        changes[:, :, d] = np.take_along_axis(weights @ change.T, picked, 1)
        by_seed = []
        for s in range(n_seeds):
            sums, tokens = observed.sums[s][d], observed.tokens[s][d]
            q = len(sums)
            weights = rng.multinomial(q, np.full(q, 1 / q), size=draws)
            by_seed.append((weights @ sums) / (weights @ tokens))
        scores[:, :, d] = np.take_along_axis(np.stack(by_seed, 1), picked, 1)
    return scores, changes


def correlation(
    observed: Observations, selection: str = "all", change: str = "absolute", draws: int = 2000, seed: int = 0
) -> dict[str, float]:
    """Pearson r of score and change over domains, mean over seeds, with its uncertainty.

    Keys: `r` and `r_sd` (mean and standard deviation over seeds, as the paper reports), `r2`, `r2_sd`,
    `rho` (Spearman), `r_low`, `r_high`, `r2_low`, `r2_high` (95% percentile bootstrap over questions
    and seeds), `p` (two-sided permutation of scores over domains), `n` domains.
    """
    if change not in CHANGES:
        raise ValueError(f"change {change!r}: choose from {', '.join(CHANGES)}")
    x, y = observed.scores(), observed.mean_changes()
    r, rho = _r(x, y, selection, change), _r(x, y, selection, change, rank=True)
    drawn = _r(*bootstrap(observed, draws, seed), selection, change)
    low, high = np.percentile(drawn.mean(1), [2.5, 97.5])
    low2, high2 = np.percentile((drawn**2).mean(1), [2.5, 97.5])

    def permuted(order, axis=-1):  # one order of the domains for all seeds
        shuffled = np.moveaxis(x[:, np.asarray(order, dtype=int)], 0, -2)
        return _r(shuffled, np.broadcast_to(y, shuffled.shape), selection, change).mean(-1)

    test = scipy_stats.permutation_test(
        (np.arange(x.shape[1], dtype=float),), permuted, permutation_type="pairings", vectorized=True,
        n_resamples=draws, rng=np.random.default_rng(seed),
    )  # fmt: skip
    spread = {k: float(v.std(ddof=1)) if len(v) > 1 else 0.0 for k, v in (("r_sd", r), ("r2_sd", r**2))}
    return {
        "r": float(r.mean()), "r_low": float(low), "r_high": float(high), "r2": float((r**2).mean()),
        "r2_low": float(low2), "r2_high": float(high2), "rho": float(rho.mean()), "p": float(test.pvalue),
        "n": int(select(y, selection).shape[-1]), **spread,
    }  # fmt: skip


def correlations(observed: Mapping[str, Observations], draws: int = 2000) -> pd.DataFrame:
    """Every metric × selection × kind of change: a row each, columns as `correlation` returns."""
    return pd.DataFrame(
        [
            {"metric": metric, "selection": selection, "change": kind}
            | correlation(values, selection, kind, draws)
            for metric, values in observed.items() for selection in SELECTIONS for kind in CHANGES
        ]
    )  # fmt: skip


def mean_interval(values: np.ndarray, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean of [S seeds, Q questions], both drawn again."""
    rng = np.random.default_rng(seed)
    s, q = values.shape
    by_seed = rng.multinomial(q, np.full(q, 1 / q), size=draws) @ values.T / q
    means = np.take_along_axis(by_seed, rng.integers(s, size=(draws, s)), axis=1).mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
