"""What a prediction says: scores of domains with intervals and ranks, how sure they are, the mixture, the report."""

import base64
import io
import itertools
import json
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sts_utils import stats, store
from sts_utils.config import Profile
from sts_utils.examples import Example
from sts_utils.experiments import baselines
from sts_utils.method import extract, score, shift
from sts_utils.method.extract import FeatureStats
from sts_utils.method.shift import ShiftedDims
from sts_utils.prediction import explain
from sts_utils.prediction.userdata import key

#: Score -> (metric of score.py, whether D_N is contrastive: what any context moves is taken from the shift).
SCORES = {
    "sts_relative": ("sts_relative", False), "sts_relative_contrastive": ("sts_relative", True),
    "sts_act": ("sts_act", False), "sts_act_contrastive": ("sts_act", True), "sts_icl": ("sts_icl", False),
}  # fmt: skip
#: Set by the positive control: of these, the one that did best there on training sets kept for judgement (notebook
#: 07_control; the score that had been fixed on the design half is sts_relative_contrastive).
DEFAULT_SCORE = "sts_relative"
#: How each score did there, read when a report is written: columns score, statistic, value, low, high; and how often
#: a score had the sign of the change: columns read, change, score, accuracy, majority, difference, r.
CONTROL_RESULT = store.ROOT / "figures/control/scores.csv"
CONTROL_SIGNS = store.ROOT / "figures/control/control_sign.csv"
#: Bootstrap draws of a score that compares domains feature by feature.
DRAWS = 500
#: Two neighbours in rank can't be told apart when the bootstrap swaps them more often than this.
FLIP = 0.05
#: What the method does not say.
LIMITS = (
    "Whether a domain gets better or worse. A score says how strongly the features that your data moves are used in "
    "a domain; a signed score is in the table only where it was asked for, because none clearly beat always saying the "
    "commoner sign in the positive control.",
    "Anything beyond shared vocabulary, as far as we could show: in the positive control plain word overlap of the "
    "texts found the training set's own domain at least as often as any score of features.",
    "That a mixture as advised helps: in the reproduction no mixture moved a domain by more than its interval.",
    "By how many points. Scores compare domains within this table, not models, SAEs, training sets or values of N.",
    "What your learning rate, epochs, number of examples and order of training do: the score knows none of them.",
    "Domains that are not listed, and reinforcement learning, whose shift demonstrations estimate less well.",
    "Small models hide the effect behind noise: REPRODUCTION.md has what this project measured.",
)


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """Scores of domains, and the statistics [Q, F] they come from, so that N, score and domains can be changed.

    | field | is |
    |---|---|
    | profile | model, SAE, layer and dtype |
    | train | the training set's examples, `source` its name |
    | examples | domain -> its questions; `shown` domain -> its worked examples |
    | moved | for each seed, features of training questions without and with training examples in context |
    | contrast | for each seed, the same questions behind other text of the same length |
    | used | domain -> for each seed, features of its questions without and with its own examples |
    """

    profile: Profile
    source: str
    train: Sequence[Example]
    examples: Mapping[str, Sequence[Example]]
    shown: Mapping[str, Sequence[Example]]
    moved: Sequence[FeatureStats]
    contrast: Sequence[Sequence[FeatureStats]]
    used: Mapping[str, Sequence[FeatureStats]]
    seeds: Sequence[int]
    n: int
    score: str
    signed: bool = False
    notes: Sequence[str] = ()

    def rescored(self, n: int | None = None, score: str | None = None, domains: Sequence[str] | None = None):
        """The same statistics with another N, score or choice of domains; nothing is computed again."""
        kept = list(self.used) if domains is None else list(domains)
        if unknown := [d for d in kept if d not in self.used] or ([] if kept else ["(none)"]):
            raise ValueError(f"unknown domain {unknown[0]!r}: choose from {', '.join(self.used)}")
        n, score = self.n if n is None else n, score or self.score
        check_domains(score, kept)
        check(n, score, self.moved[0].dh2.shape[1], self.has_icl)
        return replace(self, n=n, score=score, used={d: self.used[d] for d in self.used if d in kept})

    def __repr__(self) -> str:
        return f"Prediction for {self.source} by {self.score}, N = {self.n}\n{self.table}"

    @property
    def has_icl(self) -> bool:
        """Whether the domains had worked examples, which STS_ICL needs."""
        return bool(self.shown)

    def dims(self, score: str | None = None) -> list[ShiftedDims]:
        """D_N of each seed (eq. 1 of the paper; less the contrast where the score is contrastive)."""
        contrastive = SCORES[score or self.score][1]
        contrast = self.contrast if contrastive else [()] * len(self.seeds)
        return [shift.shifted_dims(m, self.n, contrast=c) for m, c in zip(self.moved, contrast, strict=True)]

    @cached_property
    def shifts(self) -> np.ndarray:
        """[F] each feature's shift, mean over seeds, as the chosen score ranks it."""
        every = replace(self, n=len(self.moved[0].features)).dims()
        return np.mean([d.shift[np.argsort(d.ids)] for d in every], axis=0)

    def estimates(self, score_: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(scores [D], bootstrap draws [B, D]): mean over seeds; questions and seeds are drawn again."""
        score_ = score_ or self.score
        if SCORES[score_][0] == "sts_icl" and not self.has_icl:
            return np.full(len(self.used), np.nan), np.full((1, len(self.used)), np.nan)
        if SCORES[score_][0] == "sts_relative":
            return self._relative(score_)
        value = np.zeros((len(self.seeds), len(self.used)))
        drawn = np.zeros((stats.DRAWS, *value.shape))
        weights = self._weights(stats.DRAWS)
        for s, dims in enumerate(self.dims(score_)):
            for d, (name, of) in enumerate(self.used.items()):
                sums, tokens = score.parts(of[s], dims, SCORES[score_][0])
                value[s, d] = sums.sum() / tokens.sum()
                drawn[:, s, d] = (weights[name][s] @ sums) / (weights[name][s] @ tokens)
        return value.mean(0), stats.over_seeds(drawn)

    def _weights(self, draws: int) -> dict[str, list[np.ndarray]]:
        """Domain -> for each seed [draws, Q] weights of its questions (Bayesian bootstrap: exponential, mean 1).

        A question that several seeds ask has one weight: asking it again is no new evidence.
        """
        found = {}
        for d, (name, of) in enumerate(self.used.items()):
            place = {question: i for i, question in enumerate(sorted({i for seed in of for i in seed.ids}))}
            drawn = np.random.default_rng(d).exponential(size=(draws, len(place)))
            found[name] = [drawn[:, [place[question] for question in seed.ids]] for seed in of]
        return found

    def _relative(self, score_: str) -> tuple[np.ndarray, np.ndarray]:
        """The same of score.sts_relative, whose value in a domain depends on the other domains."""
        value, drawn, weights = [], [], self._weights(DRAWS)
        for s, dims in enumerate(self.dims(score_)):
            means, replicates = [], []
            for name, of in self.used.items():
                h, w = of[s].h[:, dims.ids].astype(np.float64), weights[name][s]
                means.append(h.sum(0) / of[s].n.sum())
                replicates.append((w @ h) / (w @ of[s].n)[:, None])
            value.append(score.relative_activity(np.stack(means)).mean(-1))
            drawn.append(score.relative_activity(np.stack(replicates, 1)).mean(-1))
        return np.mean(value, axis=0), stats.over_seeds(np.stack(drawn, 1))

    def _signs(self) -> tuple[np.ndarray, np.ndarray]:
        """The same of the signed score: cosine on the paper's D_N of the mean shifts (b − a) of a domain and of
        training, whatever score ranks: the one that the positive control judged."""
        if not self.has_icl:  # the two conditions of a domain are the same
            return np.full(len(self.used), np.nan), np.full((1, len(self.used)), np.nan)
        value = np.zeros((len(self.seeds), len(self.used)))
        drawn = np.zeros((stats.DRAWS, *value.shape))
        weights = self._weights(stats.DRAWS)
        for s, dims in enumerate(self.dims("sts_act")):
            towards = self.moved[s].mean("dh")[dims.ids]
            for d, (name, of) in enumerate(self.used.items()):
                moved = of[s].dh[:, dims.ids].astype(np.float64)
                value[s, d] = baselines.cosine(moved.sum(0), towards)
                drawn[:, s, d] = baselines.cosine(weights[name][s] @ moved, towards)
        return value.mean(0), stats.over_seeds(drawn)

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row a domain, best rank first.

        Columns: domain; for each of SCORES its value and `_low`, `_high` (95% bootstrap over questions and seeds);
        rank by `score`, `rank_low`, `rank_high`; signed, `signed_low`, `signed_high` (NaN unless asked for).
        """
        values, draws = self.estimates()
        ranks = 1 + (draws[:, None, :] > draws[:, :, None]).sum(-1)
        columns = {"domain": list(self.used), "rank": 1 + (values > values[:, None]).sum(-1)}
        for side, at in zip(("low", "high"), np.percentile(ranks, (2.5, 97.5), axis=0), strict=True):
            columns[f"rank_{side}"] = np.round(at).astype(int)
        found = {name: self.estimates(name) for name in SCORES}
        found["signed"] = self._signs() if self.signed else (np.nan, np.full((1, len(self.used)), np.nan))
        for name, (value, drawn) in found.items():
            low, high = np.percentile(drawn, (2.5, 97.5), axis=0)
            columns |= {name: value, f"{name}_low": low, f"{name}_high": high}
        return pd.DataFrame(columns).sort_values("rank", kind="stable", ignore_index=True)

    @property
    def ties(self) -> list[tuple[str, str, float]]:
        """(domain, the next in rank, bootstrap probability that their order flips), where it is above FLIP."""
        values, draws = self.estimates()
        order, names = np.argsort(-values, kind="stable"), list(self.used)
        flips = [(names[a], names[b], float((draws[:, a] <= draws[:, b]).mean())) for a, b in itertools.pairwise(order)]
        return [flip for flip in flips if flip[2] > FLIP]

    def sureness(self) -> list[str]:
        """On how much the ranking rests, which ranks it can't tell apart, and which score it is by, in sentences."""
        asked = [len(of.n) for row in self.used.values() for of in row]
        trained = f"{len(self.moved[0].n)}{' or more' if len(self.moved[0].n) == extract.ROWS else ''}"
        said = [
            f"The ranking rests on {len(self.used)} domains, {len(self.seeds)} seed(s), {min(asked)} to {max(asked)} "
            f"questions a domain and seed, and D_{self.n} on {trained} training questions a seed. "
            "Intervals are 95% bootstrap over the domains' questions and the seeds: other training examples are not in "
            "them, nor how likely a domain is to move."
        ]
        if len(self.seeds) == 1:
            said.append("With one seed the intervals leave out what another draw of demonstrations would change.")
        pairs = ", ".join(f"{a} and {b} ({p:.0%})" for a, b, p in self.ties)
        said.append(
            f"Neighbours in rank that can't be told apart (probability that their order flips): {pairs}." if pairs
            else f"No two neighbours in rank flip with a probability above {FLIP:.0%}."
        )  # fmt: skip
        return said + control(self.score) + (signs() if self.signed else []) + list(self.notes)

    def plot(self) -> Figure:
        """Every score with its interval, domains in the order of the chosen one."""
        table = self.table[::-1]
        names = [self.score, *(s for s in SCORES if s != self.score and table[s].notna().any())]
        size = (2.2 + 2.2 * len(names), 1.1 + 0.22 * len(table))
        figure, axes = plt.subplots(1, len(names), figsize=size, sharey=True, squeeze=False, layout="constrained")
        for axis, name in zip(axes[0], names, strict=True):
            reach = [table[name] - table[f"{name}_low"], table[f"{name}_high"] - table[name]]
            style = {"fmt": "o", "capsize": 2, "color": "C0" if name == self.score else "0.55"}
            axis.errorbar(table[name], range(len(table)), xerr=np.maximum(reach, 0), **style)
            axis.set(xlabel=name, title="ranks by this" if name == self.score else None)
        axes[0, 0].set_yticks(range(len(table)), [d.replace("$", r"\$") for d in table.domain])
        return figure

    def explain(self, k: int = 10) -> "explain.Explanation":
        """The `k` most shifted features: who uses them, where they fire, what they promote."""
        return explain.explanation(self, k)

    def advice(self, budget: int) -> pd.DataFrame:
        """`budget` extra examples split over the domains in the ratio of the score (§5 of the paper; of a logarithm
        like sts_relative the ratio is that of what it is taken of), remainders to the largest fractions.

        Columns: domain, weight (the score, or its exponential), share, examples, at_hand (worked examples to take
        them from).
        """
        check_budget(budget)
        table = self.table[["domain", self.score]].set_axis(["domain", "weight"], axis=1)
        if SCORES[self.score][0] == "sts_relative":
            table["weight"] = np.exp(table.weight)  # times as active as in the mean domain
        total = table.weight.sum()
        if not total > 0:
            raise ValueError(f"every domain's {self.score} is 0: there is no ratio to split {budget} examples by")
        table["share"] = table.weight / total
        table["examples"] = largest_remainder(table.share.to_numpy(), budget)
        return table.assign(at_hand=[len(self._worked(d)) for d in table.domain])

    def mixture(self, budget: int) -> list[dict[str, str]]:
        """The advised examples as rows (question, answer, domain), as far as the domains' worked examples reach."""
        rows = []
        for row in self.advice(budget).itertuples():
            worked = self._worked(row.domain)
            chosen = random.Random(0).sample(worked, min(row.examples, len(worked)))
            rows += [{"question": e.query, "answer": e.solution, "domain": row.domain} for e in chosen]
        return rows

    def _worked(self, domain: str) -> list[Example]:
        found = [*self.examples[domain], *self.shown.get(domain, ())]
        return list({key(e): e for e in found if e.solution}.values())

    def write(self, folder: str | Path, budget: int | None = None, features: int = 10) -> list[Path]:
        """Write index.html (self-contained), table.csv, table.parquet and, with a budget, mixture.jsonl."""
        folder = Path(folder)
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / name for name in ("index.html", "table.csv", "table.parquet")]
        paths[0].write_text(self.html(budget, features), encoding="utf-8")
        self.table.to_csv(paths[1], index=False)
        self.table.to_parquet(paths[2], index=False)
        (folder / "mixture.jsonl").unlink(missing_ok=True)  # of an earlier report
        if budget is not None and (rows := self.mixture(budget)):
            paths.append(folder / "mixture.jsonl")
            paths[-1].write_text("".join(f"{json.dumps(r, ensure_ascii=False)}\n" for r in rows), encoding="utf-8")
        return paths

    def html(self, budget: int | None = None, features: int = 10) -> str:
        """The report on one page: ranking, how sure, features, mixture."""
        figure, png = self.plot(), io.BytesIO()
        figure.savefig(png, format="png", dpi=150)
        plt.close(figure)
        advice = self.advice(budget).to_dict("records") if budget is not None else None
        return explain.template().page(
            p=self, scores=list(SCORES), rows=self.table.to_dict("records"), limits=LIMITS,
            plot=base64.b64encode(png.getvalue()).decode(), features=self.explain(features).features,
            reading=explain.READING, advice=advice, budget=budget,
        )  # fmt: skip


def largest_remainder(share: np.ndarray, budget: int) -> np.ndarray:
    """Whole numbers that sum to `budget` in the ratio of `share` (sums to 1), remainders to the largest fractions.

    >>> largest_remainder(np.array([0.5, 0.3, 0.2]), 7).tolist()
    [4, 2, 1]
    """
    quota = share * budget
    counts = np.floor(quota).astype(int)
    counts[np.argsort(counts - quota, kind="stable")[: budget - counts.sum()]] += 1
    return counts


def control(score: str) -> list[str]:
    """Which score ranks by default and how the scores did in the positive control, in sentences."""
    said = f"Ranked by {score}" + ("." if score == DEFAULT_SCORE else f"; the default is {DEFAULT_SCORE}.")
    if not CONTROL_RESULT.exists():
        return [f"{said} The positive control's result is not at hand: the default is not backed by it yet."]
    table = pd.read_csv(CONTROL_RESULT)
    rows = [f"{r.score} {r.value:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in table.itertuples()]
    result = (
        f"{said} In the positive control, on SmolLM2-135M alone ({table.statistic.iloc[0]}): {'; '.join(rows)}. The "
        "default was chosen after these results were seen, so its own is optimistic; sts_relative_contrastive had been "
        "fixed before."
    )
    if SCORES[score][1]:
        result += (
            " Its contrast there was prose and the other training sets; here it is prose and the listed domains, of "
            "which one may be like the training set."
        )
    return [result]


def signs() -> list[str]:
    """How often the signed score had the sign of the change in the positive control, in a sentence."""
    if not CONTROL_SIGNS.exists():
        return ["The signed score has not been judged yet: the positive control's result is not at hand."]
    table = pd.read_csv(CONTROL_SIGNS).set_index(["read", "change", "score"])
    said = []
    for read, what in (("as it is", "the change"), ("beside the others", "the change beside other domains and sets")):
        found = table.loc[(read, "gold_loglik", "cosine, D_N")]
        said.append(
            f"had the sign of {what} in {found.accuracy} of the cells, always saying the commoner sign in "
            f"{found.majority} (difference {found.difference}; r {found.r})"
        )
    return [f"In the positive control, on SmolLM2-135M alone, the signed score {', and '.join(said)}."]


def check(n: int, score: str, features: int | None, has_icl: bool) -> None:
    """Raise ValueError, in one line, for an N or a score that can't be had."""
    if score not in SCORES:
        raise ValueError(f"score {score!r}: choose from {', '.join(SCORES)}")
    if not 1 <= n <= (features or n):
        raise ValueError(f"n is {n}: choose 1..{features or '(the features of the SAE)'}")
    if score == "sts_icl" and not has_icl:
        raise ValueError("score 'sts_icl' needs the domains' worked examples: give demonstrations, or rank by sts_act")


def check_domains(score: str, domains: Sequence[str]) -> None:
    """Raise ValueError for a score that compares domains where there is one alone."""
    if score in SCORES and SCORES[score][0] == "sts_relative" and len(domains) < 2:
        raise ValueError(f"score {score!r} compares domains, here is one: give two or more, or rank by sts_act")


def check_budget(budget: int) -> None:
    """Raise ValueError for what is no number of examples."""
    if not isinstance(budget, int) or budget < 1:
        raise ValueError(f"budget is {budget!r}: give a whole number of extra examples, 1 or more")


def check_folder(folder: Path) -> None:
    """Raise ValueError where a report can't be written."""
    above = next(f for f in (folder, *folder.absolute().parents) if f.exists())
    if not above.is_dir():
        raise ValueError(f"{above} is a file: give a folder to write the report to")
    if not os.access(above, os.W_OK):
        raise ValueError(f"{above} can't be written: give another folder for the report")
