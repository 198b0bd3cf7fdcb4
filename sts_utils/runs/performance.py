"""How well models do on each question before and after fine-tuning, each model once, and the changes."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sts_utils import models, stats, store
from sts_utils.config import Profile
from sts_utils.corpora import data
from sts_utils.engines import vllm as vllm_engine
from sts_utils.evaluation import options as evaluate
from sts_utils.evaluation import written as mmlu_pro
from sts_utils.examples import Example, by_domain
from sts_utils.method import score
from sts_utils.method.shift import ShiftedDims
from sts_utils.runs import samples, units
from sts_utils.runs.samples import evaluation_questions


def performance(
    profile: Profile, model: units.Trained | None = None, questions: Sequence[Example] | None = None
) -> pd.DataFrame:
    """Each question's performance before (None) or after fine-tuning (evaluate.performance).

    The questions are the profile's evaluation questions of all domains, if none are given.
    """
    if questions is None:
        asked = profile.evaluation.asked if model else None
        questions = [e for group in evaluation_questions(profile).values() for e in group[:asked]]

    def compute():
        label = f"evaluate {model.key}" if model else "evaluate before"
        if profile.evaluation.mode == "generation":
            return written_performance(profile, model, questions)
        return evaluate.performance(units.performing(profile, model), _tokenizer(profile), questions, desc=label)

    return store.frame("performance", _evaluation_recipe(profile, model, questions), compute)


def written_performance(profile: Profile, model: units.Trained | None, questions: Sequence[Example]) -> pd.DataFrame:
    """Accuracy of written chains of thought (mmlu_pro.performance), by vLLM or transformers."""
    settings, tokenizer = profile.evaluation, _tokenizer(profile)
    if profile.engine == "vllm":
        units.release()
        where = model.folder() if model else vllm_engine.checkpoint(profile.model, profile.revision)
        generate = vllm_engine.generate(
            where, settings.max_new_tokens, settings.dtype, special_tokens=True, stop=[mmlu_pro.STOP]
        )
    else:
        generate = mmlu_pro.transformers_generate(units.performing(profile, model), tokenizer, settings.max_new_tokens)
    shots = by_domain(data.load(profile.demonstrations))
    context = models.context_length(profile.model, profile.revision)
    return mmlu_pro.performance(generate, tokenizer, questions, shots, settings, context)


def held_out_performance(profile: Profile, model: units.Trained | None = None) -> pd.DataFrame:
    """Log-likelihood of held-out training-set solutions before (None) or after fine-tuning."""
    examples = samples.training_examples(profile, 0)[1][: profile.evaluation.held_out]

    def compute():
        whole = units.performing(profile, model)
        return evaluate.solution_loglik(whole, _tokenizer(profile), examples, profile.sft.max_length)

    recipe = _evaluation_recipe(profile, model, examples) | {"max_length": profile.sft.max_length}
    return store.frame("held-out", recipe, compute)


def _tokenizer(profile: Profile):
    return samples.tokenizer(profile.model, profile.revision)


def _evaluation_recipe(profile: Profile, model: units.Trained | None, questions: Sequence[Example]) -> dict:
    recipe = {
        "model": profile.model, "revision": profile.revision, "dtype": profile.evaluation.dtype,
        "questions": store.digest([e.id for e in questions]), "trained": model.key if model else None,
    }  # fmt: skip
    e = profile.evaluation
    written = {"shots": e.shots, "max_new_tokens": e.max_new_tokens, "rule": e.rule, "shown": profile.demonstrations}
    return recipe | (written if e.mode == "generation" else {})


def changes(profile: Profile, after: Mapping[int, units.Trained] | None = None) -> pd.DataFrame:
    """Performance after − before, a row for each seed, domain, question and measure.

    `after`: the fine-tuned model of each seed; SFT on the training set if not given.
    """
    after = after or {seed: units.finetuned(profile, seed) for seed in profile.seeds}
    before = performance(profile)
    frames = []
    for seed, model in after.items():
        both = performance(profile, model).merge(before, on=["domain", "id"], suffixes=("_after", "_before"))
        for measure in evaluate.MEASURES:
            frames.append(
                both[["domain", "id"]].assign(
                    seed=seed, measure=measure, before=both[f"{measure}_before"], after=both[f"{measure}_after"],
                    change=both[f"{measure}_after"] - both[f"{measure}_before"],
                )
            )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def change_arrays(profile: Profile, after: Mapping[int, units.Trained] | None = None) -> list[np.ndarray]:
    """Change of the profile's measure: for each domain, [S seeds, Q questions]."""
    table = changes(profile, after)
    table = table[table.measure == profile.evaluation.measure]
    seeds = list(after or profile.seeds)
    return [
        table[table.domain == d].pivot(index="seed", columns="id", values="change").loc[seeds].to_numpy()
        for d in evaluation_questions(profile)
    ]


def observations(
    profile: Profile, after: Mapping[int, units.Trained] | None = None, chosen: Mapping[int, ShiftedDims] | None = None
) -> dict[str, stats.Observations]:
    """Metric -> what its correlation with the change is computed from.

    `after` as in `changes`; `chosen`: the dims of each seed on which domains are scored, D_N if not given.
    """
    domains, changed = tuple(evaluation_questions(profile)), change_arrays(profile, after)
    found = {}
    for metric in score.METRICS:
        parts = [units.score_parts(profile, metric, seed, chosen and chosen[seed]) for seed in after or profile.seeds]
        sums, tokens = ([[p[d][side] for d in domains] for p in parts] for side in (0, 1))
        found[metric] = stats.ratio_of_sums(domains, sums, tokens, changed)
    return found


def held_out(profile: Profile) -> pd.DataFrame:
    """Held-out solutions' log-likelihood before and after, a row a question and seed; column `when`."""
    frames = [held_out_performance(profile).assign(when="before", seed=pd.NA)]
    for seed in profile.seeds:
        frames.append(held_out_performance(profile, units.finetuned(profile, seed)).assign(when="after", seed=seed))
    return pd.concat(frames, ignore_index=True)
