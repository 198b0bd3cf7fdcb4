"""What a prediction says: scores of domains with intervals and ranks, and what to add."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import pandas as pd

from sts_utils import features as extract
from sts_utils import scores as shift
from sts_utils import stats
from sts_utils import stats as correlation
from sts_utils.config import Profile
from sts_utils.examples import Example
from sts_utils.features import FeatureStats
from sts_utils.prediction import explanation, page, scores
from sts_utils.prediction.probe import Probe
from sts_utils.prediction.scores import DEFAULT_SCORE, SCORES
from sts_utils.prediction.sources import drawn, key
from sts_utils.scores import PAPER_SCORES, ShiftedDims, over_domains

#: The training set's key beside the domains'.
TRAIN = ""
#: Bootstrap draws of a score that compares domains feature by feature.
RELATIVE_DRAWS = 500
#: Two neighbours in rank can't be told apart when the bootstrap swaps them more often than this.
FLIP = 0.05


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """Scores of domains, and the statistics they come from: N, score and domains can be changed.

    The statistics are of questions without and with examples in context, [S seeds]: training
    questions and training examples; {domain: its questions and its own worked examples}; and of
    multiple choice, [S] or none, {domain or TRAIN: with wrong and with right answers in context}.
    """

    profile: Profile
    source: str  # the training set's name
    train: Sequence[Example]
    questions: Mapping[str, Sequence[Example]]
    demonstrations: Mapping[str, Sequence[Example]]  # the domains' worked examples, if any
    train_stats: Sequence[FeatureStats]
    domain_stats: Sequence[Mapping[str, FeatureStats]]
    answer_stats: Sequence[Mapping[str, FeatureStats]]
    seeds: Sequence[int]
    n: int
    score: str
    probe: Probe | None = None
    notes: Sequence[str] = ()

    plot, write, explain = page.plot, page.write, explanation.explain

    def __repr__(self) -> str:
        return f"Prediction for {self.source} by {self.score}, N = {self.n}\n{self.table}"

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that are ranked."""
        return tuple(self.domain_stats[0])

    def rescored(
        self, n: int | None = None, score: str | None = None, domains: Sequence[str] | None = None
    ) -> "Prediction":
        """The same statistics with another N, score or choice of domains; nothing is run again."""
        n, score = self.n if n is None else n, score or self.score
        kept = self.domains if domains is None else domains
        if not kept or not set(kept) <= set(self.domains):
            unknown = next((d for d in kept if d not in self.domains), "(none)")
            raise ValueError(f"unknown domain {unknown!r}: choose from {', '.join(self.domains)}")
        features = len(self.train_stats[0].features)
        told = bool(self.demonstrations), kept, bool(self.answer_stats)
        scores.check(score, n, features, *told)
        chosen = [{d: of[d] for d in of if d in kept} for of in self.domain_stats]
        return replace(self, n=n, score=score, domain_stats=chosen)

    def _dims(self, name: str, n: int | None) -> list[ShiftedDims]:
        """[S] D_N (eq. 1) that a score reads; every feature if n is None."""
        answers = [of[TRAIN] for of in self.answer_stats]
        stats = answers if name == "sts_answers" else self.train_stats
        return [shift.shifted_dims(of, n) for of in stats]

    @cached_property
    def shifts(self) -> np.ndarray:
        """[F] each feature's shift, mean over seeds, as the chosen score ranks it."""
        every = self._dims(self.score, None)
        return np.mean([d.shift[np.argsort(d.ids)] for d in every], axis=0)

    @cached_property
    def estimates(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Score -> (values [D], bootstrap draws [B, D]): mean over seeds.

        Questions and seeds are drawn again; NaN where a score needs examples that are not there.
        """
        return {name: self._estimate(name) for name in SCORES}

    def _estimate(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        lacks = {"sts_icl": self.demonstrations, "sts_answers": self.answer_stats}
        if not lacks.get(name, True):
            nothing = np.full((1, len(self.domains)), np.nan)
            return nothing[0], nothing
        weights = self._weights(stats.DRAWS if name in PAPER_SCORES else RELATIVE_DRAWS)
        read, values, drawn = self.domain_stats, [], []
        how, equation = [{}] * len(self.seeds), name
        if name == "sts_answers":
            read, equation = self.answer_stats, "cosine"
            how = [{"towards": of[TRAIN].mean("dh")} for of in read]
        for s, dims in enumerate(self._dims(name, self.n)):
            of = [read[s][d] for d in self.domains]
            score_of = partial(over_domains, equation, of, dims, **how[s])
            values.append(score_of())
            drawn.append(score_of(weights=weights[s]))
        return np.mean(values, axis=0), stats.over_seeds(np.stack(drawn, 1))

    def _weights(self, draws: int) -> list[list[np.ndarray]]:
        """[S][D] arrays [draws, Q], weights of questions (Bayesian bootstrap: exponential, mean 1).

        A question that several seeds ask has one weight: asking it again is no new evidence.
        """
        weights = [[] for _ in self.seeds]
        for d, domain in enumerate(self.domains):
            ids = [of[domain].ids for of in self.domain_stats]
            place = {question: i for i, question in enumerate(sorted(set().union(*ids)))}
            drawn = np.random.default_rng(d).exponential(size=(draws, len(place)))
            for of_seed, asked in zip(weights, ids, strict=True):
                of_seed.append(drawn[:, [place[question] for question in asked]])
        return weights

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row a domain, best rank first.

        Columns: domain; rank by `score`, `rank_low`, `rank_high`; for each of SCORES its value and
        `_low`, `_high` (95% bootstrap over questions and seeds).
        """
        values, draws = self.estimates[self.score]
        low, high = stats.interval(1 + (draws[:, None, :] > draws[:, :, None]).sum(-1))
        columns = {"domain": self.domains, "rank": 1 + (values > values[:, None]).sum(-1)}
        columns |= {"rank_low": low.round().astype(int), "rank_high": high.round().astype(int)}
        for name, (values, draws) in self.estimates.items():
            low, high = stats.interval(draws)
            columns |= {name: values, f"{name}_low": low, f"{name}_high": high}
        return pd.DataFrame(columns).sort_values("rank", kind="stable", ignore_index=True)

    @property
    def ties(self) -> list[tuple[str, str, float]]:
        """(domain, the next in rank, probability that their order flips), if it is above FLIP."""
        values, draws = self.estimates[self.score]
        pairs = itertools.pairwise(np.argsort(-values, kind="stable"))
        flips = [(a, b, float((draws[:, a] <= draws[:, b]).mean())) for a, b in pairs]
        return [(self.domains[a], self.domains[b], p) for a, b, p in flips if p > FLIP]

    def sureness(self) -> list[str]:
        """How much the ranking rests on, which ranks it can't tell apart, what it is by."""
        asked = [len(of.n) for row in self.domain_stats for of in row.values()]
        trained = len(self.train_stats[0].n)
        values = {"asked": asked, "trained": trained, "most": extract.ROWS, "flip": FLIP}
        values |= {"default": DEFAULT_SCORE}
        said = page.told("sureness", p=self, **values, control=scores.in_control())
        return [*said, *self.notes]

    def reads(self) -> list[str]:
        """What the score reads, as far as is known, and what a probe would add or has found."""
        control = scores.in_control()
        own = control.get(self.score)
        return page.told("reads", p=self, control=control, own=own, testable=correlation.TESTABLE)

    def limits(self) -> list[str]:
        """What the method does not say."""
        return page.told("limits")

    def advice(self, budget: int) -> pd.DataFrame:
        """`budget` extra examples split over the domains in the ratio of the score (paper, §5).

        Of a logarithm like sts_relative the ratio is that of what it is taken of; remainders go to
        the largest fractions. Columns: domain, weight (the score, or its exponential), share,
        examples, at_hand (worked examples to take them from).
        """
        check_budget(budget)
        table = self.table[["domain"]].assign(weight=self.table[self.score])
        if self.score == "sts_relative":
            table["weight"] = np.exp(table.weight)  # times as active as in the mean domain
        table["weight"] = table.weight.clip(lower=0)  # of a cosine, what moves the other way
        if not table.weight.sum() > 0:
            table["weight"] = 1.0  # none is above 0: evenly
        table["share"] = table.weight / table.weight.sum()
        table["examples"] = largest_remainder(table.share.to_numpy(), budget)
        return table.assign(at_hand=[len(self._worked(d)) for d in table.domain])

    def mixture(self, budget: int) -> list[dict[str, str]]:
        """The advised examples as rows (question, answer, domain), as far as there are any."""
        rows = []
        for domain, wanted in self.advice(budget)[["domain", "examples"]].itertuples(index=False):
            for e in drawn(self._worked(domain), wanted):
                rows.append({"question": e.query, "answer": e.solution, "domain": domain})
        return rows

    def _worked(self, domain: str) -> list[Example]:
        examples = *self.questions[domain], *self.demonstrations.get(domain, ())
        return list({key(e): e for e in examples if e.solution}.values())


def largest_remainder(share: np.ndarray, budget: int) -> np.ndarray:
    """Whole numbers that sum to `budget` in the ratio of `share`, remainders to largest fractions.

    >>> largest_remainder(np.array([0.5, 0.3, 0.2]), 7).tolist()
    [4, 2, 1]
    """
    quota = share * budget
    counts = np.floor(quota).astype(int)
    counts[np.argsort(counts - quota, kind="stable")[: budget - counts.sum()]] += 1
    return counts


def check_budget(budget: int) -> None:
    """Raise ValueError for what is no number of examples."""
    if not isinstance(budget, int) or budget < 1:
        raise ValueError(f"budget is {budget!r}: give a whole number of extra examples, 1 or more")
