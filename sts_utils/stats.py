"""Means, shares and correlations, with 95% intervals over questions, queries, seeds and domains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats as scipy_stats

DRAWS = 2000
#: Whatever is drawn again, questions or seeds, has a generator of its own, so that two statistics
#: of the same questions see the same replicates and their difference has an interval.
_QUESTIONS, _SEEDS = 1, 3
#: What of the change enters a correlation.
CHANGES = {"absolute": np.abs, "signed": np.positive}
#: Parts into which a domain's questions, and its queries, are cut, each left out in turn; and how
#: often they are cut anew, for the interval of one cut depends on where it fell.
GROUPS, CUTS = 20, 5
#: An outcome of which less than this share of the variance between domains is signal tests nothing.
TESTABLE = 0.5

# --- estimates, and draws ------------------------------------------------------------------------


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


@cache
def _multinomial(n: int, draws: int, key: tuple[int, ...]) -> np.ndarray:  # many ask for the same
    return np.random.default_rng(key).multinomial(n, np.full(n, 1 / n), size=draws).astype(float)


def counts(groups: Sequence, draws: int = DRAWS, key: tuple = (_QUESTIONS,)) -> np.ndarray:
    """[B, n] how often each of n questions is drawn. Those of one of `groups` [n] are drawn
    together: variants of a template are no independent questions."""
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    return _multinomial(len(names), draws, key)[:, group]


def mean_draws(values: np.ndarray, stream: int = 0, groups: Sequence = ()) -> np.ndarray:
    """[B] means of [S seeds, Q questions], both drawn again, those of one of `groups` [Q] together;
    other `stream`, other questions."""
    groups = groups if len(groups) else range(values.shape[1])
    weights = counts(groups, key=(_QUESTIONS, stream, 0))
    return over_seeds(weights @ values.T / weights.sum(1, keepdims=True))


def over_seeds(drawn: np.ndarray) -> np.ndarray:
    """[B, …] means over seeds of draws [B, S, …], seeds drawn with replacement too."""
    picked = np.random.default_rng(_SEEDS).integers(drawn.shape[1], size=drawn.shape[:2])
    index = picked.reshape(*picked.shape, *[1] * (drawn.ndim - 2))
    return np.take_along_axis(drawn, index, axis=1).mean(1)


def over_seeds_of(values: np.ndarray) -> Estimate:
    """The mean over seeds of [1 + B, S] values, as observed and as drawn."""
    return Estimate(float(values[0].mean()), over_seeds(values[1:]))


def interval(drawn: np.ndarray) -> np.ndarray:
    """[2, …] (low, high): 95% percentile interval over the first axis, of draws [B, …]."""
    return np.percentile(drawn, [2.5, 97.5], axis=0)


# --- an outcome and its noise: [D] arrays [S seeds, Q questions] of each domain's changes ---------


def standard_errors(changes: Sequence[np.ndarray]) -> np.ndarray:
    """[D] standard error, over questions, of each domain's change as a mean over seeds."""
    return np.array([c.mean(0).std(ddof=1) / c.shape[1] ** 0.5 for c in changes])


def run_variance(changes: Sequence[np.ndarray]) -> float:
    """What training runs add to the variance of a domain's change as a mean over seeds, the same
    for all domains: how seeds' means differ beyond what the questions' own differences explain. 0
    for one seed, which can't tell."""
    seeds, excess = len(changes[0]), []
    if seeds == 1:
        return 0.0
    for c in changes:
        own = c - c.mean(0) - c.mean(1, keepdims=True) + c.mean()
        noise = (own**2).sum() / ((seeds - 1) * (c.shape[1] - 1))
        excess.append(c.mean(1).var(ddof=1) - noise / c.shape[1])
    return max(float(np.mean(excess)), 0.0) / seeds


def reliability(changes: Sequence[np.ndarray], change: str = "signed") -> float:
    """The share of the variance between domains that is signal: 1 − (mean se² + that of training
    runs) / variance."""
    spread = CHANGES[change](np.array([c.mean() for c in changes])).var(ddof=1)
    noise = (standard_errors(changes) ** 2).mean() + run_variance(changes)
    return float(1 - noise / spread) if spread > 0 else 0.0


def split_half(changes: Sequence[np.ndarray], change: str = "signed", splits: int = 200) -> float:
    """Reliability as r of two halves of the questions over domains, stepped up to the whole
    (Spearman and Brown), mean over random splits."""
    rng, found = np.random.default_rng(0), []
    for _ in range(splits):
        halves = []
        for c in changes:
            order, n = rng.permutation(c.shape[1]), c.shape[1] // 2
            halves.append((c[:, order[:n]].mean(), c[:, order[n:]].mean()))
        found.append(pearson(*CHANGES[change](np.array(halves).T)))
    r = float(np.mean(found))
    return 2 * r / (1 + r)


# --- correlations --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Correlation:
    """A correlation over domains, or a difference of such, and how sure it is.

    value: r of score and change as they were measured; domains: [D] the same without each in turn.
    true: r / √reliability, with the true change, were it asked of every question there is.
    questions: [CUTS × GROUPS] `true` without each part of the questions and queries in turn.
    reliability: of the change, the share of its variance that is signal; the least of several.
    bounded: whether it is an r, or made of several."""

    value: float
    domains: np.ndarray
    true: float
    questions: np.ndarray
    reliability: float
    bounded: bool = True

    @property
    def interval(self) -> tuple[float, float]:
        """95%, other domains drawn: Fisher's of one r, the jackknife's of several."""
        n = len(self.domains)
        return fisher(self.value, n) if self.bounded else _jackknife(self.value, self.domains)

    low = property(lambda self: self.interval[0])
    high = property(lambda self: self.interval[1])

    @property
    def within(self) -> tuple[float, float]:
        """95% interval of `true`, these domains and other questions: the jackknife over groups."""
        low, high = _jackknife(self.true, self.questions.reshape(-1, GROUPS))
        return (max(low, -1.0), min(high, 1.0)) if self.bounded else (low, high)

    @property
    def testable(self) -> bool:
        return self.reliability >= TESTABLE

    def __sub__(self, other: "Correlation | float") -> "Correlation":
        if isinstance(other, Correlation):
            return combined(lambda pair: pair[0] - pair[1], [self, other])
        return combined(lambda one: one[0] - other, [self])

    __str__ = Estimate.__str__


def combined(statistic: Callable, rs: Sequence[Correlation]) -> Correlation:
    """A smooth statistic of several correlations [K, …] of the same domains and questions."""
    fields = zip(*((r.value, r.domains, r.true, r.questions) for r in rs), strict=True)
    value, domains, true, questions = (statistic(np.array(field)) for field in fields)
    least = min(r.reliability for r in rs)
    return Correlation(float(value), domains, float(true), questions, least, bounded=False)


def fisher(r: float, n: int) -> tuple[float, float]:
    """95% interval of r over n domains, as scipy's pearsonr has it."""
    z, width = np.arctanh(np.clip(r, -1, 1)), scipy_stats.norm.ppf(0.975) / max(n - 3, 1e-9) ** 0.5
    return float(np.tanh(z - width)), float(np.tanh(z + width))


def _jackknife(value: float, left_out: np.ndarray) -> tuple[float, float]:
    """95% by leaving out one of n parts in turn, t with a degree less; of several cuts [C, n] the
    mean variance."""
    n = left_out.shape[-1]
    width = scipy_stats.t.ppf(0.975, n - 1) * np.sqrt((n - 1) * left_out.var(-1).mean())
    return float(value - width), float(value + width)


def without(n: int, stream: int = 0) -> np.ndarray:
    """[CUTS × GROUPS, n] weights of n questions: 0 for those of each part in turn, else 1. Parts
    are of nearly the same size."""
    rng = np.random.default_rng((stream, n))
    cuts = (rng.permutation(n) % GROUPS for _ in range(CUTS))
    return np.concatenate([cut[None] != np.arange(GROUPS)[:, None] for cut in cuts]).astype(float)


@dataclass(frozen=True)
class Observations:
    """What a correlation over domains is computed from: the names of D domains, their `scores`
    [S seeds, D], those `left_out` [CUTS × GROUPS, S, D], without each part of the queries, and
    `changes` of performance, [D] arrays [S, Q], of the same questions in every seed."""

    domains: tuple[str, ...]
    scores: np.ndarray
    left_out: np.ndarray
    changes: Sequence[np.ndarray]

    def mean_changes(self) -> np.ndarray:
        """[S, D] mean change of performance."""
        return np.array([change.mean(1) for change in self.changes]).T


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson r along the last axis; 0 where either is constant."""
    x = x - x.mean(-1, keepdims=True)
    y = y - y.mean(-1, keepdims=True)
    scale = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (x * y).sum(-1) / scale, 0.0)


def correlate(observed: Observations, change: str = "absolute") -> Correlation:
    """Pearson r over domains of the score and the change, both means over seeds."""

    def r(scores, changes) -> tuple[float, float, float]:
        """r, reliability, r with the true change"""
        y = CHANGES[change](np.array([c.mean() for c in changes]))
        value, share = float(pearson(scores.mean(0), y)), reliability(changes, change)
        return value, share, value / max(share, TESTABLE) ** 0.5

    scores, changes = observed.scores, observed.changes
    value, share, true = r(scores, changes)
    rest = [[i for i in range(len(changes)) if i != d] for d in range(len(changes))]
    domains = [r(scores[:, keep], [changes[i] for i in keep])[0] for keep in rest]
    kept = [(c, without(c.shape[1], d) > 0) for d, c in enumerate(changes)]
    parts = enumerate(observed.left_out)
    questions = [r(scores, [c[:, keep[g]] for c, keep in kept])[2] for g, scores in parts]
    return Correlation(value, np.array(domains), true, np.array(questions), share)


def select(change: np.ndarray, selection: str, each: int = 4) -> np.ndarray:
    """[k] indices of the domains kept: "all", or, of "paper", the `each` largest and smallest
    |change|."""
    order = np.argsort(np.abs(change), kind="stable")
    if selection == "all" or len(order) <= 2 * each:
        return np.sort(order)
    return np.concatenate([order[:each], order[-each:]])


def by_seed(observed: Observations, selection: str = "all", change: str = "absolute") -> np.ndarray:
    """[S] each seed's own r, over the domains that `selection` keeps by that seed's changes."""
    seeds = zip(observed.scores, observed.mean_changes(), strict=True)
    kept = [(x, y, select(y, selection)) for x, y in seeds]
    return np.array([pearson(x[keep], CHANGES[change](y[keep])) for x, y, keep in kept])
