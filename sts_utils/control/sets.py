"""The positive control's training sets: their examples, fine-tuning on them, their features.

Most sets are domains, so fine-tuning on one should move that domain most, and what shares its skill
or its words otherwise than the rest. What is computed is here, each thing once (`steps`).
"""

import math
import random
from functools import cache, partial

import numpy as np
import pandas as pd

from sts_utils import corpora, models, store
from sts_utils.config import ControlSettings, Profile
from sts_utils.corpora import contrast, skills
from sts_utils.evaluation import options
from sts_utils.evaluation.gradients import answer_gradients
from sts_utils.examples import Example, by_domain
from sts_utils.method import prompts
from sts_utils.method.extract import FeatureStats
from sts_utils.method.prompts import Prompt
from sts_utils.runs import engine, features, performance, plan, samples
from sts_utils.runs import models as held
from sts_utils.runs.models import TrainedModel
from sts_utils.runs.plan import Step
from sts_utils.training import sft

#: Where the demonstrations before a training set's questions come from.
CONTEXTS = ("own", "others", "generic")
NOTEBOOK = "07_control"
#: Short runs of fine-tuning, whose change stands in for a score: a twentieth of the steps, and a
#: tenth of the examples at a higher learning rate (fixed on the design half).
PROBES = ("probe run", "quick probe")
#: Which tokens are read: the query's, or those between it and its answer.
PLACES = ("query", "answer")


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
            free = [contrast.right(e) for e in free]
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
    return random.Random(f"{name} {seed}").sample(
        pools(profile)[name], profile.control.part.examples
    )


# --- fine-tuning and its effect ----------------------------------------------------------------


def full_steps(settings: ControlSettings) -> int:
    """Optimizer steps of the whole dose."""
    return math.ceil(settings.part.examples / settings.batch) * settings.part.epochs


def probe_steps(settings: ControlSettings) -> int:
    """Steps of a probe run; at least two, for the first is at learning rate 0 (warm-up)."""
    return max(2, round(full_steps(settings) / 20))


def finetune(profile: Profile, name: str, seed: int, steps: int | None = None) -> TrainedModel:
    """The model after SFT on a training set, for all steps or a probe run's."""
    settings = profile.control
    size = settings.model_dump(include={"batch", "lr"})
    size |= settings.part.model_dump(include={"examples", "epochs"})
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
    tuned = finetune(profile, name, seed, steps)
    return _since(profile, performance.measure(profile, tuned, _questions(profile, name, asked)))


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
    """The change by a short run (of PROBES), on fewer questions."""
    settings = profile.control
    if kind == "probe run":
        return change(profile, name, seed, probe_steps(settings), settings.probe_questions)
    return quick_probe(profile, name, seed)


def quick_probe(profile: Profile, name: str, seed: int) -> pd.DataFrame:
    """The change by a tenth of the examples, in small batches at ten times the learning rate, with
    no warm-up: a step of AdamW is as long as its learning rate, whatever the batch."""
    settings, questions = (
        profile.control,
        _questions(profile, name, profile.control.probe_questions),
    )
    size = {"batch": sft.QUICK_BATCH, "micro_batch": sft.QUICK_BATCH, "epochs": 1}
    size |= {"lr": 10 * settings.lr, "examples": max(1, settings.part.examples // 10)}
    told = profile.sft.model_copy(update=size)
    chosen = examples(profile, name, seed)[: told.examples]

    def compute() -> pd.DataFrame:
        held.release()
        whole = models.load_model(profile.model, told.dtype, profile.revision)
        tokenizer, desc = samples.tokenizer(profile.model, profile.revision), f"probe {name}"
        sft.train_answers(whole.train(), tokenizer, told, chosen, told.lr, seed, desc, warmup=0)
        return options.option_likelihoods(whole.eval(), tokenizer, questions, desc=desc)

    recipe = {"model": profile.model, "revision": profile.revision, "sft": told.model_dump()}
    recipe |= {"seed": seed, "examples": store.digest([e.id for e in chosen])}
    recipe |= {"questions": store.digest([e.id for e in questions])}
    return _since(profile, store.frame("probe", recipe, compute))


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
            others = [other for other in settings.part.sets if other != name]
            free = [e for other in others for e in pools(profile)[other]]
            sizes = np.concatenate([_lengths(profile)[other] for other in others])
            match = partial(contrast.nearest, tokenizer, others=free, sizes=sizes)
        rng = random.Random(f"{context} {name} {seed}")
        shown = [[match(rng, e) for e in group] for group in shown]
    return samples.pairs(profile, asked[: settings.part.queries], shown)


@cache
def _lengths(profile: Profile) -> dict[str, np.ndarray]:
    """Set -> tokens of each of its examples."""
    tokenizer = samples.tokenizer(profile.model, profile.revision)
    return {name: contrast.lengths(tokenizer, pool) for name, pool in pools(profile).items()}


def extract_shift(profile: Profile, name: str, seed: int, context: str = "own") -> FeatureStats:
    """Features of a set's questions without and with demonstrations (for D_N, its contrast)."""
    asked = pairs(profile, name, seed, context)
    told = profile.control.model_dump(include={"contexts", "demonstrations"})
    told |= profile.control.part.model_dump(include={"examples", "queries"})
    told |= {"control": name, "seed": seed, "context": context}
    told["prompts"] = store.digest([icl.ids for _, icl in asked])

    def recipe(p):
        return features.settings_of(p, **told)

    desc = f"{name} {context} seed {seed}"
    return features.extract("features-control", [profile], recipe, lambda: asked, desc)


def extract_contexts(profile: Profile, name: str, seed: int) -> dict[str, FeatureStats]:
    """Context -> features of a set's questions under demonstrations from there."""
    return {context: extract_shift(profile, name, seed, context) for context in CONTEXTS}


# --- right and wrong answers -------------------------------------------------------------------


def extract_answers(profile: Profile, name: str, seed: int | None = None) -> FeatureStats:
    """Features of questions after demonstrations with wrong answers, then with the right ones: what
    is left of the shift is neither wording nor form. Of a training set and seed, or of a domain.

    Raises ValueError for demonstrations without options.
    """
    settings, part = profile.control, profile.control.part
    if seed is None:
        shown = by_domain(corpora.load(profile.demonstrations))[name]
        asked = samples.domain_queries(profile, name, 0)
    else:
        chosen = _with_options(profile, examples(profile, name, seed))
        asked, shown = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    told = settings.demonstrations, settings.contexts, seed or 0
    chosen, rng = prompts.choose_demonstrations(shown, *told), random.Random(f"wrong {name} {seed}")
    wrong = [[contrast.wrong(rng, e) for e in group] for group in chosen]
    right = [[contrast.right(e) for e in group] for group in chosen]
    asked = [contrast.right(e) for e in asked[: part.queries]]
    both = [samples.pairs(profile, asked, of) for of in (wrong, right)]
    pairs = [(a, b) for (_, a), (_, b) in zip(*both, strict=True)]
    recipe = {"answers": name, "seed": seed, "prompts": store.digest([b.ids for _, b in pairs])}
    recipe["wrong"] = store.digest([a.ids for a, _ in pairs])
    desc = f"{name}, right and wrong"
    return features.extract(
        "features-control",
        [profile],
        lambda p: features.settings_of(p, **recipe),
        lambda: pairs,
        desc,
    )


def _with_options(profile: Profile, chosen: list[Example]) -> list[Example]:
    """Examples as their corpus has them: training leaves the options out."""
    whole = {e.id: e for e in corpora.load(profile.domains)}
    return [whole[e.id] for e in chosen]


def gradients(profile: Profile, name: str, seed: int | None = None) -> dict[str, np.ndarray]:
    """Which way the answers pull the residual stream (evaluation/gradients.py): of a training set
    and seed, or of a domain's scored questions."""
    if seed is None:
        chosen = samples.domain_queries(profile, name, 0)
    else:
        whole = {e.id: e for e in corpora.load(profile.domains)}  # training leaves options out
        chosen = [
            whole[e.id] for e in examples(profile, name, seed)[: profile.control.part.queries]
        ]

    def compute() -> dict[str, np.ndarray]:
        hook, model = held.hook(profile), held.load_whole(profile)
        tokenizer = samples.tokenizer(profile.model, profile.revision)
        told = chosen, profile.layer, hook.sae, hook.sink_norm
        return answer_gradients(model, tokenizer, *told, desc=f"gradients {name}")

    recipe = features.settings_of(profile, examples=store.digest([e.id for e in chosen]))
    return store.arrays("gradients", recipe, compute)


# --- all of it ---------------------------------------------------------------------------------


def cell(profile: Profile, name: str, seed: int) -> None:
    """Fine-tune on a training set, evaluate, extract: what one row of the matrix needs."""
    change(profile, name, seed)
    for kind in PROBES:
        probe(profile, name, seed, kind)
    gradients(profile, name, seed)
    extract_contexts(profile, name, seed)
    behind = at(profile, "answer")
    extract_shift(behind, name, seed)
    extract_answers(behind, name, seed)


def at(profile: Profile, place: str) -> Profile:
    """The run that reads features at a place: the "query", or where its "answer" is to be."""
    return profile.model_copy(update={"place": place})


def steps(profile: Profile) -> list[Step]:
    """What the control computes: each part's domains, and a cell a training set and seed."""
    steps, gpus = [], engine.training_gpus(profile)
    for part in parts(profile).values():
        seeds, sets = part.control.part.seeds, part.control.part.sets
        steps.append(Step("evaluation", performance.measure, (part,), NOTEBOOK))
        for place in PLACES:
            of = plan.domains_of(at(part, place), seeds)
            steps += [step._replace(stage=NOTEBOOK) for step in of]
        for domain in corpora.domains(part.domains):
            read, of = (at(part, "answer"), domain), (part, domain)
            steps.append(Step("right and wrong answers", extract_answers, read, NOTEBOOK))
            steps.append(Step("gradients of the domains", gradients, of, NOTEBOOK))
        for seed in seeds:
            for name in sets:
                args = (part, name, seed)
                steps.append(Step("control, training sets", cell, args, NOTEBOOK, 1, gpus))
    return steps
