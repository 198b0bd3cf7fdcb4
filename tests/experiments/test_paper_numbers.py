"""What the paper's printed numbers can carry: its formulas against simulations and by hand."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import same_color
from scipy import stats as scipy_stats

from sts_utils import stats as correlation
from sts_utils.experiments import paper_numbers
from sts_utils.results import paper


@pytest.fixture(scope="module")
def numbers():
    return paper_numbers.compute(None)


def test_reliability_is_the_share_of_variance_that_another_set_of_questions_repeats():
    """r of the changes on two sets of questions, by flipping each question, is the reliability."""
    rng, share, domains = np.random.default_rng(0), 0.2, 4000
    questions = np.full(domains, 400)
    true = rng.normal(-0.09, 0.03, size=domains).clip(-0.19, 0.19)  # few fold at 0
    gained, lost = (share + true) / 2, (share - true) / 2
    flips = [rng.multinomial(400, np.stack([gained, lost, 1 - share + 0 * true], -1)) for _ in "ab"]
    one, other = [(f[:, 0] - f[:, 1]) / 400 for f in flips]
    repeated = scipy_stats.pearsonr(abs(one), abs(other)).statistic
    assert 0.5 < repeated < 0.8  # neither all noise nor all signal
    assert paper_numbers.reliability(one, questions, share) == pytest.approx(repeated, abs=0.04)


def test_no_fewer_answers_flip_than_the_change_needs():
    changes, questions = np.array([-0.12, 0.0]), np.array([100, 200])
    noise = (0.12 - 0.12**2) / 100 + 0.05 / 200
    by_hand = 1 - noise / 2 / abs(changes).var(ddof=1)
    assert paper_numbers.reliability(changes, questions, 0.05) == pytest.approx(by_hand)


def test_reliability_falls_with_the_share_and_without_the_extreme_domain(numbers):
    table = numbers.reliability.pivot(
        index=["model", "domains"], columns="share", values="reliability"
    )
    assert table.shape == (6, 4) and (np.diff(table) < 0).all()
    assert (table.xs("all", level=1) > table.xs("without engineering", level=1)).all(axis=None)
    changes = paper("table02_04_accuracy_change")
    largest = changes.loc[changes.change_percent.abs().groupby(changes.model).idxmax()]
    assert set(largest.domain) == {paper_numbers.EXTREME} and len(largest) == 3


@pytest.mark.parametrize("source", ["read off", "without engineering"])
def test_r_and_its_interval_are_scipys(numbers, source):
    for row in numbers.correlations[numbers.correlations.source == source].itertuples():
        points = paper("figure3_digitized").query("model == @row.model and metric == @row.metric")
        if source != "read off":
            points = points[points.domain != "engineering"]
        found = scipy_stats.pearsonr(points.sts_read_off_picture, points.abs_change_percent)
        assert row.n == len(points) == (8 if source == "read off" else 7)
        assert row.r == pytest.approx(found.statistic)
        assert (row.low, row.high) == pytest.approx(tuple(found.confidence_interval()), abs=1e-6)


def test_points_read_off_give_the_printed_r(numbers):
    """Else r without a domain would say nothing of the paper's."""
    table = numbers.correlations.pivot(index=["model", "metric"], columns="source", values="r")
    read = table.dropna()
    assert len(table) == 6 and len(read) == 3
    np.testing.assert_allclose(read["read off"], read["printed"], atol=0.015)
    changes = paper("table02_04_accuracy_change").set_index(["model", "domain"]).change_percent
    points = paper("figure3_digitized").set_index(["model", "domain"]).abs_change_percent
    np.testing.assert_allclose(points, changes.abs().loc[points.index])


def test_inflate_chooses_as_the_paper_does():
    changes = np.abs(np.random.default_rng(3).normal(size=(1, 14)))
    noise = np.random.default_rng(1).normal(size=14)  # the score at a true r of 0
    chosen = correlation.select(changes[0], "paper")
    every, eight = paper_numbers.inflate(changes, 0, 1, true=0)
    assert every == pytest.approx(np.corrcoef(changes[0], noise)[0, 1])
    assert eight == pytest.approx(np.corrcoef(changes[0, chosen], noise[chosen])[0, 1])


def test_choosing_by_the_outcome_inflates_r_but_makes_none_from_nothing(numbers):
    for _, curve in numbers.inflation.groupby("changes"):
        some = curve[curve.true.between(0.2, 0.9)]
        assert (some.chosen > some["all"] + 0.02).all()
        nothing = curve[curve.true == 0]
        assert nothing[["all", "chosen"]].abs().max(axis=None) < 0.02
        assert (curve.chosen.diff()[1:] > 0).all()  # so a printed r has one r over all


def test_undone_gives_the_printed_r_back(numbers):
    changes = paper("table02_04_accuracy_change")
    for row in numbers.undone.itertuples():
        sizes = changes[changes.model == row.model].change_percent.abs().to_numpy()
        drawn = np.broadcast_to(sizes, (20_000, 14))
        curve = numbers.inflation[numbers.inflation.changes == row.model]
        true = np.interp(row.all, curve["all"], curve.true)
        every, chosen = paper_numbers.inflate(drawn, sizes.mean(), sizes.std(), true)
        assert every == pytest.approx(row.all, abs=0.005)
        assert chosen == pytest.approx(row.printed, abs=0.005)


def test_picture_shows_the_numbers(numbers):
    figure, caption = paper_numbers.paper_numbers(numbers, None)
    a, b, c = figure.axes
    llama = numbers.reliability.query("model.str.startswith('Llama') and domains == 'all'")
    (line,) = (x for x in a.lines if list(x.get_ydata()) == list(llama.reliability))
    np.testing.assert_allclose(line.get_xdata(), [5, 10, 20, 30])
    shown = [x for bar in b.containers for x in bar.lines[0].get_xdata()]
    assert sorted(shown) == sorted(numbers.correlations.query("source != 'read off'").r)
    marked = [(*x.get_xydata()[0], x.get_color()) for x in c.lines if len(x.get_xdata()) == 1]
    undone = numbers.undone.itertuples()
    for (x, y, colour), row in zip(marked, undone, strict=True):
        assert (x, y) == (row.all, row.printed)
        assert same_color(colour, line.get_color()) == row.model.startswith("Llama")
    assert caption.startswith("Computed from the paper's") and len(caption.split()) <= 60
    plt.close(figure)
