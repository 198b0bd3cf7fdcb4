"""Means and shares with 95% bootstrap intervals over questions, queries and seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
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

    low = property(lambda self: float(np.percentile(self.draws, 2.5)))
    high = property(lambda self: float(np.percentile(self.draws, 97.5)))

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


def over_seeds_of(values: np.ndarray) -> Estimate:
    """The mean over seeds of [1 + B, S] values, as observed and as drawn."""
    return Estimate(float(values[0].mean()), over_seeds(values[1:]))


def interval(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95% percentile interval over the first axis (bootstrap draws)."""
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    return low, high


def mean_draws(values: np.ndarray, stream: int = 0, groups: Sequence = ()) -> np.ndarray:
    """[B] means of [S seeds, Q questions], both drawn again; other `stream`, other questions."""
    return over_seeds(change_draws([values], stream=stream, groups=groups)[..., 0])


#: Domains that enter a correlation: all, or the paper's selection by the outcome.
SELECTIONS = ("all", "paper")
CHANGES = ("absolute", "signed")
#: Parts into which a domain's questions, and its queries, are cut; each is left out in turn.
GROUPS = 20
#: How often they are cut anew, for the interval of one cut depends on where it fell.
CUTS = 5
#: An outcome of which less than this share of the variance between domains is signal tests nothing.
TESTABLE = 0.5
#: Of a permutation test.
PERMUTATIONS = 2000


@dataclass(frozen=True)
class Correlation:
    """A correlation over domains, or a difference of such, and how sure it is.

    | field | is |
    |---|---|
    | value | r of score and change as they were measured |
    | domains | [D] the same without each domain in turn |
    | true | r / √reliability: r with the true change, were it asked of every question there is |
    | questions | [CUTS × GROUPS] `true` without each part of the questions and queries in turn |
    | reliability | of the change: the share of its variance that is signal; the least of several |
    | bounded | whether it is an r, or made of several |
    """

    value: float
    domains: np.ndarray
    true: float
    questions: np.ndarray
    reliability: float
    bounded: bool = True

    @property
    def interval(self) -> tuple[float, float]:
        """95%, other domains drawn: Fisher's of one r, the jackknife's of several."""
        if not self.bounded:
            return _jackknife(self.value, self.domains)
        return fisher(self.value, len(self.domains))

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

    def unfolded(self) -> "Correlation":
        """A spread or another square, which noise folds upward, without that: by the jackknife."""
        n, of = len(self.domains), self.domains
        return replace(self, value=n * self.value - (n - 1) * float(of.mean()))

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def combined(statistic: Callable, of: Sequence[Correlation]) -> Correlation:
    """A smooth statistic of several correlations [K, …] of the same domains and questions."""
    values = [statistic(np.array([getattr(r, name) for r in of])) for name in _COMBINED]
    value, domains, true, questions = values
    least = min(r.reliability for r in of)
    return Correlation(float(value), domains, float(true), questions, least, bounded=False)


_COMBINED = ("value", "domains", "true", "questions")


def fisher(r: float, n: int) -> tuple[float, float]:
    """95% interval of r over n domains, as scipy's pearsonr has it."""
    z, width = np.arctanh(np.clip(r, -1, 1)), scipy_stats.norm.ppf(0.975) / max(n - 3, 1e-9) ** 0.5
    return float(np.tanh(z - width)), float(np.tanh(z + width))


def _jackknife(value: float, left_out: np.ndarray) -> tuple[float, float]:
    """95% by leaving out one of n parts in turn, t with a degree less; of several cuts [C, n] the
    mean variance."""
    n = left_out.shape[-1]
    se = np.sqrt((n - 1) * left_out.var(-1).mean())
    width = scipy_stats.t.ppf(0.975, n - 1) * se
    return float(value - width), float(value + width)


@dataclass(frozen=True)
class Observations:
    """What a correlation over domains is computed from.

    | field | shape | is |
    |---|---|---|
    | domains | D names | |
    | scores | [S seeds, D domains] | the score |
    | left_out | [CUTS × GROUPS, S, D] | the score without each part of the queries |
    | changes | [D] arrays [S, Q'] | performance after − before, the same questions in every seed |
    """

    domains: tuple[str, ...]
    scores: np.ndarray
    left_out: np.ndarray
    changes: Sequence[np.ndarray]

    def mean_changes(self) -> np.ndarray:
        """[S, D] mean change of performance."""
        return np.array([change.mean(1) for change in self.changes]).T

    def seed(self, s: int) -> "Observations":
        """Those of one seed."""
        changes = [change[s : s + 1] for change in self.changes]
        return Observations(self.domains, self.scores[[s]], self.left_out[:, [s]], changes)


# --- an outcome and its noise ------------------------------------------------------------------


def without(n: int, stream: int = 0) -> np.ndarray:
    """[CUTS × GROUPS, n] weights of n questions: 0 for those of each part in turn, else 1. Parts
    are of nearly the same size."""
    rng = np.random.default_rng((stream, n))
    cuts = (rng.permutation(n) % GROUPS for _ in range(CUTS))
    return np.concatenate([cut[None] != np.arange(GROUPS)[:, None] for cut in cuts]).astype(float)


def standard_errors(changes: Sequence[np.ndarray]) -> np.ndarray:
    """[D] standard error, over questions, of each domain's change as a mean over seeds."""
    means = [change.mean(0) for change in changes]
    return np.array([of.std(ddof=1) / len(of) ** 0.5 for of in means])


def run_variance(changes: Sequence[np.ndarray]) -> float:
    """What training runs add to the variance of a domain's change as a mean over seeds, the same
    for all domains: how seeds' means differ beyond what the questions' own differences explain. 0
    for one seed, which can't tell."""
    seeds, excess = len(changes[0]), []
    for of in changes if seeds > 1 else ():
        own = of - of.mean(0) - of.mean(1, keepdims=True) + of.mean()
        noise = (own**2).sum() / ((seeds - 1) * (of.shape[1] - 1))
        excess.append(of.mean(1).var(ddof=1) - noise / of.shape[1])
    return max(float(np.mean(excess)), 0.0) / seeds if excess else 0.0


def reliability(changes: Sequence[np.ndarray], change: str = "signed") -> float:
    """The share of the variance between domains that is signal: 1 − (mean se² + that of training
    runs) / variance."""
    values = np.array([of.mean() for of in changes])
    spread = (np.abs(values) if change == "absolute" else values).var(ddof=1)
    noise = (standard_errors(changes) ** 2).mean() + run_variance(changes)
    return float(1 - noise / spread) if spread > 0 else 0.0


def split_half(changes: Sequence[np.ndarray], change: str = "signed", splits: int = 200) -> float:
    """Reliability as r of two halves of the questions over domains, stepped up to the whole
    (Spearman and Brown), mean over random splits."""
    rng, found = np.random.default_rng(0), []
    for _ in range(splits):
        halves = []
        for of in changes:
            order, n = rng.permutation(of.shape[1]), of.shape[1] // 2
            halves.append((of[:, order[:n]].mean(), of[:, order[n:]].mean()))
        one, other = np.array(halves).T
        found.append(pearson(*(np.abs([one, other]) if change == "absolute" else (one, other))))
    r = float(np.mean(found))
    return 2 * r / (1 + r)


# --- correlations ------------------------------------------------------------------------------


def select(change: np.ndarray, selection: str, each: int = 4) -> np.ndarray:
    """[k] indices of the domains kept: all, or the `each` largest and smallest |change|."""
    order = np.argsort(np.abs(change), kind="stable")
    if selection == "all" or len(order) <= 2 * each:
        return np.sort(order)
    if selection != "paper":
        raise ValueError(f"selection {selection!r}: choose from {', '.join(SELECTIONS)}")
    return np.concatenate([order[:each], order[-each:]])


def pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson r along the last axis; 0 where either is constant."""
    x = x - x.mean(-1, keepdims=True)
    y = y - y.mean(-1, keepdims=True)
    scale = np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (x * y).sum(-1) / scale, 0.0)


def correlate(observed: Observations, change: str = "absolute") -> Correlation:
    """Pearson r over domains of the score and the change, both means over seeds."""
    if change not in CHANGES:
        raise ValueError(f"change {change!r}: choose from {', '.join(CHANGES)}")
    changes = observed.changes
    kept = [without(of.shape[1], d) > 0 for d, of in enumerate(changes)]

    def r(scores, changes) -> tuple[float, float]:
        """(r, reliability)"""
        y = np.array([of.mean() for of in changes])
        y = np.abs(y) if change == "absolute" else y
        return float(pearson(scores.mean(0), y)), reliability(changes, change)

    def true(r: float, reliability: float) -> float:
        return r / max(reliability, TESTABLE) ** 0.5

    value, share = r(observed.scores, changes)
    rest = [[i for i in range(len(changes)) if i != d] for d in range(len(changes))]
    domains = [r(observed.scores[:, keep], [changes[i] for i in keep])[0] for keep in rest]
    questions = [
        true(*r(scores, [of[:, keep[g]] for of, keep in zip(changes, kept, strict=True)]))
        for g, scores in enumerate(observed.left_out)
    ]
    return Correlation(value, np.array(domains), true(value, share), np.array(questions), share)


def by_seed(observed: Observations, selection: str = "all", change: str = "absolute") -> np.ndarray:
    """[S] each seed's own r, over the domains that `selection` keeps by that seed's changes."""
    found = []
    for x, y in zip(observed.scores, observed.mean_changes(), strict=True):
        kept = select(y, selection)
        found.append(pearson(x[kept], np.abs(y[kept]) if change == "absolute" else y[kept]))
    return np.array(found)


def correlations(observed: Mapping[str, Observations]) -> pd.DataFrame:
    """Every metric × kind of change × selection, a row each.

    Columns: `r_mean`, `r_sd`, `r2_mean`, `r2_sd` over seeds, as the paper reports them. Over all
    domains also `r` of the means over seeds with `low`, `high` (other domains drawn), `rho`
    (Spearman), `p` (permutation), the outcome's `reliability` and `split_half`, and, where the
    reliability reaches TESTABLE, `r_true` with `true_low`, `true_high` (other questions).
    """
    rows = []
    for metric, seen in observed.items():
        for kind in CHANGES:
            for selection in SELECTIONS:
                rs = by_seed(seen, selection, kind)
                n = len(select(seen.mean_changes()[0], selection))
                row = {"metric": metric, "selection": selection, "change": kind, "n": n}
                for name, of in (("r", rs), ("r2", rs**2)):
                    row |= {f"{name}_mean": of.mean()}
                    row |= {f"{name}_sd": of.std(ddof=1) if len(of) > 1 else np.nan}
                rows.append(row | (_pooled(seen, kind) if selection == "all" else {}))
    return pd.DataFrame(rows)


def _pooled(seen: Observations, kind: str) -> dict[str, float]:
    """The columns of `correlations` that are of means over seeds."""
    found, x, y = correlate(seen, kind), seen.scores.mean(0), seen.mean_changes().mean(0)
    y = np.abs(y) if kind == "absolute" else y
    method = scipy_stats.PermutationMethod(n_resamples=PERMUTATIONS, rng=np.random.default_rng(0))
    row = {"r": found.value, "low": found.low, "high": found.high}
    row |= {"rho": scipy_stats.spearmanr(x, y).statistic}
    row |= {"p": scipy_stats.pearsonr(x, y, method=method).pvalue}
    row |= {"reliability": found.reliability, "split_half": split_half(seen.changes, kind)}
    if found.testable:
        low, high = found.within
        row |= {"r_true": min(max(found.true, -1), 1), "true_low": low, "true_high": high}
    return row
