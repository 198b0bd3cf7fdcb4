"""Verdicts on claims, by one rule; figures and tables as they are saved."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sts_utils import results
from sts_utils.results import Claim
from sts_utils.stats import Correlation, Estimate


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where what is published of `tiny` lies."""
    monkeypatch.setattr(results, "FIGURES", tmp_path)
    return tmp_path / "tiny"


@pytest.mark.parametrize(
    ("low", "high", "above", "below"),
    [
        (0.1, 0.2, "agrees", "does not"),
        (-0.2, -0.1, "does not", "agrees"),
        (-0.1, 0.1, "inconclusive", "inconclusive"),
        (0, 0.1, "inconclusive", "inconclusive"),
        (math.nan, math.nan, "inconclusive", "inconclusive"),
    ],
)
def test_verdict(low, high, above, below):
    assert results.verdict(low, high) == results.verdict(low, high, "above") == above
    assert results.verdict(low, high, "below") == below


def r(value, reliability):
    spread = value + np.linspace(-0.01, 0.01, 14)
    return Correlation(value, spread, value, spread, reliability)


def test_claims_are_judged_in_the_place_of_earlier_ones(folder, profile):
    """Noise is not testable; a lower number may be what the paper said."""
    up = Estimate(0.2, np.linspace(0.1, 0.3, 50))
    results.judge(profile, [Claim("table8-recall", "a difference", up, "75.6")])
    results.judge(profile, [Claim("fig3-act", "earlier", r(-0.8, 0.9))])
    claims = [Claim("fig3-act", "one", r(0.8, 0.9)), Claim("fig3-act", "two", r(0.8, 0.4))]
    results.judge(profile, [*claims, Claim("fig4a-width", "slope", up)])
    results.judge(profile, [])
    table = pd.read_csv(folder / "claims.csv")
    assert list(table.id) == ["fig3-act", "fig3-act", "fig4a-width", "table8-recall"]
    assert list(table.statistic) == ["one", "two", "slope", "a difference"]
    assert list(table.verdict) == ["agrees", "not testable", "does not", "agrees"]
    assert list(table.paper[2:]) == ["wider is lower", "75.6"]
    assert list(table.reliability[:2]) == [0.9, 0.4] and table.reliability[2:].isna().all()


def test_figures_are_the_same_each_time(folder, profile):
    contents = []
    for _ in range(2):
        figure, axis = plt.subplots()
        axis.plot([1, 3, 2], label="x")
        results.publish(profile, "fig0", figure, "A caption.")
        assert not plt.fignum_exists(figure.number)
        contents.append([path.read_bytes() for path in sorted(folder.iterdir())])
    assert contents[0] == contents[1] and len(contents[0]) == 3
    assert b"/FontFile2" in contents[0][0] or b"/Type42" in contents[0][0]  # embedded TrueType


def test_tables_read_back(folder, profile):
    table = pd.DataFrame({"source": ["sts_act", "paper"], "r_low": [1 / 3, np.nan], "n": [14, 8]})
    results.publish(profile, "table0", table, "100% of r_low.")
    csv, md, tex, txt = (folder / f"table0.{kind}" for kind in ("csv", "md", "tex", "txt"))
    pd.testing.assert_frame_equal(pd.read_csv(csv), table, rtol=1e-5)
    assert (
        md.read_text().startswith("100% of r_low. Model tiny") and "\n\n| source" in md.read_text()
    )
    assert r"100\% of r\_low. Model" in tex.read_text() and r"r\_low &" in tex.read_text()
    assert r"sts\_act & " in tex.read_text()  # LaTeX takes a bare _ for mathematics
    assert txt.read_text() == f"100% of r_low.\n{results.setting(profile)}\n"
