"""The equations, against brute force in float64, and where the truth is planted: each topic owns a
few features. A word fires its topic's; a context moves those of its words' topics on every later
token, and some generic ones by its length alone. A domain writes a share AFFINITY of its words
about the training set's topic, so scores must order domains by it."""

import itertools
from functools import cache

import numpy as np
import pytest
from scipy.stats import spearmanr

from sts_utils import scores
from sts_utils.features import FeatureStats
from sts_utils.stats import CUTS, GROUPS


def test_shifted_dims_are_the_paper_s_formula(random_stats):
    x = random_stats()
    expected = [sum(x.dh2[q, j] for q in range(12)) / sum(x.n) for j in range(40)]
    dims = scores.shifted_dims(x, 10)
    assert list(dims.ids) == sorted(range(40), key=lambda j: -expected[j])[:10]
    np.testing.assert_allclose(dims.shift, sorted(expected, reverse=True)[:10])


def test_dims_of_the_released_code_and_of_the_residual_stream_and_too_many(random_stats):
    x = random_stats()
    paper, released = scores.shifted_dims(x, 40), scores.shifted_dims(x, 40, "released_code")
    np.testing.assert_array_equal(paper.ids, released.ids)
    np.testing.assert_allclose(released.shift, paper.shift * x.n.sum())
    assert scores.shifted_dims(x, 1, raw=True).ids[0] == x.dr2.sum(0).argmax()
    with pytest.raises(ValueError, match=r"top_n is 41, but there are 40 features"):
        scores.shifted_dims(x, 41)
    with pytest.raises(ValueError, match="do not hold every feature"):
        scores.sts_act(x, scores.shifted_dims(random_stats(features=60), 60))


@pytest.mark.parametrize("definition", ["paper", "released_code"])
def test_scores_are_the_paper_s_formulas(random_stats, definition):
    train, domain = random_stats(0), random_stats(1)
    dims = scores.shifted_dims(train, 7)
    act = icl = 0.0
    for q, j in itertools.product(range(12), dims.ids):
        act += domain.h[q, j] if definition == "paper" else domain.h2[q, j] / 7
        icl += domain.dh2[q, j] if definition == "paper" else domain.dh2[q, j] / 7
    n = domain.n.sum()
    assert scores.sts_act(domain, dims, definition) == pytest.approx(act / n, rel=1e-12)
    assert scores.sts_icl(domain, dims, definition) == pytest.approx(icl / n, rel=1e-12)


def test_overlap(random_stats):
    a, b = scores.shifted_dims(random_stats(0), None), scores.shifted_dims(random_stats(5), None)
    assert scores.overlap(a, b, 10) == len(set(a.ids[:10]) & set(b.ids[:10])) / 10
    assert scores.overlap(a, a, 10) == 1.0


def test_weights_draw_queries_again(random_stats):
    domain, dims = random_stats(1), scores.shifted_dims(random_stats(0), 7)
    weights = np.stack([np.ones(12), np.eye(12)[3]])
    for equation, field in ((scores.sts_act, "h"), (scores.sts_icl, "dh2")):
        drawn = equation(domain, dims, weights=weights)
        alone = getattr(domain, field)[3, dims.ids].sum() / domain.n[3]
        np.testing.assert_allclose(drawn, [equation(domain, dims), alone])


def test_a_template_s_questions_are_left_out_together(random_stats):
    """With two templates a part is without one of them, or nothing is left out."""
    x = random_stats()
    plain = scores.shifts([x, x], "dh2", {})
    assert plain.shape == (1 + CUTS * GROUPS, 2, 40) and plain.std(0).min() > 0
    np.testing.assert_array_equal(plain[:, 0], plain[:, 1])
    np.testing.assert_allclose(plain[0, 0], scores.shift(x))
    groups = {name: str(i % 2) for i, name in enumerate(x.ids)}
    parts = {tuple(row) for row in scores.shifts([x], "dh2", groups)[:, 0].round(5)}
    halves = slice(0, None, 2), slice(1, None, 2)
    by_hand = [x.dh2[rows].sum(0) / x.n[rows].sum() for rows in halves]
    assert parts == {tuple(row.round(5)) for row in (*by_hand, scores.shift(x))}


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
    ranked, towards = scores.shifted_dims(train, 16), train.mean("dh")[np.argsort(names)]
    dims = scores.ShiftedDims(names[ranked.ids], ranked.shift)
    return spearmanr(scores.over_domains(name, domains, dims, towards=towards), AFFINITY).statistic


@pytest.mark.parametrize("name", ["sts_act", "sts_icl", "cosine"])
def test_planted_ranking_is_recovered_and_a_shuffled_one_is_not(name):
    shuffles = [np.random.default_rng(k).permutation(FEATURES) for k in range(40)]
    assert min(order(name, seed) for seed in range(3)) > 0.9
    assert abs(np.mean([order(name, 0, renamed) for renamed in shuffles])) < 0.4
