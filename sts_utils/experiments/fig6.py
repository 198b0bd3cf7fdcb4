"""Fig 6: reinforcement learning, what it shifts and what demonstrations find of that."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from sts_utils import results, store
from sts_utils.config import Profile
from sts_utils.method import shift
from sts_utils.method.extract import FeatureStats
from sts_utils.method.score import PAPER_SCORES
from sts_utils.results import PALETTE, SAE_COLOUR, Claim, Result
from sts_utils.runs import features, models, samples
from sts_utils.runs.models import TrainedModel
from sts_utils.runs.plan import Step, demonstrated, measured
from sts_utils.runs.run import Run
from sts_utils.stats import Estimate


class Numbers(NamedTuple):
    """What reinforcement learning (RL) shifts, and what demonstrations find of it."""

    overlap: dict[str, Estimate]  # "SFT", "RL" -> of estimated and actual dims
    r: dict[str, dict[str, Estimate]]  # "estimated", "actual" dims -> metric -> r after RL
    accuracy: pd.DataFrame  # as `accuracy` returns it
    shown: dict[str, Estimate]  # whose answers are shown -> overlap with what RL moved
    verified: tuple[int, int]  # how many of the sampled answers were correct, of how many


def compute(run: Run) -> Numbers:
    """Overlaps and correlations of the model after GRPO on verifiable mathematics, first seed."""
    profile, seed = run.profile, run.profile.seeds[0]
    rl = run.trained_on(profile.grpo.train).with_models({seed: reinforced(profile)})
    overlap = {"SFT": run.overlap(), "RL": rl.overlap()}
    actual = [shift.shifted_dims(rl.actual[0], profile.top_n, profile.definition)]
    r = {"estimated": rl.correlations(), "actual": rl.correlations(actual)}
    shown, train = {"ground truth": overlap["RL"]}, own_answers(profile)
    if train is not None:
        own = Run(rl.profile, rl.after)
        own.train, own.actual = [train], rl.actual
        shown["rollouts"] = own.overlap()
        shown["difference"] = shown["rollouts"] - shown["ground truth"]
    asked = min(features.ROLLOUTS, len(samples.training_examples(rl.profile, seed)[0]))
    verified = len(features.rollouts(rl.profile, seed)), asked
    return Numbers(overlap, r, accuracy(profile), shown, verified)


def steps(profile: Profile) -> list[Step]:
    """GRPO and what it changed, and the model's own answers as demonstrations."""
    run, seed = samples.trained_on(profile, profile.grpo.train), profile.seeds[0]
    tuned = Step("GRPO", reinforced, (profile,), "04_finetune")
    return [
        tuned,
        Step("GRPO accuracy", accuracy, (profile,), "04_finetune", 1),
        *demonstrated(run, seed),
        *measured(run, tuned, seed),
        Step("rollouts", own_answers, (profile,), "06_plot"),
    ]


def reinforced(profile: Profile) -> TrainedModel:
    """The model after GRPO on the profile's verifiable mathematics, first seed."""
    seed, run = profile.seeds[0], samples.trained_on(profile, profile.grpo.train)

    def train(out: Path) -> pd.DataFrame:
        from sts_utils.training import grpo  # TRL takes seconds to import

        examples, checkpoint = (
            samples.training_examples(run, seed)[0],
            run.sft.gradient_checkpointing,
        )
        return grpo.grpo(run.model, run.revision, run.grpo, examples, seed, out, checkpoint)

    held_out = profile.shift.held_out
    recipe = {"grpo": profile.grpo.model_dump(), "held_out": held_out, "seed": seed}
    return models.train_once(profile, recipe, train)


def accuracy(profile: Profile) -> pd.DataFrame:
    """Greedy accuracy on held-out questions before and after RL; columns id, accuracy, when."""
    run, after = samples.trained_on(profile, profile.grpo.train), reinforced(profile)
    examples = samples.training_examples(run, 0)[1][: profile.evaluation.held_out]

    def compute() -> pd.DataFrame:
        from sts_utils.training import grpo

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


def fig6(numbers: Numbers, run: Run) -> tuple[Figure, str]:
    """Overlap of estimated and actual dims for SFT and RL, and r for RL with either."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.0, 2.6), width_ratios=[2, 3])
    of = list(numbers.overlap.values())
    look = {"capsize": 3, "color": [SAE_COLOUR, PALETTE[4]], "width": 0.6}
    left.bar([0, 1], [e.value for e in of], yerr=results.bars(of), **look)
    left.set_xticks([0, 1], list(numbers.overlap))
    left.set(ylabel=f"overlap of the top {run.profile.top_n}", ylim=(0, 1), title="a")
    results.r_points(right, {f"{which} dims": r for which, r in numbers.r.items()})
    right.set(ylabel="r with |change|, RL", title="b")
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    g, solved = run.profile.grpo, numbers.accuracy.groupby("when").accuracy.mean()
    said = [f"overlap {name} {e}" for name, e in numbers.overlap.items()]
    said += [f"{m} {which} {e}" for which, row in numbers.r.items() for m, e in row.items()]
    return figure, (
        f"Fig 6. Reinforcement learning: GRPO on {g.train} ({g.steps} steps of {g.prompts} "
        f"questions with {g.generations} completions, learning rate {g.lr:g}; greedy accuracy on "
        f"{numbers.accuracy.id.nunique()} held-out questions {solved['before']:.0%} before, "
        f"{solved['after']:.0%} after). a: overlap of the dims that ground-truth demonstrations "
        "find with those that training moved (SFT on its own training set, all seeds). b: r over "
        "domains of STS on either dims with the absolute change after GRPO, one seed. "
        f"{'; '.join(said)}. The paper: overlap lower for RL; r low with estimated dims, high with "
        "actual ones."
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
        f"({correct} of {asked} were{short}); `difference` is paired. Not in the paper, which "
        "names it as an open problem."
    )


def claims(numbers: Numbers, run: Run) -> Iterator[Claim]:
    """Demonstrations find less of what RL shifts; with what it did shift, STS predicts again."""
    gap = numbers.overlap["SFT"] - numbers.overlap["RL"]
    yield Claim("fig6", "estimated dims overlap less for RL", "overlap, SFT minus RL", gap)
    for metric in PAPER_SCORES:
        statistic = f"{metric}: r with actual minus r with estimated dims"
        gap = numbers.r["actual"][metric] - numbers.r["estimated"][metric]
        yield Claim("fig6", "actual dims restore the correlation for RL", statistic, gap)


OWN = "Reinforcement learning: the model's own answers as demonstrations"
RESULTS = (Result(fig6, "Fig 6: reinforcement learning"), Result(rollouts, OWN, "table"))
