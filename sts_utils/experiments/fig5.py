"""Fig 5, Table 10: SFT with extra data of the domain that SFT moves most, and of the least."""

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sts_utils import generation, results, stats, store
from sts_utils.config import Profile
from sts_utils.examples import Example
from sts_utils.method import score, shift
from sts_utils.results import PALETTE, SHORT_NAMES, STYLES, Claim, Result, paper
from sts_utils.runs import engine, features, models, performance, plan, samples
from sts_utils.runs.models import TrainedModel
from sts_utils.runs.plan import Step
from sts_utils.runs.run import Run
from sts_utils.stats import Estimate

#: The mixtures; `sizes` says how many extra examples each has.
MIXTURES = ("none", "all least", "half", "all most", "STS")


class Numbers(NamedTuple):
    """The most and the least affected domain; mixture -> extra examples of each; mixture ->
    domain, or "mathematics" -> change against the untouched model."""

    domains: tuple[str, str]
    extra: dict[str, tuple[int, int]]
    gains: dict[str, dict[str, Estimate]]


def compute(run: Run) -> Numbers:
    """Change of performance by each mixture."""
    domains, extra = mixtures(run.profile)
    return Numbers(domains, extra, gains(evaluate_mixtures(run.profile), domains))


def steps(profile: Profile) -> list[Step]:
    """The untouched model's answers, a fine-tuning on each mixture, and what it changed."""
    kind = "fine-tuning on mixtures"
    trained = [plan.training(kind, train_mixture, profile, name, after=3) for name in MIXTURES]
    answers = Step("mixture answers", write_answers, (profile,), "04_finetune", 2)
    measured = Step("evaluation of mixtures", evaluate_mixtures, (profile,), "05_evaluate", 4)
    return [answers, *trained, measured]


# --- which domains, and how much of each --------------------------------------------------------


@cache
def mixtures(profile: Profile) -> tuple[tuple[str, str], dict[str, tuple[int, int]]]:
    """(most, least) affected domain, and mixture -> extra examples of each."""
    changes = performance.changes(profile)
    changes = changes[changes.measure == profile.evaluation.measure]
    names, settings, seed = samples.evaluation_questions(profile), profile.mixture, profile.seeds[0]
    pools = {d: [e.id for e in samples.halves(profile, d)[0]] for d in names}
    domains = affected(changes, pools, settings.extra)
    train, definition = features.extract_train(profile, seed), profile.definition
    dims = shift.shifted_dims(train, profile.top_n, definition)
    read = [features.extract_domain(profile, domain, seed) for domain in domains]
    return domains, sizes(settings.extra, *(score.sts_icl(of, dims, definition) for of in read))


def affected(
    changes: pd.DataFrame, pools: Mapping[str, Collection[str]], extra: int
) -> tuple[str, str]:
    """(most, least) affected domain by the measured change on questions for training.

    `changes`: columns id, change. `pools`: domain -> ids of its questions for training; domains
    with fewer than `extra` are left out. Raises ValueError where fewer than two are left.
    """
    moved = {}
    for domain, ids in pools.items():
        known = changes[changes.id.isin(ids)]
        if len(ids) >= extra and len(known):
            moved[domain] = abs(known.change.mean())
    if len(moved) < 2:
        raise ValueError(
            f"mixture.extra is {extra}, but fewer than two domains have as many questions for "
            "training"
        )
    return max(moved, key=moved.get), min(moved, key=moved.get)


def sizes(extra: int, sts_most: float, sts_least: float) -> dict[str, tuple[int, int]]:
    """Mixture -> extra examples of the (most, least) affected domain, by their STS_ICL in "STS"."""
    of_most = {"none": 0, "all least": 0, "half": extra // 2, "all most": extra}
    of_most["STS"] = round(extra * sts_most / (sts_most + sts_least))
    return {name: (n, extra - n if name != "none" else 0) for name, n in of_most.items()}


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

    recipe = {"model": profile.model, "revision": revision, "tokens": tokens}
    recipe |= {"dtype": profile.evaluation.dtype, "ids": [e.id for e in questions]}
    answers = store.frame("answers", recipe, compute).set_index("id").answer
    return [replace(e, solution=answers[e.id] or e.answer) for e in questions]


def train_mixture(profile: Profile, name: str) -> TrainedModel:
    """The model after SFT on the training set and a mixture's extra examples, first seed."""
    seed, settings, sft = profile.seeds[0], profile.mixture, profile.sft
    domains, extra = mixtures(profile)

    def train(out: Path) -> pd.DataFrame:
        examples = samples.training_examples(profile, seed)[0][: settings.examples]
        for answers, n in zip(write_answers(profile), extra[name], strict=True):
            examples = examples + answers[:n]
        random.Random(seed).shuffle(examples)
        return engine.sft(profile, sft, examples, seed, out)

    recipe = {"train": profile.train, "sft": sft.model_dump(), "seed": seed}
    recipe |= {"held_out": profile.shift.held_out, "mixture": settings.model_dump()}
    return models.train_once(profile, recipe | {"domains": domains, "extra": extra[name]}, train)


def evaluate_mixtures(profile: Profile) -> pd.DataFrame:
    """Change against the untouched model, a row a mixture and question.

    Columns: mixture, domain, id, change: of the profile's measure on the test halves of the two
    domains, and of the log-likelihood a token of held-out solutions (domain "mathematics").
    """
    domains, _ = mixtures(profile)
    halves = (samples.halves(profile, domain)[1] for domain in domains)
    tests = [e for half in halves for e in half[: profile.mixture.questions]]

    def measured(model: TrainedModel | None = None) -> pd.Series:
        asked = performance.measure(profile, model, tests).set_index(["domain", "id"])
        solved = performance.measure_held_out(profile, model).assign(domain="mathematics")
        solved = solved.set_index(["domain", "id"]).solution_loglik
        return pd.concat([asked[profile.evaluation.measure], solved])

    before = measured()
    after = {name: measured(train_mixture(profile, name)) - before for name in MIXTURES}
    return pd.concat(after, names=["mixture"]).rename("change").reset_index()


def gains(table: pd.DataFrame, domains: Sequence[str]) -> dict[str, dict[str, Estimate]]:
    """Mixture -> domain, and "mathematics" -> mean of `table`'s changes, with draws of questions
    that are the same for every mixture."""
    estimates = {name: {} for name in dict.fromkeys(table.mixture)}
    for stream, domain in enumerate(("mathematics", *domains)):
        wide = table[table.domain == domain].pivot(index="id", columns="mixture", values="change")
        for name, of in estimates.items():
            values = wide[name].to_numpy()
            of[domain] = Estimate(float(values.mean()), stats.mean_draws(values[None], stream))
    return estimates


# --- drawn --------------------------------------------------------------------------------------


def fig5(numbers: Numbers, run: Run) -> tuple[Figure, str]:
    """Change of the most and least affected domain by the mixture trained on."""
    (most, least), extra, of = numbers
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 2.6), sharey=True)
    settings = run.profile.mixture
    for side, domain in enumerate(numbers.domains):
        axis = axes[side]
        names = sorted(("all least", "half", "all most"), key=lambda name: extra[name][side])
        x = [extra[name][side] for name in names]
        colour, marker = STYLES.get(domain, (PALETTE[side], "oD"[side]))
        look = {"label": domain, "color": colour, "fmt": marker}
        _points(axis, x, [of[name][domain] for name in names], **look)
        axis.set(title=domain, xlabel=f"of {settings.extra} extra examples, from it")
        axis.set_xticks(x)
        x = np.array([0, 1]) + 0.1 * (side - 0.5)
        _points(axes[2], x, [of[name][domain] for name in ("none", "STS")], **look)
    axes[2].set_xticks([0, 1], ["none", f"STS split\n{extra['STS'][0]}:{extra['STS'][1]}"])
    axes[2].set(title="no extra data, STS split", xlim=(-0.5, 1.5))
    names = axes[2].get_legend_handles_labels()
    figure.legend(*names, frameon=False, loc="outside upper center", ncols=2)
    axes[0].set_ylabel(f"change of {SHORT_NAMES[run.profile.evaluation.measure]}")
    said = "; ".join(
        f"{name} {extra[name]}: {_in_points(row[most])}, {_in_points(row[least])}"
        for name, row in of.items()
    )
    return figure, (
        f"Fig 5. Change against the untouched model on test halves of {most} (most affected by "
        f"SFT, measured on other questions) and {least} (least) after SFT on {settings.examples} "
        f"training examples and {settings.extra} extra ones with answers sampled from the "
        "untouched model at temperature 1; one seed, intervals over questions. (extra of "
        f"{most}, of {least}): change of {most}, of {least} in points: {said}. The paper: "
        "engineering gains much, law little, the STS split is balanced."
    )


def _points(axis: Axes, x: Sequence[float], of: Sequence[Estimate], **look) -> None:
    y, bars = 100 * np.array([e.value for e in of]), 100 * results.bars(of)
    axis.errorbar(x, y, yerr=bars, capsize=2, ls="-", lw=1, **look)
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)


def _in_points(e: Estimate) -> str:
    return f"{100 * e.value:+.1f} [{100 * e.low:+.1f}, {100 * e.high:+.1f}]"


def table10(numbers: Numbers, run: Run) -> tuple[pd.DataFrame, str]:
    """Mathematics before, after SFT, after SFT on STS-guided data."""
    theirs = paper("table10_math_accuracy").set_index("condition").accuracy_percent
    ours = {"sft_limo": "none", "sft_sts_guided_mixture": "STS"}
    rows = [{"condition": "before_sft", "value": 0.0, "paper accuracy, %": theirs["before_sft"]}]
    for condition, name in ours.items():
        cells = results.numbers(numbers.gains[name]["mathematics"])
        rows.append({"condition": condition, **cells, "paper accuracy, %": theirs[condition]})
    return pd.DataFrame(rows), (
        "Table 10. Mathematics: change of the log-likelihood a token (nats) of held-out solutions "
        "against the untouched model, after SFT on the training set alone and with extra data in "
        "the ratio of STS; one seed."
    )


def claims(numbers: Numbers, run: Run) -> Iterator[Claim]:
    """Extra data helps where STS is high, its ratio balances, and mathematics is kept."""
    (most, least), _, of = numbers
    by_most, by_least = (of[f"all {side}"] for side in ("most", "least"))
    helped = (by_most[most] - of["none"][most]) - (by_least[least] - of["none"][least])
    words = f"gain of {most} by its extra data minus gain of {least} by its own"
    yield Claim("fig5", "extra data helps the high-STS domain more", words, helped)

    def apart(row: Mapping[str, Estimate]) -> Estimate:
        gap = row[most] - row[least]
        return Estimate(abs(gap.value), np.abs(gap.draws))

    ends = [apart(by_most), apart(by_least)]
    value = float(np.mean([e.value for e in ends]))
    one_sided = Estimate(value, np.mean([e.draws for e in ends], axis=0))
    words = "distance between their changes: one-sided mixtures minus STS split"
    balanced = one_sided - apart(of["STS"])
    yield Claim("fig5", "the STS split balances the two domains", words, balanced)
    words = "log-likelihood a token after it minus before any training"
    kept = of["STS"]["mathematics"]
    yield Claim("table10", "mathematics is kept with STS-guided data", words, kept)


RESULTS = (
    Result(fig5, "Fig 5: extra training data by domain"),
    Result(table10, "Table 10: mathematics after STS-guided data", "table"),
)
