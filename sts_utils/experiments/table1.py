"""Table 1: other training sets than mathematics."""

from collections.abc import Iterator

import pandas as pd

from sts_utils import corpora, results
from sts_utils.results import Claim, Result
from sts_utils.runs.run import Run
from sts_utils.stats import Estimate


def compute(run: Run) -> dict[str, dict[str, Estimate]]:
    """Training set -> r of each metric, and "overlap" of estimated and actual dims at N."""
    runs = {run.profile.train: run} | {name: run.trained_on(name) for name in run.profile.others}
    return {
        corpora.source(name): of.correlations() | {"overlap": of.overlap()}
        for name, of in runs.items()
    }


def table1(numbers: dict[str, dict[str, Estimate]], run: Run) -> tuple[pd.DataFrame, str]:
    """r and overlap of each training set."""
    rows = [
        {"source": "ours", "model": run.profile.model, "training set": name, "measure": measure}
        | results.numbers(e)
        for name, row in numbers.items()
        for measure, e in row.items()
    ]
    for r in results.paper("table01_other_training_sets").itertuples():
        common = {"source": "paper", "model": r.model, "training set": r.training_domain}
        rows.append({**common, "measure": r.metric, "value": r.pearson_mean})
        rows.append({**common, "measure": "overlap", "value": r.overlap_top100 / 100})
    return pd.DataFrame(rows), (
        "Table 1. Other training sets: r of each score with the absolute change over all domains, "
        f"and overlap at N = {run.profile.top_n} of estimated and actual dims, with 95% intervals. "
        "The first set is the main run (all seeds); the others are fine-tuned on with one seed. "
        "The paper's r are over 8 domains."
    )


def claims(numbers: dict[str, dict[str, Estimate]], run: Run) -> Iterator[Claim]:
    """With each training set, the dims are found and STS_ICL correlates."""
    chance = run.profile.top_n / len(run.train[0].features)
    found = "demonstrations find the dims that SFT moves, whatever the training set"
    correlates = "STS_ICL correlates with the absolute change, whatever the training set"
    for name, row in numbers.items():
        above = row["overlap"] - chance
        yield Claim("table1", found, f"{name}: overlap minus chance", above)
        yield Claim("table1", correlates, f"{name}: r over all domains", row["sts_icl"])


RESULTS = (Result(table1, "Table 1: other training sets", "table"),)
