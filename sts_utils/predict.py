"""Which domains will fine-tuning on my data move? Predicted from SAE features, without any fine-tuning.

`sts_utils.predict(train="my.jsonl")` is the whole method on people's own data; `python -m sts_utils predict` the same
with a report. The module itself can be called.
"""

import argparse
import base64
import io
import itertools
import json
import random
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm import tqdm

from sts_utils import data, explain, models, prompts, saes, samples, score, shift, stats, store, texts, units, userdata
from sts_utils.config import Profile
from sts_utils.data import Example
from sts_utils.extract import FeatureStats
from sts_utils.prompts import Prompt
from sts_utils.shift import ShiftedDims
from sts_utils.userdata import normal

MODEL = "smollm2-135m-instruct"
SAE = "data/saes/smollm2-135m-instruct/layer20-8x-k32"
#: The worked example: 60 problems of school physics and chemistry, written for this project.
EXAMPLE = store.DATA / "example.jsonl"
#: Score -> (metric of score.py, whether D_N is contrastive: what any context moves is taken from the shift).
SCORES = {
    "sts_relative": ("sts_relative", False), "sts_relative_contrastive": ("sts_relative", True),
    "sts_act": ("sts_act", False), "sts_act_contrastive": ("sts_act", True), "sts_icl": ("sts_icl", False),
}  # fmt: skip
#: Set by the positive control: of these, the one that did best there on training sets kept for judgement (notebook
#: 07_control; the score that had been fixed on the design half is sts_relative_contrastive).
DEFAULT_SCORE = "sts_relative"
#: How each score did there, read when a report is written: columns score, statistic, value, low, high.
CONTROL_RESULT = store.ROOT / "figures/control/scores.csv"
#: Different sets of demonstrations before the training set's questions; questions take them in turn.
SETS = 4
#: Bootstrap draws of a score that compares domains feature by feature.
DRAWS = 500
#: Two neighbours in rank can't be told apart when the bootstrap swaps them more often than this.
FLIP = 0.05
#: What the method does not say.
LIMITS = (
    "Whether a domain gets better or worse. A score says how strongly the features that your data moves are used in "
    "a domain; a signed score is in the table only where it was asked for.",
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
        _check(n, score, self.moved[0].dh2.shape[1], self.has_icl)
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
        found = [
            [score.parts(of[s], dims, SCORES[score_][0]) for of in self.used.values()]
            for s, dims in enumerate(self.dims(score_))
        ]
        sums, tokens = ([[parts[side] for parts in row] for row in found] for side in (0, 1))
        observed = stats.ratio_of_sums(list(self.used), sums, tokens, ())
        return observed.scores.mean(0), stats.over_seeds(observed.replicates)

    def _relative(self, score_: str) -> tuple[np.ndarray, np.ndarray]:
        """The same of score.sts_relative, whose value in a domain depends on the other domains."""
        value, drawn = [], []
        for s, dims in enumerate(self.dims(score_)):
            means, replicates = [], []
            for d, of in enumerate(self.used.values()):
                h, weights = of[s].h[:, dims.ids].astype(np.float64), stats.query_weights(len(of[s].n), DRAWS, s, d)
                means.append(h.sum(0) / of[s].n.sum())
                replicates.append((weights @ h) / (weights @ of[s].n)[:, None])
            value.append(score.relative_activity(np.stack(means)).mean(-1))
            drawn.append(score.relative_activity(np.stack(replicates, 1)).mean(-1))
        return np.mean(value, axis=0), stats.over_seeds(np.stack(drawn, 1))

    def _signs(self) -> tuple[np.ndarray, np.ndarray]:
        """The same of the signed score: cosine on D_N of the mean shifts (b − a) of a domain and of training."""
        value = np.zeros((len(self.seeds), len(self.used)))
        drawn = np.zeros((stats.DRAWS, *value.shape))
        for s, dims in enumerate(self.dims()):
            towards = self.moved[s].mean("dh")[dims.ids]
            for d, of in enumerate(self.used.values()):
                moved = of[s].dh[:, dims.ids].astype(np.float64)
                value[s, d] = _cosine(moved.sum(0), towards)
                drawn[:, s, d] = _cosine(stats.query_weights(len(moved), stats.DRAWS, s, d) @ moved, towards)
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
        said = [
            f"The ranking rests on {len(self.used)} domains, {len(self.seeds)} seed(s), {min(asked)} to {max(asked)} "
            f"questions a domain and seed, and D_{self.n} on {len(self.moved[0].n)} training questions a seed. "
            "Intervals are 95% bootstrap over the domains' questions and the seeds."
        ]
        if len(self.seeds) == 1:
            said.append("With one seed the intervals leave out what another draw of demonstrations would change.")
        pairs = ", ".join(f"{a} and {b} ({p:.0%})" for a, b, p in self.ties)
        said.append(
            f"Neighbours in rank that can't be told apart (probability that their order flips): {pairs}." if pairs
            else f"No two neighbours in rank flip with a probability above {FLIP:.0%}."
        )  # fmt: skip
        return said + control(self.score) + list(self.notes)

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
        """`budget` extra examples split over the domains in the ratio of the score (§5 of the paper), remainders to
        the largest fractions. Columns: domain, score, share, examples, at_hand (worked examples to take them from).
        """
        _check_budget(budget)
        table = self.table[["domain", self.score]].set_axis(["domain", "score"], axis=1)
        if SCORES[self.score][0] == "sts_relative":
            table["score"] = np.exp(table.score)  # times as active as in the mean domain
        total = table.score.sum()
        if not total > 0:
            raise ValueError(f"every domain's {self.score} is 0: there is no ratio to split {budget} examples by")
        table["share"] = table.score / total
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
        return list({normal(e.question): e for e in found if e.solution}.values())

    def write(self, folder: str | Path, budget: int | None = None, features: int = 10) -> list[Path]:
        """Write index.html (self-contained), table.csv, table.parquet and, with a budget, mixture.jsonl."""
        folder = Path(folder)
        _check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / name for name in ("index.html", "table.csv", "table.parquet")]
        paths[0].write_text(self.html(budget, features), encoding="utf-8")
        self.table.to_csv(paths[1], index=False)
        self.table.to_parquet(paths[2], index=False)
        if budget is not None and (rows := self.mixture(budget)):
            paths.append(folder / "mixture.jsonl")
            paths[-1].write_text("".join(f"{json.dumps(r, ensure_ascii=False)}\n" for r in rows), encoding="utf-8")
        return paths

    def html(self, budget: int | None = None, features: int = 10) -> str:
        """The report on one page: ranking, how sure, features, mixture."""
        figure, png = self.plot(), io.BytesIO()
        figure.savefig(png, format="png", dpi=150)
        plt.close(figure)
        return explain.template().page(
            p=self, scores=list(SCORES), rows=self.table.to_dict("records"), limits=LIMITS,
            plot=base64.b64encode(png.getvalue()).decode(), features=self.explain(features).features,
            advice=self.advice(budget).to_dict("records") if budget is not None else None, budget=budget,
        )  # fmt: skip


def predict(
    train=EXAMPLE, *, model: str = MODEL, sae: str = SAE, domains="mmlu-test", demonstrations=None,
    n: int = 100, shots: int = 5, queries: int = 32, seeds: Sequence[int] = (0, 1, 2), score: str = DEFAULT_SCORE,
    columns: Mapping[str, str] | None = None, signed: bool = False, dtype: str = "bfloat16", progress: bool = True,
) -> Prediction:  # fmt: skip
    """Which of `domains` will move when `model` is fine-tuned on `train`, read from the untouched model and an SAE.

    The paper's two steps: D_N = TopN_j E_x (h_j(x_0, y_0, …, x) − h_j(x))² with training examples in context, then a
    domain's STS_act = E Σ_{j∈D_N} h_j(x̃) or STS_ICL = E Σ_{j∈D_N} (h_j(x̃_0, ỹ_0, …, x̃) − h_j(x̃))². Ours:
    sts_relative = mean_{j∈D_N} log(E h_j(x̃) / its mean over the domains); in the contrastive forms the shift under
    other text of the same length is taken from each feature's first.

    | argument | is |
    |---|---|
    | train | a corpus, file, `datasets.Dataset` or list (userdata.read); `columns` names its columns |
    | model, sae | a packaged model, folder or hub name; an SAE on the residual stream after a block of it |
    | domains | a corpus (all its domains), {name: source}, or files |
    | demonstrations | the same for the domains' worked examples; their own if left out; "none": without STS_ICL |
    | n, shots | N of D_N; worked examples in context |
    | queries, seeds | questions a domain and seed (twice as many of the training set); draws of them |
    | score | what ranks, one of SCORES; `signed`: the signed score too |

    What was read of a domain is stored (data/runs) and serves other training sets. Everything is drawn by the
    seeds alone. Raises ValueError, in one line, for what can't be used, before any weights are loaded.

    >>> import sts_utils
    >>> small = {"model": "tiny", "sae": "random-8x", "dtype": "float32", "progress": False}
    >>> found = sts_utils.predict("chain-sum", domains={"code": "code-io", "health": "pubmedqa"}, n=20, shots=2,
    ...                           queries=4, seeds=[0], **small)
    >>> sorted(found.table.domain), len(found.table)
    (['code', 'health'], 2)
    >>> int(found.rescored(n=5, score="sts_icl").advice(10).examples.sum())
    10
    """
    seeds = tuple(seeds)
    if not seeds or min(shots, queries) < 1:
        raise ValueError(f"seeds {list(seeds)}, shots {shots}, queries {queries}: give one or more of each")
    _check(n, score, None, demonstrations != "none")
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype {dtype!r}: choose float32 or bfloat16")
    # its corpora are no part of a prediction but for the attention-sink threshold: the same for everybody's data
    corpora = {"train": "gsm-symbolic", "domains": "mmlu-test", "demonstrations": "mmlu-cot"}
    profile = Profile(name="predict", about="", model=model, layer=saes.layer(sae), sae=sae, dtype=dtype, **corpora)
    models.check(model, profile.layer)
    notes = []
    learned = _fitting(profile, _read_train(train, columns), shots, "the training set", notes)
    given, shown = _domains(domains, demonstrations, learned, notes)
    given = {d: _fitting(profile, examples, shots, f"domain {d!r}", notes) for d, examples in given.items()}
    shown = {d: _fitting(profile, examples, shots, f"demonstrations of {d!r}", notes) for d, examples in shown.items()}
    makers = {"own": None, "generic": partial(_generic, profile)}
    if worked := [e for d in given for e in (*shown.get(d, ()), *given[d]) if e.solution]:
        lengths = np.array([len(_tokens(profile, e.query + e.solution)) for e in worked])
        makers["other domains"] = partial(_near, profile, worked, lengths)

    plan: list[tuple[tuple, list]] = []
    for seed in seeds:
        for context, match in makers.items():
            plan.append(
                (("train", context, seed), _train_pairs(profile, learned, shots, queries, seed, context, match))
            )
        for d in given:
            plan.append((("domain", d, seed), _domain_pairs(profile, d, given[d], shown, shots, queries, seed)))
    _check(n, score, units.sae(profile).cfg.d_sae, True)
    found = {}
    with tqdm(plan, desc="features", unit="set", disable=not progress) as bar:
        for key, pairs in bar:
            found[key] = _features(profile, pairs, f"{key[1]} seed {key[2]}")
    return Prediction(
        profile, str(train) if isinstance(train, str | Path) else type(train).__name__, learned, given, shown,
        [found["train", "own", s] for s in seeds],
        [[found["train", c, s] for c in makers if c != "own"] for s in seeds],
        {d: [found["domain", d, s] for s in seeds] for d in given}, seeds, n, score, signed, tuple(notes),
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
    return [f"{said} In the positive control ({table.statistic.iloc[0]}): {'; '.join(rows)}."]


# --- from sources to pairs of prompts ----------------------------------------------------------


def _check(n: int, score: str, features: int | None, has_icl: bool) -> None:
    if score not in SCORES:
        raise ValueError(f"score {score!r}: choose from {', '.join(SCORES)}")
    if not 1 <= n <= (features or n):
        raise ValueError(f"n is {n}: choose 1..{features or '(the features of the SAE)'}")
    if score == "sts_icl" and not has_icl:
        raise ValueError("score 'sts_icl' needs the domains' worked examples: give demonstrations, or rank by sts_act")


def _check_budget(budget: int) -> None:
    if not isinstance(budget, int) or budget < 1:
        raise ValueError(f"budget is {budget!r}: give a whole number of extra examples, 1 or more")


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a folder to write the report to")


def _read_train(source, columns) -> list[Example]:
    found = userdata.read(source, domain="train", columns=columns, answers=True)
    worked = [e for e in found if e.solution]
    if not worked:
        raise ValueError(f"training set {source!r}: no row has an answer; predict compares with and without answers")
    return worked


def _domains(domains, demonstrations, learned, notes) -> tuple[dict, dict]:
    """(domain -> questions, domain -> worked examples of their own source) without what the training set asks."""
    given = userdata.read_domains(domains)
    if demonstrations is None and isinstance(domains, str):
        demonstrations = userdata.PARTNERS.get(domains)
    shown = {} if demonstrations in (None, "none") else userdata.read_domains(demonstrations)
    if demonstrations is None:
        shown = given
    asked, dropped = {normal(e.question) for e in learned}, 0
    for of in (given, shown):
        for d, examples in list(of.items()):
            of[d] = [e for e in examples if normal(e.question) not in asked]
            dropped += len(examples) - len(of[d])
    if dropped:
        notes.append(f"{dropped} questions of the domains are in the training set too and were left out.")
        userdata.log.warning(notes[-1])
    shown = {d: [e for e in shown.get(d, ()) if e.solution] for d in given} if shown else {}
    for d, examples in given.items():
        if not examples:
            raise ValueError(f"domain {d!r} has no question that the training set does not have: give others")
        if shown and not shown[d]:
            raise ValueError(
                f"domain {d!r} has no worked examples, which STS_ICL needs: give demonstrations={{{d!r}: …}} "
                "with answers, or demonstrations='none' to leave STS_ICL out"
            )
    return given, shown


def _fitting(profile: Profile, examples: list[Example], shots: int, what: str, notes: list[str]) -> list[Example]:
    """The examples of which `shots` and a question fit into the model's context, whichever are drawn."""
    longest = models.context_length(profile.model) // (shots + 1) - 32  # 32: a turn's marks
    kept = [e for e in examples if len(_tokens(profile, f"{e.query}\n{e.solution}")) <= longest]
    if len(kept) < len(examples):
        said = f"{len(examples) - len(kept)} of {len(examples)} examples of {what} are longer than {longest} tokens"
        if len(kept) < 2:
            raise ValueError(f"{said}, too long for the context with {shots} before a question: lower shots")
        notes.append(f"{said} (the context over {shots} + 1 turns) and were left out.")
        userdata.log.warning(notes[-1])
    return kept


def _train_pairs(
    profile: Profile, examples: list[Example], shots: int, queries: int, seed: int, context: str,
    match: Callable[[random.Random, Example], Example] | None,
) -> list[tuple[Prompt, Prompt]]:  # fmt: skip
    """(plain, icl) prompts of training questions: half of the set is asked, at most 2 × `queries`, half is shown."""
    pool, asked = data.split(examples, 0.5, seed)
    if len(pool) < shots or len(asked) < 2:
        raise ValueError(
            f"the training set has {len(examples)} usable example(s), but {shots} in context and 2 to look at need "
            f"{max(2 * shots, shots + 2)}: give more, or fewer shots"
        )
    random.Random(seed).shuffle(asked)
    sets = prompts.choose_demonstrations(pool, shots, SETS, seed)
    if match:
        rng = random.Random(f"{context} {seed}")
        sets = [[match(rng, e) for e in chosen] for chosen in sets]
    return prompts.prompt_pairs(
        samples.tokenizer(profile.model), asked[: 2 * queries], sets, models.context_length(profile.model)
    )


def _domain_pairs(
    profile: Profile, domain: str, examples: list[Example], shown: dict, shots: int, queries: int, seed: int
) -> list[tuple[Prompt, Prompt]]:
    """(plain, icl) prompts of a domain's questions, none of which is among its demonstrations."""
    chosen = prompts.choose_demonstrations(shown[domain], shots, 1, seed)[0] if shown else []
    seen = {normal(e.question) for e in chosen}
    free = [e for e in examples if normal(e.question) not in seen]
    if len(free) < 2:
        raise ValueError(
            f"domain {domain!r} has {len(free)} question(s) beside its {len(chosen)} demonstrations: give two or more"
        )
    asked = random.Random(seed).sample(free, min(queries, len(free)))
    return prompts.prompt_pairs(samples.tokenizer(profile.model), asked, [chosen], models.context_length(profile.model))


def _tokens(profile: Profile, text: str) -> list[int]:
    return samples.tokenizer(profile.model)(text, add_special_tokens=False).input_ids


def _features(profile: Profile, pairs: Sequence[tuple[Prompt, Prompt]], desc: str) -> FeatureStats:
    """Features of pairs of prompts, stored by what was read: model, SAE and the prompts' own tokens."""
    folders = [Path(name) if Path(name).is_dir() else store.ROOT / name for name in (profile.model, profile.sae)]
    files = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for of in folders for f in sorted(of.glob("*.*"))]
    said = store.digest([(a.example_id, a.ids, a.span, b.ids, b.span) for a, b in pairs])
    recipe = units.settings_of(profile, files=files, prompts=said)
    found = units.features("features-predict", [profile], lambda _: recipe, lambda: pairs, desc)
    return replace(found, **{name: np.empty(0) for name in ("h2", "r", "dr", "dr2")})  # not used, so not kept


@cache
def _prose() -> list[str]:
    return [text for text in texts.passages() if len(text) > 400]


def _generic(profile: Profile, rng: random.Random, like: Example) -> Example:
    """Packaged prose with as many tokens for a question and an answer as `like` has."""
    question, answer = (len(_tokens(profile, text)) for text in (like.query, like.solution))
    ids, prose = [], _prose()
    while len(ids) < question + answer:
        ids += _tokens(profile, rng.choice(prose))
    parts = (
        samples.tokenizer(profile.model).decode(ids[a:b]) for a, b in ((0, question), (question, question + answer))
    )
    return Example(*parts, "", "prose", f"prose-{like.id}", instruction="")


def _near(profile: Profile, worked: list[Example], lengths: np.ndarray, rng: random.Random, like: Example) -> Example:
    """A worked example of the domains, one of the eight nearest in length to `like`."""
    length = len(_tokens(profile, like.query + like.solution))
    return worked[rng.choice(np.argsort(np.abs(lengths - length), kind="stable")[:8].tolist())]


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b)
    return np.divide(a @ b, norms, out=np.zeros_like(norms), where=norms > 0)


# --- the command line --------------------------------------------------------------------------


def add_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """`python -m sts_utils predict …`, added to the command line's subcommands; `run` does it."""
    parser = commands.add_parser("predict", help="which domains will fine-tuning on my data move?")
    parser.add_argument("--train", default=EXAMPLE, help="a corpus, or a .jsonl, .csv or .parquet file")
    parser.add_argument("--model", default=MODEL, help="a packaged model, a folder, or a hub name")
    parser.add_argument("--sae", default=SAE, help='a folder, or "release/sae_id" of sae-lens')
    what = "a corpus, files, or name=source"
    parser.add_argument("--domains", nargs="+", default=["mmlu-test"], help=what)
    parser.add_argument("--demonstrations", nargs="+", help=f"worked examples of the domains: {what}, or none")
    parser.add_argument("--columns", nargs="+", default=[], help="of the training file, like question=ask answer=say")
    parser.add_argument("--n", type=int, default=100, help="N of D_N")
    parser.add_argument("--shots", type=int, default=5, help="worked examples in context")
    parser.add_argument("--queries", type=int, default=32, help="questions a domain and seed")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--score", default=DEFAULT_SCORE, choices=SCORES)
    parser.add_argument("--signed", action="store_true", help="the signed score too")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--out", default="report", help="folder of the report")
    parser.add_argument("--budget", type=int, help="extra examples to split over the domains")
    return parser


def run(chosen: argparse.Namespace) -> int:
    """Predict, write the report and say the ranking; 2 with one line on stderr for what can't be used."""
    try:
        if not all(seed.strip().isdigit() for seed in chosen.seeds.split(",")):
            raise ValueError(f"--seeds {chosen.seeds!r}: give whole numbers, like 0,1,2")
        _check_folder(Path(chosen.out))
        if chosen.budget is not None:
            _check_budget(chosen.budget)
        options = {k: getattr(chosen, k) for k in ("model", "sae", "n", "shots", "queries", "score", "signed", "dtype")}
        found = predict(
            chosen.train, domains=_sources(chosen.domains), demonstrations=_sources(chosen.demonstrations),
            seeds=[int(seed) for seed in chosen.seeds.split(",")], columns=_sources(chosen.columns) or None, **options,
        )  # fmt: skip
        paths = found.write(chosen.out, chosen.budget)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    shown = ["rank", "rank_low", "rank_high", "domain", *(f"{chosen.score}{end}" for end in ("", "_low", "_high"))]
    print(found.table[shown].to_string(index=False, float_format="{:.3g}".format))
    print("\n".join(["", *found.sureness()]))
    if chosen.budget is not None:
        print(f"\n{found.advice(chosen.budget).to_string(index=False, float_format='{:.3g}'.format)}")
    print(f"\nreport: {', '.join(map(str, paths))}")
    return 0


def _sources(words: Sequence[str] | None):
    """["mmlu-test"] -> the corpus, ["a=x.csv"] -> a mapping, ["x.csv"] -> files."""
    if not words:
        return None
    if all("=" in word for word in words):
        return dict(word.split("=", 1) for word in words)
    return words[0] if len(words) == 1 else list(words)


class _Callable(types.ModuleType):
    """`sts_utils.predict` names this module and is what people call."""

    def __call__(self, *sources, **settings) -> Prediction:
        return predict(*sources, **settings)


sys.modules[__name__].__class__ = _Callable
