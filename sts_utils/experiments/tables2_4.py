"""Tables 2–4: change of performance in each domain."""

import pandas as pd

from sts_utils import results, stats
from sts_utils.results import MEASURE_NAMES, Result
from sts_utils.runs.run import Run


def compute(run: Run) -> pd.DataFrame:
    """Change of performance, a row a domain, largest absolute change first.

    Values are points (× 100), mean over seeds and questions; `se` is the standard error over
    questions of the seed-mean change, `low` and `high` a 95% bootstrap interval over both.
    """
    main = run.profile.evaluation.measure
    rows = []
    for domain, group in run.changes.groupby("domain"):
        row = {"domain": domain, "questions": group.id.nunique()}
        for measure in dict.fromkeys((main, "gold_loglik", "accuracy")):
            of = group[group.measure == measure]
            values = 100 * of.pivot(index="seed", columns="id", values="change").to_numpy()
            by_question = values.mean(0)
            row[f"{measure} before"] = 100 * of.before.mean()
            row[f"{measure} change"] = by_question.mean()
            row[f"{measure} se"] = by_question.std(ddof=1) / len(by_question) ** 0.5
            if measure == main:
                row["low"], row["high"] = stats.mean_interval(values)
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.loc[table[f"{main} change"].abs().sort_values(ascending=False).index]


def tables2_4(numbers: pd.DataFrame, run: Run) -> tuple[pd.DataFrame, str]:
    """Ours beside the paper's change of accuracy, one column a model."""
    theirs = results.paper("table02_04_accuracy_change")
    theirs = theirs.pivot(index="domain", columns="model", values="change_percent")
    theirs = theirs.add_prefix("paper: ")
    table = numbers.merge(theirs, how="left", left_on="domain", right_index=True)
    return table.reset_index(drop=True), (
        "Tables 2–4. Change of performance, after − before SFT, paired by question, in points: "
        f"ours for {MEASURE_NAMES[run.profile.evaluation.measure]} (with a 95% interval), the gold "
        "option's log-likelihood (× 100, nats a token) and accuracy, mean over seeds; beside the "
        "paper's change of accuracy."
    )


TITLE = "Tables 2–4: change of performance in each domain"
RESULTS = (Result(tables2_4, TITLE, "table", "05_evaluate"),)
