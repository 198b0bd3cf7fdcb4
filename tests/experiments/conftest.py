"""A run of made-up statistics."""

import numpy as np
import pytest

from sts_utils import corpora
from sts_utils.measured import Run


@pytest.fixture
def run(profile, random_stats):
    """`tiny` at N = 8 with random statistics of 40 features in place of all that is computed."""
    run = Run(profile.model_copy(update={"top_n": 8}))
    run.domain_names = corpora.domains(profile.domains)
    run.train = [random_stats(seed) for seed in (0, 1)]
    run.actual = [random_stats(50 + seed) for seed in (0, 1)]
    places = list(enumerate(run.domain_names))
    run.domains = [{d: random_stats(100 + 20 * s + i) for i, d in places} for s in (0, 1)]
    rngs = [np.random.default_rng(d) for d in range(14)]
    run.change_arrays = [r.normal(0.05 * d, 0.3, size=(2, 25)) for d, r in enumerate(rngs)]
    return run
