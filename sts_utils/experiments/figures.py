"""One function per figure of the paper. Each takes what it draws and returns (figure, caption)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sts_utils import corpora, stats
from sts_utils.config import Profile
from sts_utils.method import shift
from sts_utils.method.extract import FeatureStats
from sts_utils.stats import Estimate
from sts_utils.store import DATA, FIGURES

#: Colour-blind safe; a domain has the same colour and marker in every figure.
PALETTE = sns.color_palette("colorblind", 7)
STYLES = {d: (PALETTE[i % 7], "o" if i < 7 else "D") for i, d in enumerate(corpora.domains("mmlu-pro"))}
SAE_COLOUR, RAW_COLOUR, CHANCE_COLOUR = PALETTE[0], PALETTE[1], "0.5"
METRIC_NAMES = {"sts_act": r"$\mathrm{STS}_{act}$", "sts_icl": r"$\mathrm{STS}_{ICL}$"}

sns.set_theme(
    context="paper", style="ticks",
    rc={"pdf.fonttype": 42, "figure.dpi": 120, "savefig.dpi": 200, "axes.titlesize": 9, "font.size": 9,
        "axes.spines.top": False, "axes.spines.right": False, "figure.constrained_layout.use": True},
)  # fmt: skip


def about(profile: Profile) -> str:
    """What every caption states: model, SAE, data, seeds, and how this differs from the paper."""
    e, s = profile.evaluation, profile.sft
    return (
        f"Model {profile.model}, SAE {profile.sae} on the residual stream after block {profile.layer}; "
        f"training set {corpora.source(profile.train)} (SFT on {s.examples} examples, {s.epochs} epoch(s), batch "
        f"{s.batch}); "
        f"domains from {corpora.source(profile.domains)}, demonstrations from {corpora.source(profile.demonstrations)}; "
        f"{len(profile.seeds)} seed(s); N = {profile.top_n}; definition {profile.definition}, alignment "
        f"{profile.alignment}; intervals are 95% bootstrap over questions and seeds. Performance is "
        f"{MEASURE_NAMES[e.measure]} on at most {e.questions} questions "
        "a domain. The paper: 7–9B models, LIMO, MMLU-Pro 5-shot chain-of-thought accuracy."
    )


MEASURE_NAMES = {
    "gold_probability": "the probability of the gold option among the options",
    "gold_loglik": "the log-likelihood a token of the gold option",
    "accuracy": "accuracy by length-normalised likelihood",
}


def save(figure: Figure, name: str, caption: str, profile: Profile) -> list[Path]:
    """Write a figure as PDF and PNG, and its caption as text, into figures/<profile>/."""
    folder = FIGURES / profile.name
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("pdf", "png", "txt")]
    figure.savefig(paths[0], metadata={"CreationDate": None})
    figure.savefig(paths[1], metadata={"Software": None})
    paths[2].write_text(caption + "\n", encoding="utf-8")
    return paths


def paper(name: str) -> pd.DataFrame:
    """A table of the paper's own numbers, e.g. paper("table06_pearson")."""
    return pd.read_csv(DATA / "paper" / f"{name}.csv")


def fig1a(actual: Sequence[FeatureStats], profile: Profile) -> tuple[Figure, str]:
    """Distribution of the shift that SFT gave each SAE feature (Fig 1a), and what the top N hold."""
    moved = np.mean([shift.shift(a) for a in actual], axis=0)
    n = profile.top_n
    shares = [float(shift.top_share(shift.shift(a), n)) for a in actual]
    drawn = np.sort(shift.draws(actual), axis=-1)
    low, high = stats.interval(stats.over_seeds(drawn[..., -n:].sum(-1) / drawn.sum(-1)))
    share, ginis = np.mean(shares), [shift.gini(shift.shift(a)) for a in actual]

    figure, axis = plt.subplots(figsize=(3.4, 2.5))
    positive = moved[moved > 0]
    bins = np.geomspace(positive.min(), positive.max(), 50)
    axis.hist(positive, bins=bins, color="0.75")
    axis.hist(np.sort(moved)[-n:], bins=bins, color=SAE_COLOUR, label=f"top {n}: {share:.0%} of the total")
    axis.set(xscale="log", yscale="log", xlabel=r"shift after SFT, $E_x(\Delta h_j)^2$", ylabel="SAE features")
    figure.legend(frameon=False, loc="outside upper right")
    caption = (
        f"Fig 1a. Shift of each SAE feature between the untouched and the fine-tuned model on held-out "
        f"training-set questions. The {n} most shifted of {len(moved)} features hold {share:.1%} of the total "
        f"(95% interval {low:.1%} to {high:.1%}; a uniform shift would give {n / len(moved):.1%}; Gini "
        f"{np.mean(ginis):.2f}; {len(moved) - len(positive)} features did not move). The paper: 25% of the "
        f"total in the top 100 (Qwen2.5-7B). {about(profile)}"
    )
    return figure, caption


def fig2a(estimated: Sequence[FeatureStats], actual: Sequence[FeatureStats], profile: Profile) -> tuple[Figure, str]:
    """Overlap of the dims that ICL finds with those that SFT moves, SAE and raw (Fig 2a)."""
    figure, axis = plt.subplots(figsize=(3.4, 2.6))
    fractions = np.geomspace(0.002, 1.0, 40)
    share = profile.top_n / len(shift.shift(actual[0]))
    at = {}
    for name, raw, colour in (("SAE features", False, SAE_COLOUR), ("raw dims", True, RAW_COLOUR)):
        size = len(shift.shift(actual[0], raw=raw))
        ks = np.unique(np.maximum(1, np.round(fractions * size)).astype(int))
        pairs = [np.stack([shift.shift(x, raw=raw) for x in side]) for side in (estimated, actual)]
        mean = shift.overlaps(*pairs, ks).mean(0)
        drawn = [shift.draws(side, raw, 100) for side in (estimated, actual)]
        low, high = stats.interval(stats.over_seeds(shift.overlaps(*drawn, ks)))
        axis.plot(100 * ks / size, mean, color=colour, label=name)
        axis.fill_between(100 * ks / size, low, high, color=colour, alpha=0.25, lw=0)
        k = max(1, round(share * size))
        exact = shift.overlaps(*pairs, np.array([k])).mean()
        band = stats.interval(stats.over_seeds(shift.overlaps(*drawn, np.array([k])))[:, 0])
        at[name] = f"{exact:.0%} (95% interval {band[0]:.0%} to {band[1]:.0%}) at the top {k} of {size}"
    grid = np.geomspace(0.2, 100)
    axis.plot(grid, grid / 100, color=CHANCE_COLOUR, ls="--", label="chance")
    axis.set(xscale="log", xlabel="top dims taken (% of all)", ylabel="overlap, ICL and SFT", ylim=(0, 1.02))
    figure.legend(frameon=False, loc="outside upper center", ncols=3, columnspacing=1.0, handlelength=1.5)
    caption = (
        "Fig 2a. Share of the dims most shifted by demonstrations in context (estimated, before training) "
        "that are also among the most shifted by SFT (actual). SAE features: "
        f"{at['SAE features']}; raw residual dims: {at['raw dims']}, the same fraction. The x axis "
        "is a fraction of dims, so that one chance line serves both. The paper: 57% at the top 100 of the "
        f"SAE, raw far lower. {about(profile)}"
    )
    return figure, caption


def fig2b(actual: Sequence[FeatureStats], profile: Profile) -> tuple[Figure, str]:
    """Share of SFT's total change that the top-x% dims hold, SAE and raw (Fig 2b)."""
    figure, axis = plt.subplots(figsize=(3.4, 2.6))
    at = {}
    for name, raw, colour in (("SAE features", False, SAE_COLOUR), ("raw dims", True, RAW_COLOUR)):
        ordered = -np.sort(-np.stack([shift.shift(a, raw=raw) for a in actual]), axis=-1)
        drawn = -np.sort(-shift.draws(actual, raw), axis=-1)
        size = ordered.shape[-1]
        ks = np.unique(np.maximum(1, np.round(np.geomspace(0.002, 1, 60) * size)).astype(int))
        share = (ordered.cumsum(-1) / ordered.sum(-1, keepdims=True)).mean(0)
        low, high = stats.interval(stats.over_seeds(drawn.cumsum(-1) / drawn.sum(-1, keepdims=True)))
        axis.plot(100 * ks / size, share[ks - 1], color=colour, label=name)
        axis.fill_between(100 * ks / size, low[ks - 1], high[ks - 1], color=colour, alpha=0.25, lw=0)
        k = max(1, round(0.01 * size))
        at[name] = f"{share[k - 1]:.0%} (95% interval {low[k - 1]:.0%} to {high[k - 1]:.0%})"
    axis.plot(np.geomspace(0.2, 100), np.geomspace(0.002, 1), color=CHANCE_COLOUR, ls="--", label="uniform")
    axis.set(xscale="log", xlabel="top dims taken (% of all)", ylabel="share of SFT's change", ylim=(0, 1.02))
    figure.legend(frameon=False, loc="outside upper center", ncols=3, columnspacing=1.0, handlelength=1.5)
    caption = (
        "Fig 2b. How concentrated SFT's change is: the top 1% of SAE features hold "
        f"{at['SAE features']}, the top 1% of raw residual dims {at['raw dims']}. The paper: raw is "
        f"flatter. {about(profile)}"
    )
    return figure, caption


def fig3(observed: Mapping[str, stats.Observations], table: pd.DataFrame, profile: Profile) -> tuple[Figure, str]:
    """Scatter of each score against the absolute change, with the fitted line and r (Fig 3).

    `table` is `stats.correlations(observed)`. Bars are 95% bootstrap intervals.
    """
    figure, axes = plt.subplots(1, len(observed), figsize=(7.0, 3.1), sharey=True, squeeze=False)
    said = []
    for axis, (metric, values) in zip(axes[0], observed.items(), strict=True):
        x, y = values.scores.mean(0), 100 * np.abs(values.mean_changes()).mean(0)
        bars_x = stats.interval(stats.over_seeds(values.replicates))
        bars_y = stats.interval(100 * stats.over_seeds(np.abs(stats.change_draws(values.changes))))
        kept = set(stats.select(y, "paper"))
        sns.regplot(x=x, y=y, ax=axis, scatter=False, color="0.4", line_kws={"lw": 1}, n_boot=500, seed=0)
        for i, domain in enumerate(values.domains):
            colour, marker = STYLES.get(domain, ("0.3", "o"))
            axis.plot([bars_x[0][i], bars_x[1][i]], [y[i], y[i]], color=colour, lw=0.7, alpha=0.5)
            axis.plot([x[i], x[i]], [bars_y[0][i], bars_y[1][i]], color=colour, lw=0.7, alpha=0.5)
            face = colour if i in kept else "white"
            axis.plot(x[i], y[i], marker, color=colour, mfc=face, ms=6, label=domain if metric == "sts_act" else None)
        lines = []
        for selection, name in (("all", f"all {len(x)}"), ("paper", f"paper's {len(kept)}")):
            rows = table[(table.metric == metric) & (table.selection == selection) & (table.change == "absolute")]
            row = rows.iloc[0]
            lines.append(f"r = {row.r:.2f} [{row.r_low:.2f}, {row.r_high:.2f}] {name}")
            said.append(
                f"{metric}, {name} domains: r = {row.r:.2f} ± {row.r_sd:.2f}, 95% interval "
                f"[{row.r_low:.2f}, {row.r_high:.2f}], p = {row.p:.3f}"
            )
        axis.set_title("\n".join(lines), loc="left")
        axis.set(xlabel=METRIC_NAMES[metric], ylabel="")
        axis.set_ylim(bottom=0)
    axes[0, 0].set_ylabel(f"|change| of {SHORT_NAMES[profile.evaluation.measure]}")
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    caption = (
        "Fig 3. Score before training against absolute change after SFT, a point a domain (mean over seeds; "
        "bars: 95% bootstrap over questions, queries and seeds). Filled: the four largest and four smallest "
        f"changes, which the paper selects by the outcome. Pearson r is the mean over seeds. {'; '.join(said)}. "
        f"The paper, over its 8 domains (Table 6): {_paper_r()}. {about(profile)}"
    )
    return figure, caption


def _paper_r() -> str:
    """The paper's correlations, from its Table 6."""
    table = paper("table06_pearson")
    return "; ".join(f"{r.metric} {r.model} {r.pearson_mean:.2f}" for r in table.itertuples())


SHORT_NAMES = {
    "gold_probability": "P(gold), points",
    "gold_loglik": "log P(gold) a token × 100",
    "accuracy": "accuracy, points",
}


def fig1b(
    estimates: Mapping[tuple[str, int], Estimate], activity: Mapping[int, float], profile: Profile
) -> tuple[Figure, str]:
    """Mathematics performance while the k most shifted features are zeroed, against random ones (Fig 1b).

    `estimates` is `ablation.estimates(profile)`, `activity` is `ablation.relative_activity(profile)`.
    """
    figure, axis = plt.subplots(figsize=(3.4, 2.6))
    names = {"shifted": "most shifted by SFT", "active": "nearest in activity", "random": "random"}
    for (which, label), colour in zip(names.items(), (SAE_COLOUR, PALETTE[2], CHANCE_COLOUR), strict=True):
        counts = sorted(count for name, count in estimates if name == which)
        of = [estimates[which, count] for count in counts]
        axis.plot(counts, [e.value for e in of], "o-", ms=4, color=colour, label=label)
        axis.fill_between(counts, [e.low for e in of], [e.high for e in of], color=colour, alpha=0.25, lw=0)
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)
    axis.set(xscale="log", xlabel="features zeroed", ylabel="change of log-likelihood,\nnats a token")
    axis.set_xticks(counts, counts)
    axis.minorticks_off()
    figure.legend(frameon=False, loc="outside upper center", ncols=3, columnspacing=0.8, handlelength=1.2, fontsize=8)
    k = min(counts, key=lambda count: abs(count - profile.top_n))
    said = "; ".join(f"{label}: {estimates[which, k]}" for which, label in names.items())
    caption = (
        "Fig 1b. Log-likelihood of held-out mathematics solutions under the fine-tuned model (first seed) while SAE "
        "features are taken out of the residual stream, reconstruction error kept, attention sinks untouched: the "
        f"most shifted by SFT, random ones ({profile.ablation.draws} draws), and those others that are nearest in "
        f"activity, which have {activity[k]:.0%} of it at {k} and {activity[counts[-1]]:.0%} at {counts[-1]} (below "
        "100%: SFT moves the most active features, and none as active are left). With "
        f"{k} zeroed, change against none: {said}. The paper: accuracy falls fast for shifted features and stays for "
        f"random ones. {about(profile)}"
    )
    return figure, caption


def _bars(estimates: Sequence[Estimate]) -> np.ndarray:
    """[2, n] lengths of the intervals below and above the values, as matplotlib's yerr takes them."""
    return np.array([[e.value - e.low, e.high - e.value] for e in estimates]).T.clip(0)


def _r_points(
    rows: Mapping[str, Mapping[str, Estimate]], axis_label: str, size=(3.4, 2.6), rotate: int = 0
) -> tuple[Figure, str]:
    """r of each metric with its interval, a group a row of `rows`; the picture and the numbers in words."""
    figure, axis = plt.subplots(figsize=size)
    metrics = list(next(iter(rows.values())))
    for i, metric in enumerate(metrics):
        x = np.arange(len(rows)) + 0.16 * (i - (len(metrics) - 1) / 2)
        of = [row[metric] for row in rows.values()]
        marker = "os^D"[i]
        label = METRIC_NAMES.get(metric, metric)
        axis.errorbar(
            x, [e.value for e in of], yerr=_bars(of), fmt=marker, ms=5, capsize=2, color=PALETTE[i], label=label
        )
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)
    axis.set_xticks(range(len(rows)), list(rows), rotation=rotate, ha="right" if rotate else "center")
    axis.set(xlabel=axis_label, ylabel="r with |change|", ylim=(-1.05, 1.05), xlim=(-0.5, len(rows) - 0.5))
    if len(metrics) > 1:
        figure.legend(frameon=False, loc="outside upper center", ncols=len(metrics))
    said = "; ".join(f"{name}: {', '.join(f'{m} {e}' for m, e in row.items())}" for name, row in rows.items())
    return figure, said


def fig4(panel: str, rows: Mapping[str, Mapping[str, Estimate]], profile: Profile) -> tuple[Figure, str]:
    """One panel of Fig 4, "a" to "e": r by SAE width, layer and L0, by rank range, and against probes.

    `rows`: label -> metric -> r, from `comparisons.sweep`, `comparisons.rank_ranges` or `comparisons.predictors`.
    """
    axis_label, what, theirs = FIG4[panel]
    figure, said = _r_points(rows, axis_label, rotate=20 if panel in "de" else 0)
    caption = (
        f"Fig 4{panel}. r of score and absolute change over all domains, {what}; bars are 95% intervals. {said}. "
        f"The paper: {theirs}. {about(profile)}"
    )
    return figure, caption


FIG4 = {
    "a": ("SAE features", "for SAEs of two widths at one layer and L0", "wider (131k against 16k) is lower"),
    "b": ("block", "for SAEs at three layers", "stable over layers 15, 20, 25"),
    "c": ("L0 of the SAE", "for SAEs of five sparsities", "falls from 0.78 at L0 13 to 0.65 at 109"),
    "d": ("ranks of the shifted dims used", "with these dims in place of D_N", "falls for dims of smaller shift"),
    "e": (
        "",
        "for STS and for ridge probes from a domain's mean activations to its change, left-out domains predicted from "
        "the others (14 points, so a probe of noise scores below zero)",
        "STS 0.79, probe on raw activations 0.03, on SAE activations 0.08",
    ),
}  # fmt: skip


def fig5(
    gains: Mapping[str, Mapping[str, Estimate]], extra: Mapping[str, tuple[int, int]], profile: Profile
) -> tuple[Figure, str]:
    """Change of the most and least affected domain by the mixture trained on (Fig 5a–c).

    `gains` is `mixtures.changes(profile)`, `extra` is `mixtures.sizes(profile)`.
    """
    most, least = (d for d in next(iter(gains.values())) if d != "mathematics")
    if not {most, least} <= set(STYLES):
        raise ValueError(f"domains {most!r} and {least!r} are none of {', '.join(STYLES)}")
    figure, axes = plt.subplots(1, 3, figsize=(7.0, 2.6), sharey=True)
    ratios = [name for name in gains if name in ("all least", "half", "all most")]
    for axis, domain, side in zip(axes, (most, least), (0, 1), strict=False):
        names = sorted(ratios, key=lambda name: extra[name][side])
        _gain(axis, [extra[n][side] for n in names], [gains[n][domain] for n in names], domain)
        axis.set(title=domain, xlabel=f"of {profile.mixture.extra} extra examples, from it")
        axis.set_xticks([extra[n][side] for n in names])
    for i, domain in enumerate((most, least)):
        _gain(axes[2], np.array([0, 1]) + 0.1 * (i - 0.5), [gains[n][domain] for n in ("none", "STS")], domain)
    axes[2].set_xticks([0, 1], ["none", f"STS split\n{extra['STS'][0]}:{extra['STS'][1]}"])
    axes[2].set(title="no extra data, STS split", xlim=(-0.5, 1.5))
    axes[2].legend(frameon=False)
    axes[0].set_ylabel(f"change of {SHORT_NAMES[profile.evaluation.measure]}")
    said = "; ".join(
        f"{name} {extra[name]}: {_points(row[most])}, {_points(row[least])}" for name, row in gains.items()
    )
    caption = (
        f"Fig 5. Change against the untouched model on test halves of {most} (most affected by SFT, measured on "
        f"other questions) and {least} (least) after SFT on {profile.mixture.examples} training examples and "
        f"{profile.mixture.extra} extra ones with answers sampled from the untouched model at "
        "temperature 1; one seed, intervals over "
        f"questions. (extra of {most}, of {least}): change of {most}, of {least} in points: {said}. The paper: "
        f"engineering gains much, law little, the STS split is balanced. {about(profile)}"
    )
    return figure, caption


def _points(e: Estimate) -> str:
    return f"{100 * e.value:+.1f} [{100 * e.low:+.1f}, {100 * e.high:+.1f}]"


def _gain(axis, x, estimates: Sequence[Estimate], domain: str) -> None:
    colour, marker = STYLES[domain]
    y = 100 * np.array([e.value for e in estimates])
    axis.errorbar(x, y, yerr=100 * _bars(estimates), fmt=marker, color=colour, capsize=2, ls="-", lw=1, label=domain)
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)


def fig6(found: Mapping[str, Estimate], accuracy: pd.DataFrame, profile: Profile) -> tuple[Figure, str]:
    """Overlap of estimated and actual dims for SFT and RL, and r for RL with either (Fig 6a, b).

    `found` is `reinforcement.estimates(profile)`, `accuracy` `reinforcement.accuracy(profile)`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.0, 2.6), width_ratios=[2, 3])
    of = [found["overlap SFT"], found["overlap RL"]]
    left.bar([0, 1], [e.value for e in of], yerr=_bars(of), capsize=3, color=[SAE_COLOUR, PALETTE[4]], width=0.6)
    left.set_xticks([0, 1], ["SFT", "RL"])
    left.set(ylabel=f"overlap of the top {profile.top_n}", ylim=(0, 1), title="a")
    for i, metric in enumerate(("sts_act", "sts_icl")):
        of = [found[f"{metric} {which}"] for which in ("estimated", "actual")]
        x = np.arange(2) + 0.16 * (i - 0.5)
        label = METRIC_NAMES[metric]
        right.errorbar(x, [e.value for e in of], yerr=_bars(of), fmt="os"[i], capsize=2, color=PALETTE[i], label=label)
    right.axhline(0, color="0.8", lw=0.8, zorder=0)
    right.set_xticks([0, 1], ["estimated dims", "actual dims"])
    right.set(ylabel="r with |change|, RL", ylim=(-1.05, 1.05), xlim=(-0.5, 1.5), title="b")
    right.legend(frameon=False)
    g, solved = profile.grpo, accuracy.groupby("when").accuracy.mean()
    said = "; ".join(f"{name} {e}" for name, e in found.items())
    caption = (
        f"Fig 6. Reinforcement learning: GRPO on {g.train} ({g.steps} steps of {g.prompts} questions with "
        f"{g.generations} completions, learning rate {g.lr:g}; greedy accuracy on {accuracy.id.nunique()} held-out "
        f"questions {solved['before']:.0%} before, {solved['after']:.0%} after). a: overlap of the dims that "
        "ground-truth demonstrations find with those that training moved (SFT on its own training set, all seeds). b: "
        f"r over domains of STS on either dims with the absolute change after GRPO, one seed. {said}. The paper: "
        f"overlap lower for RL; r low with estimated dims, high with actual ones. {about(profile)}"
    )
    return figure, caption


def fig7(found: Mapping[tuple[str, int], Estimate], profile: Profile) -> tuple[Figure, str]:
    """Mathematics after selective fine-tuning of estimated against random dims (Fig 7).

    `found` is `selective.estimates(profile)`.
    """
    figure, axis = plt.subplots(figsize=(3.4, 2.6))
    for i, (which, colour) in enumerate((("estimated", SAE_COLOUR), ("random", CHANCE_COLOUR))):
        sizes = sorted(n for name, n in found if name == which)
        of = [found[which, n] for n in sizes]
        x = np.arange(len(sizes)) + 0.3 * (i - 0.5)
        axis.bar(x, [e.value for e in of], 0.28, yerr=_bars(of), capsize=3, color=colour, label=f"{which} dims")
    axis.set_xticks(range(len(sizes)), sizes)
    axis.set(xlabel="dims trained a layer", ylabel="change of log-likelihood,\nnats a token")
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    said = "; ".join(f"{n} {which}: {e}" for (which, n), e in found.items())
    caption = (
        "Fig 7. Log-likelihood of held-out mathematics solutions after selective fine-tuning, against the untouched "
        "model: only linear maps from the chosen features into the residual stream train, at "
        f"{len(profile.sweep.layers)} layers (the paper: five; SAEs exist for these), on "
        f"{profile.selective.examples} examples, one seed, {profile.selective.draws} random draws. {said}. "
        f"The paper: estimated dims are better (accuracy). {about(profile)}"
    )
    return figure, caption


def training(logs: pd.DataFrame, held_out: pd.DataFrame, profile: Profile) -> tuple[Figure, str]:
    """Training loss by step, and held-out training-set loss before and after, to see that SFT taught.

    `logs`: step, loss, run (a name). `held_out`: seed (NaN before), solution_loglik a question.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.0, 2.4), width_ratios=[3, 2])
    palette = sns.color_palette("colorblind", logs.run.nunique())
    sns.lineplot(logs, x="step", y="loss", hue="run", palette=palette, ax=left)
    left.set(xlabel="SFT step", ylabel="training loss, nats a token")
    left.legend(frameon=False)
    bars = held_out.assign(loss=-held_out.solution_loglik)
    sns.pointplot(bars, x="when", y="loss", errorbar=("ci", 95), seed=0, color=SAE_COLOUR, ax=right, capsize=0.1)
    right.set(xlabel="", ylabel="held-out loss, nats a token")
    means = bars.groupby("when").loss.mean()
    caption = (
        f"Training. Left: loss on answers by step. Right: loss on {bars.id.nunique()} held-out training-set "
        f"solutions (templates not trained on), {means['before']:.3f} before and {means['after']:.3f} nats a "
        f"token after SFT, with 95% intervals. {about(profile)}"
    )
    return figure, caption
