"""Pictures of the positive control: arrays and frames in, a figure out."""

from collections.abc import Collection, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sts_utils.results import CHANCE_COLOUR, SAE_COLOUR

#: How the cells of a row are marked: the trained one, its skill, its words.
MARKS = {
    "own": {"marker": "s", "facecolor": "none", "edgecolor": "black", "s": 42, "lw": 1.2},
    "skill": {"marker": "o", "color": "black", "s": 5},
    "words": {"marker": "x", "color": "black", "s": 9, "lw": 0.7},
}


def heat(frames: Mapping[str, pd.DataFrame], kinds: np.ndarray) -> Figure:
    """Heat maps below each other, title -> [T, D]; a row in its own standard deviations over the
    cells of `kinds` [T, D] that are not "", ±2 the end of the scale that all share."""
    sets, domains = next(iter(frames.values())).shape
    size = 1.8 + 0.21 * domains, 1.6 + len(frames) * (0.5 + 0.17 * sets)
    figure, axes = plt.subplots(len(frames), 1, figsize=size, sharex=True, layout="constrained")
    for axis, (title, values) in zip(axes, frames.items(), strict=True):
        values = values.where(kinds != "")
        values = values.sub(values.mean(axis=1), axis=0).div(values.std(axis=1), axis=0)
        style = {"cmap": "RdBu_r", "linewidths": 0.3, "linecolor": "white", "cbar": False}
        sns.heatmap(values, ax=axis, vmin=-2, vmax=2, xticklabels=1, yticklabels=1, **style)
        for kind, mark in MARKS.items():
            rows, columns = np.nonzero(kinds == kind)
            axis.scatter(columns + 0.5, rows + 0.5, **mark)
        axis.set_title(title, loc="left")
        axis.set(xlabel="", ylabel="training set")
    axes[-1].set_xlabel("domain")
    bar = {"location": "bottom", "shrink": 0.4, "aspect": 30, "extend": "both"}
    label = "above or below the training set's mean, in its standard deviations"
    figure.colorbar(axes[0].collections[0], ax=axes, label=label, **bar)
    return figure


def aucs(judged: Mapping[str, pd.DataFrame], coloured: Collection[str]) -> Figure:
    """Half -> its table of judgement.judge: a point a score with its 95% interval, side by side.

    `coloured`: scores to set apart.
    """
    rows = len(next(iter(judged.values())))
    size = (8.4, 1.0 + 0.22 * rows)
    figure, axes = plt.subplots(1, len(judged), figsize=size, sharey=True, layout="constrained")
    for axis, (half, table) in zip(axes, judged.items(), strict=True):
        colours = [SAE_COLOUR if score in coloured else "0.35" for score in table.score]
        for row, (of, colour) in enumerate(zip(table.itertuples(), colours, strict=True)):
            axis.plot([of.auc_low, of.auc_high], [row, row], color=colour, lw=1.2)
            axis.plot(of.auc, row, "o", ms=4, color=colour)
        axis.axvline(0.5, color=CHANCE_COLOUR, ls="--", lw=0.9)
        axis.set(xlim=(-0.03, 1.03), ylim=(rows - 0.5, -0.5), title=f"{half} half")
        axis.set_xlabel("← follows words    follows skill →")
        axis.set_yticks(range(rows), list(table.score))
    return figure
