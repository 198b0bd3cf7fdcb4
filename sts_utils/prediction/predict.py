"""`sts_utils.predict(train="my.jsonl")`: the whole method on people's own data."""

import contextlib
import io
import itertools
import json
import logging
import operator
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sts_utils import models, prompts, questions, run, saes, store
from sts_utils.cache import cached
from sts_utils.config import Profile
from sts_utils.examples import Example, split
from sts_utils.features import FeatureStats
from sts_utils.prediction import probe as probes
from sts_utils.prediction import sources
from sts_utils.prediction.prediction import DEFAULT_SCORE, TRAIN, Prediction, check_score

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
    score: str = DEFAULT_SCORE,
    columns: Mapping[str, str] | None = None,
    domain_columns: Mapping[str, str] | None = None,
    probe: int | None = None,
    dtype: str = "auto",
    progress: bool = True,
) -> Prediction:
    """Which of `domains` will move when `model` is fine-tuned on `train`, without doing it.

    The paper's two steps: the shifted dims D_N with training examples in context, then the
    transferability score of each domain's questions on them (sts_act, sts_icl). Ours: sts_relative,
    which compares domains feature by feature; of multiple choice, sts_answers, how the same
    features move from demonstrations with wrong answers to right ones; and a probe.

    | argument | is |
    |---|---|
    | train | a corpus, file, `datasets.Dataset` or list (sources.read) |
    | model, sae | packaged, a folder or of the hub; the SAE reads a block's residual stream |
    | domains | {name: source}, or corpora (all their domains) and files |
    | demonstrations | the same of worked examples; the domains' own if left out; or "none" |
    | columns, domain_columns | what their columns are called, like {"question": "ask"} |
    | n, shots | N of D_N; worked examples in context |
    | queries, seeds | questions a domain and seed (twice as many of the training set); draws |
    | score | what ranks, one of prediction.SCORES |
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
    seeds = tuple(map(operator.index, seeds))
    if not seeds or len(set(seeds)) < len(seeds) or min(shots, queries) < 1:
        sizes = f"seeds {list(seeds)}, shots {shots}, queries {queries}"
        raise ValueError(f"{sizes}: give one or more of each, and each seed once")
    if probe is not None and (not isinstance(probe, int) or probe < 2):
        raise ValueError(f"probe is {probe!r}: give 2 or more steps")
    check_score(score, n, has_icl=demonstrations != "none")
    profile, notes = _profile(model, sae, dtype), []
    longest = models.context_length(profile.model) // (shots + 1) - 32  # 32: a turn's marks

    def note(said: str) -> None:
        log.warning(said)
        notes.append(said)

    def fitting(examples: list[Example], what: str) -> list[Example]:
        """Those of which `shots` and a question fit into the context, whichever are drawn."""
        kept = questions.within(questions.tokenizer(profile), examples, longest)
        if left := len(examples) - len(kept):
            said = f"{left} of {len(examples)} examples of {what} are longer than {longest} tokens"
            if len(kept) < 2:
                mend = f"too long for the context with {shots} before a question: lower shots"
                raise ValueError(f"{said}, {mend}")
            note(f"{said} (the context over {shots} + 1 turns) and were left out.")
        return kept

    learned = sources.read(train, domain="train", columns=columns, answers=True, note=note)
    learned = fitting(learned, "the training set")
    asked, worked = sources.read_evaluation(domains, demonstrations, domain_columns, learned, note)
    check_score(score, n, domains=asked)
    data = {"source": sources.name_of(train), "train": learned}
    data["questions"] = {d: fitting(of, f"domain {d!r}") for d, of in asked.items()}
    shown = {d: fitting(of, f"demonstrations of {d!r}") for d, of in worked.items()}
    data |= {"demonstrations": shown, "notes": tuple(notes)}
    drawn = {"shots": shots, "queries": queries, "seeds": seeds, "n": n, "score": score}
    return computed(profile, probe, progress, **data, **drawn)


def _profile(model, sae, dtype: str) -> Profile:
    """Model and SAE as a profile. Raises ValueError where they don't fit or can't chat."""
    model, sae = os.fspath(model), os.fspath(sae)
    if os.path.isdir(model) and model not in (*models.PACKAGED, *models.RANDOM):
        model = os.path.abspath(model)  # the report's process runs in another folder
    if os.path.isdir(sae) and not (store.ROOT / sae).is_dir():
        sae = os.path.abspath(sae)
    if os.path.isabs(model) or os.path.isabs(sae):  # written again since it was held, perhaps
        for held in (run._backbone, run._sae, run._hook, questions._tokenizer):
            held.cache_clear()
    # of no matter here but for the attention-sink threshold: the same for everybody's data
    corpora = {"train": "gsm-symbolic", "domains": "mmlu-test", "demonstrations": "mmlu-cot"}
    read = {"model": model, "layer": saes.layer(sae), "sae": sae, "dtype": dtype}
    profile = Profile(name="predict", about="", **read, **corpora)
    models.check(model, profile.layer)
    if questions.tokenizer(profile).chat_template is None:
        lacks = "has no chat template: give its instruction-tuned version"
        raise ValueError(f"model {model!r} {lacks}")
    return profile


def reread(record: str | Path) -> Prediction:
    """A prediction from what `Prediction.recorded` wrote: its numbers are in the store."""

    def as_example(found: dict):
        fields = found.keys() == Example.__dataclass_fields__.keys()
        return Example(**found | {"options": tuple(found["options"])}) if fields else found

    told = json.loads(Path(record).read_text(encoding="utf-8"), object_hook=as_example)
    profile, kept = Profile(**told.pop("profile")), told.pop("kept")
    return computed(profile, told.pop("probe"), False, **told).rescored(domains=kept)


def computed(
    profile: Profile, probe: int | None, progress: bool, *, train, demonstrations, **told
) -> Prediction:
    """The prediction for examples that were read, the rest as the fields of a Prediction."""
    asked, seeds, n, score = (told[name] for name in ("questions", "seeds", "n", "score"))
    examples = [*train, *itertools.chain(*demonstrations.values())]
    choice = all(len(e.options) > 1 and e.answer in e.options for e in examples)
    choice = choice and bool(demonstrations)
    check_score(score, n, None, bool(demonstrations), asked, choice)
    behind, pairs = profile.model_copy(update={"place": "answer"}), {}
    for seed in seeds:
        draws = {TRAIN: _training_draw(train, told["shots"], 2 * told["queries"], seed)}
        for d, of in asked.items():
            shown = demonstrations and demonstrations[d]
            draws[d] = _domain_draw(d, of, shown, told["shots"], told["queries"], seed)
        for name, drawn in draws.items():
            pairs[name, seed, "shift"] = questions.pairs(profile, *drawn)
            if choice:
                rng = random.Random(f"{name} {seed}")
                pairs[name, seed, "answers"] = questions.answer_pairs(behind, *drawn, rng)
    check_score(score, n, run.sae(profile).cfg.d_sae)
    if probe and not probes.questions(asked, seeds[0]):
        raise ValueError("probe: no domain has an answer to be measured by: give some, or no probe")
    stats, tried = {}, None
    unread = {name: np.empty(0) for name in ("h2", "r", "dr", "dr2")}
    for at in tqdm(pairs, desc="features", unit="set", disable=not progress):
        read = prompt_features(profile, tuple(pairs[at]))
        stats[at] = FeatureStats.from_arrays(read | unread)
    if probe:
        with contextlib.nullcontext() if progress else contextlib.redirect_stderr(io.StringIO()):
            every = list(itertools.chain(*pairs.values()))
            tried = probes.probe(profile, probe, train, asked, every, seeds[0])
    return Prediction(
        profile,
        train=train,
        demonstrations=demonstrations,
        train_stats=[stats[TRAIN, s, "shift"] for s in seeds],
        domain_stats=[{d: stats[d, s, "shift"] for d in asked} for s in seeds],
        answer_stats=[
            {d: stats[d, s, "answers"] for d in (TRAIN, *asked)} for s in seeds if choice
        ],
        probe=tried,
        **told,
    )


def _training_draw(examples: list[Example], shots: int, queries: int, seed: int) -> tuple:
    """(questions, sets of demonstrations): half of the training set is asked, half is shown."""
    pool, asked = split(examples, 0.5, seed)
    if len(pool) < shots or len(asked) < 2:
        needed = f"{shots} in context and 2 to look at need {max(2 * shots, shots + 2)}"
        has = f"the training set has {len(examples)} usable example(s)"
        raise ValueError(f"{has}, but {needed}: give more, or fewer shots")
    random.Random(seed).shuffle(asked)
    return asked[:queries], prompts.choose_demonstrations(pool, shots, SETS, seed)


def _domain_draw(domain, examples, worked, shots: int, queries: int, seed: int) -> tuple:
    """(questions, one set of demonstrations), of which no question is one."""
    sets = prompts.choose_demonstrations(worked, shots, 1, seed) if worked else [[]]
    seen = {sources.key(e) for e in sets[0]}
    free = [e for e in examples if sources.key(e) not in seen]
    if len(free) < 2:
        has = f"has {len(free)} question(s) beside its {len(seen)} demonstrations"
        raise ValueError(f"domain {domain!r} {has}: give two or more")
    return sources.drawn(free, queries, seed), sets


@cached(*run.READ)
def prompt_features(p: Profile, pairs: tuple) -> dict[str, np.ndarray]:
    """Features of pairs of prompts: what a prediction reads of FeatureStats."""
    arrays = run.read(p, pairs, None)[p.sae]
    return {name: arrays[name] for name in ("ids", "features", "n", "h", "dh", "dh2")}
