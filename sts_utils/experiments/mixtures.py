"""SFT on mixtures with the most and the least affected domain (Fig 5, Table 10)."""

import random
from dataclasses import replace
from functools import cache

import pandas as pd

from sts_utils import generation, stats, store
from sts_utils.config import Profile
from sts_utils.examples import Example
from sts_utils.runs import performance as performances
from sts_utils.runs import engine, samples, units
from sts_utils.runs.units import Trained
from sts_utils.stats import Estimate


def affected(profile: Profile) -> tuple[str, str]:
    """(most, least) affected domain by the measured change on questions for training, of those with enough."""
    wanted = profile.mixture.extra
    table = performances.changes(profile)
    table = table[table.measure == profile.evaluation.measure]
    moved = {}
    for domain in samples.evaluation_questions(profile):
        training, _ = samples.halves(profile, domain)
        known = table[table.id.isin({e.id for e in training})]
        if len(training) >= wanted and len(known):
            moved[domain] = abs(known.change.mean())
    if len(moved) < 2:
        raise ValueError(f"mixture.extra is {wanted}, but fewer than two domains have as many questions for training")
    return max(moved, key=moved.get), min(moved, key=moved.get)


def sts_split(profile: Profile) -> tuple[int, int]:
    """Extra examples of the (most, least) affected domain in the ratio of their STS_ICL, first seed."""
    parts = units.score_parts(profile, "sts_icl", profile.seeds[0])
    most, least = (parts[d][0].sum() / parts[d][1].sum() for d in affected(profile))
    share = round(profile.mixture.extra * most / (most + least))
    return share, profile.mixture.extra - share


def sizes(profile: Profile) -> dict[str, tuple[int, int]]:
    """Name -> extra examples of the (most, least) affected domain."""
    extra = profile.mixture.extra
    half = extra // 2
    fixed = {"none": (0, 0), "all least": (0, extra), "half": (half, extra - half), "all most": (extra, 0)}
    return fixed | {"STS": sts_split(profile)}


def answered(profile: Profile, domain: str) -> list[Example]:
    """Training-half questions of a domain with answers sampled from the untouched model, as the paper has it."""
    settings = profile.mixture
    questions = samples.halves(profile, domain)[0][: settings.extra]

    def compute():
        written = generation.completions(
            units.performing(profile), samples.tokenizer(profile.model, profile.revision),
            [e.query for e in questions], settings.answer_tokens, temperature=1.0, desc=f"{domain} answers",
        )  # fmt: skip
        return pd.DataFrame({"id": [e.id for e in questions], "answer": written})

    recipe = {"model": profile.model, "revision": profile.revision, "tokens": settings.answer_tokens}
    recipe["dtype"] = profile.evaluation.dtype
    found = store.frame("answers", recipe | {"ids": [e.id for e in questions]}, compute).set_index("id").answer
    return [replace(e, solution=found[e.id] or e.answer) for e in questions]


def mixed(profile: Profile, extra: tuple[int, int]) -> Trained:
    """The model after SFT on the training set and `extra` examples of the two domains."""
    seed, settings = profile.seeds[0], profile.mixture
    domains = affected(profile)

    def train(out):
        examples = samples.training_examples(profile, seed)[0][: settings.examples]
        for domain, n in zip(domains, extra, strict=True):
            examples = examples + answered(profile, domain)[:n]
        random.Random(seed).shuffle(examples)
        return engine.sft(profile, profile.sft, examples, seed, out)

    recipe = {
        "train": profile.train, "sft": profile.sft.model_dump(), "held_out": profile.shift.held_out, "seed": seed,
        "mixture": settings.model_dump(), "domains": domains, "extra": extra,
    }  # fmt: skip
    return units.trained(profile, recipe, train)


@cache
def changes(profile: Profile) -> dict[str, dict[str, Estimate]]:
    """Mixture -> change against the untouched model: of each domain's measure on its test half, and of the
    log-likelihood a token of held-out mathematics ("mathematics")."""
    domains = affected(profile)
    tests = [e for d in domains for e in samples.halves(profile, d)[1][: profile.mixture.questions]]
    measure = profile.evaluation.measure
    before, mathematics = performances.performance(profile, None, tests), performances.held_out_performance(profile)
    found = {}
    for name, extra in sizes(profile).items():
        model = mixed(profile, extra)
        after = performances.performance(profile, model, tests).set_index("id")
        change = (after[measure] - before.set_index("id")[measure]).groupby(before.set_index("id").domain)
        found[name] = {d: _mean(change.get_group(d).sort_index(), 1 + i) for i, d in enumerate(domains)}
        both = performances.held_out_performance(profile, model).set_index("id") - mathematics.set_index("id")
        found[name]["mathematics"] = _mean(both.solution_loglik.sort_index(), 0)
    return found


def _mean(values: pd.Series, stream: int) -> Estimate:
    """Mean over questions; the same questions have the same `stream` of draws."""
    return Estimate(float(values.mean()), stats.mean_draws(values.to_numpy()[None], stream))
