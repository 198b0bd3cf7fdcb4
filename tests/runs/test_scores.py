import numpy as np
import pytest

from sts_utils import scores
from sts_utils import scores as shift


def test_relative_score_ranks_the_domain_that_uses_the_dims_more_than_others():
    # feature 0 is strong everywhere
    h = np.array([[10.0, 1.0, 0.0], [10.0, 3.0, 0.0], [12.0, 0.0, 0.0]])
    ids = np.array([0, 1])
    relative = scores.relative_activity(h[:, ids]).mean(-1)
    assert relative.argmax() == 1 and np.isfinite(relative).all()
    scaled = scores.relative_activity((h * [5.0, 0.2, 1.0])[:, ids]).mean(-1)
    np.testing.assert_allclose(scaled, relative, atol=0.05)  # scale-free


def test_every_score_of_the_list_scores_every_domain_and_its_draws(random_stats):
    domains, dims = (
        [random_stats(seed) for seed in (1, 2, 3)],
        shift.shifted_dims(random_stats(), 7),
    )
    towards, weights = random_stats().mean("dh"), [np.ones((2, 12))] * 3
    for name in scores.SCORES:
        values = scores.over_domains(name, domains, dims, towards=towards)
        drawn = scores.over_domains(name, domains, dims, towards=towards, weights=weights)
        np.testing.assert_allclose(drawn, [values, values])
    with pytest.raises(ValueError, match="score 'sts': choose from sts_act, sts_icl, sts_rel"):
        scores.over_domains("sts", domains, dims)
