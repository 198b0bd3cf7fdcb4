"""Means, shares and correlations, with 95% intervals over questions, queries, seeds and domains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy

DRAWS = 2000
CHANGES = {"absolute": np.abs, "signed": np.positive}  #: What of it enters a correlation.
#: Parts into which questions are cut, each left out in turn, and how often they are cut anew.
GROUPS, CUTS = 20, 5
TESTABLE = 0.5  #: Less of the variance between domains being signal, an outcome tests nothing.


@dataclass(frozen=True)
class Estimate:
    """A number and its [B] bootstrap draws; the difference of two that share them is another."""

    value: float
    draws: np.ndarray

    low = property(lambda self: float(np.percentile(self.draws, 2.5)))
    high = property(lambda self: float(np.percentile(self.draws, 97.5)))

    def __sub__(self, other: "Estimate | float") -> "Estimate":
        if not isinstance(other, Estimate):
            return Estimate(self.value - other, self.draws - other)
        n = min(len(self.draws), len(other.draws))
        return Estimate(self.value - other.value, self.draws[:n] - other.draws[:n])

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def over_seeds(drawn: np.ndarray) -> np.ndarray:
    """[B, …] means over seeds of draws [B, S, …], seeds drawn with replacement too."""
    picked = np.random.default_rng(3).integers(drawn.shape[1], size=drawn.shape[:2])
    return drawn[np.arange(len(drawn))[:, None], picked].mean(1)


@dataclass(frozen=True)
class Jackknife:
    """A number (or an array), [CUTS, GROUPS, …] the same without each part of the questions in turn
    and [S, …] of each seed; the difference of two of the same questions is another. Top-N sets
    jump when questions are drawn again: a bootstrap of their overlap covers 88%, this 95 to 98%."""

    value: float
    left_out: np.ndarray
    seeds: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Jackknife":
        """The mean over seeds of [1 + CUTS × GROUPS, S, …] values, in the order of `parts`."""
        rest = values[1:].mean(1)
        return cls(values[0].mean(0), rest.reshape(CUTS, GROUPS, *rest.shape[1:]), values[0])

    @classmethod
    def mean(cls, values: np.ndarray, groups: Sequence = ()) -> "Jackknife":
        """The mean of [S seeds, Q]; questions of one of `groups` [Q] are left out together."""
        weights = parts(groups if len(groups) else range(values.shape[1]))
        return cls.of(weights @ values.T / weights.sum(1, keepdims=True))

    @property
    def variance(self) -> float:
        """Of whichever differ more: questions or seeds."""
        variance, n = (GROUPS - 1) * self.left_out.var(1).mean(0), len(self.seeds)
        return np.maximum(variance, self.seeds.var(0, ddof=1) / n) if n > 1 else variance

    half = property(lambda self: scipy.stats.t.ppf(0.975, GROUPS - 1) * self.variance**0.5)
    low = property(lambda self: self.value - self.half)
    high = property(lambda self: self.value + self.half)

    def __sub__(self, other: "Jackknife | float") -> "Jackknife":
        if not isinstance(other, Jackknife):
            return replace(self, value=self.value - other)
        value, left_out = self.value - other.value, self.left_out - other.left_out
        return Jackknife(value, left_out, self.seeds - other.seeds)

    __str__ = Estimate.__str__


def parts(groups: Sequence) -> np.ndarray:
    """[1 + CUTS × GROUPS, n] weights of n questions: 1, then 0 for those of each part in turn.
    Those of one of `groups` [n] (a template's variants, not independent) are left out together."""
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng((0, len(names)))
    cuts = [rng.permutation(len(names)) % GROUPS for _ in range(CUTS)]
    kept = np.concatenate([cut[None] != np.arange(GROUPS)[:, None] for cut in cuts])
    return np.vstack([np.ones(len(group)), kept[:, group]])


def standard_errors(changes: Sequence[np.ndarray]) -> np.ndarray:
    """[D] standard error, over questions, of each domain's change as a mean over seeds."""
    return np.array([c.mean(0).std(ddof=1) / c.shape[1] ** 0.5 for c in changes])


def run_variance(changes: Sequence[np.ndarray]) -> float:
    """What training runs add to the variance of a domain's change as a mean over seeds, the same
    for all: how seeds' means differ beyond what the questions explain. 0 for one seed."""
    seeds, excess = len(changes[0]), []
    if seeds == 1:
        return 0.0
    for c in changes:
        own = c - c.mean(0) - c.mean(1, keepdims=True) + c.mean()
        noise = (own**2).sum() / ((seeds - 1) * (c.shape[1] - 1))
        excess.append(c.mean(1).var(ddof=1) - noise / c.shape[1])
    return max(float(np.mean(excess)), 0.0) / seeds


def reliability(changes: Sequence[np.ndarray], change: str = "signed") -> float:
    """The share of variance between domains that is signal: 1 − (mean se² + of runs) / variance."""
    spread = CHANGES[change](np.array([c.mean() for c in changes])).var(ddof=1)
    noise = (standard_errors(changes) ** 2).mean() + run_variance(changes)
    return float(1 - noise / spread) if spread > 0 else 0.0


@dataclass(frozen=True)
class Correlation:
    """A correlation over domains, or a difference of such, and how sure it is.
    value: r of score and change as they were measured.
    left_out: [G] the same without each category of domains in turn; sizes: [G] their domains.
    reliability: of the change, the share of its variance that is signal; the least of several.
    seeds: of one, training noise can't be told from signal.
    bounded: whether it is an r, or made of several."""

    value: float
    left_out: np.ndarray
    sizes: np.ndarray
    reliability: float
    seeds: int
    bounded: bool = True

    @property
    def interval(self) -> tuple[float, float]:
        """95%, other categories drawn: by leaving out each, on Fisher's scale where it is an r,
        with t of as many as are effective (domains² / sum of sizes²): 94 to 95% in simulation."""
        count = self.sizes.sum() ** 2 / (self.sizes**2).sum()
        t = scipy.stats.t.ppf(0.975, max(count - 1, 1))
        values = np.array([self.value, *self.left_out])
        values = np.arctanh((1 - 1e-9) * values) if self.bounded else values
        width = t * np.sqrt((len(self.left_out) - 1) * values[1:].var())
        ends = np.array([values[0] - width, values[0] + width])
        return tuple((np.tanh(ends) if self.bounded else ends).tolist())

    low = property(lambda self: self.interval[0])
    high = property(lambda self: self.interval[1])

    @property
    def with_true_change(self) -> np.ndarray:
        """[3] r and its interval over √reliability: with the change, asked of all questions."""
        share = max(self.reliability, TESTABLE)
        return (np.array([self.value, self.low, self.high]) / share**0.5).clip(-1, 1)

    testable = property(lambda self: self.reliability >= TESTABLE and self.seeds > 1)

    def __sub__(self, by: "Correlation | float") -> "Correlation":
        if isinstance(by, Correlation):
            return combined(lambda pair: pair[0] - pair[1], [self, by])
        return replace(self, value=self.value - by, left_out=self.left_out - by, bounded=False)

    __str__ = Estimate.__str__


def combined(statistic: Callable, rs: Sequence[Correlation]) -> Correlation:
    """A smooth statistic of several correlations [K, …] of the same domains and questions."""
    value = statistic(np.array([r.value for r in rs]))
    left_out = statistic(np.array([r.left_out for r in rs]))
    share, seeds = min(r.reliability for r in rs), min(r.seeds for r in rs)
    return Correlation(float(value), left_out, rs[0].sizes, share, seeds, bounded=False)


def fisher(r: float, n: int) -> tuple[float, float]:
    """Fisher's 95% interval of r over n domains, as if all were independent: the easier one."""
    z, width = np.arctanh(np.clip(r, -1, 1)), scipy.stats.norm.ppf(0.975) / max(n - 3, 1e-9) ** 0.5
    return float(np.tanh(z - width)), float(np.tanh(z + width))


@dataclass(frozen=True)
class Observations:
    """What a correlation over domains is computed from: the names of D domains and the category of
    each, their `scores` [S seeds, D], and `changes` of performance, [D] arrays [S, Q]."""

    domains: tuple[str, ...]
    categories: tuple[str, ...]
    scores: np.ndarray
    changes: Sequence[np.ndarray]

    def mean_changes(self) -> np.ndarray:
        """[S, D] mean change of performance."""
        return np.array([change.mean(1) for change in self.changes]).T


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson r along the last axis; 0 where either is constant."""
    x, y = (values - values.mean(-1, keepdims=True) for values in (x, y))
    scale = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (x * y).sum(-1) / scale, 0.0)


def side(values: np.ndarray, categories: np.ndarray, part: str) -> np.ndarray:
    """[..., D] values over domains ("all"), of categories ("between"), or the rest ("within")."""
    _, place, sizes = np.unique(categories, return_inverse=True, return_counts=True)
    means = values @ (np.eye(len(sizes))[place] / sizes)
    return {"all": values, "between": means, "within": values - means[..., place]}[part]


def correlate(observed: Observations, change: str = "absolute", part: str = "all") -> Correlation:
    """Pearson r over domains of the score and the change, both means over seeds; of the means of
    categories ("between"), or of domains less these ("within")."""
    changes, categories = observed.changes, np.array(observed.categories)
    x, y = observed.scores.mean(0), CHANGES[change](observed.mean_changes().mean(0))
    names, sizes = np.unique(categories, return_counts=True)

    def r(keep: np.ndarray) -> float:
        return float(pearson(*(side(v[keep], categories[keep], part) for v in (x, y))))

    left_out = np.array([r(categories != name) for name in names])
    share = reliability(changes, change)
    return Correlation(r(categories != ""), left_out, sizes, share, len(observed.scores))
