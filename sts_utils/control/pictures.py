"""Pictures of the positive control. Each function returns (figure, caption)."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sts_utils.config import Profile
from sts_utils.control import judgement as control_tests
from sts_utils.control import matrix as control
from sts_utils.control import scores as control_scores
from sts_utils.control.scores import Score
from sts_utils.experiments import figures


def about(profile: Profile) -> str:
    """What every caption of the control states."""
    c = profile.control
    return (
        f"Model {profile.model}, SAE {profile.sae}; {len(c.sets)} training sets of {c.examples} examples each, "
        f"{control.full_steps(profile)} steps of {c.batch} at learning rate {c.lr:g}, {len(c.seeds)} seed(s); at most "
        f"{profile.evaluation.questions} questions a domain, none of them trained on; STS from {profile.sts.queries} "
        f"questions a domain, D_N from {min(c.queries, c.examples // 2)} questions under {c.demonstrations} "
        "demonstrations. This experiment is ours, not the paper's."
    )


def heat(profile: Profile, score: Score, measure: str, domains: Sequence[str]) -> tuple[Figure, str]:
    """Two heat maps side by side: score and change, row and column means removed, the training domain marked."""
    sets, seeds = profile.control.sets, profile.control.seeds
    value = control_tests.centred(control_scores.matrix(profile, score, sets, seeds).mean(1))
    changed = control.change_arrays(profile, measure)
    change = control_tests.centred(np.stack([c.mean((1, 2)) for c in changed], -1))
    own = control.diagonal(profile)
    figure, axes = plt.subplots(1, 2, figsize=(7.4, 1.9 + 0.24 * len(sets)), sharey=True)
    shown = (
        (axes[0], value, score.label, "score"),
        (axes[1], change, f"change of {figures.SHORT_NAMES[measure].replace(' × 100', '')}", "change"),
    )
    for axis, values, title, unit in shown:
        limit = np.abs(values).max()
        sns.heatmap(
            pd.DataFrame(values, sets, domains), ax=axis, cmap="RdBu_r", vmin=-limit, vmax=limit, square=False,
            cbar_kws={"shrink": 0.7, "pad": 0.02, "label": unit}, linewidths=0.3, linecolor="white",
        )  # fmt: skip
        for row, name in enumerate(sets):
            if name in own:
                axis.add_patch(Rectangle((list(domains).index(own[name]), row), 1, 1, fill=False, ec="black", lw=1.4))
        axis.set_title(title, loc="left")
        axis.set(xlabel="domain", ylabel="")
    axes[0].set_ylabel("training set")
    caption = (
        f"{score.label} (N = {score.n}) before training, left, and change of {figures.MEASURE_NAMES[measure]} by "
        "fine-tuning, right; a row a training set, mean over seeds, row and column means removed. Boxes mark the "
        f"training set's own domain. {about(profile)}"
    )
    return figure, caption


def rank_strip(
    ranks: Mapping[str, np.ndarray], design: Sequence[str], domains: int, profile: Profile, judged: str
) -> tuple[Figure, str]:
    """Rank of the training domain for each score: a point a set and seed, the mean as a bar.

    `ranks`: label -> [T, S]; `design`: labels to set in bold, none if empty.
    """
    labels = list(ranks)
    figure, axis = plt.subplots(figsize=(7.0, 0.8 + 0.24 * len(labels)))
    rng = np.random.default_rng(0)
    for row, label in enumerate(labels):
        found = ranks[label].ravel()
        colour = figures.SAE_COLOUR if label in design else "0.55"
        axis.plot(found, row + rng.uniform(-0.22, 0.22, len(found)), "o", ms=3.5, alpha=0.6, color=colour, mew=0)
        axis.plot([found.mean()] * 2, [row - 0.36, row + 0.36], color="black", lw=1.4)
    axis.axvline((domains + 1) / 2, color=figures.CHANCE_COLOUR, ls="--", lw=0.9)
    axis.text((domains + 1) / 2, -0.75, "chance", ha="center", va="bottom", fontsize=8, color="0.4")
    axis.set(yticks=range(len(labels)), yticklabels=labels, xlabel="rank of the training domain (1: highest score)")
    axis.set_xlim(0.5, domains + 0.5)
    axis.set_ylim(len(labels) - 0.5, -0.6)
    caption = (
        f"Rank that each score gives the training set's own domain among {domains}, {judged}: a point a training set "
        "and seed, the black bar their mean. Coloured: the paper's two scores and the contrastive one. "
        f"{about(profile)}"
    )
    return figure, caption


def by_size(table: pd.DataFrame, domains: int, profile: Profile, judged: str) -> tuple[Figure, str]:
    """Mean rank of the training domain against N, a panel a score, a line a D_N (`control_tests.tests`)."""
    names = list(control_scores.FEATURE_SCORES)
    figure, axes = plt.subplots(1, len(names), figsize=(7.2, 2.5), sharey=True)
    colours = dict(zip(control_scores.DIMS, figures.PALETTE, strict=False))
    taken = dict(zip(control_scores.DIMS, ("nothing (paper)", "other sets", "prose", "both"), strict=False))
    taken["without generic"] = "prose's features\nleft out"
    for axis, name in zip(axes, names, strict=True):
        for which, colour in colours.items():
            rows = table[(table.name == name) & (table.dims == which)].sort_values("n")
            axis.plot(
                rows.n, rows["rank"], color=colour, marker="o", ms=3, label=taken[which] if name == names[0] else None
            )
        axis.axhline((domains + 1) / 2, color=figures.CHANCE_COLOUR, ls="--", lw=0.9)
        axis.set(xscale="log", xlabel="N", title=name, ylim=(0.5, domains + 0.5))
    axes[0].set_ylabel("mean rank of training domain")
    figure.legend(frameon=False, loc="outside right center", title="taken from the shift", fontsize=8)
    caption = (
        f"Mean rank of the training domain against N, {judged}, by what is taken from the ICL shift before features "
        f"are ranked: nothing (paper), the shift under length-matched demonstrations of other sets, under prose, under "
        f"both, or the features that prose moves most left out. Dashed: chance. {about(profile)}"
    )
    return figure, caption


def generic(between: Mapping[str, pd.DataFrame], counts: pd.DataFrame, profile: Profile) -> tuple[Figure, str]:
    """How much of D_N is shared: overlap between training sets (paper, contrastive), and against context length."""
    figure, axes = plt.subplots(1, 3, figsize=(7.8, 2.9), width_ratios=(1, 1, 0.9))
    said = []
    for axis, (label, table) in zip(axes[:2], between.items(), strict=True):
        sns.heatmap(table, ax=axis, vmin=0, vmax=1, cmap="viridis", cbar=axis is axes[1], cbar_kws={"shrink": 0.7})
        axis.set_title(label, loc="left")
        axis.tick_params(labelsize=6)
        off = table.to_numpy()[~np.eye(len(table), dtype=bool)]
        said.append(f"{label}: {off.mean():.0%} (from {off.min():.0%} to {off.max():.0%})")
    axes[1].set_yticklabels([])
    for label, rows in counts.groupby("pair"):
        mean = rows.groupby("tokens", as_index=False).overlap.mean()
        axes[2].plot(mean.tokens, mean.overlap, marker="o", ms=3, label=label)
    axes[2].set(xlabel="tokens in context", ylabel="overlap of $D_{100}$", ylim=(0, 1))
    axes[2].legend(frameon=False, fontsize=7)
    caption = (
        "How much of an ICL shift is generic. Left and middle: overlap of D_100 between training sets "
        f"({'; '.join(said)}). Right: overlap of a set's D_100 with that of other sets and with that under prose of "
        f"the same length, against the length of the context. {about(profile)}"
    )
    return figure, caption


def doses(table: pd.DataFrame, profile: Profile) -> tuple[Figure, str]:
    """r of score and change against the SFT dose, a line a score (columns dose, score, r, low, high)."""
    figure, axis = plt.subplots(figsize=(4.2, 2.6))
    for offset, (label, rows) in zip((0.97, 1.0, 1.03), table.groupby("score", sort=False), strict=False):
        rows = rows.sort_values("dose")
        (line,) = axis.plot(100 * rows.dose * offset, rows.r, marker="o", ms=3, label=label)
        axis.vlines(100 * rows.dose * offset, rows.low, rows.high, lw=0.8, alpha=0.6, color=line.get_color())
    axis.axhline(0, color=figures.CHANCE_COLOUR, ls="--", lw=0.9)
    axis.set(xscale="log", xlabel="SFT dose (% of the steps)", ylabel="r, means removed")
    axis.set_xticks(sorted(100 * table.dose.unique()), [f"{100 * d:g}" for d in sorted(table.dose.unique())])
    axis.minorticks_off()
    figure.legend(frameon=False, loc="outside upper center", ncols=2, fontsize=7)
    caption = (
        f"r of score and change over the cells of {len(profile.control.dose_sets)} training sets (one seed, row and "
        "column means removed) against the number of SFT steps; bars are 95% bootstrap intervals over sets and "
        f"questions. {about(profile)}"
    )
    return figure, caption
