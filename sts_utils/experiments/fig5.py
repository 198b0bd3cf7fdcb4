"""Fig 5, Table 10: SFT with extra data of the domain of highest STS_ICL, and of the lowest."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sts_utils import generate as generation
from sts_utils import results, stats, store
from sts_utils.config import Profile
from sts_utils.examples import Example, digest
from sts_utils.results import PALETTE, SHORT_NAMES, STYLES, Claim, Result, paper
from sts_utils.runs import engine, models, performance, plan, recipes, samples
from sts_utils.runs.models import TrainedModel
from sts_utils.runs.plan import Step
from sts_utils.runs.run import Run
from sts_utils.stats import Estimate

#: The mixtures; `sizes` says how many extra examples each has.
MIXTURES = ("none", "all low", "half", "all high", "STS")


class Numbers(NamedTuple):
    """The high-STS and the low-STS domain; mixture -> extra examples of each; mixture -> domain,
    or "mathematics" -> change against the untouched model."""

    domains: tuple[str, str]
    extra: dict[str, tuple[int, int]]
    gains: dict[str, dict[str, Estimate]]


def compute(run: Run) -> Numbers:
    """Change of performance by each mixture."""
    domains, extra = mixtures(run.profile)
    return Numbers(domains, extra, gains(evaluate_mixtures(run.profile), domains, run.templates))


def steps(profile: Profile) -> list[Step]:
    """The untouched model's answers, a fine-tuning on each mixture, and what it changed."""
    kind = "fine-tuning on mixtures"
    # last the STS split: where it is the half, it is found in the store
    rounds = {name: 3 if name == "STS" else 2 for name in MIXTURES}
    trained = [plan.training(kind, train_mixture, profile, n, after=r) for n, r in rounds.items()]
    answers = Step("mixture answers", write_answers, (profile,), "04_finetune", 1)
    measured = [
        Step("evaluation of mixtures", measure_mixture, (profile, *of), "05_evaluate", after)
        for of, after in [((), 1), *(((name,), r + 1) for name, r in rounds.items())]
    ]
    return [answers, *trained, *measured]


# --- which domains, and how much of each --------------------------------------------------------


@cache
def mixtures(profile: Profile) -> tuple[tuple[str, str], dict[str, tuple[int, int]]]:
    """(high-STS, low-STS) domain, and mixture -> extra examples of each; no outcome is read."""
    scores, extra = Run(profile).scores, profile.mixture.extra
    sts = scores[scores.metric == "sts_icl"].groupby("domain").value.mean().to_dict()
    high, low = ends(sts, {d: len(samples.halves(profile, d)[0]) for d in sts}, extra)
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


# --- answers, training and evaluation: in the store ----------------------------------------------


def write_answers(profile: Profile) -> list[list[Example]]:
    """`answered` of both domains."""
    return [answered(profile, domain) for domain in mixtures(profile)[0]]


def answered(profile: Profile, domain: str) -> list[Example]:
    """Training-half questions of a domain with answers sampled from the untouched model, as the
    paper has it."""
    tokens, revision = profile.mixture.answer_tokens, profile.revision
    questions = samples.halves(profile, domain)[0][: profile.mixture.extra]

    def compute() -> pd.DataFrame:
        whole, asked = models.load_whole(profile), [e.query for e in questions]
        tokenizer = samples.tokenizer(profile.model, revision)
        how = {"temperature": 1.0, "desc": f"{domain} answers"}
        written = generation.completions(whole, tokenizer, asked, tokens, **how)
        return pd.DataFrame({"id": [e.id for e in questions], "answer": written})

    told = {"tokens": tokens, "dtype": profile.evaluation.dtype, "questions": digest(questions)}
    recipe = recipes.of(profile, "model", "revision", **told)
    answers = store.frame("answers", recipe, compute).set_index("id").answer
    return [replace(e, solution=answers[e.id] or e.answer) for e in questions]


def train_mixture(profile: Profile, name: str) -> TrainedModel:
    """The model after SFT on the training set and a mixture's extra examples, first seed."""
    seed, settings = profile.seeds[0], profile.mixture
    domains, extra = mixtures(profile)

    def train(out: Path) -> pd.DataFrame:
        examples = samples.training_examples(profile, seed)[0][: settings.examples]
        for answers, n in zip(write_answers(profile), extra[name], strict=True):
            examples = examples + answers[:n]
        random.Random(seed).shuffle(examples)
        return engine.sft(profile, profile.sft, examples, seed, out)

    sizes_ = settings.model_dump(include={"examples", "extra", "answer_tokens"})
    told = {"seed": seed, "held_out": profile.shift.held_out, "mixture": sizes_}
    told |= {"dtype": profile.evaluation.dtype, "ends": domains, "extra": extra[name]}
    return models.train_once(profile, train, "train", "sft", "domains", "demonstrations", **told)


def measure_mixture(profile: Profile, name: str | None = None) -> pd.Series:
    """(domain, id) -> the profile's measure on the test halves of the two domains, and mathematics
    (performance.mathematics; domain "mathematics"), of the model after a mixture, or untouched."""
    model = train_mixture(profile, name) if name else None
    halves = (samples.halves(profile, domain)[1] for domain in mixtures(profile)[0])
    tests = [e for half in halves for e in half[: profile.mixture.questions]]
    asked = performance.measure(profile, model, tests).set_index(["domain", "id"])
    solved = performance.measure_mathematics(profile, model).assign(domain="mathematics")
    solved = solved.set_index(["domain", "id"])[performance.mathematics(profile).column]
    return pd.concat([asked[profile.evaluation.measure], solved])


def evaluate_mixtures(profile: Profile) -> pd.DataFrame:
    """Change against the untouched model, a row a mixture and question: columns mixture, domain,
    id, change."""
    before = measure_mixture(profile)
    after = {name: measure_mixture(profile, name) - before for name in MIXTURES}
    return pd.concat(after, names=["mixture"]).rename("change").reset_index()


def gains(
    table: pd.DataFrame, domains: Sequence[str], templates: Mapping[str, str]
) -> dict[str, dict[str, Estimate]]:
    """Mixture -> domain, and "mathematics" -> mean of `table`'s changes, with draws of questions
    that are the same for every mixture."""
    estimates = {name: {} for name in dict.fromkeys(table.mixture)}
    for stream, domain in enumerate(("mathematics", *domains)):
        wide = table[table.domain == domain].pivot(index="id", columns="mixture", values="change")
        groups = [templates.get(i, i) for i in wide.index]
        for name, of in estimates.items():
            values = wide[name].to_numpy()
            drawn = stats.mean_draws(values[None], stream, groups)
            of[domain] = Estimate(float(values.mean()), drawn)
    return estimates


# --- drawn --------------------------------------------------------------------------------------


def fig5(numbers: Numbers, run: Run) -> tuple[Figure, str]:
    """Change of the high-STS and the low-STS domain by the mixture trained on."""
    (high, low), extra, of = numbers
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 2.8), sharey=True)
    settings, same = run.profile.mixture, extra["STS"] == extra["half"]
    for side, domain in enumerate(numbers.domains):
        axis = axes[side]
        names = sorted(("all low", "half", "all high"), key=lambda name: extra[name][side])
        x = [extra[name][side] for name in names]
        kind, own = ("high-STS", "low-STS")[side], (PALETTE[side], "oD"[side])
        colour, marker = STYLES.get(domain, own)
        look = {"label": f"{domain} ({kind})", "color": colour, "fmt": marker}
        _points(axis, x, [of[name][domain] for name in names], **look)
        without = 100 * of["none"][domain].value
        axis.axhline(without, color=colour, ls=":")
        axis.set(xlabel=f"examples of {domain}\namong {settings.extra} extra ones")
        axis.set_xticks(x)
        x = np.array([0, 1]) + 0.1 * (side - 0.5)
        _points(axes[2], x, [of[name][domain] for name in ("none", "STS")], ls="", **look)
    split = "{}:{}".format(*extra["STS"])
    axes[2].set_xticks([0, 1], ["no extra", f"STS split\n{'= half, ' if same else ''}{split}"])
    axes[2].set(xlim=(-0.5, 1.5))
    for axis, title in zip(axes, "abc", strict=True):
        axis.set_title(title)
    axes[2].plot([], [], color="0.3", ls=":", label="no extra examples")
    names = axes[2].get_legend_handles_labels()
    figure.legend(*names, frameon=False, loc="outside upper center", ncols=3)
    axes[0].set_ylabel(f"change of\n{SHORT_NAMES[run.profile.evaluation.measure]}")
    by_own = zip((high, low), ("all high", "all low"), strict=True)
    own = [f"{d} by {of[name][d] - of['none'][d]}" for d, name in by_own]
    return figure, (
        f"Fig 5. {high} and {low} (highest and lowest STS_ICL), test halves, after SFT on "
        f"{settings.examples} training and {settings.extra} extra examples (c: split by STS) that "
        "the untouched model answered; one seed, 95% over questions. Against no extra 'all of its "
        f"own' moves {' and '.join(own)}. The paper: engineering gains much, law little."
    )


def _points(axis: Axes, x: Sequence[float], of: Sequence[Estimate], ls: str = "-", **look) -> None:
    y, bars = 100 * np.array([e.value for e in of]), 100 * results.bars(of)
    axis.errorbar(x, y, yerr=bars, capsize=2, ls=ls, lw=1, **look)
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)


def table10(numbers: Numbers, run: Run) -> tuple[pd.DataFrame, str]:
    """Mathematics before, after SFT, after SFT on STS-guided data."""
    theirs = paper("table10_math_accuracy").set_index("condition").accuracy_percent
    train, of = run.profile.train, numbers.gains
    alone, mixed = (of[name]["mathematics"] for name in ("none", "STS"))
    ours = {
        "before SFT": {"value": 0.0},
        f"SFT on {train}": results.numbers(alone),
        f"SFT on {train} and the STS split": results.numbers(mixed),
    }
    rows = [
        {"condition": name, **cells, "the paper's condition": their, "its accuracy, %": accuracy}
        for (name, cells), (their, accuracy) in zip(ours.items(), theirs.items(), strict=True)
    ]
    rows.append({"condition": "difference of the two", **results.numbers(mixed - alone)})
    how = performance.mathematics(run.profile)
    return pd.DataFrame(rows), (
        f"Table 10. Change of the {how.name} of {how.of} ({how.unit}) "
        "against the untouched model, after SFT on the training set alone and with extra data in "
        "the ratio of STS; one seed, 95% intervals over questions, the difference paired."
    )


def claims(numbers: Numbers, run: Run) -> Iterator[Claim]:
    """Extra data helps where STS is high, its ratio balances, and mathematics is kept."""
    (high, low), _, of = numbers
    by_high, by_low = of["all high"], of["all low"]
    helped = (by_high[high] - of["none"][high]) - (by_low[low] - of["none"][low])
    words = f"gain of {high} by its extra data minus gain of {low} by its own"
    yield Claim("fig5", "extra data helps the high-STS domain more", words, helped)
    ends = [apart(row[high] - row[low]) for row in (by_high, by_low)]
    value, draws = (np.mean([getattr(e, k) for e in ends], axis=0) for k in ("value", "draws"))
    words = "squared distance between their changes: one-sided mixtures minus STS split"
    balanced = Estimate(float(value), draws) - apart(of["STS"][high] - of["STS"][low])
    yield Claim("fig5", "the STS split balances the two domains", words, balanced)
    how = performance.mathematics(run.profile)
    words = f"{how.name} after it minus before any training"
    kept = of["STS"]["mathematics"]
    yield Claim("table10", "mathematics is kept with STS-guided data", words, kept)


def apart(gap: Estimate) -> Estimate:
    """The squared distance of a gap from 0, without what noise adds to a square: once to the
    estimate's, twice to a draw's."""
    noise = gap.draws.var()
    return Estimate(gap.value**2 - noise, gap.draws**2 - 2 * noise)


RESULTS = (
    Result(fig5, "Fig 5: extra training data by domain"),
    Result(table10, "Table 10: mathematics after STS-guided data", "table"),
)
