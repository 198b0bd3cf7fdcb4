"""Fig 3 and Tables 6 and 9 against independent computations."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sts_utils import stats
from sts_utils.experiments import fig3
from sts_utils.results import paper


@pytest.fixture
def numbers(run):
    observed = run.observations()
    return fig3.Numbers(observed, stats.correlations(observed, permutations=50))


def test_points_are_scores_and_changes(numbers, run):
    figure, caption = fig3.fig3(numbers, run)
    for axis, seen in zip(figure.axes, numbers.observed.values(), strict=True):
        points = [x for x in axis.lines if x.get_marker() in ("o", "D")]
        assert len(points) == 14 and sum(p.get_markerfacecolor() != "white" for p in points) == 8
        np.testing.assert_allclose([p.get_xdata()[0] for p in points], seen.scores.mean(0))
        expected = 100 * np.abs(seen.mean_changes()).mean(0)
        np.testing.assert_allclose([p.get_ydata()[0] for p in points], expected)
    one = "metric == 'sts_act' and selection == 'all' and change == 'absolute'"
    assert f"sts_act, all 14 domains: r = {numbers.table.query(one).iloc[0].r:.2f}" in caption
    plt.close(figure)


def test_tables_6_and_9_stand_beside_the_paper_s(numbers, run):
    six, _ = fig3.table6(numbers, run)
    nine, _ = fig3.table9(numbers, run)
    theirs, ours = (six[six.source == source] for source in ("paper", "ours"))
    table6, table9 = paper("table06_pearson"), paper("table09_r2")
    assert sorted(theirs.r) == sorted(table6.pearson_mean)
    assert sorted(theirs.r_sd) == sorted(table6.pearson_sd)
    assert list(ours.r) == list(numbers.table.r) and list(ours.p) == list(numbers.table.p)
    assert sorted(nine[nine.source == "paper"].r2) == sorted(table9.r2_mean)
    assert list(nine[nine.source == "ours"].r2) == list(numbers.table.r2)


def test_the_score_s_spread_over_seeds_is_a_claim(numbers, run):
    *_, last = fig3.claims(numbers, run)
    seen = {metric: stats.r_spread(of) for metric, of in numbers.observed.items()}
    assert last.estimate.value == seen["sts_act"].value - seen["sts_icl"].value
