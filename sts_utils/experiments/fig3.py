"""Fig 3, Tables 6 and 9: the score before training against the change after it, over domains."""

from collections.abc import Iterator
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sts_utils import stats
from sts_utils.results import METRIC_NAMES, SHORT_NAMES, STYLES, Claim, Result, paper
from sts_utils.runs.run import Run


class Numbers(NamedTuple):
    """`observed`: metric -> scores and changes [S, D] with their draws; `table`: their r."""

    observed: dict[str, stats.Observations]
    table: pd.DataFrame


def compute(run: Run) -> Numbers:
    """Both scores of each domain beside its change, and their correlations."""
    observed = run.observations()
    return Numbers(observed, stats.correlations(observed))


def fig3(numbers: Numbers, run: Run) -> tuple[Figure, str]:
    """Scatter of each score against the absolute change, with the fitted line and r."""
    figure, axes = plt.subplots(1, len(numbers.observed), figsize=(7.0, 3.1), sharey=True)
    said = []
    for axis, (metric, seen) in zip(axes, numbers.observed.items(), strict=True):
        y = 100 * np.abs(seen.mean_changes()).mean(0)
        kept = set(stats.select(y, "paper"))
        _scatter(axis, seen, y, kept, labelled=metric == "sts_act")
        rows = numbers.table.query(f"metric == '{metric}' and change == 'absolute'")
        rows, lines = rows.set_index("selection"), []
        for selection, name in (("all", f"all {len(y)}"), ("paper", f"paper's {len(kept)}")):
            row = rows.loc[selection]
            interval = f"[{row.r_low:.2f}, {row.r_high:.2f}]"
            lines.append(f"r = {row.r:.2f} {interval} {name}")
            said.append(
                f"{metric}, {name} domains: r = {row.r:.2f} ± {row.r_sd:.2f}, 95% interval "
                f"{interval}, p = {row.p:.3f}"
            )
        axis.set_title("\n".join(lines), loc="left")
        axis.set(xlabel=METRIC_NAMES[metric], ylabel="")
        axis.set_ylim(bottom=0)
    axes[0].set_ylabel(f"|change| of {SHORT_NAMES[run.profile.evaluation.measure]}")
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    theirs = [f"{r.metric} {r.model} {r.pearson_mean:.2f}" for r in _paper6().itertuples()]
    caption = (
        "Fig 3. Score before training against absolute change after SFT, a point a domain (mean "
        "over seeds; bars: 95% bootstrap over questions, queries and seeds). Filled: the four "
        "largest and four smallest changes, which the paper selects by the outcome. Pearson r is "
        f"the mean over seeds. {'; '.join(said)}. The paper, over its 8 domains (Table 6): "
        f"{'; '.join(theirs)}."
    )
    return figure, caption


def _scatter(axis, seen: stats.Observations, y: np.ndarray, kept: set, labelled: bool) -> None:
    """A point a domain with its intervals, filled where `kept`, and the fitted line."""
    x = seen.scores.mean(0)
    bars_x = stats.interval(stats.over_seeds(seen.replicates))
    bars_y = stats.interval(100 * stats.over_seeds(np.abs(stats.change_draws(seen.changes))))
    line = {"color": "0.4", "line_kws": {"lw": 1}}
    sns.regplot(x=x, y=y, ax=axis, scatter=False, n_boot=500, seed=0, **line)
    for i, domain in enumerate(seen.domains):
        colour, marker = STYLES.get(domain, ("0.3", "o"))
        axis.plot([bars_x[0][i], bars_x[1][i]], [y[i], y[i]], color=colour, lw=0.7, alpha=0.5)
        axis.plot([x[i], x[i]], [bars_y[0][i], bars_y[1][i]], color=colour, lw=0.7, alpha=0.5)
        face, label = colour if i in kept else "white", domain if labelled else None
        axis.plot(x[i], y[i], marker, color=colour, mfc=face, ms=6, label=label)


def _paper6() -> pd.DataFrame:
    return paper("table06_pearson")


def table6(numbers: Numbers, run: Run) -> tuple[pd.DataFrame, str]:
    """Pearson r of each score with the change of performance."""
    theirs = _paper6().rename(columns={"pearson_mean": "r", "pearson_sd": "r_sd"})
    columns = ["r", "r_sd", "r_low", "r_high", "rho", "p"]
    caption = (
        "Table 6. Pearson r between score and change over domains: mean and standard deviation "
        "over seeds; ours with a 95% bootstrap interval over questions and seeds, Spearman ρ and a "
        "permutation p, over all domains and over the paper's selection (four largest and four "
        "smallest changes, chosen by the outcome), against absolute and signed change."
    )
    return _beside_paper(numbers.table, theirs, columns, run), caption


def table9(numbers: Numbers, run: Run) -> tuple[pd.DataFrame, str]:
    """R² of the same correlations."""
    theirs = paper("table09_r2").rename(columns={"r2_mean": "r2"})
    caption = (
        "Table 9. R² between score and change over domains, mean and standard deviation over "
        "seeds, ours with a 95% bootstrap interval."
    )
    return _beside_paper(numbers.table, theirs, ["r2", "r2_sd", "r2_low", "r2_high"], run), caption


def _beside_paper(ours: pd.DataFrame, theirs: pd.DataFrame, columns: list[str], run: Run):
    """Our rows (a metric, selection and change each), then the paper's, in one table."""
    ours = ours.assign(source="ours", model=run.profile.model)
    theirs = theirs.assign(source="paper", selection="paper", change="absolute", n=8)
    keep = ["source", "model", "metric", "selection", "change", "n", *columns]
    return pd.concat([ours, theirs])[keep].reset_index(drop=True)


def claims(numbers: Numbers, run: Run) -> Iterator[Claim]:
    """Each score correlates with the absolute change; STS_ICL does so more steadily."""
    selections = {"all": "all domains", "paper": "the paper's selection by the outcome"}
    for metric, seen in numbers.observed.items():
        for selection, words in selections.items():
            theirs = None if selection == "paper" else ""
            claim = f"{metric} correlates with the absolute change"
            yield Claim("fig3", claim, f"r over {words}", stats.r(seen, selection), theirs)
    if len(run.profile.seeds) > 1:
        spread = {metric: stats.r_spread(seen) for metric, seen in numbers.observed.items()}
        statistic = "standard deviation of r over seeds, sts_act minus sts_icl"
        difference = spread["sts_act"] - spread["sts_icl"]
        yield Claim("fig3", "STS_ICL is steadier than STS_act", statistic, difference)


RESULTS = (
    Result(fig3, "Fig 3: score before training, change after it"),
    Result(table6, "Table 6: Pearson correlation", "table"),
    Result(table9, "Table 9: R²", "table"),
)
