"""The positive control: can a score tell one training set from another?

A matrix of training sets × domains. Most sets are domains themselves, so fine-tuning on one should move that
domain most (the diagonal), and a score that sees what was trained on must rank it first. What is computed is here;
the scores are in `control_scores`, what is asked of them in `control_tests`.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pandas as pd
import yaml

from sts_utils import models, store
from sts_utils.config import Profile
from sts_utils.corpora import contrast, data
from sts_utils.examples import Example, by_domain
from sts_utils.method import prompts
from sts_utils.method.extract import FeatureStats
from sts_utils.method.prompts import Prompt
from sts_utils.runs import performance as performances
from sts_utils.runs import samples, units
from sts_utils.runs.units import Trained
from sts_utils.training import sft as finetune

SPLIT = store.DATA / "control_split.yaml"
#: Where the demonstrations before a training set's questions come from.
CONTEXTS = ("own", "others", "generic")


def split() -> dict[str, list]:
    """Which sets and seeds were for design and which for judgement, written down before looking."""
    return yaml.safe_load(SPLIT.read_text(encoding="utf-8"))


def half(profile: Profile, which: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """(sets, seeds) of "design" or "judgement"; empty for a smaller run, which does not hold all of them."""
    written = split()[which]
    held = {*written["sets"]} <= {*profile.control.sets} and {*written["seeds"]} <= {*profile.control.seeds}
    return (tuple(written["sets"]), tuple(written["seeds"])) if held else ((), ())


# --- training sets -----------------------------------------------------------------------------


@cache
def pools(profile: Profile) -> dict[str, tuple[Example, ...]]:
    """Training set -> the examples it draws from; none is an evaluation question or a demonstration.

    A domain's examples are its questions without their options, and the gold option's text as the answer, as
    they are evaluated. Raises ValueError for a set with too few.
    """
    asked = {e.question for group in samples.evaluation_questions(profile).values() for e in group}
    asked |= {e.question for e in data.load(profile.demonstrations)}
    domains, found = by_domain(data.load(profile.domains)), {}
    for name in profile.control.sets:
        if name in domains:
            free = [e for e in domains[name] if e.question not in asked]
            found[name] = tuple(replace(e, options=(), instruction="", solution=e.answer) for e in free)
        else:
            found[name] = tuple(data.load(name))
        if len(found[name]) < profile.control.examples:
            raise ValueError(
                f"training set {name!r} has {len(found[name])} examples left beside the evaluation questions, "
                f"control.examples asks for {profile.control.examples}: lower it or evaluation.questions"
            )
    return found


def examples(profile: Profile, name: str, seed: int) -> list[Example]:
    """The examples that one training set and seed are: the same number for each."""
    return random.Random(f"{name} {seed}").sample(pools(profile)[name], profile.control.examples)


def diagonal(profile: Profile) -> dict[str, str]:
    """Training set -> the domain that it is, for those that are one."""
    domains = samples.evaluation_questions(profile)
    return {name: name for name in profile.control.sets if name in domains}


# --- fine-tuning and its effect ----------------------------------------------------------------


def full_steps(profile: Profile) -> int:
    """Optimizer steps of the whole dose."""
    settings = profile.control
    return math.ceil(settings.examples / settings.batch) * settings.epochs


def probe_steps(profile: Profile) -> int:
    """Steps of a probe run; at least two, for the first is at learning rate 0 (warm-up)."""
    return max(2, round(profile.control.probe * full_steps(profile)))


def model(profile: Profile, name: str, seed: int, steps: int | None = None) -> Trained:
    """The model after SFT on a training set, at the whole dose or for `steps`."""
    settings = profile.control
    size = {"examples": settings.examples, "epochs": settings.epochs, "batch": settings.batch, "lr": settings.lr}
    sft = profile.sft.model_copy(update=size | {"micro_batch": min(profile.sft.micro_batch, settings.batch)})
    steps = steps or full_steps(profile)
    chosen = examples(profile, name, seed)
    recipe = {
        "control": name, "sft": sft.model_dump(), "steps": steps, "seed": seed,
        "examples": store.digest([e.id for e in chosen]),
    }  # fmt: skip

    def train(out):
        return finetune.sft(profile.model_copy(update={"sft": sft}), chosen, seed, out, steps)

    return units.trained(profile, recipe, train)


def change(profile: Profile, name: str, seed: int, steps: int | None = None, asked: int | None = None) -> pd.DataFrame:
    """Change of each question's performance by SFT on a set: domain, id and evaluate.MEASURES, after − before.

    `asked`: only so many questions a domain. The untouched model is asked once, for all sets.
    """
    asked = asked or profile.control.asked
    questions = [e for group in samples.evaluation_questions(profile).values() for e in group[:asked]]
    before = performances.performance(profile).set_index(["domain", "id"])
    after = performances.performance(profile, model(profile, name, seed, steps), questions).set_index(["domain", "id"])
    return (after - before.loc[after.index]).reset_index()


def change_arrays(
    profile: Profile, measure: str, steps: int | None = None, asked: int | None = None,
    sets: Sequence[str] | None = None, seeds: Sequence[int] | None = None,
) -> list[np.ndarray]:  # fmt: skip
    """For each domain [T sets, S seeds, Q questions]: the change of `measure`."""
    cells = [
        [change(profile, name, seed, steps, asked) for seed in seeds or profile.control.seeds]
        for name in sets or profile.control.sets
    ]
    return [
        np.array([[cell[cell.domain == domain][measure].to_numpy() for cell in row] for row in cells])
        for domain in samples.evaluation_questions(profile)
    ]


# --- features under demonstrations -------------------------------------------------------------


def pairs(
    profile: Profile, name: str, seed: int, context: str = "own", demonstrations: int | None = None
) -> list[tuple[Prompt, Prompt]]:
    """(plain, icl) prompts of a set's questions; half of its examples are asked, half are demonstrations.

    `context` "others" and "generic" replace each demonstration by one of the same length, from the other
    training sets or from packaged prose cut into a question and an answer.
    """
    settings, chosen = profile.control, examples(profile, name, seed)
    tokenizer = samples.tokenizer(profile.model, profile.revision)
    middle = len(chosen) // 2
    shown = prompts.choose_demonstrations(
        chosen[middle:], demonstrations or settings.demonstrations, settings.contexts, seed
    )  # fmt: skip
    if context != "own":
        rng, match = random.Random(f"{context} {name} {seed}"), partial(contrast.prose, tokenizer)
        if context == "others":
            others = [other for other in settings.sets if other != name]
            match = partial(
                contrast.nearest, tokenizer, others=[e for other in others for e in pools(profile)[other]],
                sizes=np.concatenate([_lengths(profile)[other] for other in others]),
            )  # fmt: skip
        shown = [[match(rng, e) for e in group] for group in shown]
    longest = models.context_length(profile.model, profile.revision)
    return prompts.prompt_pairs(tokenizer, chosen[:middle][: settings.queries], shown, longest)


@cache
def _lengths(profile: Profile) -> dict[str, np.ndarray]:
    """Set -> tokens of each of its examples."""
    tokenizer = samples.tokenizer(profile.model, profile.revision)
    return {name: contrast.lengths(tokenizer, pool) for name, pool in pools(profile).items()}


@cache
def shift_stats(
    profile: Profile, name: str, seed: int, context: str = "own", demonstrations: int | None = None
) -> FeatureStats:
    """Features of a set's questions without and with demonstrations (for D_N, and for its contrast)."""
    settings = profile.control.model_dump(include={"examples", "queries", "contexts"})
    settings["demonstrations"] = demonstrations or profile.control.demonstrations
    made = pairs(profile, name, seed, context, demonstrations)
    said = store.digest([icl.ids for _, icl in made])

    def recipe(p):
        return units.settings_of(p, control=name, seed=seed, context=context, prompts=said, **settings)

    return units.features("features-control", [profile], recipe, lambda: made, f"{name} {context} seed {seed}")


def actual_stats(profile: Profile, name: str, seed: int) -> FeatureStats:
    """Features of the same plain questions before and after SFT on the set."""
    trained = model(profile, name, seed)

    def recipe(p):
        return units.settings_of(p, control=name, seed=seed, trained=trained.key)

    def plain():
        return [(a, a) for a, _ in pairs(profile, name, seed)]

    return units.features("features-control-actual", [profile], recipe, plain, f"{name} after SFT {seed}", trained)


def compute(profile: Profile, sets: Sequence[str], seeds: Sequence[int]) -> None:
    """Fine-tune, evaluate and extract what the matrix of these sets and seeds needs; what is stored stays."""
    for seed in seeds:
        for name in sets:
            change(profile, name, seed)
            actual_stats(profile, name, seed)
            change(profile, name, seed, probe_steps(profile), profile.control.probe_questions)
            for context in CONTEXTS:
                shift_stats(profile, name, seed, context)
        for domain in samples.evaluation_questions(profile):
            units.domain_stats(profile, domain, seed)
