"""How well models do on each question before and after fine-tuning, each model once."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from sts_utils import corpora, models, store
from sts_utils import evaluate as options
from sts_utils import evaluate as written
from sts_utils import generate as generation
from sts_utils.config import Profile
from sts_utils.examples import Example, by_domain, digest
from sts_utils.runs import engine, recipes, samples
from sts_utils.runs import models as held
from sts_utils.runs.models import TrainedModel
from sts_utils.runs.samples import evaluation_questions


def measure(
    profile: Profile, model: TrainedModel | None = None, questions: Sequence[Example] | None = None
) -> pd.DataFrame:
    """Each question's performance before (None) or after fine-tuning, a row a question.

    Columns: domain, id and options.MEASURES. The questions are the profile's evaluation questions
    of all domains, if none are given.
    """
    if questions is None:
        asked = profile.evaluation.asked if model else None
        groups = evaluation_questions(profile).values()
        questions = [e for group in groups for e in group[:asked]]

    def compute():
        if profile.evaluation.mode == "generation":
            return _written_accuracy(profile, model, questions)
        desc = f"evaluate {model.key}" if model else "evaluate before"
        whole = held.load_whole(profile, model)
        return options.option_likelihoods(whole, _tokenizer(profile), questions, desc=desc)

    return store.frame("performance", _recipe(profile, model, questions), compute)


def _written_accuracy(profile: Profile, model: TrainedModel | None, questions) -> pd.DataFrame:
    """Accuracy of written chains of thought, by vLLM or transformers."""
    settings, tokenizer = profile.evaluation, _tokenizer(profile)
    if engine.uses_vllm(profile):
        held.release()
        folder = model.folder() if model else None
        generate = engine.generate(profile, folder, [written.STOP])
    else:
        whole = held.load_whole(profile, model)
        how = {"new_tokens": settings.max_new_tokens, "batch": 16, "special_tokens": True}
        generate = partial(generation.generate, whole, tokenizer, **how, stop=[written.STOP])
    shots = by_domain(corpora.in_order(profile.demonstrations))
    context = models.context_length(profile.model, profile.revision)
    return written.written_accuracy(generate, tokenizer, questions, shots, settings, context)


def measure_held_out(profile: Profile, model: TrainedModel | None = None) -> pd.DataFrame:
    """Log-likelihood of held-out training-set solutions before (None) or after fine-tuning."""
    examples = samples.training_examples(profile, 0)[1][: profile.evaluation.held_out]
    length = profile.sft.max_length

    def compute():
        whole = held.load_whole(profile, model)
        return options.solution_loglik(whole, _tokenizer(profile), examples, length)

    recipe = _recipe(profile, model, examples) | {"max_length": length}
    return store.frame("held-out", recipe, compute)


def measure_mathematics(profile: Profile, model: TrainedModel | None = None) -> pd.DataFrame:
    """`solve` before (None) or after fine-tuning."""
    if not profile.evaluation.mathematics:
        return measure_held_out(profile, model)
    examples = samples.mathematics(profile, profile.evaluation.held_out)
    recipe = _recipe(profile, model, examples) | mathematics(profile).recipe
    recipe |= {"max_length": profile.sft.max_length}
    return store.frame("mathematics", recipe, partial(solve, profile, examples, model))


def solve(profile: Profile, examples: Sequence[Example], model=None, whole=None) -> pd.DataFrame:
    """Mathematics: columns id, solution_loglik and, where answers are verified, accuracy.

    By the `whole` model given, or else by the untouched (None) or fine-tuned one.
    """
    tokenizer, whole = _tokenizer(profile), whole or held.load_whole(profile, model)
    frame = options.solution_loglik(whole, tokenizer, examples, profile.sft.max_length)
    if profile.evaluation.mathematics:
        from sts_utils import grpo

        tokens = profile.evaluation.max_new_tokens
        frame = frame.merge(grpo.accuracy(whole, tokenizer, examples, tokens), on="id")
    return frame


class Mathematics(NamedTuple):
    """How figures show mathematics: a column of `solve`, its name, unit, and what it is of."""

    column: str
    name: str
    unit: str
    of: str
    recipe: dict  # in the keys of what is computed


def mathematics(profile: Profile) -> Mathematics:
    """Verified answers to a corpus (the paper), or the likelihood of held-out solutions."""
    if not (corpus := profile.evaluation.mathematics):
        of = "held-out training-set solutions"
        return Mathematics("solution_loglik", "log-likelihood", "nats a token", of, {})
    told = corpus, corpora.content(corpus), profile.evaluation.max_new_tokens
    recipe = {"mathematics": told}
    return Mathematics("accuracy", "accuracy", "share", f"verified answers to {corpus}", recipe)


def _tokenizer(profile: Profile):
    return samples.tokenizer(profile.model, profile.revision)


def _recipe(profile: Profile, model: TrainedModel | None, questions: Sequence[Example]) -> dict:
    e, keys = profile.evaluation, ("model", "revision")
    told = {"dtype": e.dtype, "questions": digest(questions), "measures": options.MEASURES}
    told |= {"trained": model.key if model else None}
    if e.mode == "generation":
        keys += ("demonstrations",)
        told |= {"shots": e.shots, "max_new_tokens": e.max_new_tokens, "rule": e.rule}
        told |= {"engine": "vllm"} if engine.uses_vllm(profile) else {}
    return recipes.of(profile, *keys, **told)


# --- changes -----------------------------------------------------------------------------------


def after_sft(profile: Profile) -> dict[int, TrainedModel]:
    """Seed -> the model after SFT on the training set."""
    return {seed: held.finetune(profile, seed) for seed in profile.seeds}


def changes(profile: Profile, after: Mapping[int, TrainedModel] | None = None) -> pd.DataFrame:
    """Performance after − before, a row for each seed, domain, question and measure.

    `after`: the fine-tuned model of each seed; SFT on the training set if not given.
    """
    before, frames = measure(profile), []
    for seed, model in (after or after_sft(profile)).items():
        both = measure(profile, model)
        both = both.merge(before, on=["domain", "id"], suffixes=("_after", "_before"))
        for name in options.MEASURES:
            frame = both[["domain", "id"]].assign(seed=seed, measure=name)
            frame["before"], frame["after"] = both[f"{name}_before"], both[f"{name}_after"]
            frames.append(frame.assign(change=frame.after - frame.before))
    return pd.concat(frames, ignore_index=True)


def change_arrays(table: pd.DataFrame, measure: str, domains: Sequence[str]) -> list[np.ndarray]:
    """[D] arrays [S seeds, Q questions] of the change of a measure, from the table `changes`."""
    table = table[table.measure == measure]
    seeds = list(dict.fromkeys(table.seed))
    of = {domain: rows for domain, rows in table.groupby("domain")}
    wide = [of[d].pivot(index="seed", columns="id", values="change") for d in domains]
    return [values.loc[seeds].to_numpy() for values in wide]


def held_out(profile: Profile) -> pd.DataFrame:
    """Held-out solutions' log-likelihood, a row a question and seed; column `when`."""
    frames = [measure_held_out(profile).assign(when="before", seed=pd.NA)]
    for seed, model in after_sft(profile).items():
        frames.append(measure_held_out(profile, model).assign(when="after", seed=seed))
    return pd.concat(frames, ignore_index=True)
