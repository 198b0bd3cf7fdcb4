"""Fig 3, Tables 6 and 9: the score before training against the change after it, over domains."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sts_utils import results, stats
from sts_utils import stats as correlation
from sts_utils.evaluate import MEASURES
from sts_utils.results import METRIC_NAMES, SHORT_NAMES, Claim, Result, paper
from sts_utils.runs import performance
from sts_utils.runs.run import Run
from sts_utils.stats import CHANGES, Observations, correlate


class Numbers(NamedTuple):
    """Set of domains -> metric -> scores and changes; `table`: their r, a row each; `measures`: r
    with the change of every measure of performance that can be tested."""

    observed: dict[str, dict[str, Observations]]
    table: pd.DataFrame
    measures: pd.DataFrame


def compute(run: Run) -> Numbers:
    """Both scores of each domain beside its change, and their correlations, in each set of
    domains; the set that can decide, of the more reliable change, comes first."""
    observed = {name: of.observations() for name, of in run.sets.items()}
    tables = {name: correlation.correlations(of) for name, of in observed.items()}
    table = pd.concat(tables, names=["domains"]).reset_index("domains")
    rows = []
    for name, of in observed.items():
        rows += measures(name, run.sets[name], of | {"cosine": run.sets[name].signed()})
    columns = ["domains", "measure", "change", "metric", "value", "low", "high", "reliability"]
    return Numbers(observed, table, pd.DataFrame(rows, columns=columns))


def measures(name: str, run: Run, observed: dict[str, Observations]) -> Iterator[dict]:
    """r of each score with each measure's change, where that is reliable enough to be tested."""
    for measure in MEASURES:
        changes = performance.change_arrays(run.changes, measure, run.domain_names)
        for change in CHANGES:
            for metric, seen in observed.items():
                r = correlate(replace(seen, changes=changes), change)
                about = {"domains": name, "measure": measure, "change": change, "metric": metric}
                if r.testable:
                    yield about | results.numbers(r) | {"reliability": r.reliability}


def fig3(numbers: Numbers, run: Run) -> tuple[Figure, str]:
    """Scatter of each score against the signed change, a row a set of domains."""
    rows = len(numbers.observed)
    size = {"figsize": (7.0, 0.4 + 2.6 * rows), "sharey": "row", "squeeze": False}
    figure, axes = plt.subplots(rows, 2, **size)
    for row, (name, observed) in zip(axes, numbers.observed.items(), strict=True):
        looks = results.styles(next(iter(observed.values())).domains)
        for axis, (metric, seen) in zip(row, observed.items(), strict=True):
            _scatter(axis, seen, looks)
            of = [f"r with {kind} change {correlate(seen, kind)}" for kind in CHANGES]
            axis.set_title("\n".join(of), loc="left", fontsize=8)
            axis.set_xlabel(METRIC_NAMES[metric])
        row[0].set_ylabel(f"{name}\nchange of {SHORT_NAMES[run.profile.evaluation.measure]}")
        row[1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    sure = [f"{name} {_reliability(of):.2f}" for name, of in numbers.observed.items()]
    theirs = paper("table06_pearson").pearson_mean
    return figure, (
        "Fig 3. Score before training, signed change after it: a point a domain, mean over seeds; "
        "bars are 95% intervals over questions, those of r over domains. Reliability of the "
        f"absolute change: {', '.join(sure)} (below {correlation.TESTABLE} nothing can be tested). "
        f"The paper, over 8 domains: r = {theirs.min():.2f} to {theirs.max():.2f}."
    )


def _reliability(observed: dict[str, Observations]) -> float:
    return correlation.reliability(next(iter(observed.values())).changes, "absolute")


def _scatter(axis: Axes, seen: Observations, looks: dict) -> None:
    """A point a domain, with the interval of its change."""
    x, y = seen.scores.mean(0), 100 * seen.mean_changes().mean(0)
    width = 100 * 1.96 * correlation.standard_errors(seen.changes)
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)
    for i, domain in enumerate(seen.domains):
        colour, marker = looks[domain]
        look = {"fmt": marker, "color": colour, "ms": 5, "elinewidth": 0.8}
        axis.errorbar(x[i], y[i], yerr=width[i], label=domain, **look)


def table6(numbers: Numbers, run: Run) -> tuple[pd.DataFrame, str]:
    """Pearson r of each score with the change of performance."""
    theirs = paper("table06_pearson").rename(columns={"pearson_mean": "r_mean"})
    theirs = theirs.rename(columns={"pearson_sd": "r_sd"})
    columns = ["r_mean", "r_sd", "r", "low", "high", "rho", "p", "reliability", "split_half"]
    columns += ["r_true", "true_low", "true_high"]
    return _beside_paper(numbers.table, theirs, columns, run), (
        "Table 6. Pearson r of score and change over domains. r_mean, r_sd: over seeds, as the "
        "paper reports. r: of means over seeds, [low, high] with other domains drawn, Spearman ρ, "
        "permutation p. r_true: without the questions' noise, [true_low, true_high] with other "
        "questions. Selection paper: eight domains chosen by the outcome."
    )


def table6_measures(numbers: Numbers, run: Run) -> tuple[pd.DataFrame, str]:
    """Whether r depends on the measure of performance that was chosen."""
    return numbers.measures, (
        "Table 6 by measure. Pearson r of score and change over all domains, other domains drawn, "
        "for every measure whose change is reliable enough. Main: "
        f"{results.MEASURE_NAMES[run.profile.evaluation.measure]}, absolute; the others were "
        "looked at beside it. cosine: ours, signed, of a domain's mean shift on D_N and the "
        "training set's. The paper: accuracy."
    )


def table6_points(numbers: Numbers, run: Run) -> tuple[pd.DataFrame, str]:
    """What Fig 3 shows, as numbers."""
    tables = {}
    for name, observed in numbers.observed.items():
        seen = next(iter(observed.values()))
        columns = {metric: of.scores.mean(0) for metric, of in observed.items()}
        columns |= {"change": 100 * seen.mean_changes().mean(0)}
        columns |= {"se": 100 * correlation.standard_errors(seen.changes)}
        tables[name] = pd.DataFrame(columns, seen.domains)
    table = pd.concat(tables, names=["domains", "domain"]).reset_index()
    return table, (
        "The points of Fig 3: both scores and the change of "
        f"{results.MEASURE_NAMES[run.profile.evaluation.measure]} × 100, means over seeds, with "
        "its standard error over questions."
    )


def table9(numbers: Numbers, run: Run) -> tuple[pd.DataFrame, str]:
    """R² of the same correlations."""
    theirs = paper("table09_r2")
    caption = "Table 9. R² of score and change over domains, mean and spread over seeds."
    return _beside_paper(numbers.table, theirs, ["r2_mean", "r2_sd"], run), caption


def _beside_paper(ours: pd.DataFrame, theirs: pd.DataFrame, columns: list[str], run: Run):
    """Our rows (a set, metric, selection and change each), then the paper's, in one table."""
    ours = ours.assign(source="ours", model=run.profile.model)
    theirs = theirs.assign(source="paper", domains="mmlu-pro", selection="paper", n=8)
    theirs = theirs.assign(change="absolute")
    keep = ["source", "model", "domains", "metric", "selection", "change", "n", *columns]
    table = pd.concat([ours, theirs], ignore_index=True)
    return table.reindex(columns=keep)  # r_true: none where no change is reliable


def claims(numbers: Numbers, run: Run) -> Iterator[Claim]:
    """Each score correlates with the absolute change; STS_ICL does so more steadily."""
    for name, observed in numbers.observed.items():
        for metric, seen in observed.items():
            claim = f"{metric} correlates with the absolute change"
            yield Claim("fig3", claim, f"r over the domains of {name}", correlate(seen))
    if len(run.profile.seeds) > 1:
        statistic = "log of the variance of r over seeds, sts_act minus sts_icl"
        first = next(iter(numbers.observed.values()))
        yield Claim("fig3", "STS_ICL is steadier than STS_act", statistic, steadier(first))


def steadier(observed: dict[str, Observations]) -> stats.Interval:
    """How much more the first score's r varies over seeds than the second's; with three seeds an
    interval is wide."""
    rs = [correlation.by_seed(seen) for seen in observed.values()]
    return stats.variance_ratio(*rs, _reliability(observed))


RESULTS = (
    Result(fig3, "Fig 3: score before training, change after it"),
    Result(table6_points, "Table 6 points: score and change of every domain", "table"),
    Result(table6, "Table 6: Pearson correlation", "table"),
    Result(table6_measures, "Table 6 by measure: does r depend on the outcome?", "table"),
    Result(table9, "Table 9: R²", "table"),
)
