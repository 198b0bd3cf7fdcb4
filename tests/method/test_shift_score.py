"""The formulas, against brute force in float64."""

import itertools

import numpy as np
import pytest
from scipy import stats as scipy_stats

from sts_utils import stats
from sts_utils.method import score, shift


def test_shifted_dims_are_the_paper_s_formula(random_stats):
    x = random_stats()
    expected = [sum(x.dh2[q, j] for q in range(12)) / sum(x.n) for j in range(40)]
    dims = shift.shifted_dims(x, 10)
    assert list(dims.ids) == sorted(range(40), key=lambda j: -expected[j])[:10]
    np.testing.assert_allclose(dims.shift, sorted(expected, reverse=True)[:10])


def test_released_code_sums_and_ranks_alike(random_stats):
    x = random_stats()
    paper, released = shift.shifted_dims(x, 40), shift.shifted_dims(x, 40, "released_code")
    np.testing.assert_array_equal(paper.ids, released.ids)
    np.testing.assert_allclose(released.shift, paper.shift * x.n.sum())


def test_raw_dims(random_stats):
    x = random_stats()
    assert shift.shifted_dims(x, 1, raw=True).ids[0] == x.dr2.sum(0).argmax()


def test_n_larger_than_the_sae(random_stats):
    with pytest.raises(ValueError, match=r"top_n is 41, but there are only 40 features: choose 1\.\.40"):
        shift.shifted_dims(random_stats(), 41)


@pytest.mark.parametrize("definition", ["paper", "released_code"])
def test_scores_are_the_paper_s_formulas(random_stats, definition):
    train, domain = random_stats(0), random_stats(1)
    dims = shift.shifted_dims(train, 7)
    act = icl = 0.0
    for q, j in itertools.product(range(12), dims.ids):
        act += domain.h[q, j] if definition == "paper" else domain.h2[q, j] / 7
        icl += domain.dh2[q, j] if definition == "paper" else domain.dh2[q, j] / 7
    assert score.sts_act(domain, dims, definition) == pytest.approx(act / domain.n.sum(), rel=1e-12)
    assert score.sts_icl(domain, dims, definition) == pytest.approx(icl / domain.n.sum(), rel=1e-12)


def test_scores_refuse_statistics_without_the_features(random_stats):
    dims = shift.shifted_dims(random_stats(features=60), 60)
    with pytest.raises(ValueError, match="do not hold every feature"):
        score.sts_act(random_stats(), dims)


def test_unknown_readings_are_named(random_stats):
    x = random_stats()
    with pytest.raises(ValueError, match="definition 'mean': choose paper or released_code"):
        shift.shifted_dims(x, 3, "mean")
    with pytest.raises(ValueError, match="metric 'sts': choose from sts_act, sts_icl"):
        score.parts(x, shift.shifted_dims(x, 3), "sts")


def test_overlap_concentration_and_gini(random_stats):
    a, b = shift.shifted_dims(random_stats(0), None), shift.shifted_dims(random_stats(5), None)
    assert shift.overlap(a, b, 10) == len(set(a.ids[:10]) & set(b.ids[:10])) / 10
    assert shift.overlap(a, a, 10) == 1.0
    moved = np.array([4.0, 0.0, 1.0, 3.0])
    np.testing.assert_allclose(shift.top_share(moved, [0, 1, 2, 4]), [0, 0.5, 0.875, 1])
    pairs = np.abs(moved[:, None] - moved[None, :]).sum() / (2 * 16 * moved.mean())
    assert shift.gini(moved) == pytest.approx(pairs)
    assert shift.gini(np.ones(5)) == pytest.approx(0)


# --- correlations ------------------------------------------------------------------------------


def observed(noise, slope, seed=0, domains=14, seeds=3, questions=60):
    rng = np.random.default_rng(seed)
    x = rng.normal(5, 1, size=domains)
    tokens = [[np.full(20, 7.0)] * domains] * seeds
    sums = [[7 * (x[d] + noise * rng.normal(size=20)) for d in range(domains)] for _ in range(seeds)]
    changes = [slope * x[d] + rng.normal(0, noise + 1e-9, size=(seeds, questions)) for d in range(domains)]
    return stats.ratio_of_sums([f"d{d}" for d in range(domains)], sums, tokens, changes)


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
    assert set(np.abs(change[stats.select(change, "paper")])) == {0.1, 0.2, 0.3, 1.0, 9.0, 7.0, 6.0, 5.0}
    assert len(stats.select(change, "all")) == 10


def test_selecting_by_the_outcome_inflates_r():
    """Why both are reported: over many noisy runs the paper's selection raises |r|."""
    gain = []
    for seed in range(60):
        obs = observed(3.0, 0.2, seed=seed, questions=20)
        x, y = obs.scores, obs.mean_changes()
        gain.append(
            np.abs(stats._r(x, y, "paper", "absolute")).mean() - np.abs(stats._r(x, y, "all", "absolute")).mean()
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


def test_relative_score_ranks_the_domain_that_uses_the_dims_more_than_others():
    h = np.array([[10.0, 1.0, 0.0], [10.0, 3.0, 0.0], [12.0, 0.0, 0.0]])  # feature 0 is strong everywhere
    dims = shift.ShiftedDims(np.array([0, 1]), np.ones(2))
    found = score.sts_relative(h, dims)
    assert found.argmax() == 1
    assert np.isfinite(found).all()
    np.testing.assert_allclose(score.sts_relative(h * [5.0, 0.2, 1.0], dims), found, atol=0.05)  # scale-free
