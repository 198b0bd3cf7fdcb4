"""Fig 3 and Tables 6 and 9 against independent computations."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sts_utils import correlation
from sts_utils.experiments import fig3
from sts_utils.results import paper


@pytest.fixture
def numbers(run, random_stats):
    names = ("one", "two", "three", "four", "five")
    second = type(run)(run.profile)
    second.domain_names, second.dims = names, run.dims
    second.domains = [
        {d: random_stats(300 + 9 * s + i) for i, d in enumerate(names)} for s in (0, 1)
    ]
    second.change_arrays = run.change_arrays[:5]
    run.sets = {"mmlu-test": run, "benchmarks": second}
    return fig3.compute(run)


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


def test_the_score_s_spread_over_seeds_is_a_claim(numbers, run):
    *_, last = fig3.claims(numbers, run)
    first = numbers.observed["mmlu-test"]
    spread = {m: np.std(correlation.by_seed(seen), ddof=1) for m, seen in first.items()}
    assert last.estimate.value == pytest.approx(spread["sts_act"] - spread["sts_icl"])


def test_the_set_that_can_decide_stands_first(run):
    run.profile = run.profile.model_copy(update={"also": None})
    assert list(run.sets) == [run.profile.domains]


def test_without_any_reliable_change_the_table_is_drawn_all_the_same(run, random_stats):
    noise = np.random.default_rng(0)
    run.change_arrays = [noise.normal(size=of.shape) for of in run.change_arrays]
    run.sets = {"mmlu-test": run}
    found = fig3.compute(run)
    found = found._replace(table=found.table.drop(columns=["r_true"], errors="ignore"))
    six, _ = fig3.table6(found, run)
    ours = six[(six.source == "ours") & (six.selection == "all")]
    assert six.r_true.isna().all() and ours.r.notna().all()
