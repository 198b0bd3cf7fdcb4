"""Correlations over domains with their uncertainty: bootstrap over questions and seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

#: Domains that enter a correlation: all, or the paper's selection by the outcome.
SELECTIONS = ("all", "paper")
CHANGES = ("absolute", "signed")
DRAWS = 2000
#: Whatever is drawn again, questions, queries or seeds, has a generator of its own, so that two
#: statistics of the same questions see the same replicates and their difference has an interval.
_QUESTIONS, _QUERIES, _SEEDS = 1, 2, 3


@dataclass(frozen=True)
class Estimate:
    """A number and its [B] bootstrap draws; the difference of two that share them is another."""

    value: float
    draws: np.ndarray

    @property
    def low(self) -> float:
        return float(np.percentile(self.draws, 2.5))

    @property
    def high(self) -> float:
        return float(np.percentile(self.draws, 97.5))

    def __sub__(self, other: "Estimate | float") -> "Estimate":
        if not isinstance(other, Estimate):
            return Estimate(self.value - other, self.draws - other)
        n = min(len(self.draws), len(other.draws))
        return Estimate(self.value - other.value, self.draws[:n] - other.draws[:n])

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Observations:
    """What a correlation over domains is computed from.

    | field | shape | is |
    |---|---|---|
    | domains | D names | |
    | scores | [S seeds, D domains] | the score |
    | replicates | [B, S, D] | the score with its queries drawn again, B times |
    | changes | [D] arrays [S, Q'] | performance after − before, the same questions in every seed |
    """

    domains: tuple[str, ...]
    scores: np.ndarray
    replicates: np.ndarray
    changes: Sequence[np.ndarray]

    def mean_changes(self) -> np.ndarray:
        """[S, D] mean change of performance."""
        return np.array([change.mean(1) for change in self.changes]).T

    def drawn_changes(self) -> np.ndarray:
        """[B, S, D] mean changes with questions drawn again."""
        return change_draws(self.changes, len(self.replicates))


# --- draws -------------------------------------------------------------------------------------


def query_weights(queries: int, draws: int, *stream: int) -> np.ndarray:
    """[B, Q] how often each query is drawn; `stream` numbers (seed, domain) tell draws apart."""
    return _multinomial(queries, draws, (_QUERIES, *stream))


@cache
def _multinomial(n: int, draws: int, key: tuple[int, ...]) -> np.ndarray:
    """[B, n] draws of n items with replacement, as counts; kept, for many ask for the same."""
    rng = np.random.default_rng(key)
    return rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(float)


def change_draws(changes: Sequence[np.ndarray], draws: int = DRAWS, stream: int = 0) -> np.ndarray:
    """[B, S, D] mean changes with each domain's questions drawn again, alike for all seeds."""
    drawn = []
    for d, change in enumerate(changes):
        q = change.shape[1]
        drawn.append(_multinomial(q, draws, (_QUESTIONS, stream, d)) @ change.T / q)
    return np.stack(drawn, -1)


def over_seeds(drawn: np.ndarray) -> np.ndarray:
    """[B, …] means over seeds of draws [B, S, …], seeds drawn with replacement too."""
    picked = np.random.default_rng(_SEEDS).integers(drawn.shape[1], size=drawn.shape[:2])
    index = picked.reshape(*picked.shape, *[1] * (drawn.ndim - 2))
    return np.take_along_axis(drawn, index, axis=1).mean(1)


def interval(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95% percentile interval over the first axis (bootstrap draws)."""
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return low, high


def mean_draws(values: np.ndarray, stream: int = 0) -> np.ndarray:
    """[B] means of [S seeds, Q questions], both drawn again; other `stream`, other questions."""
    return over_seeds(change_draws([values], stream=stream)[..., 0])


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """95% bootstrap interval of the mean of [S seeds, Q questions]."""
    low, high = interval(mean_draws(values))
    return float(low), float(high)


# --- correlations ------------------------------------------------------------------------------


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


def _r(x: np.ndarray, change: np.ndarray, selection: str, kind: str, rank: bool = False):
    """[...] correlation of scores x [..., D] with changes [..., D] over the selected domains."""
    y = np.abs(change) if kind == "absolute" else change
    kept = select(change, selection)
    x, y = np.take_along_axis(x, kept, -1), np.take_along_axis(y, kept, -1)
    if rank:
        x, y = scipy_stats.rankdata(x, axis=-1), scipy_stats.rankdata(y, axis=-1)
    return pearson(x, y)


def r(observed: Observations, selection: str = "all", change: str = "absolute") -> Estimate:
    """Pearson r over domains, mean over seeds, with draws over queries, questions and seeds."""
    value = _r(observed.scores, observed.mean_changes(), selection, change).mean()
    drawn = _r(observed.replicates, observed.drawn_changes(), selection, change)
    return Estimate(float(value), over_seeds(drawn))


def r_spread(observed: Observations, selection: str = "all", change: str = "absolute") -> Estimate:
    """Standard deviation of r over seeds; draws over queries and questions."""
    value = _r(observed.scores, observed.mean_changes(), selection, change)
    drawn = _r(observed.replicates, observed.drawn_changes(), selection, change)
    return Estimate(float(value.std(ddof=1)), drawn.std(1, ddof=1))


def correlation(
    observed: Observations,
    selection: str = "all",
    change: str = "absolute",
    permutations: int = DRAWS,
) -> dict[str, float]:
    """Pearson r of score and change over domains, mean over seeds, with its uncertainty.

    Keys: `r` and `r_sd` (mean and standard deviation over seeds, as the paper reports), `r2`,
    `r2_sd`, `rho` (Spearman), `r_low`, `r_high`, `r2_low`, `r2_high` (95% percentile bootstrap over
    questions and seeds), `p` (two-sided permutation of scores over domains), `n` domains.
    """
    if change not in CHANGES:
        raise ValueError(f"change {change!r}: choose from {', '.join(CHANGES)}")
    x, y = observed.scores, observed.mean_changes()
    r, rho = _r(x, y, selection, change), _r(x, y, selection, change, rank=True)
    drawn = _r(observed.replicates, observed.drawn_changes(), selection, change)
    (low, high), (low2, high2) = interval(over_seeds(drawn)), interval(over_seeds(drawn**2))

    def permuted(order, axis=-1):  # one order of the domains for all seeds
        shuffled = np.moveaxis(x[:, np.asarray(order, dtype=int)], 0, -2)
        return _r(shuffled, np.broadcast_to(y, shuffled.shape), selection, change).mean(-1)

    test = scipy_stats.permutation_test(
        (np.arange(x.shape[1], dtype=float),),
        permuted,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=permutations,
        rng=np.random.default_rng(0),
    )
    spread = {"r_sd": r, "r2_sd": r**2}
    spread = {k: float(v.std(ddof=1)) if len(v) > 1 else 0.0 for k, v in spread.items()}
    intervals = {"r_low": low, "r_high": high, "r2_low": low2, "r2_high": high2}
    means = {"r": r.mean(), "r2": (r**2).mean(), "rho": rho.mean(), "p": test.pvalue}
    n = int(select(y, selection).shape[-1])
    return {k: float(v) for k, v in (means | intervals).items()} | {"n": n} | spread


def correlations(observed: Mapping[str, Observations], permutations: int = DRAWS) -> pd.DataFrame:
    """Every metric × selection × kind of change: a row each, columns as `correlation` returns."""
    rows = []
    for metric, values in observed.items():
        for selection in SELECTIONS:
            for kind in CHANGES:
                row = {"metric": metric, "selection": selection, "change": kind}
                rows.append(row | correlation(values, selection, kind, permutations))
    return pd.DataFrame(rows)
