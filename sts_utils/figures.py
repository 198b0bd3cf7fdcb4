"""One function per figure of the paper. Each takes what it draws and returns (figure, caption)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sts_utils import data, shift, stats
from sts_utils.config import Profile
from sts_utils.data import DOMAINS
from sts_utils.extract import FeatureStats
from sts_utils.store import DATA, FIGURES

#: Colour-blind safe; a domain has the same colour and marker in every figure.
PALETTE = sns.color_palette("colorblind", 7)
STYLES = {d: (PALETTE[i % 7], "o" if i < 7 else "D") for i, d in enumerate(DOMAINS)}
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
        f"training set {data.source(profile.train)} (SFT on {s.examples} examples, {s.epochs} epoch(s), batch "
        f"{s.batch}); "
        f"domains from {data.source(profile.domains)}, demonstrations from {data.source(profile.demonstrations)}; "
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


def shift_draws(features: Sequence[FeatureStats], raw: bool = False, draws: int = 200, seed: int = 0) -> np.ndarray:
    """[B, S, F] shifts of each seed's features under a bootstrap over its questions."""
    field = "dr2" if raw else "dh2"
    rng = np.random.default_rng(seed)
    out = []
    for item in features:
        weights = rng.multinomial(len(item.n), np.full(len(item.n), 1 / len(item.n)), size=draws)
        out.append((weights @ getattr(item, field)) / (weights @ item.n)[:, None])
    return np.stack(out, 1)


def paper(name: str) -> pd.DataFrame:
    """A table of the paper's own numbers, e.g. paper("table06_pearson")."""
    return pd.read_csv(DATA / "paper" / f"{name}.csv")


def fig1a(actual: Sequence[FeatureStats], profile: Profile) -> tuple[Figure, str]:
    """Distribution of the shift that SFT gave each SAE feature (Fig 1a), and what the top N hold."""
    moved = np.mean([shift.shift(a) for a in actual], axis=0)
    n = profile.top_n
    shares = [float(shift.top_share(shift.shift(a), n)) for a in actual]
    drawn = np.sort(shift_draws(actual), axis=-1)
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


def _overlaps(estimated: np.ndarray, actual: np.ndarray, ks: np.ndarray) -> np.ndarray:
    """[..., K] overlap of the top-k sets of two arrays of shifts [..., F], for every k at once."""
    ranks = [np.argsort(np.argsort(-x, axis=-1, kind="stable"), axis=-1) for x in (estimated, actual)]
    worst = np.sort(np.maximum(*ranks), axis=-1)  # a dim is in both top-k sets when its worse rank is < k
    counts = np.stack([(worst < k).sum(-1) for k in ks], axis=-1)
    return counts / ks


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
        mean = _overlaps(*pairs, ks).mean(0)
        drawn = [shift_draws(side, raw, draws=100) for side in (estimated, actual)]
        low, high = stats.interval(stats.over_seeds(_overlaps(*drawn, ks)))
        axis.plot(100 * ks / size, mean, color=colour, label=name)
        axis.fill_between(100 * ks / size, low, high, color=colour, alpha=0.25, lw=0)
        k = max(1, round(share * size))
        exact = _overlaps(*pairs, np.array([k])).mean()
        band = stats.interval(stats.over_seeds(_overlaps(*drawn, np.array([k])))[:, 0])
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
        drawn = -np.sort(-shift_draws(actual, raw), axis=-1)
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
    """Scatter of each score against the absolute change, with the fitted line and ρ (Fig 3).

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
            lines.append(f"ρ = {row.r:.2f} [{row.r_low:.2f}, {row.r_high:.2f}] {name}")
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


def training(log: pd.DataFrame, held_out: pd.DataFrame, profile: Profile) -> tuple[Figure, str]:
    """Training loss by step, and held-out training-set loss before and after, to see that SFT taught.

    `log`: step, loss, seed. `held_out`: seed (NaN before), solution_loglik a question.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.0, 2.4), width_ratios=[3, 2])
    sns.lineplot(log, x="step", y="loss", hue="seed", palette=list(PALETTE[: log.seed.nunique()]), ax=left)
    left.set(xlabel="SFT step", ylabel="training loss, nats a token")
    left.legend(title="seed", frameon=False)
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
