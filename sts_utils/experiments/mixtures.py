"""SFT with extra data of the domain of highest STS_ICL, and of the lowest (Fig 5, Table 10).

A mixture's model is (mixed, seed, ends, extra examples of each end): mixtures of the same sizes,
as the STS split and the half may be, are one model.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from sts_utils import generate, questions, run, stats
from sts_utils.cache import cached
from sts_utils.config import Profile
from sts_utils.examples import Example
from sts_utils.measured import Run
from sts_utils.stats import Estimate

NAMES = ("none", "all low", "half", "all high", "STS")
POOLS = (*run.MODEL, "domains", "demonstrations", "evaluation.dtype")
POOLS += ("mixture.extra", "mixture.answer_tokens")

# --- which domains, and how much of each ---------------------------------------------------------


def mixtures(measured: Run) -> tuple[tuple[str, str], dict[str, tuple[int, int]]]:
    """(high-STS, low-STS) domain, and mixture -> extra examples of each; no outcome is read."""
    p, scores, extra = measured.profile, measured.scores, measured.profile.mixture.extra
    sts = scores[scores.metric == "sts_icl"].groupby("domain").value.mean().to_dict()
    high, low = ends(sts, {d: len(questions.halves(p, d)[0]) for d in sts}, extra)
    return (high, low), sizes(extra, sts[high], sts[low])


def ends(sts: Mapping[str, float], pools: Mapping[str, int], extra: int) -> tuple[str, str]:
    """The domains of the highest and of the lowest score among those with questions enough.

    `pools`: domain -> how many questions for training it has; those with fewer than `extra` are
    left out. Raises ValueError where fewer than two are left.
    """
    known = {domain: value for domain, value in sts.items() if pools[domain] >= extra}
    if len(known) < 2:
        few = "fewer than two domains have as many questions for training"
        raise ValueError(f"mixture.extra is {extra}, but {few}")
    return max(known, key=known.get), min(known, key=known.get)


def sizes(extra: int, sts_high: float, sts_low: float) -> dict[str, tuple[int, int]]:
    """Mixture -> extra examples of the (high-STS, low-STS) domain, in the ratio of the two scores
    in "STS"; a ratio within one example of "half" is the half."""
    half, split = extra // 2, round(extra * sts_high / (sts_high + sts_low))
    of_high = {"none": 0, "all low": 0, "half": half, "all high": extra}
    of_high["STS"] = half if abs(split - half) <= 1 else split
    return {name: (n, extra - n if name != "none" else 0) for name, n in of_high.items()}


# --- answers, training and evaluation ------------------------------------------------------------


def pool(p: Profile, domain: str) -> list[Example]:
    """A domain's questions for training, those that are answered."""
    return questions.halves(p, domain)[0][: p.mixture.extra]


@cached(*POOLS)
def answered(p: Profile, domain: str) -> pd.DataFrame:
    """Answers to `pool` sampled from the untouched model, as the paper has it: id, answer."""
    examples, tokens = pool(p, domain), p.mixture.answer_tokens
    asked, how = [e.query for e in examples], {"temperature": 1.0, "desc": f"{domain} answers"}
    written = generate.completions(run.whole(p), questions.tokenizer(p), asked, tokens, **how)
    return pd.DataFrame({"id": [e.id for e in examples], "answer": written})


def with_answers(p: Profile, domain: str) -> list[Example]:
    """`pool` with these answers as solutions; with the gold one where the model wrote nothing."""
    answers = answered(p, domain).set_index("id").answer
    return [replace(e, solution=answers[e.id] or e.answer) for e in pool(p, domain)]


@cached(*POOLS, "train", "sft", "shift.held_out", "mixture.examples", folder=True)
def mixed(p: Profile, seed: int, ends: tuple, extra: tuple, *, out: Path) -> None:
    """The model after SFT on the training set and `extra` examples of each of `ends`."""
    examples = questions.training_examples(p, seed)[0][: p.mixture.examples]
    for domain, n in zip(ends, extra, strict=True):
        examples = examples + with_answers(p, domain)[:n]
    random.Random(seed).shuffle(examples)
    run.sft(p, p.sft, examples, seed, out)


def measure(p: Profile, ends: Sequence[str], model: run.Model = None) -> pd.Series:
    """(domain, id) -> the profile's measure on the test halves of `ends`, and mathematics (as
    `run.mathematics`; domain "mathematics"), of the model after a mixture, or untouched."""
    halves = (questions.halves(p, domain)[1] for domain in ends)
    tests = tuple(e for half in halves for e in half[: p.mixture.questions])
    asked = run.performance(p, model, None, tests).set_index(["domain", "id"])
    solved = run.mathematics(p, model).assign(domain="mathematics").set_index(["domain", "id"])
    return pd.concat([asked[p.evaluation.measure], solved[run.mathematics_measure(p)[0]]])


def evaluated(p: Profile, name: str | None) -> pd.Series:
    """`measure` of one of NAMES (None: of the untouched model), trained now if it is missing."""
    ends_, extra = mixtures(Run(p))
    return measure(p, ends_, name and (mixed, p.seeds[0], ends_, extra[name]))


# --- changes -------------------------------------------------------------------------------------


def gains(
    changes: pd.DataFrame, domains: Sequence[str], templates: Mapping[str, str]
) -> dict[str, dict[str, Estimate]]:
    """Mixture -> domain, and "mathematics" -> mean change against the untouched model, with draws
    of questions that are the same for every mixture.

    `changes`: columns mixture, domain, id, change. `templates`: id -> template; a template's
    questions are drawn together.
    """
    estimates = {name: {} for name in dict.fromkeys(changes.mixture)}
    for stream, domain in enumerate(("mathematics", *domains)):
        rows = changes[changes.domain == domain]
        wide = rows.pivot(index="id", columns="mixture", values="change")
        groups = [templates.get(i, i) for i in wide.index]
        for name, of in estimates.items():
            values = wide[name].to_numpy()
            drawn = stats.mean_draws(values[None], stream, groups)
            of[domain] = Estimate(float(values.mean()), drawn)
    return estimates


def apart(gap: Estimate) -> Estimate:
    """The squared distance of a gap from 0, without what noise adds to a square: once to the
    estimate's, twice to a draw's."""
    noise = gap.draws.var()
    return Estimate(gap.value**2 - noise, gap.draws**2 - 2 * noise)


def balance(gains: Mapping[str, Mapping[str, Estimate]], ends: Sequence[str]) -> Estimate:
    """Squared distance between the changes of the two `ends`: mean of the one-sided mixtures,
    minus that of the STS split."""
    high, low = ends
    names = ("all high", "all low", "STS")
    *sides, split = [apart(gains[name][high] - gains[name][low]) for name in names]
    value, draws = (np.mean([getattr(e, k) for e in sides], axis=0) for k in ("value", "draws"))
    return Estimate(float(value), draws) - split
