"""What the paper's printed numbers can carry: its formulas against simulations and by hand."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from sts_utils import stats
from sts_utils.experiments import paper_numbers
from sts_utils.results import paper


@pytest.fixture(scope="module")
def sizes():
    """Model -> [14] absolute changes, as printed."""
    changes = paper("table02_04_accuracy_change")
    by_model = changes.change_percent.abs().groupby(changes.model)
    return {model: of.to_numpy() for model, of in by_model}


@pytest.fixture(scope="module")
def curves(sizes):
    return dict(list(paper_numbers.inflation(sizes).groupby("changes")))


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


def test_inflate_chooses_as_the_paper_does():
    changes = np.abs(np.random.default_rng(3).normal(size=(1, 14)))
    noise = np.random.default_rng(1).normal(size=14)  # the score at a true r of 0
    chosen = stats.select(changes[0], "paper")
    every, eight = paper_numbers.inflate(changes, 0, 1, true=0)
    assert every == pytest.approx(np.corrcoef(changes[0], noise)[0, 1])
    assert eight == pytest.approx(np.corrcoef(changes[0, chosen], noise[chosen])[0, 1])


def test_choosing_by_the_outcome_inflates_r_but_makes_none_from_nothing(curves):
    assert len(curves) == 5
    for curve in curves.values():
        some = curve[curve.true.between(0.2, 0.9)]
        assert (some.chosen > some["all"] + 0.02).all()
        nothing = curve[curve.true == 0]
        assert nothing[["all", "chosen"]].abs().max(axis=None) < 0.02
        assert (curve.chosen.diff()[1:] > 0).all()  # so a printed r has one r over all


def test_undone_gives_the_printed_r_back(sizes, curves):
    for model, of in sizes.items():
        over_all = paper_numbers.undone(0.8, curves[model])
        true = np.interp(over_all, curves[model]["all"], curves[model].true)
        drawn = np.broadcast_to(of, (20_000, 14))
        every, chosen = paper_numbers.inflate(drawn, of.mean(), of.std(), true)
        assert every == pytest.approx(over_all, abs=0.005)
        assert chosen == pytest.approx(0.8, abs=0.005)
