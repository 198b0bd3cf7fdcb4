"""Baselines and probes by hand."""

import numpy as np
import pytest

from sts_utils.stats import Correlation


@pytest.fixture(scope="module")
def baselines(notebook_functions):
    return notebook_functions("10_baselines")


def test_baselines_by_hand(baselines, random_stats):
    domain, train, tuned = random_stats(0), random_stats(1), random_stats(2)
    mean, other, after = (x.r.sum(0) / x.n.sum() for x in (domain, train, tuned))
    assert baselines.mean_activation(domain) == pytest.approx(mean.mean())
    assert baselines.similarity(domain, train) == pytest.approx(cosine(mean, other))
    assert baselines.moved(domain, tuned) == pytest.approx(1 - cosine(mean, after))


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


CATEGORIES = tuple(map(str, range(14)))
R = Correlation(0.1, np.zeros(14), np.ones(14), reliability=0.9, seeds=2)


def test_a_probe_finds_a_law_and_none_in_noise(baselines):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(14, 20)) * np.r_[5.0, np.ones(19)]
    law = baselines.skill(x[:, :2], 20 + x[:, 0], CATEGORIES, R)
    assert law.value > 0.9 and law.low > 0 and law.reliability == 0.9
    changes = np.abs(rng.normal(size=(20, 14)))
    noise = [baselines.skill(x, y, CATEGORIES, R).value for y in changes]
    assert np.mean(noise) < 0.1


def test_skill_is_by_hand_and_0_for_a_constant_whose_r_is_minus_one(baselines):
    rng = np.random.default_rng(2)
    x, y, constant = rng.normal(size=(14, 16)), rng.normal(size=14), np.ones((14, 1))
    error = ((baselines.probe(x, y, CATEGORIES) - y) ** 2).sum()
    none = sum((np.delete(y, d).mean() - y[d]) ** 2 for d in range(14))
    assert baselines.skill(x, y, CATEGORIES, R).value == pytest.approx(1 - error / none)
    assert np.corrcoef(baselines.probe(constant, y, CATEGORIES), y)[0, 1] == pytest.approx(-1)
    assert baselines.skill(constant, y, CATEGORIES, R).value == pytest.approx(0, abs=1e-9)


def test_a_probe_never_sees_the_category_it_predicts(baselines):
    rng = np.random.default_rng(1)
    x, y, names = rng.normal(size=(10, 4)), rng.normal(size=10), "abcddefghi"
    other = np.where(np.arange(10) == 3, 100.0, y)
    one, two = (baselines.probe(x, changed, tuple(names)) for changed in (y, other))
    assert one[3:5] == pytest.approx(two[3:5]) and not np.allclose(one[:3], two[:3])
