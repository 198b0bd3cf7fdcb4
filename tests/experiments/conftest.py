"""A run of made-up statistics, made-up estimates, and what a picture shows."""

import numpy as np
import pytest

from sts_utils import corpora
from sts_utils.measured import Run
from sts_utils.stats import GROUPS, Correlation, Estimate


@pytest.fixture
def run(profile, random_stats):
    """`tiny` at N = 8 with random statistics of 40 features in place of all that is computed."""
    run = Run(profile.model_copy(update={"top_n": 8}))
    run.domain_names = corpora.domains(profile.domains)
    run.train = [random_stats(seed) for seed in (0, 1)]
    run.actual = [random_stats(50 + seed) for seed in (0, 1)]
    run.prose = [random_stats(70 + seed) for seed in (0, 1)]
    places = list(enumerate(run.domain_names))
    run.domains = [{d: random_stats(100 + 20 * s + i) for i, d in places} for s in (0, 1)]
    run.change_arrays = [
        np.random.default_rng(d).normal(0.05 * d, 0.3, size=(2, 25)) for d in range(14)
    ]
    return run


@pytest.fixture
def made():
    """A maker of estimates, each another: value and draws around it."""
    rng = np.random.default_rng(0)

    def make(centre=0.3):
        value = centre + 0.3 * rng.normal()
        return Estimate(value, value + 0.1 * rng.normal(size=200))

    return make


@pytest.fixture
def made_r():
    """A maker of correlations, each another."""
    rng = np.random.default_rng(1)

    def make(reliability=0.9):
        value = 0.3 + 0.3 * rng.normal()
        domains, questions = (value + 0.05 * rng.normal(size=n) for n in (14, GROUPS))
        return Correlation(value, domains, value / reliability**0.5, questions, reliability)

    return make


@pytest.fixture
def rows(made_r):
    """A maker of label -> metric -> correlation."""

    def make(labels, metrics=("sts_act", "sts_icl")):
        return {label: {metric: made_r() for metric in metrics} for label in labels}

    return make


@pytest.fixture
def same():
    """Asserts that error bars, or bars with them, show estimates × factor, at the places x."""

    def check(container, estimates, factor=1, x=None):
        shown = points(container)
        expected = [[e.value, e.low, e.high] for e in estimates]
        np.testing.assert_allclose(shown[:, 1:], factor * np.array(expected))
        if x is not None:
            np.testing.assert_allclose(shown[:, 0], x, atol=0.3)

    return check


def points(container):
    """[points, (x, y, low, high)]."""
    if hasattr(container, "patches"):
        bars = container.patches
        places = np.array([[b.get_x() + b.get_width() / 2, b.get_height()] for b in bars])
        (segments,) = container.errorbar.lines[2]
    else:
        places, (segments,) = container.lines[0].get_xydata(), container.lines[2]
    pairs = zip(places, segments.get_segments(), strict=True)
    return np.array([[x, y, *s[:, 1]] for (x, y), s in pairs])


@pytest.fixture
def ours():
    """Asserts that a table's row holds an estimate."""

    def check(row, estimate):
        assert (row["value"], row.low, row.high) == (estimate.value, estimate.low, estimate.high)

    return check
