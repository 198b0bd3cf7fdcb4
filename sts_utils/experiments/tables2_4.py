"""Tables 2–4: change of performance in each domain, and how much of it is signal."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from sts_utils import results
from sts_utils import stats as correlation
from sts_utils.evaluate import MEASURES
from sts_utils.results import MEASURE_NAMES, Result
from sts_utils.runs import performance
from sts_utils.runs.run import Run


class Numbers(NamedTuple):
    """`changes`: a row a set and domain; `reliability`: a row a set and measure."""

    changes: pd.DataFrame
    reliability: pd.DataFrame


def compute(run: Run) -> Numbers:
    """Of each set of domains."""
    sets = run.sets.items()
    return Numbers(
        pd.concat({name: changes(of) for name, of in sets}),
        pd.concat({name: reliabilities(of) for name, of in sets}),
    )


def changes(run: Run) -> pd.DataFrame:
    """Change of performance, a row a domain, largest absolute change first.

    Values are × 100, means over seeds and questions; `se` is the standard error over questions of
    the change as a mean over seeds, `low` and `high` are 1.96 of it away.
    """
    main, rows = run.profile.evaluation.measure, []
    for domain, group in run.changes.groupby("domain"):
        row = {"domain": domain, "questions": group.id.nunique()}
        for measure in dict.fromkeys((main, "gold_log_odds", "accuracy")):
            of = group[group.measure == measure]
            by_question = 100 * of.groupby("id").change.mean()
            row[f"{measure} before"] = 100 * of.before.mean()
            row[f"{measure} change"] = by_question.mean()
            row[f"{measure} se"] = by_question.sem()
        change, width = row[f"{main} change"], 1.96 * row[f"{main} se"]
        rows.append(row | {"low": change - width, "high": change + width})
    return pd.DataFrame(rows).sort_values(f"{main} change", key=abs, ascending=False)


def reliabilities(run: Run) -> pd.DataFrame:
    """How much of a measure's variance between domains is signal, a row a measure: of the signed
    and of the absolute change, by standard errors and by halves of the questions."""
    rows = []
    for measure in MEASURES:
        of = performance.change_arrays(run.changes, measure, run.domain_names)
        row = {"measure": measure, "questions": sum(change.shape[1] for change in of)}
        row["sd over domains"] = np.std([change.mean() for change in of], ddof=1)
        row["mean se"] = np.sqrt((correlation.standard_errors(of) ** 2).mean())
        for kind in correlation.CHANGES:
            row[f"reliability, {kind}"] = correlation.reliability(of, kind)
            row[f"split halves, {kind}"] = correlation.split_half(of, kind)
        rows.append(row)
    return pd.DataFrame(rows).dropna()


def tables2_4(numbers: Numbers, run: Run) -> tuple[pd.DataFrame, str]:
    """Ours beside the paper's change of accuracy, one column a model."""
    theirs = results.paper("table02_04_accuracy_change")
    theirs = theirs.pivot(index="domain", columns="model", values="change_percent")
    table = numbers.changes.rename_axis(["domains", None]).reset_index("domains")
    theirs = theirs.add_prefix("paper: ")
    table = table.merge(theirs, how="left", left_on="domain", right_index=True)
    return table.reset_index(drop=True), (
        "Tables 2–4. Change of performance, after − before SFT, paired by question, × 100, mean "
        f"over seeds: of {MEASURE_NAMES[run.profile.evaluation.measure]} (95% interval over "
        "questions), the log-odds of the gold option and accuracy; beside the paper's change of "
        "accuracy."
    )


def reliability(numbers: Numbers, run: Run) -> tuple[pd.DataFrame, str]:
    """Which measure of performance can be correlated with anything."""
    table = numbers.reliability.rename_axis(["domains", None]).reset_index("domains")
    main = run.profile.evaluation.measure
    best = table.groupby("measure")["reliability, signed"].mean().idxmax()
    rule = "the most reliable" if best == main else f"less reliable than {MEASURE_NAMES[best]}"
    return table.reset_index(drop=True), (
        "Reliability of each measure's change: the share of its variance between domains that is "
        "signal, as 1 − mean squared standard error / variance and from halves of the questions. "
        f"Below {correlation.TESTABLE} no correlation with it is testable. The run's scores are "
        f"correlated with {MEASURE_NAMES[main]}: {rule}, signed, over the sets of domains."
    )


TITLE = "Tables 2–4: change of performance in each domain"
RELIABILITY = "Reliability: which measure of performance can be foretold at all"
RESULTS = (
    Result(tables2_4, TITLE, "table", "05_evaluate"),
    Result(reliability, RELIABILITY, "table", "05_evaluate"),
)
