"""`sts_utils.predict(train="my.jsonl")`: the whole method on people's own data."""

import contextlib
import io
import logging
import operator
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from sts_utils import models, prompts, saes, store
from sts_utils.config import Profile
from sts_utils.examples import Example, split
from sts_utils.features import FeatureStats
from sts_utils.prediction import probe as probes
from sts_utils.prediction import scores, sources
from sts_utils.prediction.prediction import TRAIN, Prediction
from sts_utils.prediction.probe import Probe
from sts_utils.prompts import Prompt
from sts_utils.runs import features, samples
from sts_utils.runs import models as held

log = logging.getLogger(__name__)

#: The worked example: 60 problems of school physics and chemistry, written for this project.
EXAMPLE = store.DATA / "example.jsonl"
#: Sets of demonstrations before the training set's questions; questions take them in turn.
SETS = 4


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
    score: str = scores.DEFAULT_SCORE,
    columns: Mapping[str, str] | None = None,
    domain_columns: Mapping[str, str] | None = None,
    probe: int | None = None,
    dtype: str = "auto",
    progress: bool = True,
) -> Prediction:
    """Which of `domains` will move when `model` is fine-tuned on `train`, without doing it.

    The paper's two steps: the shifted dims D_N with training examples in context (shift.shift),
    then the transferability score of each domain's questions on them (score.sts_act, sts_icl).
    Ours: sts_relative, which compares domains feature by feature; of multiple choice, sts_answers,
    how the same features move from demonstrations with wrong answers to right ones; and a probe.

    | argument | is |
    |---|---|
    | train | a corpus, file, `datasets.Dataset` or list (sources.read) |
    | model, sae | packaged, a folder or of the hub; the SAE reads a block's residual stream |
    | domains | {name: source}, or corpora (all their domains) and files |
    | demonstrations | the same of worked examples; the domains' own if left out; or "none" |
    | columns, domain_columns | what their columns are called, like {"question": "ask"} |
    | n, shots | N of D_N; worked examples in context |
    | queries, seeds | questions a domain and seed (twice as many of the training set); draws |
    | score | what ranks, one of scores.SCORES |
    | probe | steps of fine-tuning to try, if any: every domain before and after |

    What was read of a domain is stored (data/runs) and serves other training sets. Everything is
    drawn by the seeds alone. Raises ValueError, in one line, for what can't be used, before any
    weights are loaded.

    >>> import sts_utils
    >>> small = {"model": "tiny", "sae": "random-8x", "dtype": "float32", "progress": False}
    >>> small |= {"n": 20, "shots": 2, "queries": 4, "seeds": [0]}
    >>> domains = {"code": "code-io", "health": "pubmedqa"}
    >>> prediction = sts_utils.predict("chain-sum", domains=domains, **small)
    >>> sorted(prediction.table.domain), len(prediction.table)
    (['code', 'health'], 2)
    >>> int(prediction.rescored(n=5, score="sts_icl").advice(10).examples.sum())
    10
    """
    seeds = _seeds(seeds)
    if not seeds or min(shots, queries) < 1:
        sizes = f"seeds {list(seeds)}, shots {shots}, queries {queries}"
        raise ValueError(f"{sizes}: give one or more of each")
    if probe is not None and (not isinstance(probe, int) or probe < 2):
        raise ValueError(f"probe is {probe!r}: give 2 or more steps")
    scores.check(score, n, has_icl=demonstrations != "none")
    if not all(isinstance(name, str | os.PathLike) for name in (model, sae)):
        raise ValueError(f"model {model!r}, sae {sae!r}: give a name or a folder of each")
    model, sae = os.fspath(model), os.fspath(sae)
    profile, notes = _profile(model, sae, dtype), []
    tokenizer = samples.tokenizer(model, profile.revision)
    longest = models.context_length(model) // (shots + 1) - 32  # 32: a turn's marks

    def note(said: str) -> None:
        log.warning(said)
        notes.append(said)

    def fitting(examples: list[Example], what: str) -> list[Example]:
        """Those of which `shots` and a question fit into the context, whichever are drawn."""
        kept = samples.within(tokenizer, examples, longest)
        if left := len(examples) - len(kept):
            said = f"{left} of {len(examples)} examples of {what} are longer than {longest} tokens"
            if len(kept) < 2:
                mend = f"too long for the context with {shots} before a question: lower shots"
                raise ValueError(f"{said}, {mend}")
            note(f"{said} (the context over {shots} + 1 turns) and were left out.")
        return kept

    learned = fitting(sources.read_training(train, columns, note), "the training set")
    asked, worked = sources.read_evaluation(domains, demonstrations, domain_columns, learned, note)
    scores.check(score, n, domains=asked)
    asked = {d: fitting(of, f"domain {d!r}") for d, of in asked.items()}
    worked = {d: fitting(of, f"demonstrations of {d!r}") for d, of in worked.items()}

    shown = [e for examples in (learned, *worked.values()) for e in examples]
    choice = bool(worked) and all(len(e.options) > 1 and e.answer in e.options for e in shown)
    scores.check(score, n, has_icl=bool(worked), has_wrong=choice)
    behind, pairs = profile.model_copy(update={"place": "answer"}), {}
    for seed in seeds:
        drawn = {TRAIN: _training_draw(learned, shots, 2 * queries, seed)}
        drawn |= {d: _domain_draw(d, asked[d], worked, shots, queries, seed) for d in asked}
        for name, of in drawn.items():
            pairs[name, seed, "shift"] = samples.pairs(profile, *of)
            if choice:
                rng = random.Random(f"{name} {seed}")
                pairs[name, seed, "answers"] = samples.answer_pairs(behind, *of, rng)
    scores.check(score, n, held.sae(profile).cfg.d_sae)

    if probe is not None and not probes.questions(asked, seeds[0]):
        raise ValueError("probe: no domain has an answer to be measured by: give some, or no probe")

    stats, tried = {}, None
    for at in tqdm(pairs, desc="features", unit="set", disable=not progress):
        desc = f"{at[0] or 'training set'} seed {at[1]}" if progress else None
        stats[at] = _features(profile, pairs[at], desc)
    if probe is not None:
        tried = _probe(profile, probe, learned, asked, list(pairs.values()), seeds[0], progress)
    data = sources.name_of(train), learned, asked, worked
    own = [stats[TRAIN, s, "shift"] for s in seeds]
    used = [{d: stats[d, s, "shift"] for d in asked} for s in seeds]
    answers = [{d: stats[d, s, "answers"] for d in (TRAIN, *asked)} for s in seeds if choice]
    return Prediction(profile, *data, own, used, answers, seeds, n, score, tried, tuple(notes))


def _seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    try:
        seeds = tuple(map(operator.index, seeds))
    except TypeError:
        raise ValueError(f"seeds {seeds!r}: give whole numbers, like [0, 1, 2]") from None
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {list(seeds)}: one is there twice, and would count twice")
    return seeds


def _profile(model: str, sae: str, dtype: str) -> Profile:
    """Model and SAE as a profile. Raises ValueError where they don't fit or can't chat."""
    if dtype not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"dtype {dtype!r}: choose auto, float32 or bfloat16")
    # of no matter here but for the attention-sink threshold: the same for everybody's data
    corpora = {"train": "gsm-symbolic", "domains": "mmlu-test", "demonstrations": "mmlu-cot"}
    read = {"model": model, "layer": saes.layer(sae), "sae": sae, "dtype": dtype}
    profile = Profile(name="predict", about="", **read, **corpora)
    models.check(model, profile.layer)
    if samples.tokenizer(model, profile.revision).chat_template is None:
        lacks = "has no chat template: give its instruction-tuned version"
        raise ValueError(f"model {model!r} {lacks}")
    return profile


def _training_draw(examples: list[Example], shots: int, queries: int, seed: int) -> tuple:
    """(questions, sets of demonstrations): half of the training set is asked, half is shown."""
    pool, asked = split(examples, 0.5, seed)
    if len(pool) < shots or len(asked) < 2:
        needed = f"{shots} in context and 2 to look at need {max(2 * shots, shots + 2)}"
        has = f"the training set has {len(examples)} usable example(s)"
        raise ValueError(f"{has}, but {needed}: give more, or fewer shots")
    random.Random(seed).shuffle(asked)
    return asked[:queries], prompts.choose_demonstrations(pool, shots, SETS, seed)


def _domain_draw(domain, examples, worked: Mapping, shots: int, queries: int, seed: int) -> tuple:
    """(questions, one set of demonstrations), of which no question is one."""
    sets = prompts.choose_demonstrations(worked[domain], shots, 1, seed) if worked else [[]]
    seen = {sources.key(e) for e in sets[0]}
    free = [e for e in examples if sources.key(e) not in seen]
    if len(free) < 2:
        has = f"has {len(free)} question(s) beside its {len(seen)} demonstrations"
        raise ValueError(f"domain {domain!r} {has}: give two or more")
    return sources.drawn(free, queries, seed), sets


def _probe(profile, steps: int, learned, asked, pairs, seed: int, progress: bool) -> Probe:
    """A probe, whose cost is said before it is run."""
    questions = probes.questions(asked, seed)
    train = probes.training(learned, steps, seed)
    cost = probes.cost(profile, steps, train, questions, [pair for of in pairs for pair in of])
    log.warning(cost)
    with contextlib.nullcontext() if progress else contextlib.redirect_stderr(io.StringIO()):
        answers = probes.run(profile, steps, train, questions, seed)
    return Probe(steps, answers, cost, probes.measure(questions))


def _features(profile: Profile, pairs: Sequence[tuple[Prompt, Prompt]], desc) -> FeatureStats:
    """Features of pairs of prompts, stored by what was read: model, SAE and the prompts' tokens."""
    said = store.digest([(a.example_id, a.ids, a.span, b.ids, b.span) for a, b in pairs])
    recipe = features.settings_of(profile, prompts=said)
    made = features.extract("features-predict", [profile], lambda _: recipe, lambda: pairs, desc)
    return replace(made, **{name: np.empty(0) for name in ("h2", "r", "dr", "dr2")})  # not used
