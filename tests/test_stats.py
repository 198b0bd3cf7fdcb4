import numpy as np
import pytest
from scipy import stats as scipy_stats

from sts_utils import stats
from sts_utils.stats import Estimate


def observed(noise, slope, seed=0, domains=14, seeds=3, questions=60):
    rng = np.random.default_rng(seed)
    x = rng.normal(5, 1, size=domains)
    values = np.array(
        [[x[d] + noise * rng.normal(size=20) for d in range(domains)] for _ in range(seeds)]
    )
    changes = [
        slope * x[d] + rng.normal(0, noise + 1e-9, size=(seeds, questions)) for d in range(domains)
    ]
    replicates = np.empty((stats.DRAWS, seeds, domains))
    for s, d in np.ndindex(seeds, domains):
        replicates[:, s, d] = stats.query_weights(20, stats.DRAWS, s, d) @ values[s, d] / 20
    names = tuple(f"d{d}" for d in range(domains))
    return stats.Observations(names, values.mean(-1), replicates, changes)


def test_r_rho_and_sd_are_scipy_s():
    obs = observed(1.0, 0.3)
    result = stats.correlation(obs, "all", "signed", permutations=50)
    x = obs.scores
    y = np.array([[np.mean(obs.changes[d][s]) for d in range(14)] for s in range(3)])
    r = [scipy_stats.pearsonr(a, b).statistic for a, b in zip(x, y, strict=True)]
    rho = [scipy_stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]
    assert result["r"] == pytest.approx(np.mean(r))
    assert result["r_sd"] == pytest.approx(np.std(r, ddof=1))
    assert result["r2"] == pytest.approx(np.mean(np.square(r)))
    assert result["rho"] == pytest.approx(np.mean(rho))
    assert result["n"] == 14


def test_absolute_change_is_what_the_paper_correlates():
    down = observed(0.1, -1.0)
    assert stats.correlation(down, change="signed", permutations=50)["r"] < -0.9
    assert stats.correlation(down, change="absolute", permutations=50)["r"] > 0.9


def test_the_paper_s_selection_takes_both_ends():
    change = np.array([5.0, -1.0, 0.1, 9.0, 2.0, -7.0, 0.2, 3.0, -0.3, 6.0])
    assert set(np.abs(change[stats.select(change, "paper")])) == {
        0.1,
        0.2,
        0.3,
        1.0,
        9.0,
        7.0,
        6.0,
        5.0,
    }
    assert len(stats.select(change, "all")) == 10


def test_selecting_by_the_outcome_inflates_r():
    """Why both are reported: over many noisy runs the paper's selection raises |r|."""
    gain = []
    for seed in range(60):
        obs = observed(3.0, 0.2, seed=seed, questions=20)
        x, y = obs.scores, obs.mean_changes()
        gain.append(
            np.abs(stats._r(x, y, "paper", "absolute")).mean()
            - np.abs(stats._r(x, y, "all", "absolute")).mean()
        )
    assert np.mean(gain) > 0


def test_interval_covers_and_narrows():
    noisy, clean = observed(2.0, 0.3), observed(0.05, 0.3)
    wide, narrow = (stats.correlation(o, permutations=50) for o in (noisy, clean))
    assert wide["r_low"] < wide["r"] + 0.05 and wide["r_high"] > wide["r"] - 0.05
    assert narrow["r_high"] - narrow["r_low"] < 0.1 < wide["r_high"] - wide["r_low"]


def test_permutation_p_is_uniform_under_the_null_and_small_under_a_law():
    null = [stats.correlation(observed(1.0, 0.0, seed=s), permutations=200)["p"] for s in range(40)]
    assert 0.25 < np.mean(null) < 0.75
    assert stats.correlation(observed(0.1, 1.0), permutations=500)["p"] < 0.01


def test_same_seed_same_interval():
    assert stats.correlation(observed(1.0, 0.3), permutations=100) == stats.correlation(
        observed(1.0, 0.3), permutations=100
    )


def test_mean_interval_is_near_the_normal_one():
    values = np.random.default_rng(0).normal(2.0, 1.0, size=400)
    low, high = stats.mean_interval(values[None])
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
    for same in (stats.r(observed(1.0, 0.3)), Estimate(0.5, stats.mean_draws(values))):
        zero, moved = same - same, same - 0.25
        assert (zero.value, zero.low, zero.high) == (0.0, 0.0, 0.0)
        assert moved.value == same.value - 0.25 and moved.low == pytest.approx(same.low - 0.25)


def test_scores_of_the_same_questions_share_their_replicates():
    one = observed(1.0, 0.3)
    scaled = 3 * one.scores - 1, 3 * one.replicates - 1
    gap = stats.r(one) - stats.r(stats.Observations(one.domains, *scaled, one.changes))
    assert abs(gap.value) < 1e-12 and gap.high - gap.low < 1e-12
    # other scores, the same changes: what is common to both cancels
    first = one.mean_changes().mean(0)

    def near(seed):
        x = first + np.random.default_rng(seed).normal(0, 0.3, size=(3, 14))
        drawn = np.broadcast_to(x, (stats.DRAWS, 3, 14))
        return stats.r(stats.Observations(one.domains, x, drawn, one.changes))

    a, b = near(1), near(2)
    shuffled = Estimate(b.value, np.random.default_rng(0).permutation(b.draws))
    paired, unpaired = a - b, a - shuffled
    assert paired.high - paired.low < 0.9 * (unpaired.high - unpaired.low)


def test_a_shorter_bootstrap_is_the_beginning_of_a_longer_one():
    """Estimates with fewer draws (probes) are paired with the first draws of the others."""
    longer = stats.query_weights(9, 2000, 1, 2)
    np.testing.assert_array_equal(stats.query_weights(9, 60, 1, 2), longer[:60])
    drawn = np.random.default_rng(0).normal(size=(2000, 3))
    np.testing.assert_array_equal(stats.over_seeds(drawn[:60]), stats.over_seeds(drawn)[:60])
    long, short = Estimate(0.4, drawn[:, 0]), Estimate(0.1, drawn[:60, 1])
    for gap in (long - short, short - long):
        np.testing.assert_array_equal(np.abs(gap.draws), np.abs(drawn[:60, 0] - drawn[:60, 1]))


def test_r_of_an_estimate_is_the_table_s():
    one = observed(1.0, 0.3, seed=3)
    table = stats.correlation(one, "paper", "signed", permutations=20)
    r, spread = stats.r(one, "paper", "signed"), stats.r_spread(one)
    expected = table["r"], table["r_low"], table["r_high"]
    assert (r.value, r.low, r.high) == pytest.approx(expected)
    each = [
        np.corrcoef(x, np.abs(y))[0, 1] for x, y in zip(one.scores, one.mean_changes(), strict=True)
    ]
    assert spread.value == pytest.approx(np.std(each, ddof=1))
