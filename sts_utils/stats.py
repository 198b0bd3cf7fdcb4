"""Means and shares with 95% bootstrap intervals over questions, queries and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import stats as scipy_stats

DRAWS = 2000
#: Whatever is drawn again, questions or seeds, has a generator of its own, so that two statistics
#: of the same questions see the same replicates and their difference has an interval.
_QUESTIONS, _SEEDS = 1, 3


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


class Interval(NamedTuple):
    """A number with its 95% interval, and the reliability of the outcome that it is of."""

    value: float
    low: float
    high: float
    reliability: float


def variance_ratio(one: np.ndarray, other: np.ndarray, reliability: float) -> Interval:
    """Log of the ratio of the variances of two samples of seeds, by F's distribution."""
    value = np.log(one.var(ddof=1) / other.var(ddof=1))
    low, high = np.log(scipy_stats.f.ppf([0.025, 0.975], len(one) - 1, len(other) - 1))
    return Interval(float(value), float(value - high), float(value - low), reliability)


# --- draws -------------------------------------------------------------------------------------


@cache
def _multinomial(n: int, draws: int, key: tuple[int, ...]) -> np.ndarray:
    """[B, n] draws of n items with replacement, as counts; kept, for many ask for the same."""
    rng = np.random.default_rng(key)
    return rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(float)


def counts(
    groups: Sequence, draws: int = DRAWS, key: tuple[int, ...] = (_QUESTIONS,)
) -> np.ndarray:
    """[B, n] how often each of n questions is drawn. Those of one of `groups` [n] are drawn
    together: variants of a template are no independent questions."""
    names, of = np.unique(np.asarray(groups), return_inverse=True)
    return _multinomial(len(names), draws, key)[:, of]


def change_draws(
    changes: Sequence[np.ndarray], draws: int = DRAWS, stream: int = 0, groups: Sequence = ()
) -> np.ndarray:
    """[B, S, D] mean changes with each domain's questions drawn again, alike for all seeds, and
    those of one of `groups` together, where there are any."""
    drawn = []
    for d, change in enumerate(changes):
        of = groups if len(groups) else range(change.shape[1])
        weights = counts(of, draws, (_QUESTIONS, stream, d))
        drawn.append(weights @ change.T / weights.sum(1, keepdims=True))
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


def mean_draws(values: np.ndarray, stream: int = 0, groups: Sequence = ()) -> np.ndarray:
    """[B] means of [S seeds, Q questions], both drawn again; other `stream`, other questions."""
    return over_seeds(change_draws([values], stream=stream, groups=groups)[..., 0])
