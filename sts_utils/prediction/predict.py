"""`sts_utils.predict(train="my.jsonl")`: the whole method on people's own data."""

import itertools
import logging
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from sts_utils import evaluate, models, prompts, questions, run, saes, scores, stats, store
from sts_utils import train as sft
from sts_utils.cache import cached
from sts_utils.config import Profile
from sts_utils.examples import Example, split, with_answer
from sts_utils.features import FeatureStats
from sts_utils.prediction.sources import drawn, key, read, read_evaluation

#: The worked example: 60 problems of school physics and chemistry, written for this project.
EXAMPLE = str(store.DATA / "example.jsonl")
#: The paper's two between ours (docs/own_data.md); the first did best in commit 0de4d57's control.
SCORES = ("sts_relative", "sts_act", "sts_icl", "sts_answers")
#: The training set's key; sets of demonstrations, taken in turn; draws of scores not the paper's.
TRAIN, SETS, DRAWS = "", 4, 500
#: A probe's batch; its learning rate, lower for wider models; questions of a domain, at most.
BATCH, LR, WIDTH, PROBED = sft.QUICK_BATCH, 1e-3, 576, 64


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """Scores of domains, and `stats` that they come from: (domain or TRAIN, seed, kind) -> features
    of its questions; of kind "shift" without and with worked examples in context, of "answers"
    (multiple choice) with wrong and with right ones."""

    profile: Profile
    train: Sequence[Example]
    questions: Mapping[str, Sequence[Example]]
    demonstrations: Mapping[str, Sequence[Example]]  # the domains' worked examples, if any
    notes: Sequence[str]  # what was left out, and what a probe costs
    seeds: Sequence[int]
    domains: Sequence[str]  # that are ranked
    scores: Sequence[str]  # that can be had
    n: int
    score: str
    stats: Mapping[tuple[str, int, str], FeatureStats]
    answers: pd.DataFrame | None  # of a probe: domain, id, measure, before, after

    def rescored(self, n: int | None = None, score: str | None = None, domains=None):
        """The same statistics with another N, score or choice of domains; nothing is run again."""
        if score not in (None, *self.scores):
            raise ValueError(f"score {score!r}: choose from {', '.join(self.scores)}")
        kept = tuple(sorted(domains or self.domains, key=self.domains.index))
        return replace(self, n=self.n if n is None else n, score=score or self.score, domains=kept)

    @cached_property
    def estimates(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Score -> (values [D], draws [B, D] of seeds and questions by a Bayesian bootstrap), means
        over seeds; NaN of what can't be had. A question of several seeds has one weight in a draw:
        asking it again is no new evidence."""
        weights, missing = {}, np.full((1, len(self.domains)), np.nan)
        for d, domain in enumerate(self.domains):
            ids = {seed: self.stats[domain, seed, "shift"].ids for seed in self.seeds}
            every = sorted(set().union(*ids.values()))
            each = np.random.default_rng(d).exponential(size=(stats.DRAWS, len(every)))
            weights |= {(domain, s): each[:, np.searchsorted(every, ids[s])] for s in self.seeds}
        found = dict.fromkeys(SCORES, (missing[0], missing))
        for name in self.scores:
            values, draws = [], []
            kind, called = ("answers", "cosine") if name == "sts_answers" else ("shift", name)
            number = stats.DRAWS if name in scores.PAPER_SCORES else DRAWS
            for seed in self.seeds:
                own = self.stats[TRAIN, seed, kind]
                of = [self.stats[d, seed, kind] for d in self.domains]
                how = {"dims": scores.shifted_dims(own, self.n), "towards": own.mean("dh")}
                score = partial(scores.over_domains, called, of, **how)
                values.append(score())
                draws.append(score(weights=[weights[d, seed][:number] for d in self.domains]))
            found[name] = np.mean(values, axis=0), stats.over_seeds(np.stack(draws, 1))
        return found

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row a domain, best rank first: domain; rank by `score`, `rank_low`, `rank_high`; each
        of SCORES with `_low` and `_high` (95% bootstrap over questions and seeds)."""
        values, draws = self.estimates[self.score]
        low, high = stats.interval(1 + (draws[:, None, :] > draws[:, :, None]).sum(-1))
        columns = {"domain": self.domains, "rank": 1 + (values > values[:, None]).sum(-1)}
        columns |= {"rank_low": low.round().astype(int), "rank_high": high.round().astype(int)}
        for name, (values, draws) in self.estimates.items():
            low, high = stats.interval(draws)
            columns |= {name: values, f"{name}_low": low, f"{name}_high": high}
        return pd.DataFrame(columns).sort_values("rank", kind="stable", ignore_index=True)


def predict(
    train=EXAMPLE,
    *,
    model: str | os.PathLike = models.SMOL,
    sae: str | os.PathLike = "data/saes/smollm2-135m-instruct/layer20-8x-k32",
    domains="mmlu-test",
    demonstrations=None,
    n: int = 100,
    shots: int = 5,
    queries: int = 32,
    seeds: Sequence[int] = (0, 1, 2),
    score: str = SCORES[0],
    columns: Mapping[str, str] | None = None,
    domain_columns: Mapping[str, str] | None = None,
    probe: int | None = None,
    dtype: str = "auto",
) -> Prediction:
    """Which of `domains` will move when `model` is fine-tuned on `train`, without doing it.

    | argument | is |
    |---|---|
    | train | a corpus, file, `datasets.Dataset` or list (sources.py) |
    | model, sae | packaged, a folder or of the hub; the SAE reads a block's residual stream |
    | domains | {name: source}, or corpora (all their domains) and files |
    | demonstrations | the same of worked examples; the domains' own if left out; or "none" |
    | columns, domain_columns | what their columns are called, like {"question": "ask"} |
    | n, shots | N of D_N; worked examples in context |
    | queries, seeds | questions a domain and seed (twice as many of the training set); draws |
    | score | what ranks, one of SCORES |
    | probe | steps of fine-tuning to try, if any: every domain before and after |

    What was read of a domain is stored (data/runs) and serves other training sets. Everything is
    drawn by the seeds alone. Raises ValueError, before features are read, for what can't be used.
    """
    seeds, notes, pairs = tuple(map(int, seeds)), [], {}
    if min(shots, queries, len(seeds)) < 1 or len(set(seeds)) < len(seeds) or (probe or 2) < 2:
        sizes = f"seeds {seeds}, shots {shots}, queries {queries}, probe {probe}"
        raise ValueError(f"{sizes}: too few, or a seed twice")
    for held in (run._backbone, run._sae, run._hook, questions._tokenizer):
        held.cache_clear()  # a folder may have been written again
    unread = {"train": "gsm-symbolic", "domains": "mmlu-test", "demonstrations": "mmlu-cot"}
    reads = {"model": os.fspath(model), "sae": os.fspath(sae), "layer": saes.layer(os.fspath(sae))}
    exact = {name: {"dtype": dtype} for name in ("sft", "evaluation")}
    p = Profile(name="predict", about="", dtype=dtype, **exact, **reads, **unread)

    def fitting(examples: list[Example], what: str) -> list[Example]:
        # those of which any `shots` and a question fit into the context; 32: a turn's marks
        longest = models.context_length(p.model) // (shots + 1) - 32
        kept = questions.within(questions.tokenizer(p), examples, longest)
        if left := len(examples) - len(kept):
            said = f"{left} of {len(examples)} examples of {what} are longer than {longest} tokens"
            notes.append(f"{said} (the context over {shots} + 1 turns) and were left out.")
        return kept

    own = read(train, domain="train", columns=columns, answers=True, note=notes.append)
    own = fitting(own, "the training set")
    asked, worked = read_evaluation(domains, demonstrations, domain_columns, own, notes.append)
    asked = {d: fitting(of, f"domain {d!r}") for d, of in asked.items()}
    worked = {d: fitting(of, f"demonstrations of {d!r}") for d, of in worked.items()}
    choice = bool(worked) and _are_choices([*own, *itertools.chain(*worked.values())])
    lacks = {"sts_relative": len(asked) < 2, "sts_icl": not worked, "sts_answers": not choice}
    possible = [name for name in SCORES if not lacks.get(name)]
    if score not in possible or not 1 <= n <= (size := run.sae(p).cfg.d_sae):
        mend = f"choose 1..{size}" if score in possible else f"choose {' or '.join(possible)}"
        raise ValueError(f"score {score!r}, n {n}: {mend}")
    if probe:
        learned, probed = drawn(own, probe * BATCH, seeds[0]), measurable(asked, seeds[0])
        size = models.size(p.model) * (2 * getattr(torch, p.dtype).itemsize + sft.MASTER_BYTES)
        said = f"A probe of {probe} steps learns from {probe * BATCH} examples, reads {len(probed)}"
        notes.append(f"{said} questions twice and holds {size / 1e9:.1f} GB beside activations.")
    for said in notes:
        logging.getLogger(__name__).warning(said)
    for seed in seeds:
        for name, draw in _draws(own, asked, worked, shots, queries, seed).items():
            pairs[name, seed, "shift"] = questions.pairs(p, *draw)
            if choice:
                rng, q = random.Random(f"{name} {seed}"), p.model_copy(update={"place": "answer"})
                pairs[name, seed, "answers"] = questions.answer_pairs(q, *draw, rng)
    bar = tqdm(pairs.items(), desc="features", unit="set")
    found = {at: FeatureStats.from_arrays(prompt_features(p, tuple(of))) for at, of in bar}
    answers = tried(p, probe, tuple(learned), tuple(probed), seeds[0]) if probe else None
    data = own, asked, worked, notes, seeds, tuple(asked), possible
    return Prediction(p, *data, n, score, found, answers)


def _draws(own, asked, worked, shots: int, queries: int, seed: int) -> dict[str, tuple]:
    """TRAIN or domain -> (questions, sets of demonstrations), of which no question is one."""
    pool, free = split(own, 0.5, seed)  # half of the training set is shown, half is asked
    random.Random(seed).shuffle(free)
    shown = prompts.choose_demonstrations(pool, shots, SETS, seed)
    draws = {TRAIN: (free[: 2 * queries], shown)}
    for d, examples in asked.items():
        sets = prompts.choose_demonstrations(worked[d], shots, 1, seed) if worked else [[]]
        seen = {key(e) for e in sets[0]}
        draws[d] = drawn([e for e in examples if key(e) not in seen], queries, seed), sets
    if few := [d or "the training set" for d, (asks, _) in draws.items() if len(asks) < 2]:
        raise ValueError(f"{few[0]} has under 2 questions beside its demonstrations: give more")
    return draws


@cached(*run.READ)
def prompt_features(p: Profile, pairs: tuple) -> dict[str, np.ndarray]:
    """Features of pairs of prompts, as arrays."""
    return run.read(p, pairs, None)[p.sae]


def _are_choices(examples: Sequence[Example]) -> bool:
    return all(len(e.options) > 1 and e.answer in e.options for e in examples)


def measurable(asked: Mapping[str, Sequence[Example]], seed: int) -> list[Example]:
    """At most PROBED of each domain that have an answer. All are multiple choice, or else an answer
    is its solution: of multiple choice the gold option's text, without the options."""
    answered = ([e for e in of if e.solution or e.answer] for of in asked.values())
    chosen = [e for of in answered for e in drawn(of, PROBED, seed)]
    if not chosen:
        raise ValueError("probe: no domain has an answer to be measured by: give some, or no probe")
    if _are_choices(chosen):
        return chosen
    plain = [replace(e, solution=e.solution or e.answer) for e in chosen]
    return [with_answer(e) if e.options and e.answer else e for e in plain]


@cached(*run.MODEL, "sft", "evaluation.dtype")
def tried(p: Profile, steps: int, learned: Sequence[Example], asked, seed: int) -> pd.DataFrame:
    """`asked` before and after fine-tuning on `learned`, whose model is not kept: domain, id,
    measure, before, after: of multiple choice log-odds, or the answer's log-likelihood a token."""
    lr = LR * min(1, WIDTH / models.check(p.model, p.layer, p.revision))
    measure, name = partial(evaluate.option_likelihoods, desc="probe"), "gold_log_odds"
    if not _are_choices(asked):
        measure = partial(evaluate.solution_loglik, max_length=p.sft.max_length)
        name = "solution_loglik"
    rows = {"domain": [e.domain for e in asked], "id": [e.id for e in asked], "measure": name}
    for side in ("before", "after"):
        how = learned, lr, seed, "probe", steps
        model = run.whole(p) if side == "before" else run.briefly_tuned(p, *how)
        found = measure(model, questions.tokenizer(p), asked).drop_duplicates("id")
        rows[side] = found.set_index("id")[name].loc[rows["id"]].to_numpy()  # one in two domains
    return pd.DataFrame(rows)
