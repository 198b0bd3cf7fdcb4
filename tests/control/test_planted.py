"""Scores find what was planted, and nothing where nothing is left to find."""

import numpy as np
import planted
import pytest
from scipy.stats import spearmanr

from sts_utils.scores import SCORES

LABELS = list(SCORES)


@pytest.mark.parametrize("label", LABELS)
def test_planted_ranking_is_recovered_and_a_shuffled_one_is_not(label):
    def rho(**how):
        return spearmanr(planted.scores(**how)[label], planted.AFFINITY).statistic

    assert min(rho(seed=seed) for seed in range(3)) > 0.9
    assert abs(np.mean([rho(shuffle=k) for k in range(40)])) < 0.4


def test_the_training_sets_own_domain_comes_first():
    for label, values in planted.scores().items():
        assert values.argmax() == 0, label
