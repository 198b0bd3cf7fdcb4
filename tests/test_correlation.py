"""Correlations over domains: by hand, and in simulated worlds where the truth is known."""

import numpy as np
import pytest
from scipy import stats

from sts_utils import stats as correlation
from sts_utils.stats import Observations, combined, correlate

DOMAINS, QUESTIONS = 14, 40


def world(rng, r: float, signal: float, change: str = "signed"):
    """(what is observed, [D] score, [D] true change, in standard errors of a domain's change).

    Score and true change correlate with r over all possible domains; the change's standard
    deviation over them is `signal`. Absolute: the size has it, the sign is drawn.
    """
    score = rng.normal(size=DOMAINS)
    true = r * score + np.sqrt(1 - r**2) * rng.normal(size=DOMAINS)
    if change == "absolute":
        true = (2.5 + true) * rng.choice([-1, 1], size=DOMAINS)
    true = signal * true
    noise = rng.normal(size=(DOMAINS, QUESTIONS)) * QUESTIONS**0.5
    changes = [(mean + of)[None] for mean, of in zip(true, noise, strict=True)]
    left_out = np.broadcast_to(score, (correlation.GROUPS, 1, DOMAINS))
    names = tuple(f"domain {d}" for d in range(DOMAINS))
    return Observations(names, score[None], left_out, changes), score, true


def test_r_is_pearson_s_of_means_over_seeds():
    rng = np.random.default_rng(0)
    scores, changes = rng.normal(size=(3, 6)), [rng.normal(d, 1, size=(3, 9)) for d in range(6)]
    seen = Observations(tuple("abcdef"), scores, np.stack([scores] * 20), changes)
    x, y = scores.mean(0), np.array([of.mean() for of in changes])
    found = correlate(seen, "signed")
    assert found.value == pytest.approx(stats.pearsonr(x, y).statistic)
    by_hand = [stats.pearsonr(np.delete(x, d), np.delete(y, d)).statistic for d in range(6)]
    np.testing.assert_allclose(found.domains, by_hand)
    se = [of.mean(0).std(ddof=1) / 3 for of in changes]
    noise = np.mean(np.square(se)) + correlation.run_variance(changes)
    assert found.reliability == pytest.approx(1 - noise / y.var(ddof=1))
    assert found.true == pytest.approx(found.value / found.reliability**0.5)
    absolute = stats.pearsonr(x, abs(y)).statistic
    assert correlate(seen).value == pytest.approx(absolute)
    with pytest.raises(ValueError, match="choose from absolute, signed"):
        correlate(seen, "squared")


def test_each_seed_s_r_is_as_the_paper_reports_it():
    seen, *_ = world(np.random.default_rng(1), 0.5, 3)
    y = seen.mean_changes()[0]
    kept = np.r_[np.argsort(abs(y))[:4], np.argsort(abs(y))[-4:]]
    r = stats.pearsonr(seen.scores[0][kept], abs(y[kept])).statistic
    assert correlation.by_seed(seen, "paper")[0] == pytest.approx(r)
    table = correlation.correlations({"sts_act": seen})
    assert len(table) == 4 and table.r.notna().sum() == 2  # pooled over all domains alone
    row = table.query("selection == 'all' and change == 'signed'").iloc[0]
    assert row.low < row.r < row.high and row.true_low < row.r_true < row.true_high


@pytest.mark.parametrize("change", correlation.CHANGES)
@pytest.mark.parametrize("signal", [0, 1, 3])
@pytest.mark.parametrize("r", [0.0, 0.4, 0.8])
def test_intervals_cover_the_truth(r, signal, change):
    """Of 95% intervals 92 to 98% hold the truth, up to the noise of the simulation itself; where
    there is nothing to find 3 to 7% find something."""
    rng, worlds = np.random.default_rng([int(10 * r), signal, change == "signed"]), 400
    true_r = r if signal else 0.0
    rejected, covered, within, testable = 0, 0, 0, 0
    for _ in range(worlds):
        seen, score, true = world(rng, r, signal, change)
        found = correlate(seen, change)
        rejected += found.low > 0 or found.high < 0
        if found.testable:
            testable += 1
            factor = found.reliability**0.5
            covered += found.low <= true_r * factor <= found.high
            size = abs(true) if change == "absolute" else true
            low, high = found.within
            within += low <= np.corrcoef(score, size)[0, 1] <= high
    slack = 2.5 * (0.05 * 0.95 / max(testable, 1)) ** 0.5
    if not signal:
        assert testable / worlds < 0.1
    else:
        assert 0.92 - slack / 2 <= covered / testable <= 0.98 + slack / 2
        assert 0.92 - slack / 2 <= within / testable <= 0.98 + slack / 2
    if not true_r:
        assert 0.03 - 0.02 <= rejected / worlds <= 0.07 + 0.02
    if signal == 3:
        assert testable > 0.98 * worlds


def test_a_spread_is_not_folded_upward():
    """Three r that differ by noise alone: their variance is above zero, unfolded it is not."""
    rng, plain, unfolded, covered = np.random.default_rng(0), [], [], 0
    for _ in range(200):
        worlds = [world(rng, 0.5, 2)[0] for _ in range(3)]
        spread = combined(lambda r: r.var(0, ddof=1), [correlate(seen) for seen in worlds])
        plain.append(spread.value)
        unfolded.append((found := spread.unfolded()).value)
        covered += found.low <= 0 <= found.high
    assert np.mean(plain) > 5 * abs(np.mean(unfolded)) and covered > 180


def test_reliability_is_the_share_of_signal_both_ways():
    rng, expected = np.random.default_rng(0), 2**2 / (2**2 + 1)
    both = []
    for _ in range(60):
        changes = world(rng, 0.0, 2)[0].changes
        both.append((correlation.reliability(changes), correlation.split_half(changes, splits=20)))
    np.testing.assert_allclose(np.mean(both, axis=0), expected, atol=0.05)


def test_what_training_runs_add_to_the_noise():
    """Seeds that train differently by 2 a domain, questions by 1, and answers anew each time by 3;
    where seeds train alike nothing is found, up to noise."""
    rng, found, none = np.random.default_rng(0), [], []
    for _ in range(100):
        questions = rng.normal(size=(DOMAINS, 1, QUESTIONS)) + rng.normal(size=(DOMAINS, 1, 1))
        alike = questions + 3 * rng.normal(size=(DOMAINS, 3, QUESTIONS))
        runs = alike + 2 * rng.normal(size=(DOMAINS, 3, 1))
        found.append(correlation.run_variance(list(runs)))
        none.append(correlation.run_variance(list(alike)))
        assert correlation.reliability(list(runs)) < correlation.reliability(list(alike))
    assert np.mean(found) == pytest.approx(2**2 / 3, rel=0.1) and np.mean(none) < 0.05
    assert correlation.run_variance([of[:1] for of in runs]) == 0


def test_an_interval_of_several_cuts_is_of_their_mean_variance():
    rng = np.random.default_rng(0)
    parts = 0.3 + 0.02 * rng.normal(size=(2, correlation.GROUPS))
    one, other, both = (
        correlation.Correlation(0.3, parts[0], 0.3, of.ravel(), 0.9).within
        for of in (parts[:1], parts[1:], parts)
    )
    squared = [(high - low) ** 2 for low, high in (one, other, both)]
    assert squared[2] == pytest.approx(np.mean(squared[:2]))


def test_differences_are_paired_and_judged_by_the_worse_outcome():
    rng = np.random.default_rng(3)
    one, other = (correlate(world(rng, 0.5, signal)[0]) for signal in (3, 1))
    gap = one - other
    assert gap.value == one.value - other.value and not gap.bounded
    np.testing.assert_array_equal(gap.domains, one.domains - other.domains)
    assert gap.reliability == min(one.reliability, other.reliability)
    assert (one - 0.2).value == one.value - 0.2


def test_parts_are_as_large_as_they_can_be_and_left_out_in_turn():
    weights = correlation.without(32).reshape(correlation.CUTS, correlation.GROUPS, 32)
    for cut in weights:
        assert (cut == 0).sum(1).tolist() == [2] * 12 + [1] * 8
        np.testing.assert_array_equal((cut == 0).sum(0), 1)
    assert not np.array_equal(weights[0], weights[1])


def test_the_paper_selects_by_the_outcome():
    change = np.array([-5.0, 0.1, 3.0, -0.2, 1.0, 4.0, 0.3, -2.0, 0.4, 0.9])
    assert set(correlation.select(change, "paper")) == {0, 5, 2, 7, 1, 3, 6, 8}
    np.testing.assert_array_equal(correlation.select(change[:8], "paper"), range(8))
    with pytest.raises(ValueError, match="choose from all, paper"):
        correlation.select(change, "largest")
