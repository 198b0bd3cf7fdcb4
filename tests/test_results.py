"""Verdicts on claims, by one rule; figures and tables as they are saved."""

import math
from types import SimpleNamespace

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


def test_verdicts_and_p_values_agree_with_intervals():
    for low, high, above, below in (
        (0.1, 0.2, "agrees", "does not"),
        (-0.2, -0.1, "does not", "agrees"),
        (-0.1, 0.1, "inconclusive", "inconclusive"),
        (0, 0.1, "inconclusive", "inconclusive"),
        (math.nan, math.nan, "inconclusive", "inconclusive"),
    ):
        assert results.verdict(low, high) == results.verdict(low, high, "above") == above
        assert results.verdict(low, high, "below") == below
    assert results.verdict(-0.2, 0.3, "above", 0.6) == "weaker"  # than the paper's smallest
    assert results.verdict(-0.2, 0.7, "above", 0.6) == "inconclusive"
    assert results.verdict(-0.3, 0.2, "below", -0.6) == "weaker"
    assert results.verdict(0.1, 0.3, "above", 0.6) == "agrees"
    for low, high, small in ((0.01, 0.4, True), (-0.01, 0.4, False), (-0.4, -0.01, True)):
        middle = SimpleNamespace(value=(low + high) / 2, low=low, high=high)
        assert (results.p_value(middle) < 0.05) == small


def r(value, reliability, seeds=2):
    left_out = value + np.linspace(-0.01, 0.01, 14)
    return Correlation(value, left_out, np.ones(14), reliability, seeds)


def test_many_claims_are_corrected(folder, profile):
    """Of twenty statistics one interval leaves 0 out by a hair: alone it agrees, corrected not."""
    by_chance = Estimate(0.2, np.linspace(0.005, 0.395, 400))
    nothing = Estimate(0.0, np.linspace(-0.2, 0.2, 400))
    results.judge(profile, [Claim("fig6-overlap", str(i), nothing) for i in range(19)])
    results.judge(profile, [Claim("table8-recall", "one", by_chance)])
    last = pd.read_csv(folder / "claims.csv").iloc[-1]
    assert (last.verdict, last.corrected) == ("agrees", "inconclusive")


def test_claims_are_judged_in_the_place_of_earlier_ones(folder, profile):
    """Noise is not testable; a lower number may be what the paper said."""
    up = Estimate(0.2, np.linspace(0.1, 0.3, 50))
    results.judge(profile, [Claim("table8-recall", "a difference", up, "75.6")])
    results.judge(profile, [Claim("fig3-act", "earlier", r(-0.8, 0.9))])
    claims = [Claim("fig3-act", "one", r(0.8, 0.9)), Claim("fig3-act", "two", r(0.8, 0.4))]
    claims.append(Claim("fig3-icl", "of one seed", r(0.8, 0.9, seeds=1)))
    results.judge(profile, [*claims, Claim("fig4a-width", "slope", up)])
    results.judge(profile, [])
    table = pd.read_csv(folder / "claims.csv")
    assert list(table.id) == ["fig3-act", "fig3-act", "fig3-icl", "fig4a-width", "table8-recall"]
    assert list(table.statistic) == ["one", "two", "of one seed", "slope", "a difference"]
    untested = ["not testable"] * 2
    assert list(table.verdict) == ["agrees", *untested, "does not", "agrees"]
    assert list(table.paper[3:]) == ["wider is lower", "75.6"]
    assert list(table.reliability[:2]) == [0.9, 0.4] and table.reliability[3:].isna().all()


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
    assert md.read_text().startswith("100% of r_low. Model tiny")
    assert "\n\n| source" in md.read_text()
    assert r"100\% of r\_low. Model" in tex.read_text() and r"r\_low &" in tex.read_text()
    assert r"sts\_act & " in tex.read_text()  # LaTeX takes a bare _ for mathematics
    assert txt.read_text() == f"100% of r_low.\n{results.setting(profile)}\n"


def test_points_say_their_words_where_they_lie(folder, profile, monkeypatch):
    """A named point's spot lies on it, in percent of the picture; its words are no HTML."""
    seen = []
    monkeypatch.setattr(results, "display", seen.append)
    figure, axis = plt.subplots()
    assert results.hovering(figure) is figure
    axis.set_position((0, 0, 1, 1))
    axis.set(xlim=(0, 4), ylim=(0, 10))
    axis.plot(1, 8, "o", gid='law <"1" & n = 5>')
    results.publish(profile, "fig0", figure, "A caption.")
    spot = seen[0].data
    assert 'title="law &lt;&quot;1&quot; &amp; n = 5&gt;"' in spot and "data:image/png" in spot
    assert "left: 25.00%; top: 20.00%" in spot


def test_domains_have_families_and_columns_words():
    assert results.FAMILY["engineering"] == "science" and "trivia" not in results.FAMILY
    colours = {(of["colour"], of["marker"]) for of in results.FAMILIES.values()}
    assert len(colours) == len(results.FAMILIES)
    assert results.worded("gold_loglik change") == "log P(gold) change"
