"""The equations, against brute force in float64."""

import itertools

import numpy as np
import pytest

from sts_utils import scores as score
from sts_utils import scores as shift


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


def test_a_template_s_questions_are_drawn_together(random_stats):
    """With one template for all nothing varies; with a template each it is the plain bootstrap."""
    x = random_stats()
    plain = shift.shift_draws([x, x], "dh2", 50, {})
    assert plain.shape == (50, 2, 40) and plain.std(0).min() > 0
    np.testing.assert_array_equal(plain[:, 0], plain[:, 1])
    one = shift.shift_draws([x], "dh2", 50, dict.fromkeys(x.ids, "t"))
    np.testing.assert_allclose(one, np.broadcast_to(shift.shift(x), (50, 1, 40)))
    halves = {name: str(i % 2) for i, name in enumerate(x.ids)}
    drawn = {tuple(np.round(row, 6)) for row in shift.shift_draws([x], "dh2", 50, halves)[:, 0]}
    assert len(drawn) == 3
