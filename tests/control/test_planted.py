"""Planted truth: each topic owns a few features. A word fires its topic's; a context moves those of
its words' topics on every later token, and some generic ones by its length alone. A domain writes a
share AFFINITY of its words about the training set's topic, so scores must order domains by it."""

from functools import cache

import numpy as np
import pytest
from scipy.stats import spearmanr

from sts_utils.features import FeatureStats
from sts_utils.scores import ShiftedDims, over_domains, shifted_dims

AFFINITY = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)  # the first domain is the training set's own
TOPICS, OWNED, QUERIES, WORDS = len(AFFINITY) + 2, 6, 60, 12
FEATURES = TOPICS * OWNED + 10
MOVES = 0.2 * np.random.default_rng(0).normal(size=(TOPICS, FEATURES))  # by a context of a topic
MOVES[:, -10:] = 1.1
for k in range(TOPICS):
    MOVES[k, k * OWNED : (k + 1) * OWNED] = (-1.0) ** np.arange(OWNED)


@cache
def stats(own: int, share: float, seed: int) -> FeatureStats:
    """Sums over 60 queries of 12 words, without and with one of 8 contexts of 40 words. A word is
    of topic 0 (the training set's) with probability `share`, else of topic `own`."""
    rng = np.random.default_rng((own, seed))
    topics = np.where(rng.random((QUERIES, WORDS)) < share, 0, own)
    plain = np.full((QUERIES, WORDS, FEATURES), 2.0)  # all are on, so a context can move them down
    plain[..., :-10] += np.eye(TOPICS)[topics].repeat(OWNED, -1)
    plain += 0.5 * np.eye(FEATURES)[topics * OWNED + rng.integers(OWNED, size=topics.shape)]
    moved = np.eye(TOPICS)[np.where(rng.random((8, 40)) < share, 0, own)].mean(1) @ MOVES
    icl = np.maximum(plain + moved[np.arange(QUERIES) % 8][:, None], 0)
    sums = [x.sum(1) for x in (plain, plain**2, icl - plain, (icl - plain) ** 2)]
    ids, n = tuple(f"q{i}" for i in range(QUERIES)), np.full(QUERIES, WORDS)
    return FeatureStats(ids, np.arange(FEATURES), n, *sums, sums[0], *sums[2:])


def order(name: str, seed: int = 0, renamed: np.ndarray | None = None) -> float:
    """Rank correlation of a score on D_16 with AFFINITY; with features renamed nothing is left."""
    domains = [stats(d + 1, share, seed) for d, share in enumerate(AFFINITY)]
    train, names = stats(0, 1.0, seed), np.arange(FEATURES) if renamed is None else renamed
    ranked, towards = shifted_dims(train, 16), train.mean("dh")[np.argsort(names)]
    dims = ShiftedDims(names[ranked.ids], ranked.shift)
    return spearmanr(over_domains(name, domains, dims, towards=towards), AFFINITY).statistic


@pytest.mark.parametrize("name", ["sts_act", "sts_icl", "cosine"])
def test_planted_ranking_is_recovered_and_a_shuffled_one_is_not(name):
    shuffles = [np.random.default_rng(k).permutation(FEATURES) for k in range(40)]
    assert min(order(name, seed) for seed in range(3)) > 0.9
    assert abs(np.mean([order(name, 0, renamed) for renamed in shuffles])) < 0.4
