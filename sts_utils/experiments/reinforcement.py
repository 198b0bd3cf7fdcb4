"""The shift of reinforcement learning, and what demonstrations find of it (Fig 6)."""

from functools import cache

import pandas as pd

from sts_utils import store
from sts_utils.config import Profile
from sts_utils.experiments import comparisons, overlap
from sts_utils.method import shift
from sts_utils.runs import samples, units
from sts_utils.runs.units import Trained
from sts_utils.stats import Estimate


def trained(profile: Profile) -> Trained:
    """The model after GRPO on the profile's verifiable mathematics, first seed."""
    seed, run = profile.seeds[0], samples.trained_on(profile, profile.grpo.train)

    def train(out):
        from sts_utils.training import grpo as reinforce

        pool, checkpointing = samples.training_examples(run, seed)[0], run.sft.gradient_checkpointing
        return reinforce.grpo(run.model, run.revision, run.grpo, pool, seed, out, checkpointing)

    recipe = {"grpo": profile.grpo.model_dump(), "held_out": profile.shift.held_out, "seed": seed}
    return units.trained(profile, recipe, train)


@cache
def estimates(profile: Profile) -> dict[str, Estimate]:
    """Overlap of estimated and actual dims for SFT and RL, and r for RL with either."""
    run = samples.trained_on(profile, profile.grpo.train)
    seed = run.seeds[0]
    after = {seed: trained(profile)}
    actual = shift.shifted_dims(units.actual_stats(run, seed, after[seed]), run.top_n, run.definition)
    found = {"overlap SFT": overlap.of_dims(profile), "overlap RL": overlap.of_dims(run, after)}
    for name, chosen in (("estimated", {seed: units.dims(run, seed)}), ("actual", {seed: actual})):
        for metric, r in comparisons.correlations(run, after=after, chosen=chosen).items():
            found[f"{metric} {name}"] = r
    return found


@cache
def rollout_overlap(profile: Profile) -> dict[str, Estimate]:
    """Overlap of D_N with the dims that GRPO moved, D_N from ground-truth demonstrations and from the model's own
    verified-correct answers, and their difference; ground truth alone where it has too few such answers to show."""
    run = samples.trained_on(profile, profile.grpo.train)
    own = run.model_copy(update={"shown": "rollouts"})
    after = {run.seeds[0]: trained(profile)}
    found = {"ground truth": overlap.of_dims(run, after)}
    if len(units.rollouts(run, run.seeds[0])) >= run.shift.demonstrations:
        found["rollouts"] = overlap.of_dims(own, after)
        found["difference"] = found["rollouts"] - found["ground truth"]
    return found


def verified(profile: Profile) -> str:
    """How many of the untouched model's sampled answers were correct, as text."""
    run = samples.trained_on(profile, profile.grpo.train)
    asked = min(units.ROLLOUTS, len(samples.training_examples(run, run.seeds[0])[0]))
    return f"{len(units.rollouts(run, run.seeds[0]))} of {asked}"


def accuracy(profile: Profile) -> pd.DataFrame:
    """Greedy accuracy on held-out questions of the RL corpus before and after; columns id, accuracy, when."""
    run = samples.trained_on(profile, profile.grpo.train)
    examples = samples.training_examples(run, 0)[1][: profile.evaluation.held_out]

    def compute():
        from sts_utils.training import grpo as reinforce

        frames = []
        for when, model in (("before", None), ("after", trained(profile))):
            whole, tokenizer = units.performing(profile, model), samples.tokenizer(profile.model, profile.revision)
            frame = reinforce.accuracy(whole, tokenizer, examples, profile.grpo.completion_tokens)
            frames.append(frame.assign(when=when))
        return pd.concat(frames, ignore_index=True)

    recipe = {"trained": trained(profile).key, "questions": profile.evaluation.held_out}
    recipe["dtype"] = profile.evaluation.dtype
    return store.frame("accuracy", recipe, compute)
