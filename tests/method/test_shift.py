"""The equations, against brute force in float64."""

import itertools

import numpy as np
import pytest

from sts_utils import scores as score
from sts_utils import scores as shift
from sts_utils.stats import CUTS, GROUPS


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
    with pytest.raises(ValueError, match=r"top_n is 41, but there are 40 features"):
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


def test_overlap(random_stats):
    a, b = shift.shifted_dims(random_stats(0), None), shift.shifted_dims(random_stats(5), None)
    assert shift.overlap(a, b, 10) == len(set(a.ids[:10]) & set(b.ids[:10])) / 10
    assert shift.overlap(a, a, 10) == 1.0


def test_weights_draw_queries_again(random_stats):
    domain, dims = random_stats(1), shift.shifted_dims(random_stats(0), 7)
    weights = np.stack([np.ones(12), np.eye(12)[3]])
    for equation, field in ((score.sts_act, "h"), (score.sts_icl, "dh2")):
        drawn = equation(domain, dims, weights=weights)
        alone = getattr(domain, field)[3, dims.ids].sum() / domain.n[3]
        np.testing.assert_allclose(drawn, [equation(domain, dims), alone])


def test_a_template_s_questions_are_left_out_together(random_stats):
    """With two templates a part is without one of them, or nothing is left out."""
    x = random_stats()
    plain = shift.shifts([x, x], "dh2", {})
    assert plain.shape == (1 + CUTS * GROUPS, 2, 40) and plain.std(0).min() > 0
    np.testing.assert_array_equal(plain[:, 0], plain[:, 1])
    np.testing.assert_allclose(plain[0, 0], shift.shift(x))
    groups = {name: str(i % 2) for i, name in enumerate(x.ids)}
    parts = {tuple(row) for row in shift.shifts([x], "dh2", groups)[:, 0].round(5)}
    halves = slice(0, None, 2), slice(1, None, 2)
    by_hand = [x.dh2[rows].sum(0) / x.n[rows].sum() for rows in halves]
    assert parts == {tuple(row.round(5)) for row in (*by_hand, shift.shift(x))}
