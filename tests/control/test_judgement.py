import numpy as np
import pandas as pd

from sts_utils.control import judgement
from sts_utils.control.scores import LIKELIHOOD
from sts_utils.method import shift


def test_centring_removes_rows_and_columns():
    values = np.random.default_rng(0).normal(size=(5, 7))
    added = values + np.arange(5)[:, None] + 3 * np.arange(7)
    left = judgement.centred(values)
    np.testing.assert_allclose(judgement.centred(added), left, atol=1e-12)
    assert np.abs(left.mean(0)).max() < 1e-12


def _planted(noise, seed=0):
    """Changes that grow with the score, in 6 sets × 14 domains, and the scores."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(6, 2, 14)) * 0.1
    scores = scores + rng.normal(size=(6, 1, 14)) + rng.normal(size=14)
    mean = scores.mean(1)[:, None] + 5 * rng.normal(size=14)  # what any training does to a domain
    noisy = [noise * rng.normal(size=(6, 2, 30)) for _ in range(14)]
    return scores, [mean[:, :, d][..., None] + noisy[d] for d in range(14)]


def test_r_centred_finds_a_planted_relation_and_not_a_shuffled_one():
    scores, changes = _planted(0.5)
    r, p = judgement.r_centred(scores, changes, 300)
    assert r.value > 0.9 and r.low > 0.7 and p < 0.05
    other = np.random.default_rng(9).normal(size=scores.shape)
    r, p = judgement.r_centred(other, changes, 300)
    assert r.low < 0 < r.high and p > 0.05


def test_ranks_and_chance():
    values = np.zeros((2, 1, 14))
    values[0, 0, 3] = 1
    np.testing.assert_array_equal(judgement.own_ranks(values, {0: 3, 1: 5}), [[1], [7.5]])
    low, many = judgement.chance(np.ones((6, 2)), 14)
    assert low < 0.001 and many < 0.001
    low, many = judgement.chance(np.full((6, 2), 7.5), 14)
    assert low > 0.3 and many > 0.3


def test_contrast_takes_away_what_any_context_moves(random_stats):
    own, other = random_stats(0), random_stats(1)
    plain = shift.shifted_dims(own, None)
    contrast = shift.shifted_dims(own, None, contrast=[other])
    expected = shift.shift(own) - shift.shift(other)
    np.testing.assert_allclose(contrast.shift, expected[contrast.ids])
    assert (np.diff(contrast.shift) <= 0).all()
    assert not np.array_equal(plain.ids, contrast.ids)
    assert np.allclose(shift.shifted_dims(own, None, contrast=[own]).shift, 0)


def test_a_goal_is_reached_or_not():
    r = f"r_{LIKELIHOOD}"
    judged = {"first": 0.75, "first_low": 0.2, "first_high": 1.0}
    judged = pd.Series(judged | {r: 0.7, f"{r}_low": 0.5, f"{r}_high": 0.8})
    assert judgement.goals(judged).verdict.tolist() == ["not reached", "reached"]
