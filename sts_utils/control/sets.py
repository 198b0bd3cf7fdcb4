"""The positive control's training sets: their examples, fine-tuning on them, their features.

Most sets are domains, so fine-tuning on one should move that domain most, and a score that sees
what was trained on must rank it first. What is computed is here, each part once (`steps`).
"""

import math
import random
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pandas as pd

from sts_utils import corpora, store
from sts_utils.config import ControlSettings, Profile
from sts_utils.corpora import contrast
from sts_utils.examples import Example, by_domain
from sts_utils.method import prompts
from sts_utils.method.extract import FeatureStats
from sts_utils.method.prompts import Prompt
from sts_utils.runs import engine, features, performance, plan, samples
from sts_utils.runs import models as held
from sts_utils.runs.models import TrainedModel
from sts_utils.runs.plan import Step

#: Where the demonstrations before a training set's questions come from.
CONTEXTS = ("own", "others", "generic")
NOTEBOOK = "07_control"


# --- training sets -----------------------------------------------------------------------------


@cache
def pools(profile: Profile) -> dict[str, tuple[Example, ...]]:
    """Training set -> the examples it draws from; no evaluation question, no demonstration.

    A domain's examples are its questions without their options, and the gold option's text as the
    answer, as they are evaluated. Raises ValueError for a set with too few.
    """
    asked = {e.question for group in samples.evaluation_questions(profile).values() for e in group}
    asked |= {e.question for e in corpora.load(profile.demonstrations)}
    domains, at_hand = by_domain(corpora.load(profile.domains)), {}
    for name in profile.control.sets:
        if name in domains:
            free = [e for e in domains[name] if e.question not in asked]
            free = [replace(e, options=(), instruction="", solution=e.answer) for e in free]
        else:
            free = corpora.load(name)
        at_hand[name] = tuple(free)
        if len(free) < profile.control.examples:
            raise ValueError(
                f"training set {name!r} has {len(free)} examples left beside the evaluation "
                f"questions, control.examples asks for {profile.control.examples}: lower it or "
                "evaluation.questions"
            )
    return at_hand


def examples(profile: Profile, name: str, seed: int) -> list[Example]:
    """The examples that one training set and seed are: the same number for each."""
    return random.Random(f"{name} {seed}").sample(pools(profile)[name], profile.control.examples)


# --- fine-tuning and its effect ----------------------------------------------------------------


def full_steps(settings: ControlSettings) -> int:
    """Optimizer steps of the whole dose."""
    return math.ceil(settings.examples / settings.batch) * settings.epochs


def probe_steps(settings: ControlSettings) -> int:
    """Steps of a probe run; at least two, for the first is at learning rate 0 (warm-up)."""
    return max(2, round(settings.probe * full_steps(settings)))


def finetune(profile: Profile, name: str, seed: int, steps: int | None = None) -> TrainedModel:
    """The model after SFT on a training set, for all steps or a probe run's."""
    settings = profile.control
    size = settings.model_dump(include={"examples", "epochs", "batch", "lr"})
    size["micro_batch"] = min(profile.sft.micro_batch, settings.batch)
    sft = profile.sft.model_copy(update=size)
    steps = steps or full_steps(settings)
    chosen = examples(profile, name, seed)
    recipe = {"control": name, "sft": sft.model_dump(), "steps": steps, "seed": seed}
    recipe["examples"] = store.digest([e.id for e in chosen])
    train = partial(engine.sft, profile, sft, chosen, seed, steps=steps)
    return held.train_once(profile, recipe, train)


def change(
    profile: Profile, name: str, seed: int, steps: int | None = None, asked: int | None = None
) -> pd.DataFrame:
    """Performance after SFT on a set − before: domain, id and the measures, a row a question.

    `asked`: only so many questions a domain. The untouched model is asked once, for all sets.
    """
    asked = asked or profile.control.asked
    groups = samples.evaluation_questions(profile).values()
    questions = [e for group in groups for e in group[:asked]]
    tuned = finetune(profile, name, seed, steps)
    before = performance.measure(profile).set_index(["domain", "id"])
    after = performance.measure(profile, tuned, questions).set_index(["domain", "id"])
    return (after - before.loc[after.index]).reset_index()


def probe(profile: Profile, name: str, seed: int) -> pd.DataFrame:
    """The change by a probe run: a few steps, a few questions."""
    settings = profile.control
    return change(profile, name, seed, probe_steps(settings), settings.probe_questions)


# --- features under demonstrations -------------------------------------------------------------


def pairs(
    profile: Profile, name: str, seed: int, context: str = "own"
) -> list[tuple[Prompt, Prompt]]:
    """(plain, icl) prompts: half of a set's examples are asked, half are demonstrations.

    `context` "others" and "generic" replace each demonstration by one of the same length, from the
    other training sets or from packaged prose cut into a question and an answer.
    """
    settings, chosen = profile.control, examples(profile, name, seed)
    asked, pool = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    tokenizer = samples.tokenizer(profile.model, profile.revision)
    shown = prompts.choose_demonstrations(pool, settings.demonstrations, settings.contexts, seed)
    if context != "own":
        match = partial(contrast.prose, tokenizer)
        if context == "others":
            others = [other for other in settings.sets if other != name]
            free = [e for other in others for e in pools(profile)[other]]
            sizes = np.concatenate([_lengths(profile)[other] for other in others])
            match = partial(contrast.nearest, tokenizer, others=free, sizes=sizes)
        rng = random.Random(f"{context} {name} {seed}")
        shown = [[match(rng, e) for e in group] for group in shown]
    return samples.pairs(profile, asked[: settings.queries], shown)


@cache
def _lengths(profile: Profile) -> dict[str, np.ndarray]:
    """Set -> tokens of each of its examples."""
    tokenizer = samples.tokenizer(profile.model, profile.revision)
    return {name: contrast.lengths(tokenizer, pool) for name, pool in pools(profile).items()}


def extract_shift(profile: Profile, name: str, seed: int, context: str = "own") -> FeatureStats:
    """Features of a set's questions without and with demonstrations (for D_N, its contrast)."""
    asked = pairs(profile, name, seed, context)
    told = profile.control.model_dump(include={"examples", "queries", "contexts", "demonstrations"})
    told |= {"control": name, "seed": seed, "context": context}
    told["prompts"] = store.digest([icl.ids for _, icl in asked])

    def recipe(p):
        return features.settings_of(p, **told)

    desc = f"{name} {context} seed {seed}"
    return features.extract("features-control", [profile], recipe, lambda: asked, desc)


def extract_contexts(profile: Profile, name: str, seed: int) -> dict[str, FeatureStats]:
    """Context -> features of a set's questions under demonstrations from there."""
    return {context: extract_shift(profile, name, seed, context) for context in CONTEXTS}


# --- all of it ---------------------------------------------------------------------------------


def cell(profile: Profile, name: str, seed: int) -> None:
    """Fine-tune on a training set, evaluate, extract: what one row of the matrix needs."""
    change(profile, name, seed)
    probe(profile, name, seed)
    extract_contexts(profile, name, seed)


def steps(profile: Profile) -> list[Step]:
    """What the control computes: the domains, and a cell a training set and seed."""
    settings, gpus = profile.control, engine.training_gpus(profile)
    done = profile.seeds if profile.runs_paper else ()
    domains = plan.domains_of(profile, [seed for seed in settings.seeds if seed not in done])
    steps = [step._replace(stage=NOTEBOOK) for step in domains]
    if not done:
        steps.append(Step("evaluation", performance.measure, (profile,), NOTEBOOK))
    for seed in settings.seeds:
        for name in settings.sets:
            args = (profile, name, seed)
            steps.append(Step("control, training sets", cell, args, NOTEBOOK, 1, gpus))
    return steps
