"""What is read of the positive control's training sets and domains before any training."""

import random

import numpy as np

from sts_utils import corpora, models, prompts, store
from sts_utils import generate as generation
from sts_utils.config import Profile
from sts_utils.control import sets
from sts_utils.examples import Example, by_domain, digest
from sts_utils.features import FeatureStats, tokens_read
from sts_utils.prompts import Prompt
from sts_utils.runs import features, samples
from sts_utils.runs import models as held
from sts_utils.runs.gradients import answer_gradients

#: Which tokens are read: the query's, or those between it and its answer.
PLACES = ("query", "answer")


def at(profile: Profile, place: str) -> Profile:
    """The run that reads features at one of PLACES."""
    return profile.model_copy(update={"place": place})


# --- features under demonstrations -------------------------------------------------------------


def pairs(profile: Profile, name: str, seed: int) -> list[tuple[Prompt, Prompt]]:
    """(plain, icl) prompts: half of a set's examples are asked, half are demonstrations."""
    settings, chosen = profile.control, sets.examples(profile, name, seed)
    asked, pool = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    shown = prompts.choose_demonstrations(pool, settings.demonstrations, settings.contexts, seed)
    return samples.pairs(profile, asked[: settings.part.queries], shown)


def extract_shift(profile: Profile, name: str, seed: int) -> FeatureStats:
    """Features of a set's questions without and with demonstrations (for D_N)."""
    asked = pairs(profile, name, seed)
    told = profile.control.model_dump(include={"contexts", "demonstrations"})
    told |= profile.control.part.model_dump(include={"examples", "queries"})
    told |= {"control": name, "seed": seed}
    told["prompts"] = store.digest([icl.ids for _, icl in asked])
    recipe, desc = features.settings_of(profile, **told), f"{name} seed {seed}"
    return features.extract("features-control", [profile], lambda _: recipe, lambda: asked, desc)


# --- right and wrong answers -------------------------------------------------------------------


def extract_answers(profile: Profile, name: str, seed: int | None = None) -> FeatureStats:
    """Features of questions after demonstrations with wrong answers, then with the right ones: what
    is left of the shift is neither wording nor form. Of a training set and seed, or of a domain."""
    pairs = answer_pairs(profile, name, seed)
    told = {"answers": name, "seed": seed, "prompts": store.digest([b.ids for _, b in pairs])}
    told["wrong"] = store.digest([a.ids for a, _ in pairs])
    recipe, desc = features.settings_of(profile, **told), f"{name}, right and wrong"
    return features.extract("features-control", [profile], lambda _: recipe, lambda: pairs, desc)


def answer_pairs(
    profile: Profile, name: str, seed: int | None = None
) -> list[tuple[Prompt, Prompt]]:
    """(wrong, right) prompts of a training set and seed, or of a domain."""
    settings, part = profile.control, profile.control.part
    if seed is None:
        shown = by_domain(corpora.load(profile.demonstrations))[name]
        asked = samples.domain_queries(profile, name, 0)
    else:
        chosen = _with_options(profile, sets.examples(profile, name, seed))
        asked, shown = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    told = settings.demonstrations, settings.contexts, seed or 0
    shown, rng = prompts.choose_demonstrations(shown, *told), random.Random(f"wrong {name} {seed}")
    return samples.answer_pairs(profile, asked[: part.queries], shown, rng)


def cost(profile: Profile, name: str, seed: int) -> float:
    """What `extract_answers` reads of a training set, of what fine-tuning on it computes: tokens ×
    blocks, a backward pass as two forward ones."""
    tokens = tokens_read(answer_pairs(profile, name, seed))
    tokenizer = samples.tokenizer(profile.model, profile.revision)
    length = profile.sft.max_length
    rows = generation.tokenize(tokenizer, sets.examples(profile, name, seed), length)
    trained = profile.control.part.epochs * sum(len(row["input_ids"]) for row in rows)
    depth = models.depth(profile.model, profile.revision)
    return tokens * (profile.layer + 1) / (3 * trained * depth)


def _with_options(profile: Profile, chosen: list[Example]) -> list[Example]:
    """Examples as their corpus has them: training leaves the options out."""
    whole = {e.id: e for e in corpora.load(profile.domains)}
    return [whole[e.id] for e in chosen]


def gradients(profile: Profile, name: str, seed: int | None = None) -> dict[str, np.ndarray]:
    """Which way the answers pull the residual stream (runs/gradients.py): of a training set
    and seed, or of a domain's scored questions."""
    if seed is None:
        chosen = samples.domain_queries(profile, name, 0)
    else:
        wanted = profile.control.part.queries
        chosen = _with_options(profile, sets.examples(profile, name, seed)[:wanted])

    def compute() -> dict[str, np.ndarray]:
        hook, model = held.hook(profile), held.load_whole(profile)
        tokenizer = samples.tokenizer(profile.model, profile.revision)
        told = chosen, profile.layer, hook.sae, hook.sink_norm
        return answer_gradients(model, tokenizer, *told, desc=f"gradients {name}")

    told = {"examples": digest(chosen), "gradient": profile.evaluation.dtype}
    recipe = features.settings_of(profile, **told)
    return store.arrays("gradients", recipe, compute)
