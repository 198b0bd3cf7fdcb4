"""Features of a run's questions, each corpus and condition once: extracted, or read from the store.

`extract_…(profile, …)` is the artifact if it is in the store, and is computed otherwise.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from sts_utils import features as method
from sts_utils import features as released
from sts_utils import generate as generation
from sts_utils import models, prompts, store
from sts_utils.config import Profile
from sts_utils.corpora import contrast
from sts_utils.examples import Example
from sts_utils.features import FeatureStats
from sts_utils.runs import engine, recipes, samples
from sts_utils.runs import models as held
from sts_utils.runs.models import TrainedModel

#: Training questions that the untouched model answers, to find verified answers of its own.
ROLLOUTS = 192


def extract_train(profile: Profile, seed: int, also: Sequence[Profile] = ()) -> FeatureStats:
    """Features of training questions without and with training demonstrations (for D_N).

    `also`: the same run read through other SAEs, stored from the same forward pass.
    """

    def recipe(p):
        return settings_of(p, "train", "shift", "alignment", seed=seed, **shown_recipe(p, seed))

    def pairs():
        shown = rollouts(profile, seed) if profile.shown == "rollouts" else None
        return samples.training_pairs(profile, seed, shown)

    if profile.alignment == "stream":
        return _stored("features-train", recipe(profile), lambda: _stream(profile, pairs()))
    desc = f"{profile.train} seed {seed}"
    return extract("features-train", [profile, *also], recipe, pairs, desc)


def extract_prose(profile: Profile, seed: int) -> FeatureStats:
    """Features of the same training questions without and with prose in context, each passage as
    long as the demonstration it stands for: what any context moves."""

    def pairs():
        shown, (train, asked) = profile.shift, samples.training_examples(profile, seed)
        pool = samples.fitting(profile, train, shown.demonstrations)
        sets = prompts.choose_demonstrations(pool, shown.demonstrations, shown.sets, seed)
        tokenizer = samples.tokenizer(profile.model, profile.revision)
        rng = random.Random(f"prose {seed}")
        passages = [[contrast.prose(tokenizer, rng, e) for e in group] for group in sets]
        return samples.pairs(profile, asked[: shown.queries], passages)

    told = {"seed": seed, "passages": store.digest(contrast.passages())}
    recipe = settings_of(profile, "train", "shift", "alignment", **told)
    if profile.alignment == "stream":
        return _stored("features-prose", recipe, lambda: _stream(profile, pairs()))
    return extract("features-prose", [profile], lambda _: recipe, pairs, f"prose seed {seed}")


def extract_domain(
    profile: Profile, domain: str, seed: int, also: Sequence[Profile] = ()
) -> FeatureStats:
    """Features of a domain's questions without and with its demonstrations (for STS)."""

    def recipe(p):
        more = {"seed": seed, "domain": domain, "questions": p.evaluation.questions}
        return settings_of(p, "domains", "demonstrations", "sts", **more)

    def pairs():
        return samples.domain_pairs(profile, domain, seed)

    return extract("features-domain", [profile, *also], recipe, pairs, f"{domain} seed {seed}")


def extract_actual(profile: Profile, seed: int, model: TrainedModel | None = None) -> FeatureStats:
    """Features of the same plain training questions before and after fine-tuning."""
    model = model or held.finetune(profile, seed)

    def pairs():
        return [(plain, plain) for plain, _ in samples.training_pairs(profile, seed)]

    recipe = settings_of(profile, "train", "shift", seed=seed, trained=model.key)
    desc = f"after training, seed {seed}"
    return extract("features-actual", [profile], lambda _: recipe, pairs, desc, model)


def extract_domain_after(profile: Profile, domain: str, seed: int) -> FeatureStats:
    """Residual stream of a domain's plain questions in the fine-tuned model (one SAE feature)."""
    model = held.finetune(profile, seed)

    def compute():
        pairs = [(plain, plain) for plain, _ in samples.domain_pairs(profile, domain, seed)]
        tuned, one = held.backbone(profile, model.folder()), np.array([0])
        how = {"features": one, "desc": f"{domain} after SFT, seed {seed}"}
        return method.feature_stats(pairs, tuned, [held.hook(profile)], **how)[0]

    more = {"questions": profile.evaluation.questions, "trained": model.key, "domain": domain}
    recipe = settings_of(profile, "domains", "demonstrations", "sts", **more, seed=seed)
    return _stored("residual-after", recipe, compute)


def settings_of(profile: Profile, *sections: str, **more) -> dict:
    """The recipe of what is read of prompts: model, SAE and the sections named."""
    place = ("place",) if profile.place != "query" else ()
    keys = ("model", "revision", "layer", "sae", "dtype", *sections, *place)
    return recipes.of(profile, *keys, **more)


def extract(
    name: str,
    profiles: Sequence[Profile],
    recipe: Callable[[Profile], dict],
    pairs: Callable,
    desc: str | None,
    after: TrainedModel | None = None,
) -> FeatureStats:
    """Statistics of the first profile; of all profiles (SAEs) what is missing is stored too, from
    one forward pass. `after`: condition b is this model."""

    def extracted(of: Sequence[Profile]) -> list[FeatureStats]:
        deepest = max(of, key=lambda p: p.layer)
        if engine.uses_vllm(deepest) and after is None:  # it holds one model at a time
            hooks = [held.hook(p) for p in of]
            held.release(engines=False)
            return engine.feature_stats(deepest, pairs(), hooks, desc)
        engine.close()
        hooks = [held.hook(p) for p in of]
        other = held.backbone(deepest, after.folder()) if after else None
        model = held.backbone(deepest)
        return method.feature_stats(pairs(), model, hooks, other_model=other, desc=desc)

    own = {"engine": "vllm"} if engine.uses_vllm(profiles[0]) and after is None else {}
    recipes_of = {p: recipe(p) | own for p in profiles}
    missing = [p for p, told in recipes_of.items() if not store.path(name, told).exists()]
    for p, made in zip(missing, extracted(missing) if missing else (), strict=True):
        _stored(name, recipes_of[p], lambda made=made: made)
    # computed again only if it is damaged
    return _stored(name, recipes_of[profiles[0]], lambda: extracted(profiles[:1])[0])


def _stored(name: str, recipe: dict, compute: Callable[[], FeatureStats]) -> FeatureStats:
    return FeatureStats.from_arrays(store.arrays(name, recipe, lambda: compute().arrays()))


def _stream(profile: Profile, pairs) -> FeatureStats:
    """The released code's alignment: whole prompts with generated tokens, row by row."""
    settings, written = profile.shift, {}
    if settings.generated_tokens:
        whole = models.load_model(profile.model, profile.dtype, profile.revision)
        tokenizer = samples.tokenizer(profile.model, profile.revision)
        flat = [prompt for pair in pairs for prompt in pair]
        written = released.continuations(whole, tokenizer, flat, settings.generated_tokens)
    model, hook = held.backbone(profile), held.hook(profile)
    return released.stream_stats(pairs, model, hook, settings.stream_rows, written)


# --- the model's own answers -------------------------------------------------------------------


def rollouts(profile: Profile, seed: int) -> list[Example]:
    """Training questions with the untouched model's own sampled answers, verified correct."""
    pool = samples.training_examples(profile, seed)[0][:ROLLOUTS]
    settings = profile.grpo

    def compute():
        from sts_utils import grpo

        whole, asked = held.load_whole(profile), [e.query for e in pool]
        tokenizer = samples.tokenizer(profile.model, profile.revision)
        how = {"temperature": settings.temperature, "seed": seed, "desc": "rollouts"}
        written = generation.completions(whole, tokenizer, asked, settings.completion_tokens, **how)
        correct = [bool(grpo.reward(w, e.answer)) for w, e in zip(written, pool, strict=True)]
        return pd.DataFrame({"id": [e.id for e in pool], "solution": written, "correct": correct})

    table = store.frame("rollouts", _rollout_recipe(profile, seed), compute).set_index("id")
    return [replace(e, solution=table.solution[e.id]) for e in pool if table.correct[e.id]]


def shown_recipe(profile: Profile, seed: int) -> dict:
    """What the demonstrations of D_N depend on beside the training set."""
    if profile.shown == "ground_truth":
        return {}
    return {"shown": profile.shown, "rollouts": _rollout_recipe(profile, seed)}


def _rollout_recipe(profile: Profile, seed: int) -> dict:
    told = {"seed": seed, "dtype": profile.evaluation.dtype, "questions": ROLLOUTS}
    told |= {"tokens": profile.grpo.completion_tokens, "temperature": profile.grpo.temperature}
    told |= {"held_out": profile.shift.held_out}
    return recipes.of(profile, "model", "revision", "train", **told)
