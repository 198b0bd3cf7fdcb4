"""The positive control's training sets: their examples, and what fine-tuning on them moves.

Most sets are domains, so fine-tuning on one should move that domain most, and what shares its skill
or its words otherwise than the rest.
"""

import math
import random
import shutil
from functools import cache, partial

import pandas as pd
import torch

from sts_utils import corpora, models, store
from sts_utils import evaluate as options
from sts_utils import train as sft
from sts_utils.config import ControlSettings, Profile
from sts_utils.corpora import skills
from sts_utils.examples import Example, by_domain, digest, with_answer
from sts_utils.runs import engine, performance, recipes, samples
from sts_utils.runs import models as held
from sts_utils.runs.models import TrainedModel

#: Short runs of fine-tuning, whose change stands in for a score: a twentieth of the steps, and a
#: tenth of the examples at a higher learning rate.
PROBES = ("probe run", "quick probe")
#: Of a domain, that they are asked.
PROBE_QUESTIONS = 16

# --- training sets -----------------------------------------------------------------------------


def parts(profile: Profile) -> dict[str, Profile]:
    """Part (control.parts) -> the run with its domains and training sets: `control.part`."""
    made = {}
    for part in profile.control.parts:
        part = part.model_copy(update={"sets": part.sets or skills.trained(part.domains)})
        changed = part.model_dump(include={"domains", "demonstrations"})
        changed["control"] = profile.control.model_copy(update={"part": part, "parts": ()})
        changed["sts"] = profile.sts.model_copy(update={"queries": part.queries})
        asked = {"questions": part.questions, "asked": None}
        changed["evaluation"] = profile.evaluation.model_copy(update=asked)
        made[part.name] = profile.model_copy(update=changed)
    return made


def domains(profile: Profile) -> tuple[str, ...]:
    """The domains of a part that some training set of it is compared with."""
    names, part = corpora.domains(profile.domains), profile.control.part
    return tuple(d for d in names if any(skills.comparable(name, d) for name in part.sets))


@cache
def pools(profile: Profile) -> dict[str, tuple[Example, ...]]:
    """Training set -> the examples it draws from; no evaluation question, no demonstration.

    A domain's examples are its questions without their options, and the gold option's text as the
    answer, as they are evaluated. Raises ValueError for a set with too few.
    """
    asked = {e.question for group in samples.evaluation_questions(profile).values() for e in group}
    asked |= {e.question for e in corpora.load(profile.demonstrations)}
    domains, at_hand = by_domain(corpora.load(profile.domains)), {}
    part = profile.control.part
    for name in part.sets:
        if name in domains:
            free = [e for e in domains[name] if e.question not in asked]
            free = [with_answer(e) for e in free]
        else:
            free = corpora.load(name)
        at_hand[name] = tuple(free)
        if len(free) < part.examples:
            raise ValueError(
                f"training set {name!r} has {len(free)} examples left beside the evaluation "
                f"questions, its part of the control asks for {part.examples}: lower examples or "
                "questions there"
            )
    return at_hand


def examples(profile: Profile, name: str, seed: int) -> list[Example]:
    """The examples that one training set and seed are: the same number for each."""
    wanted = profile.control.part.examples
    return random.Random(f"{name} {seed}").sample(pools(profile)[name], wanted)


# --- fine-tuning and its effect ----------------------------------------------------------------


def full_steps(settings: ControlSettings) -> int:
    """Optimizer steps of the whole dose."""
    return math.ceil(settings.part.examples / settings.batch) * settings.part.epochs


def finetune(profile: Profile, name: str, seed: int, steps: int | None = None) -> TrainedModel:
    """The model after SFT on a training set, for all steps or a probe run's."""
    settings = profile.control
    size = settings.model_dump(include={"batch", "lr"})
    size |= settings.part.model_dump(include={"examples", "epochs"})
    size["micro_batch"] = min(profile.sft.micro_batch, settings.batch)
    sft = profile.sft.model_copy(update=size)
    steps, chosen = steps or full_steps(settings), examples(profile, name, seed)
    told = {"control": name, "sft": sft.model_dump(), "steps": steps, "seed": seed}
    train = partial(engine.sft, profile, sft, chosen, seed, steps=steps)
    return held.train_once(profile, train, **told, examples=digest(chosen))


def change(
    profile: Profile, name: str, seed: int, steps: int | None = None, asked: int | None = None
) -> pd.DataFrame:
    """Performance after SFT on a set − before: domain, id and the measures, a row a question.

    `asked`: only so many questions a domain. The untouched model is asked once, for all sets.
    """
    tuned = finetune(profile, name, seed, steps)
    after = performance.measure(profile, tuned, _questions(profile, name, asked))
    shutil.rmtree(store.RUNS / tuned.key, ignore_errors=True)  # two a cell are a disk full
    return _since(profile, after)


def _questions(profile: Profile, name: str, asked: int | None) -> list[Example]:
    """So many questions of each domain; of skills, those with the set's type of answer."""
    groups = samples.evaluation_questions(profile).items()
    groups = [group for domain, group in groups if skills.comparable(name, domain)]
    return [e for group in groups for e in group[:asked]]


def _since(profile: Profile, after: pd.DataFrame) -> pd.DataFrame:
    """What a model's performance is above the untouched one's."""
    after = after.set_index(["domain", "id"])
    before = performance.measure(profile).set_index(["domain", "id"])
    return (after - before.loc[after.index]).reset_index()


def probe(profile: Profile, name: str, seed: int, kind: str) -> pd.DataFrame:
    """The change by a short run (of PROBES), on fewer questions.

    The quick one: by a tenth of the examples, in small batches at ten times the learning rate, with
    no warm-up: a step of AdamW is as long as its learning rate, whatever the batch.
    """
    settings = profile.control
    if kind == "probe run":
        steps = max(2, round(full_steps(settings) / 20))  # the first is at learning rate 0: warm-up
        return change(profile, name, seed, steps, PROBE_QUESTIONS)
    questions = _questions(profile, name, PROBE_QUESTIONS)
    size = {"batch": sft.QUICK_BATCH, "micro_batch": sft.QUICK_BATCH, "epochs": 1}
    size |= {"lr": 10 * settings.lr, "examples": max(1, settings.part.examples // 10)}
    told = profile.sft.model_copy(update=size)
    chosen = examples(profile, name, seed)[: told.examples]

    def compute() -> pd.DataFrame:
        held.release()
        whole = models.load_model(profile.model, told.dtype, profile.revision)
        tokenizer, desc = samples.tokenizer(profile.model, profile.revision), f"probe {name}"
        sft.train_answers(whole.train(), tokenizer, told, chosen, told.lr, seed, desc, warmup=0)
        read = whole.eval().to(getattr(torch, dtype))  # as before it
        return options.option_likelihoods(read, tokenizer, questions, desc=desc)

    dtype = profile.evaluation.dtype
    of = {"seed": seed, "examples": digest(chosen), "questions": digest(questions)}
    of |= {"sft": told.model_dump(), "dtype": dtype}
    recipe = recipes.of(profile, "model", "revision", **of)
    return _since(profile, store.frame("probe", recipe, compute))
