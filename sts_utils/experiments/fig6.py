"""Fig 6: reinforcement learning (RL), what it shifts and what demonstrations find of that."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sts_utils import results, store
from sts_utils import scores as shift
from sts_utils.config import Profile
from sts_utils.features import FeatureStats
from sts_utils.results import CHANCE_COLOUR, PALETTE, SAE_COLOUR, Claim, Result
from sts_utils.runs import engine, features, models, samples
from sts_utils.runs.models import TrainedModel
from sts_utils.runs.plan import Step, demonstrated, measured, training
from sts_utils.runs.run import Run
from sts_utils.scores import PAPER_SCORES
from sts_utils.stats import Correlation, Estimate


class Numbers(NamedTuple):
    """What the main SFT, SFT on RL's training set and RL by GRPO shift, and what demonstrations
    find of it; "main SFT", "SFT" and "GRPO" below."""

    overlap: dict[str, Estimate]  # each of the three -> of estimated and actual dims
    moved: dict[str, float]  # each of the three -> its total shift, Σ_j E (Δh_j)²
    shared: float  # overlap of the actual dims of SFT and of GRPO
    # "SFT", "GRPO" -> "estimated", "actual" dims -> metric -> r
    r: dict[str, dict[str, dict[str, Correlation]]]
    accuracy: pd.DataFrame  # as `accuracy` returns it
    shown: dict[str, Estimate]  # whose answers are shown -> overlap with what GRPO moved
    verified: tuple[int, int]  # how many of the sampled answers were correct, of how many
    length: tuple[float, float]  # mean tokens of GRPO's completions, first and last step


def compute(run: Run) -> Numbers:
    """Overlaps and correlations of the models after GRPO and after SFT on the same set, first
    seed; those of SFT and GRPO are of the same questions and so paired."""
    profile, seed = run.profile, run.profile.seeds[0]
    sft = Run(supervised(profile))
    rl = sft.with_models({seed: reinforced(profile)})
    rl.train, rl.domains = sft.train, sft.domains
    runs = {"main SFT": run, "SFT": sft, "GRPO": rl}
    overlap = {name: of.overlap() for name, of in runs.items()}
    sums = {name: [shift.shift(after).sum() for after in of.actual] for name, of in runs.items()}
    moved = {name: float(np.mean(of)) for name, of in sums.items()}
    r = {name: correlations(runs[name]) for name in ("SFT", "GRPO")}
    shared = shift.overlap(
        *(shift.shifted_dims(of.actual[0], None) for of in (sft, rl)), profile.top_n
    )
    shown, train = {"ground truth": overlap["GRPO"]}, own_answers(profile)
    if train is not None:
        own = Run(rl.profile, rl.after)
        own.train, own.actual = [train], rl.actual
        shown["rollouts"] = own.overlap()
        shown["difference"] = shown["rollouts"] - shown["ground truth"]
    asked = min(features.ROLLOUTS, len(samples.training_examples(rl.profile, seed)[0]))
    verified = len(features.rollouts(rl.profile, seed)), asked
    solved, tokens = accuracy(profile), models.training_logs({"GRPO": rl.after[seed]}).length
    ends = float(tokens.iloc[0]), float(tokens.iloc[-1])
    return Numbers(overlap, moved, shared, r, solved, shown, verified, ends)


def correlations(run: Run) -> dict[str, dict[str, Correlation]]:
    """ "estimated", "actual" dims -> metric -> r."""
    n, definition = run.profile.top_n, run.profile.definition
    actual = [shift.shifted_dims(of, n, definition) for of in run.actual]
    return {"estimated": run.correlations(), "actual": run.correlations(actual)}


def steps(profile: Profile) -> list[Step]:
    """GRPO, SFT on its training set, what they changed, and the model's own answers as
    demonstrations."""
    run, seed = samples.trained_on(profile, profile.grpo.train), profile.seeds[0]
    like, kind = supervised(profile), f"fine-tuning on {profile.grpo.train}"
    rl = Step("GRPO", reinforced, (profile,), "04_finetune")
    sft = training(kind, models.finetune, like, seed)
    solved = Step("GRPO accuracy", accuracy, (profile,), "04_finetune", 1)
    changed = [*measured(run, rl, seed), *measured(like, sft, seed)]
    own = Step("rollouts", own_answers, (profile,), "06_plot")
    return [rl, sft, solved, *demonstrated(run, seed), *changed, own]


# --- trained and answered: in the store ----------------------------------------------------------


def supervised(profile: Profile) -> Profile:
    """The run that fine-tunes on GRPO's training set as GRPO does: as many steps, at the same
    learning rate and precision.

    A step reads as many questions as GRPO's, each with its solution in place of the sampled
    completions: with more, SFT would learn from questions that GRPO has not.
    """
    g, run = profile.grpo, samples.trained_on(profile, profile.grpo.train)
    size = {"examples": g.steps * g.prompts, "epochs": 1, "batch": g.prompts}
    size |= {"micro_batch": math.gcd(g.prompts, run.sft.micro_batch), "lr": g.lr, "dtype": g.dtype}
    return run.model_copy(update={"sft": run.sft.model_copy(update=size)})


def reinforced(profile: Profile) -> TrainedModel:
    """The model after GRPO on the profile's verifiable mathematics, first seed."""
    seed, run = profile.seeds[0], samples.trained_on(profile, profile.grpo.train)
    asked = profile.grpo.steps * profile.grpo.prompts  # those that `supervised` learns from

    def train(out: Path) -> pd.DataFrame:
        return engine.grpo(run, samples.training_examples(run, seed)[0][:asked], seed, out)

    told = {"held_out": run.shift.held_out, "seed": seed, "questions": asked}
    told |= {"sampler": "vllm"} if engine.uses_vllm(run) else {}
    return models.train_once(run, train, "train", "grpo", **told)


def accuracy(profile: Profile) -> pd.DataFrame:
    """Greedy accuracy on held-out questions before and after RL; columns id, accuracy, when."""
    run, after = samples.trained_on(profile, profile.grpo.train), reinforced(profile)
    examples = samples.training_examples(run, 0)[1][: profile.evaluation.held_out]

    def compute() -> pd.DataFrame:
        from sts_utils import grpo

        tokenizer, frames = samples.tokenizer(profile.model, profile.revision), []
        for when, model in (("before", None), ("after", after)):
            whole = models.load_whole(profile, model)
            frame = grpo.accuracy(whole, tokenizer, examples, profile.grpo.completion_tokens)
            frames.append(frame.assign(when=when))
        return pd.concat(frames, ignore_index=True)

    e = profile.evaluation
    recipe = {"trained": after.key, "questions": e.held_out, "dtype": e.dtype}
    return store.frame("accuracy", recipe, compute)


def own_answers(profile: Profile) -> FeatureStats | None:
    """Features of the verifiable training set with the untouched model's own answers, those that
    are correct, as demonstrations; None where they are too few to show."""
    run, seed = samples.trained_on(profile, profile.grpo.train), profile.seeds[0]
    if len(features.rollouts(run, seed)) < run.shift.demonstrations:
        return None
    return features.extract_train(run.model_copy(update={"shown": "rollouts"}), seed)


# --- drawn ---------------------------------------------------------------------------------------


def fig6(numbers: Numbers, run: Run) -> tuple[Figure, str]:
    """Overlap of estimated and actual dims, and r with either, for SFT and RL."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.0, 2.9))
    of, g = list(numbers.overlap.values()), run.profile.grpo
    look = {"capsize": 3, "color": [SAE_COLOUR, SAE_COLOUR, PALETTE[4]], "width": 0.6}
    bars = left.bar(range(len(of)), [e.value for e in of], yerr=results.bars(of), **look)
    bars[0].set_alpha(0.5)  # on another set, with other steps
    corpora = (run.profile.train, g.train, g.train)
    labels = [
        f"{name} on\n{corpus}\nshift {float(f'{numbers.moved[name]:.3g}'):,g}"
        for name, corpus in zip(numbers.overlap, corpora, strict=True)
    ]
    left.set_xticks(range(len(of)), labels)
    left.set(ylabel=f"overlap of the top {run.profile.top_n}", ylim=(0, 1), title="a")
    chance = run.profile.top_n / len(run.train[0].features)
    left.axhline(chance, color=CHANCE_COLOUR, ls="--", lw=0.8)
    rows = {f"{name}\n{dims}": r for name, of in numbers.r.items() for dims, r in of.items()}
    results.r_points(right, rows)
    right.set(xlabel="dims", title="b")
    right.legend(frameon=False, loc="lower right", ncols=2)
    solved = numbers.accuracy.groupby("when").accuracy.mean()
    sure = [f"{of['actual'][PAPER_SCORES[0]].reliability:.2f}" for of in numbers.r.values()]
    return figure, (
        f"Fig 6. {g.steps} steps of {g.prompts} {g.train} questions, one seed (pale: main SFT). "
        f"GRPO: accuracy {solved['before']:.0%}, then {solved['after']:.0%}; completions "
        f"{numbers.length[0]:.0f}, then {numbers.length[1]:.0f} tokens. a: overlap of estimated "
        "and actual dims (dashed: chance); Σ squared shifts. b: r; reliability of the change "
        f"{sure[0]} (SFT), {sure[1]} (GRPO). The paper: overlap lower for RL; r low with estimated "
        "dims, high with actual ones."
    )


def rl_and_sft(numbers: Numbers, run: Run) -> tuple[pd.DataFrame, str]:
    """Total shift, overlap and r of SFT and GRPO on the same training set, and SFT minus GRPO."""
    g, n = run.profile.grpo, run.profile.top_n
    pairs = {f"overlap at {n}": [numbers.overlap[name] for name in ("SFT", "GRPO")]}
    for dims in ("estimated", "actual"):
        for metric in PAPER_SCORES:
            of = [numbers.r[name][dims][metric] for name in ("SFT", "GRPO")]
            pairs[f"r of {metric}, {dims} dims"] = of
    rows = [{"statistic": "total squared shift"} | {n: numbers.moved[n] for n in ("SFT", "GRPO")}]
    for statistic, (sft, rl) in pairs.items():
        gap = sft - rl
        row = {"statistic": statistic, "SFT": sft.value, "GRPO": rl.value, "SFT − GRPO": gap.value}
        sure = getattr(gap, "reliability", np.nan)
        rows.append(row | {"low": gap.low, "high": gap.high, "reliability": sure})
    return pd.DataFrame(rows), (
        f"Reinforcement learning and SFT on the same set: {g.train}, {g.steps} steps of "
        f"{g.prompts} questions, learning rate {g.lr:g}. Differences are paired: 95% over "
        "questions for the overlap, over domains for r. Reliability: of the less reliable change. "
        "Total squared shift: of each feature, summed. They share "
        f"{numbers.shared:.0%} of the top {n} that they moved. Not in the paper."
    )


def rollouts(numbers: Numbers, run: Run) -> tuple[pd.DataFrame, str]:
    """Overlap of D_N with what GRPO moved, by whose answers are shown."""
    rows = [
        {"demonstrations": whose, "overlap": e.value, "low": e.low, "high": e.high}
        for whose, e in numbers.shown.items()
    ]
    correct, asked = numbers.verified
    short = "" if "rollouts" in numbers.shown else ", too few to show"
    return pd.DataFrame(rows), (
        f"Reinforcement learning: overlap at N = {run.profile.top_n} of D_N with the features that "
        f"GRPO on {run.profile.grpo.train} moved, with ground-truth demonstrations in context and "
        "with the untouched model's own sampled answers that are verified correct "
        f"({correct} of {asked} were{short}); `difference` is paired. Not in the paper."
    )


def claims(numbers: Numbers, run: Run) -> Iterator[Claim]:
    """Demonstrations find less of what RL shifts; with what it did shift, STS predicts again."""
    gap, g = numbers.overlap["SFT"] - numbers.overlap["GRPO"], run.profile.grpo
    words = f"overlap, SFT minus GRPO, {g.steps} steps on {g.train} each"
    yield Claim("fig6", "estimated dims overlap less for RL", words, gap)
    of = numbers.r["GRPO"]
    for metric in PAPER_SCORES:
        words = f"{metric}: r with actual minus r with estimated dims, GRPO"
        gap = of["actual"][metric] - of["estimated"][metric]
        yield Claim("fig6", "actual dims restore the correlation for RL", words, gap)


OWN = "Reinforcement learning: the model's own answers as demonstrations"
RESULTS = (
    Result(fig6, "Fig 6: reinforcement learning"),
    Result(rl_and_sft, "Reinforcement learning and SFT on the same set", "table"),
    Result(rollouts, OWN, "table"),
)
