"""Pictures of the positive control: arrays and frames in, a figure out."""

from collections.abc import Collection, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sts_utils.control.matrix import DIMS
from sts_utils.control.scores import FEATURE_SCORES
from sts_utils.results import CHANCE_COLOUR, PALETTE, SAE_COLOUR

#: What DIMS take from the shift, in a legend.
TAKEN = ("nothing (paper)", "other sets", "prose", "both", "prose's features\nleft out")
CHANCE = {"color": CHANCE_COLOUR, "ls": "--", "lw": 0.9}


def heat(
    score: pd.DataFrame, change: pd.DataFrame, own: Mapping[int, int], titles: Sequence[str]
) -> Figure:
    """Heat maps of score and change side by side, [T, D] frames; `own`: row -> column to mark."""
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 1.9 + 0.24 * len(score)), sharey=True)
    for axis, values, title, of in zip(
        axes, (score, change), titles, ("score", "change"), strict=True
    ):
        limit = np.abs(values.to_numpy()).max()
        bar = {"shrink": 0.7, "pad": 0.02, "label": of}
        style = {"cmap": "RdBu_r", "linewidths": 0.3, "linecolor": "white", "cbar_kws": bar}
        sns.heatmap(values, ax=axis, vmin=-limit, vmax=limit, **style)
        for row, column in own.items():
            axis.add_patch(Rectangle((column, row), 1, 1, fill=False, ec="black", lw=1.4))
        axis.set_title(title, loc="left")
        axis.set(xlabel="domain", ylabel="")
    axes[0].set_ylabel("training set")
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


def by_size(judged: pd.DataFrame, domains: int) -> Figure:
    """Mean rank of the training domain against N, a panel a score, a line a D_N (`judge`)."""
    figure, axes = plt.subplots(1, len(FEATURE_SCORES), figsize=(7.2, 2.5), sharey=True)
    for axis, name in zip(axes, FEATURE_SCORES, strict=True):
        for which, taken, colour in zip(DIMS, TAKEN, PALETTE, strict=False):
            rows = judged[(judged.name == name) & (judged.dims == which)].sort_values("n")
            label = taken if axis is axes[0] else None
            axis.plot(rows.n, rows["rank"], color=colour, marker="o", ms=3, label=label)
        axis.axhline((domains + 1) / 2, **CHANCE)
        axis.set(xscale="log", xlabel="N", title=name, ylim=(0.5, domains + 0.5))
    axes[0].set_ylabel("mean rank of training domain")
    legend = {"loc": "outside right center", "title": "taken from the shift", "fontsize": 8}
    figure.legend(frameon=False, **legend)
    return figure


def generic(between: Mapping[str, pd.DataFrame], counts: pd.DataFrame) -> Figure:
    """How much of D_N is shared: overlap between training sets, and against context length."""
    figure, axes = plt.subplots(1, 3, figsize=(7.8, 2.9), width_ratios=(1, 1, 0.9))
    for axis, (label, table) in zip(axes[:2], between.items(), strict=True):
        bar = {"cbar": axis is axes[1], "cbar_kws": {"shrink": 0.7}}
        sns.heatmap(table, ax=axis, vmin=0, vmax=1, cmap="viridis", **bar)
        axis.set_title(label, loc="left")
        axis.tick_params(labelsize=6)
    axes[1].set_yticklabels([])
    for label, rows in counts.groupby("pair"):
        mean = rows.groupby("tokens", as_index=False).overlap.mean()
        axes[2].plot(mean.tokens, mean.overlap, marker="o", ms=3, label=label)
    axes[2].set(xlabel="tokens in context", ylabel="overlap of $D_{100}$", ylim=(0, 1))
    axes[2].legend(frameon=False, fontsize=7)
    return figure


def doses(table: pd.DataFrame) -> Figure:
    """r of score and change against the SFT dose, a line a score (`effort.by_dose`)."""
    figure, axis = plt.subplots(figsize=(4.2, 2.6))
    for offset, (label, rows) in zip(
        (0.97, 1.0, 1.03), table.groupby("score", sort=False), strict=False
    ):
        rows = rows.sort_values("dose")
        x = 100 * rows.dose * offset
        (line,) = axis.plot(x, rows.r, marker="o", ms=3, label=label)
        axis.vlines(x, rows.low, rows.high, lw=0.8, alpha=0.6, color=line.get_color())
    axis.axhline(0, **CHANCE)
    axis.set(xscale="log", xlabel="SFT dose (% of the steps)", ylabel="r, means removed")
    shares = sorted(100 * table.dose.unique())
    axis.set_xticks(shares, [f"{share:g}" for share in shares])
    axis.minorticks_off()
    figure.legend(frameon=False, loc="outside upper center", ncols=2, fontsize=7)
    return figure
