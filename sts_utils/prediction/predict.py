"""`sts_utils.predict(train="my.jsonl")`: the whole method on people's own data."""

import html
import itertools
import logging
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import pandas as pd
from tqdm import tqdm

from sts_utils import batches, features, models, prompts, questions, run, saes, scores, stats, store
from sts_utils.cache import cached, versions
from sts_utils.config import Profile
from sts_utils.prediction import probe as probing
from sts_utils.prediction.sources import drawn, read, read_evaluation
from sts_utils.prompts import Example, split

#: The worked example: 60 problems of school physics and chemistry, written for this project.
EXAMPLE = str(store.DATA / "example.jsonl")
#: The paper's two; ours, which ranks where it can be had, follows wording less (docs/control.md).
SCORES = ("sts_act", "sts_icl", "sts_answers")
#: The training set's key beside the domains'; sets of demonstrations its questions take in turn.
TRAIN, SETS = "", 4


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """Scores of domains, and `stats` that they come from: (domain or TRAIN, seed, kind) -> features
    of its questions; of kind "shift" without and with worked examples in context, of "answers"
    (multiple choice) with wrong and with right ones; of a dry run none. `dataclasses.replace` with
    another `n`, `score` or choice of `domains` runs nothing again."""

    profile: Profile
    train: Sequence[Example]
    questions: Mapping[str, Sequence[Example]]
    demonstrations: Mapping[str, Sequence[Example]]  # the domains' worked examples, if any
    notes: Sequence[str]  # what was left out, and what it costs
    seeds: Sequence[int]
    domains: Sequence[str]  # that are ranked
    scores: Sequence[str]  # that can be had
    n: int
    score: str
    stats: Mapping[tuple[str, int, str], features.FeatureStats]
    answers: pd.DataFrame | None  # of a probe, as probe.tried gives them

    @cached_property
    def estimates(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Score -> (values [D], draws [B, D] of seeds and questions by a Bayesian bootstrap), means
        over seeds; NaN of what can't be had. A draw has one weight for a question of all seeds."""
        missing = np.full((1, len(self.domains)), np.nan)
        weights: dict[tuple[str, int], np.ndarray] = {}
        for d, domain in enumerate(self.domains):
            ids = {seed: self.stats[domain, seed, "shift"].ids for seed in self.seeds}
            every = sorted(set().union(*ids.values()))
            each = np.random.default_rng(d).exponential(size=(stats.DRAWS, len(every)))
            weights |= {(domain, s): each[:, np.searchsorted(every, ids[s])] for s in self.seeds}
        found = dict.fromkeys(SCORES, (missing[0], missing))
        for name in self.scores:
            values, draws = [], []
            kind, called = ("answers", "cosine") if name == "sts_answers" else ("shift", name)
            for seed in self.seeds:
                own = self.stats[TRAIN, seed, kind]
                of = [self.stats[d, seed, kind] for d in self.domains]
                score = partial(scores.over_domains, called, of, towards=own.mean("dh"))
                score = partial(score, dims=scores.shifted_dims(own, self.n))
                values.append(score())
                draws.append(score(weights=[weights[d, seed] for d in self.domains]))
            found[name] = np.mean(values, axis=0), stats.over_seeds(np.stack(draws, 1))
        return found

    @cached_property
    def leads(self) -> bool:
        """Whether a probe has enough signal to rank the domains (of one there is none to tell)."""
        return self.answers is not None and not probing.reliability(self.answers) < stats.TESTABLE

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row a domain, best rank first: domain; rank, by the size of the probe's change where it
        `leads`, else by `score`, with `rank_low`, `rank_high`; change with `_low` and `_high`, of a
        probe; each of SCORES with these (95% bootstrap over questions and seeds)."""
        interval = partial(np.percentile, q=[2.5, 97.5], axis=0)
        parts = {n: (v, *interval(draws)) for n, (v, draws) in self.estimates.items()}
        values, draws = self.estimates[self.score]
        if self.answers is not None:
            rows = probing.table(self.answers).set_index("domain").reindex(self.domains)
            ends = rows[["change", "change_low", "change_high"]].to_numpy().T
            parts = {"change": ends} | parts
            if self.leads:
                values = np.nan_to_num(np.abs(ends[0]), nan=-1)  # not measured: last
                deviations = (ends[2] - ends[1]) / 4
                noise = np.random.default_rng(0).normal(size=(stats.DRAWS, len(values)))
                draws = np.abs(ends[0] + deviations * noise)
        low, high = interval(1 + (draws[:, None, :] > draws[:, :, None]).sum(-1))
        columns = {"domain": self.domains, "rank": 1 + (values > values[:, None]).sum(-1)}
        columns |= {"rank_low": low.round().astype(int), "rank_high": high.round().astype(int)}
        for name, part in parts.items():
            columns |= dict(zip((name, f"{name}_low", f"{name}_high"), part, strict=True))
        return pd.DataFrame(columns).sort_values("rank", kind="stable", ignore_index=True)

    def says(self) -> list[str]:
        """What will move, by how much, how sure, in short lines from the best evidence there is."""
        lines = ["No probe was run (probe=40): nothing here says by how much a domain moves."]
        if self.answers is not None:
            lines = list(probing.says(self.answers))
        if self.leads:
            return [*lines, "Domains are ranked by the size of this change."]
        ranks = self.table[list(self.scores)].corr("spearman").to_numpy()
        lines.append(f"Ranked by {self.score}, which says nothing of size or sign.")
        if len(self.table) > 2 and (least := ranks.min()) < 0.5:
            lines.append(f"The scores disagree (rank correlation {least:.2f}): trust none alone.")
        return lines

    def record(self) -> dict:
        """All of it as JSON can write it: settings, versions, hashes of the data, numbers."""
        sources = {TRAIN: self.train, **self.questions}
        data = {name: store.digest(sorted(e.id for e in of)) for name, of in sources.items()}
        plain = {"n": self.n, "score": self.score, "seeds": list(self.seeds)}
        plain |= {"examples": {name: len(of) for name, of in sources.items()}, "data": data}
        tables = {"table": self.table} | ({} if self.answers is None else {"answers": self.answers})
        numbers = {name: of.to_dict("records") for name, of in tables.items()}
        about = {"settings": self.profile.model_dump(), "versions": versions(), **plain}
        return about | {"notes": list(self.notes), "says": self.says()} | numbers

    def _repr_html_(self) -> str:
        said = "<br>".join(map(html.escape, [*self.notes, *self.says()]))
        return f"<p>{said}</p>" + self.table.round(3).to_html(index=False, border=0, na_rep="")


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
    score: str | None = None,
    columns: Mapping[str, str] | None = None,
    domain_columns: Mapping[str, str] | None = None,
    probe: int | None = None,
    lr: float | None = None,
    lora: int | None = None,
    form: str = "text",
    dtype: str = "auto",
    dry_run: bool = False,
) -> Prediction:
    """Which of `domains` will move when `model` is fine-tuned on `train`, without doing it.

    | argument | is |
    |---|---|
    | train | a corpus, file, `datasets.Dataset` or list (sources.py) |
    | model, sae | packaged, a folder or of the hub; the SAE reads a block's residual stream |
    | domains | {name: source}, or corpora (all their domains), files, "file:column" |
    | demonstrations | the same of worked examples; the domains' own if left out; or "none" |
    | columns, domain_columns | what their columns are called, like {"question": "ask"} |
    | n, shots | N of D_N; worked examples in context |
    | queries, seeds | questions a domain and seed (twice as many of the training set); draws |
    | score | what ranks without a probe, one of SCORES; the best that can be had if left out |
    | probe, lr, lora | steps of fine-tuning to try, if any; learning rate; the rank of a LoRA |
    | form | how multiple choice is learnt and asked by the probe, one of probe.FORMS |
    | dry_run | only read the data and tell the cost |

    What was read of a domain is stored (data/runs) and serves other training sets. Everything is
    drawn by the seeds alone. Raises ValueError, before features are read, for what can't be used.
    """
    drawing = str(seeds).split(",") if isinstance(seeds, str | int) else seeds
    seeds, pairs = tuple(map(int, drawing)), {}
    notes: list[str] = []
    few = min(shots, queries, len(seeds), lora or 1, (probe or 2) - 1) < 1
    if few or len(set(seeds)) < len(seeds):
        sizes = f"seeds {seeds}, shots {shots}, queries {queries}, probe {probe}, lora {lora}"
        raise ValueError(f"{sizes}: too few, or a seed twice")
    if form not in probing.FORMS:
        raise ValueError(f"form {form!r}: choose {' or '.join(probing.FORMS)}")
    for held in (models.check, run._backbone, run._sae, run._hook, questions._tokenizer):
        held.cache_clear()  # a folder may have been written again
    fixed = {"name": "predict", "about": "", "dtype": dtype, "train": "gsm-symbolic"}
    fixed |= {"domains": "mmlu-test", "demonstrations": "mmlu-cot"}  # none of which is read
    reads = {"model": os.fspath(model), "sae": os.fspath(sae), "layer": saes.layer(os.fspath(sae))}
    exact = {name: {"dtype": dtype} for name in ("sft", "evaluation")}
    p = Profile.model_validate(fixed | exact | reads)
    try:
        width, size = models.check(p.model, p.layer), run.sae(p).cfg.d_sae
    except ValueError as error:
        raise ValueError(f"{error}; {saes.public(p.model)}") from None
    if not 1 <= n <= size:
        raise ValueError(f"n {n}: choose 1..{size}")
    fit = partial(fitting, p, shots=shots, note=notes.append)
    own = read(train, domain="train", columns=columns, answers=True, note=notes.append)
    own = fit(own, what="the training set")
    asked, worked = read_evaluation(domains, demonstrations, domain_columns, own, notes.append)
    asked = {d: fit(of, what=f"domain {d!r}") for d, of in asked.items()}
    worked = {d: fit(of, what=f"demonstrations of {d!r}") for d, of in worked.items()}
    choice = bool(worked) and probing.are_choices([*own, *itertools.chain(*worked.values())])
    needed = {"sts_act": True, "sts_icl": worked, "sts_answers": choice}
    possible = [name for name in SCORES if needed[name]]
    if (score := score or possible[-1]) not in possible:
        raise ValueError(f"score {score!r}: choose {' or '.join(possible)}")
    for seed in seeds:
        for name, (asks, shown) in _draws(own, asked, worked, shots, queries, seed).items():
            pairs[name, seed, "shift"] = tuple(questions.pairs(p, asks, shown))
            if choice:
                rng, q = random.Random(f"{name} {seed}"), p.model_copy(update={"place": "answer"})
                pairs[name, seed, "answers"] = tuple(questions.answer_pairs(q, asks, shown, rng))
    if probe:
        rows = drawn(own, probe * probing.BATCH, seeds[0])
        learned = tuple(probing.learnt(e, form) for e in rows)
        probed = tuple(probing.in_form(e, form) for e in probing.measurable(asked, seeds[0]))
        lr = lr or probing.LR * min(1, probing.WIDTH / width)
        run_it = p, probe, lr, lora, learned, probed, seeds[0]
        notes += probing.costs(*run_it, form)
    unread = [of for of in pairs.values() if not prompt_features.path(p, of).exists()]
    share = (p.layer + 1) / models.config_of(p.model).num_hidden_layers
    tokens = share * sum(map(features.tokens_read, unread))
    seconds = 3.0 * models.size(p.model) * tokens / batches.flops_a_second(p.dtype)  # measured
    notes.append(f"Reading features takes about {max(seconds / 60, 0.1):.1f} minutes.")
    for said in notes:
        logging.getLogger(__name__).warning(said)
    found, answers = {}, None
    if not dry_run:
        bar = tqdm(pairs.items(), desc="features", unit="set")
        found = {at: features.FeatureStats.from_arrays(prompt_features(p, of)) for at, of in bar}
        answers = probing.tried(*run_it) if probe else None
    how = (tuple(asked), possible, n, score)
    return Prediction(p, own, asked, worked, notes, seeds, *how, found, answers)


def fitting(p: Profile, examples: list[Example], what: str, shots: int, note) -> list[Example]:
    """Those of which any `shots` and a question fit into the context; marks of the chat template in
    people's text are broken, for a tokenizer would take them for its own."""
    tokenizer, read = questions.tokenizer(p), []
    marks = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for e in examples:
        texts = [e.question, e.solution, e.answer, *e.options]
        for mark in marks:
            texts = [text.replace(mark, f"{mark[0]}\u200b{mark[1:]}") for text in texts]
        question, solution, answer, *options = texts
        new = {"question": question, "solution": solution, "answer": answer}
        read.append(replace(e, **new, options=tuple(options)))
    if changed := sum(new != old for new, old in zip(read, examples, strict=True)):
        note(f"{changed} examples of {what} hold marks like {marks[-1]}, which are read as text.")
    context = models.config_of(p.model).max_position_embeddings
    longest = context // (shots + 1) - 32  # a turn's marks
    kept = questions.within(tokenizer, read, longest)
    if left := len(examples) - len(kept):
        said = f"{left} of {len(examples)} examples of {what} are longer than {longest} tokens"
        note(f"{said} (the context over {shots} + 1 turns) and were left out.")
    return kept


def compare(trains: Mapping[str, object], **options) -> pd.DataFrame:
    """Training sets, by name, on the same questions: a row a domain and set after the first, `more`
    with its 95% interval: how much more than the first it moves the domain, by a probe's change
    paired by question, else by the score. `options` are those of `predict`."""
    made = {name: predict(source, **options) for name, source in trains.items()}
    (first, base), *others = made.items()
    rows = []
    for name, other in others:
        if base.answers is None:
            (a, a_draws), (b, b_draws) = (of.estimates[base.score] for of in (base, other))
            draws = zip(base.domains, b - a, (b_draws - a_draws).T, strict=True)
            found: dict = {domain: stats.Estimate(*more) for domain, *more in draws}
        else:
            both = base.answers.merge(other.answers, on=["domain", "id"], suffixes=("_a", "_b"))
            sides = {when: both[f"{when}_b"] - both[f"{when}_a"] for when in ("before", "after")}
            found = probing.changes(both.assign(**sides))
        for domain, e in found.items():
            rows.append((domain, name, first, float(e.value), float(e.low), float(e.high)))
    return pd.DataFrame(rows, columns=["domain", "set", "than", "more", "low", "high"])


def _draws(own, asked, worked, shots: int, queries: int, seed: int) -> dict[str, tuple]:
    """TRAIN or domain -> (questions, sets of demonstrations), of which no question is one."""
    pool, free = split(own, 0.5, seed)  # half of the training set is shown, half is asked
    random.Random(seed).shuffle(free)
    shown = prompts.choose_demonstrations(pool, shots, SETS, seed)
    draws = {TRAIN: (free[: 2 * queries], shown)}
    for d, examples in asked.items():
        sets = prompts.choose_demonstrations(worked[d], shots, 1, seed) if worked else [[]]
        seen = {(e.question, e.options) for e in sets[0]}
        left = [e for e in examples if (e.question, e.options) not in seen]
        draws[d] = drawn(left, queries, seed), sets
    if few := [d or "the training set" for d, (asks, _) in draws.items() if len(asks) < 2]:
        raise ValueError(f"{few[0]} has under 2 questions beside its demonstrations: give more")
    return draws


@cached(*run.READ)
def prompt_features(p: Profile, pairs: tuple) -> dict[str, np.ndarray]:
    """Features of pairs of prompts, as arrays."""
    return run.read(p, pairs, None)[p.sae]
