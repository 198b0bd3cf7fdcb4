"""What a prediction says: scores of domains with intervals and ranks, and what to add."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd

from sts_utils import scores, stats
from sts_utils.config import Profile
from sts_utils.examples import Example
from sts_utils.features import FeatureStats
from sts_utils.prediction import report
from sts_utils.prediction.explanation import explain
from sts_utils.prediction.probe import Probe
from sts_utils.prediction.sources import drawn, key

#: The paper's are STS_act and STS_ICL. `sts_relative` compares domains feature by feature, and
#: `sts_answers` how a domain's and the training set's features move from wrong answers to right
#: ones, where both are multiple choice. The default did best on topics in an earlier positive
#: control (commit 0de4d57), on training sets kept for judgement; it was chosen after that was seen.
SCORES = (DEFAULT_SCORE := "sts_relative", "sts_act", "sts_icl", "sts_answers")
#: The training set's key beside the domains'.
TRAIN = ""
#: Bootstrap draws of a score that compares domains feature by feature.
RELATIVE_DRAWS = 500
#: Fields of a prediction that the others are computed from, beside its profile.
READ_OR_CHOSEN = ("source", "train", "questions", "demonstrations", "notes")
READ_OR_CHOSEN += ("shots", "queries", "seeds", "n", "score")
#: Two neighbours in rank can't be told apart when the bootstrap swaps them more often than this.
FLIP = 0.05


def check_score(score, n, features=None, has_icl=True, domains=(), has_wrong=True) -> None:
    """Raise ValueError for a score or an N that can't be had, as far as is known: the SAE's
    features, whether the domains have worked examples, which they are, whether all data have wrong
    answers too."""
    if score not in SCORES:
        raise ValueError(f"score {score!r}: choose from {', '.join(SCORES)}")
    if not 1 <= n <= (features or n):
        raise ValueError(f"n is {n}: choose 1..{features or '(the features of the SAE)'}")
    needs = {
        "sts_icl": (has_icl, "the domains' worked examples: give demonstrations"),
        "sts_answers": (has_icl and has_wrong, "multiple choice, worked examples too"),
        "sts_relative": (len(domains) != 1, "domains to compare, here is one: rank by sts_act"),
    }
    has, what = needs.get(score, (True, ""))
    if not has:
        raise ValueError(f"score {score!r} needs {what}")


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
    shots: int
    queries: int
    seeds: Sequence[int]
    n: int
    score: str
    notes: Sequence[str]  # what was left out
    train_stats: Sequence[FeatureStats]
    domain_stats: Sequence[Mapping[str, FeatureStats]]
    answer_stats: Sequence[Mapping[str, FeatureStats]]
    probe: Probe | None = None

    explain = explain

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
        size, icl = len(self.train_stats[0].features), bool(self.demonstrations)
        check_score(score, n, size, icl, kept, bool(self.answer_stats))
        chosen = [{d: of[d] for d in of if d in kept} for of in self.domain_stats]
        return replace(self, n=n, score=score, domain_stats=chosen)

    def _dims(self, name: str, n: int | None) -> list[scores.ShiftedDims]:
        """[S] D_N (eq. 1) that a score reads; every feature if n is None."""
        answers = [of[TRAIN] for of in self.answer_stats]
        own = answers if name == "sts_answers" else self.train_stats
        return [scores.shifted_dims(of, n) for of in own]

    @cached_property
    def shifts(self) -> np.ndarray:
        """[F] each feature's shift, mean over seeds, as the chosen score ranks it."""
        every = self._dims(self.score, None)
        return np.mean([dims.shift[np.argsort(dims.ids)] for dims in every], axis=0)

    @cached_property
    def estimates(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Score -> (values [D], bootstrap draws [B, D]): mean over seeds.

        Questions and seeds are drawn again; NaN where a score needs examples that are not there.
        """
        lacks = {"sts_icl": not self.demonstrations, "sts_answers": not self.answer_stats}
        nothing = np.full((1, len(self.domains)), np.nan)
        return {s: (nothing[0], nothing) if lacks.get(s) else self._estimate(s) for s in SCORES}

    def _estimate(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        weights = self._weights(stats.DRAWS if name in scores.PAPER_SCORES else RELATIVE_DRAWS)
        values, draws, how = [], [], {"name": name}
        for s, dims in enumerate(self._dims(name, self.n)):
            read = self.domain_stats[s]
            if name == "sts_answers":
                read = self.answer_stats[s]
                how = {"name": "cosine", "towards": read[TRAIN].mean("dh")}
            score_of = partial(scores.over_domains, domains=[read[d] for d in self.domains], **how)
            values.append(score_of(dims=dims))
            draws.append(score_of(dims=dims, weights=weights[s]))
        return np.mean(values, axis=0), stats.over_seeds(np.stack(draws, 1))

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

    def advice(self, budget: int) -> pd.DataFrame:
        """`budget` extra examples split over the domains in the ratio of the score (paper, §5).

        Of a logarithm like sts_relative the ratio is that of what it is taken of; remainders go to
        the largest fractions. Columns: domain, weight (the score, or its exponential), share,
        examples, at_hand (worked examples to take them from).
        """
        if not isinstance(budget, int) or budget < 1:
            raise ValueError(f"budget is {budget!r}: give a whole number of extra examples, 1 up")
        table = self.table[["domain"]].assign(weight=self.table[self.score])
        if self.score == "sts_relative":
            table["weight"] = np.exp(table.weight)  # times as active as in the mean domain
        table["weight"] = table.weight.clip(lower=0)  # of a cosine, what moves the other way
        if not table.weight.sum() > 0:
            table["weight"] = 1.0  # none is above 0: evenly
        table["share"] = table.weight / table.weight.sum()
        quota = table.share.to_numpy() * budget
        counts = np.floor(quota).astype(int)
        counts[np.argsort(counts - quota, kind="stable")[: budget - counts.sum()]] += 1
        return table.assign(examples=counts, at_hand=[len(self._worked(d)) for d in table.domain])

    def mixture(self, budget: int) -> list[dict[str, str]]:
        """The advised examples as rows (question, answer, domain), as far as there are any."""
        advised = self.advice(budget)[["domain", "examples"]].itertuples(index=False)
        chosen = [(domain, e) for domain, n in advised for e in drawn(self._worked(domain), n)]
        return [{"question": e.query, "answer": e.solution, "domain": d} for d, e in chosen]

    def _worked(self, domain: str) -> list[Example]:
        examples = *self.questions[domain], *self.demonstrations.get(domain, ())
        return list({key(e): e for e in examples if e.solution}.values())

    def recorded(self) -> str:
        """All that it is computed from, as JSON that `predict.reread` reads."""
        record = {name: getattr(self, name) for name in READ_OR_CHOSEN}
        record |= {"profile": self.profile.model_dump(), "kept": self.domains}
        return json.dumps(record | {"probe": self.probe and self.probe.steps}, default=asdict)

    def write(self, folder: str | Path, budget: int | None = None) -> list[Path]:
        """Write index.html, table.csv, table.parquet and, where there is one, probe.csv, and, with
        a budget, mixture.jsonl; returns their paths."""
        return report.write(self, Path(folder), budget)
