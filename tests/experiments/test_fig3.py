"""Fig 3 and Tables 6 and 9 against independent computations."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sts_utils import results
from sts_utils import stats as correlation
from sts_utils.evaluate import MEASURES
from sts_utils.experiments import fig3
from sts_utils.report import page
from sts_utils.results import paper
from sts_utils.runs import performance


@pytest.fixture
def numbers(run, random_stats):
    names = ("one", "two", "three", "four", "five")
    second = type(run)(run.profile)
    second.domain_names, second.dims, second.train = names, run.dims, run.train
    second.domains = [
        {d: random_stats(300 + 9 * s + i) for i, d in enumerate(names)} for s in (0, 1)
    ]
    second.change_arrays = run.change_arrays[:5]
    for of in (run, second):
        of.changes = changes(of)
    run.sets = {"mmlu-test": run, "benchmarks": second}
    return fig3.compute(run)


def changes(run):
    """The table of changes whose log-likelihoods are `change_arrays`, and accuracy noise alone."""
    rng, rows = np.random.default_rng(0), []
    for domain, of in zip(run.domain_names, run.change_arrays, strict=True):
        for measure in MEASURES:
            values = of if measure == "gold_loglik" else rng.normal(size=of.shape)
            for (s, q), change in np.ndenumerate(values):
                rows.append((s, domain, f"{domain}{q:02}", measure, change))
    return pd.DataFrame(rows, columns=["seed", "domain", "id", "measure", "change"])


def test_points_are_scores_and_signed_changes(numbers, run):
    figure, caption = fig3.fig3(numbers, run)
    panels = [seen for of in numbers.observed.values() for seen in of.values()]
    for axis, seen in zip(figure.axes, panels, strict=True):
        points = np.array([c.lines[0].get_xydata()[0] for c in axis.containers])
        np.testing.assert_allclose(points[:, 0], seen.scores.mean(0))
        np.testing.assert_allclose(points[:, 1], 100 * seen.mean_changes().mean(0))
        assert f"absolute change {correlation.correlate(seen)}" in axis.get_title("left")
    assert len(figure.axes) == 4 and len(caption.split()) <= 60
    plt.close(figure)


def test_tables_6_and_9_stand_beside_the_paper_s(numbers, run):
    six, _ = fig3.table6(numbers, run)
    nine, _ = fig3.table9(numbers, run)
    theirs, ours = (six[six.source == source] for source in ("paper", "ours"))
    table6, table9 = paper("table06_pearson"), paper("table09_r2")
    assert sorted(theirs.r_mean) == sorted(table6.pearson_mean)
    assert sorted(theirs.r_sd) == sorted(table6.pearson_sd)
    assert len(ours) == 16 and set(ours.domains) == {"mmlu-test", "benchmarks"}
    assert sorted(nine[nine.source == "paper"].r2_mean) == sorted(table9.r2_mean)


def test_r_with_every_measure_that_can_be_tested(numbers, run):
    table, caption = fig3.table6_measures(numbers, run)
    assert len(caption.split()) <= 60 and (table.reliability >= correlation.TESTABLE).all()
    rows = table.set_index(["domains", "measure", "change", "metric"]).sort_index()
    for kind in correlation.CHANGES:
        row = rows.loc[("mmlu-test", "gold_loglik", kind, "sts_icl")]
        expected = correlation.correlate(numbers.observed["mmlu-test"]["sts_icl"], kind)
        assert (row["value"], row.low, row.high) == (expected.value, expected.low, expected.high)
    towards, of = run.train[0].mean("dh")[run.dims[0].ids], run.domains[0]["law"]
    law = run.domain_names.index("law")
    shift = of.mean("dh")[run.dims[0].ids]
    alike = shift @ towards / np.linalg.norm(shift) / np.linalg.norm(towards)
    assert run.signed().scores[0, law] == pytest.approx(alike)
    assert ("mmlu-test", "gold_loglik", "signed", "cosine") in rows.index
    arrays = performance.change_arrays(run.changes, "accuracy", run.domain_names)
    noise = correlation.reliability(arrays, "absolute")
    assert noise < correlation.TESTABLE and ("mmlu-test", "accuracy", "absolute") not in rows.index


def test_where_no_measure_can_be_tested_the_table_is_empty(numbers, run, monkeypatch):
    """As of a rehearsal's random model, whose page could not read a file without columns."""
    monkeypatch.setattr(fig3, "measures", lambda *_: iter(()))
    table, caption = fig3.table6_measures(fig3.compute(run), run)
    results.save("none", table, caption, "", "test")
    again = page._table(results.FIGURES / "test/none.csv")
    assert again["columns"] == list(numbers.measures.columns) and not again["rows"]


def test_the_points_as_numbers(numbers, run):
    table, caption = fig3.table6_points(numbers, run)
    assert len(table) == 14 + 5 and len(caption.split()) <= 60
    for name, of in numbers.observed.items():
        rows, seen = table[table.domains == name], of["sts_act"]
        assert tuple(rows.domain) == seen.domains
        np.testing.assert_allclose(rows.sts_act, seen.scores.mean(0))
        np.testing.assert_allclose(rows.sts_icl, of["sts_icl"].scores.mean(0))
        np.testing.assert_allclose(rows.change, 100 * seen.mean_changes().mean(0))
        np.testing.assert_allclose(rows.se, 100 * correlation.standard_errors(seen.changes))


def test_the_score_s_spread_over_seeds_is_a_claim(numbers, run):
    *_, last = fig3.claims(numbers, run)
    first = numbers.observed["mmlu-test"]
    spread = {m: np.var(correlation.by_seed(seen), ddof=1) for m, seen in first.items()}
    ratio = np.log(spread["sts_act"] / spread["sts_icl"])
    assert last.estimate.value == pytest.approx(ratio)
    assert last.estimate.low < ratio - 2 and last.estimate.high > ratio + 2  # of two seeds


def test_the_set_that_can_decide_stands_first(run):
    run.profile = run.profile.model_copy(update={"also": None})
    assert list(run.sets) == [run.profile.domains]


def test_without_any_reliable_change_the_table_is_drawn_all_the_same(run, random_stats):
    noise = np.random.default_rng(0)
    run.change_arrays = [noise.normal(size=of.shape) for of in run.change_arrays]
    run.sets, run.changes = {"mmlu-test": run}, changes(run)
    found = fig3.compute(run)
    found = found._replace(table=found.table.drop(columns=["r_true"], errors="ignore"))
    six, _ = fig3.table6(found, run)
    ours = six[(six.source == "ours") & (six.selection == "all")]
    assert six.r_true.isna().all() and ours.r.notna().all()
