"""Verdicts on claims, by one rule."""

import math

import pytest

from sts_utils import results


@pytest.mark.parametrize(
    ("low", "high", "above", "below"),
    [
        (0.1, 0.2, "agrees", "does not"),
        (-0.2, -0.1, "does not", "agrees"),
        (-0.1, 0.1, "inconclusive", "inconclusive"),
        (0, 0.1, "inconclusive", "inconclusive"),
        (-0.1, 0, "inconclusive", "inconclusive"),
        (math.nan, math.nan, "inconclusive", "inconclusive"),
        (0.1, math.nan, "inconclusive", "inconclusive"),
        (math.nan, -0.1, "inconclusive", "inconclusive"),
    ],
)
def test_verdict(low, high, above, below):
    assert results.verdict(low, high) == results.verdict(low, high, "above") == above
    assert results.verdict(low, high, "below") == below


def test_verdict_of_an_unknown_side():
    with pytest.raises(ValueError, match="'beside'"):
        results.verdict(0, 1, "beside")
