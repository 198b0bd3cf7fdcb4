"""Means of questions and seeds drawn again."""

import numpy as np
import pytest

from sts_utils import stats
from sts_utils.stats import Estimate


def test_mean_interval_is_near_the_normal_one():
    values = np.random.default_rng(0).normal(2.0, 1.0, size=400)
    low, high = stats.interval(stats.mean_draws(values[None]))
    se = values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - 1.96 * se, abs=0.02)
    assert high == pytest.approx(values.mean() + 1.96 * se, abs=0.02)


def test_seeds_are_drawn_again_too():
    drawn = np.broadcast_to(np.array([0.0, 1.0])[None, :, None], (4000, 2, 3))
    means = stats.over_seeds(drawn)
    assert means.shape == (4000, 3) and set(np.unique(means)) == {0.0, 0.5, 1.0}
    assert means.mean() == pytest.approx(0.5, abs=0.03)


def test_a_number_minus_itself_is_exactly_zero():
    values = np.random.default_rng(0).normal(size=(3, 40))
    same = Estimate(0.5, stats.mean_draws(values))
    zero, moved = same - same, same - 0.25
    assert (zero.value, zero.low, zero.high) == (0.0, 0.0, 0.0)
    assert moved.value == same.value - 0.25 and moved.low == pytest.approx(same.low - 0.25)


def test_means_of_the_same_questions_share_their_draws():
    values = np.random.default_rng(0).normal(size=(2, 2, 60))
    one, other = (stats.mean_draws(of) for of in values)
    np.testing.assert_allclose(stats.mean_draws(values[0] - values[1]), one - other)
    assert not np.allclose(stats.mean_draws(values[0], stream=1), one)


def test_a_shorter_bootstrap_is_the_beginning_of_a_longer_one():
    """Estimates with fewer draws are paired with the first draws of the others."""
    drawn = np.random.default_rng(0).normal(size=(2000, 3))
    np.testing.assert_array_equal(stats.over_seeds(drawn[:60]), stats.over_seeds(drawn)[:60])
    long, short = Estimate(0.4, drawn[:, 0]), Estimate(0.1, drawn[:60, 1])
    for gap in (long - short, short - long):
        np.testing.assert_array_equal(np.abs(gap.draws), np.abs(drawn[:60, 0] - drawn[:60, 1]))


def test_variants_of_a_template_are_drawn_together():
    """The interval is as wide as that of the templates' means; alone, questions look surer."""
    rng = np.random.default_rng(0)
    groups = np.repeat([f"t{i:02}" for i in range(40)], 5)
    values = (np.repeat(rng.normal(size=40), 5) + 0.1 * rng.normal(size=200))[None]
    drawn = stats.mean_draws(values, groups=groups)
    se = values.reshape(40, 5).mean(1).std(ddof=1) / 40**0.5
    assert drawn.std() == pytest.approx(se, rel=0.05)
    assert stats.mean_draws(values).std() < 0.6 * se
    order = rng.permutation(200)
    np.testing.assert_allclose(stats.mean_draws(values[:, order], groups=groups[order]), drawn)
    np.testing.assert_array_equal(
        stats.mean_draws(values, groups=[f"q{i:03}" for i in range(200)]), stats.mean_draws(values)
    )


def test_a_ratio_of_variances_has_f_s_interval():
    """Of 95% intervals of equal variances 95% hold 0."""
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=(2000, 2, 4))
    found = [stats.variance_ratio(*pair, 0.9) for pair in pairs]
    assert np.mean([e.low < 0 < e.high for e in found]) == pytest.approx(0.95, abs=0.015)
    doubled = stats.variance_ratio(2 * pairs[0, 0], pairs[0, 1], 0.9)
    assert doubled.value == pytest.approx(found[0].value + np.log(4)) and doubled.reliability == 0.9
