"""Pictures of the positive control: arrays and frames in, a figure out."""

from collections.abc import Collection, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sts_utils.results import CHANCE_COLOUR, SAE_COLOUR

CHANCE = {"color": CHANCE_COLOUR, "ls": "--", "lw": 0.9}


def heat(
    score: pd.DataFrame, change: pd.DataFrame, own: Mapping[int, int], titles: Sequence[str]
) -> Figure:
    """Heat maps of score and change side by side, [T, D] frames; `own`: row -> column to mark.

    A column is divided by its standard deviation over training sets, so that no domain that moves
    much under any training takes all the colour; ±2 is the end of the scale, which both share.
    """
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.3 + 0.24 * len(score)), sharey=True)
    for axis, values, title in zip(axes, (score, change), titles, strict=True):
        style = {"cmap": "RdBu_r", "linewidths": 0.3, "linecolor": "white", "cbar": False}
        sns.heatmap(values / values.std(), ax=axis, vmin=-2, vmax=2, **style)
        for row, column in own.items():
            axis.add_patch(Rectangle((column, row), 1, 1, fill=False, ec="black", lw=1.4))
        axis.set_title(title, loc="left")
        axis.set(xlabel="domain", ylabel="")
    axes[0].set_ylabel("training set")
    bar = {"location": "bottom", "shrink": 0.4, "aspect": 30, "extend": "both"}
    label = "below or above what set and domain have in general, in sd of the domain"
    figure.colorbar(axes[0].collections[0], ax=axes, label=label, **bar)
    return figure


def rank_strip(ranks: Mapping[str, np.ndarray], coloured: Collection[str], domains: int) -> Figure:
    """Rank of the training domain by each score: a point a set and seed, the mean as a bar.

    `ranks`: label -> [T, S]; `coloured`: labels to set apart.
    """
    figure, axis = plt.subplots(figsize=(7.0, 0.8 + 0.24 * len(ranks)))
    rng = np.random.default_rng(0)
    for row, (label, of) in enumerate(ranks.items()):
        rank, colour = of.ravel(), SAE_COLOUR if label in coloured else "0.55"
        height = row + rng.uniform(-0.22, 0.22, len(rank))
        axis.plot(rank, height, "o", ms=3.5, alpha=0.6, color=colour, mew=0)
        axis.plot([rank.mean()] * 2, [row - 0.36, row + 0.36], color="black", lw=1.4)
    chance = (domains + 1) / 2
    axis.axvline(chance, **CHANCE)
    axis.text(chance, -0.75, "chance", ha="center", va="bottom", fontsize=8, color="0.4")
    axis.set_yticks(range(len(ranks)), list(ranks))
    axis.set_xlabel("rank of the training domain (1: highest score)")
    axis.set_xlim(0.5, domains + 0.5)
    axis.set_ylim(len(ranks) - 0.5, -0.6)
    return figure
