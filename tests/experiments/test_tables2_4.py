"""Change of performance in each domain, on made-up changes."""

import itertools

import numpy as np
import pandas as pd
import pytest

from sts_utils import evaluate as options
from sts_utils import stats as correlation
from sts_utils.experiments import tables2_4
from sts_utils.results import paper
from sts_utils.runs import performance


def test_change_is_paired_by_question(run):
    rng = np.random.default_rng(1)
    measures = options.MEASURES
    run.domain_names, run.sets = ("law", "math"), {"mmlu-test": run}
    cells = itertools.product(("law", "math"), range(20), (0, 1), measures)
    rows = [
        {"domain": d, "id": f"{d}{q}", "seed": s, "measure": m, "before": 0.3}
        for d, q, s, m in cells
    ]
    run.changes = pd.DataFrame(rows).assign(change=rng.normal(size=len(rows)))
    numbers = tables2_4.compute(run)
    table, _ = tables2_4.tables2_4(numbers, run)
    sizes = table["gold_loglik change"].abs()
    assert list(sizes) == sorted(sizes, reverse=True)
    for row in table.to_dict("records"):
        its = run.changes.query(f"domain == '{row['domain']}' and measure == 'gold_loglik'")
        by_question = 100 * its.groupby("id").change.mean()
        assert row["questions"] == 20 and row["gold_loglik before"] == pytest.approx(30)
        assert row["gold_loglik change"] == pytest.approx(by_question.mean())
        assert row["gold_loglik se"] == pytest.approx(by_question.sem())
        assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * by_question.sem())
    theirs = paper("table02_04_accuracy_change").query("model == 'Gemma-2-9B-it'")
    theirs = theirs.set_index("domain").change_percent
    ours = table.set_index("domain")["paper: Gemma-2-9B-it"]
    np.testing.assert_array_equal(ours, theirs.reindex(ours.index))
    sure, caption = tables2_4.reliability(numbers, run)
    best = sure.set_index("measure")["reliability, signed"].idxmax()
    assert ("the most reliable" in caption) == (best == "gold_loglik")
    assert list(sure.measure) == list(options.MEASURES) and set(sure.questions) == {40}
    arrays = performance.change_arrays(run.changes, "accuracy", run.domain_names)
    expected = correlation.reliability(arrays, "signed")
    assert sure.set_index("measure")["reliability, signed"]["accuracy"] == expected
