"""Did SFT teach its training set? The loss by step, and held-out loss before and after."""

from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sts_utils.results import SAE_COLOUR, Result
from sts_utils.runs import models, performance
from sts_utils.runs.run import Run, loss_change


class Numbers(NamedTuple):
    """`log`: step, loss, run (a name). `held_out`: when, seed, solution_loglik a question."""

    log: pd.DataFrame
    held_out: pd.DataFrame


def compute(run: Run) -> Numbers:
    """The training log of every seed, and held-out solutions before and after."""
    trained = {f"seed {seed}": model for seed, model in run.after.items()}
    return Numbers(models.training_logs(trained), performance.held_out(run.profile))


def training(numbers: Numbers, run: Run) -> tuple[Figure, str]:
    """Training loss by step, and held-out training-set loss before and after."""
    log, held_out = numbers
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.0, 2.4), width_ratios=[3, 2])
    palette = sns.color_palette("colorblind", log.run.nunique())
    sns.lineplot(log, x="step", y="loss", hue="run", palette=palette, ax=left)
    left.set(xlabel="SFT step", ylabel="training loss, nats a token")
    left.legend(frameon=False)
    losses = held_out.assign(loss=-held_out.solution_loglik)
    look = {"errorbar": ("ci", 95), "seed": 0, "color": SAE_COLOUR, "capsize": 0.1}
    sns.pointplot(losses, x="when", y="loss", ax=right, **look)
    right.set(xlabel="", ylabel="held-out loss, nats a token")
    means, change = losses.groupby("when").loss.mean(), loss_change(held_out, run.templates)
    return figure, (
        f"Training. Left: loss on answers by step. Right: loss on {losses.id.nunique()} held-out "
        f"training-set solutions (templates not trained on), {means['before']:.3f} before and "
        f"{means['after']:.3f} nats a token after SFT (bars: 95% intervals); their change, paired "
        f"by question: {change}."
    )


RESULTS = (Result(training, "Training: did SFT teach its training set?", notebook="04_finetune"),)
