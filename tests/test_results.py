"""Verdicts on claims, by one rule; figures and tables as they are saved."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sts_utils import config, results
from sts_utils.results import Claim
from sts_utils.stats import Correlation, Estimate


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


def test_claims_are_judged_by_what_the_paper_said():
    up = Estimate(0.2, np.linspace(0.1, 0.3, 50))
    said = [
        Claim("fig4a", "a narrower SAE predicts better", "slope", up),
        Claim("fig7", "tuning estimated dims beats random dims", "difference", up, "75.6"),
    ]
    below, above = (row for _, row in results.judged(said).iterrows())
    assert (below.verdict, below.paper) == ("does not", "wider is lower")
    assert (above.verdict, above.paper, above["value"]) == ("agrees", "75.6", 0.2)


def test_noise_is_not_testable_and_a_claim_is_the_sum_of_its_statistics():
    def r(value, reliability):
        spread = value + np.linspace(-0.01, 0.01, 14)
        return Correlation(value, spread, value, spread, reliability)

    claim = "sts_act correlates with the absolute change"
    other = "sts_icl correlates with the absolute change"
    said = [Claim("fig3", claim, "one", r(0.8, 0.9)), Claim("fig3", claim, "two", r(0.8, 0.4))]
    said += [Claim("fig3", other, "one", r(-0.8, 0.9)), Claim("fig3", other, "two", r(0.8, 0.9))]
    table = results.judged(said)
    assert list(table.verdict) == ["agrees", "not testable", "does not", "agrees"]
    assert list(table.reliability) == [0.9, 0.4, 0.9, 0.9]
    summed = results.by_claim(table)
    assert list(summed.verdict) == ["inconclusive", "does not"] and set(summed.statistics) == {2}


def test_a_domain_looks_the_same_everywhere():
    looks = {(tuple(colour), marker) for colour, marker in results.STYLES.values()}
    assert len(looks) == 14 and len(results.STYLES) == 14


def test_points_of_r_are_the_estimates_in_groups():
    rng = np.random.default_rng(0)
    rows = {x: {m: Estimate(rng.random(), rng.random(99)) for m in "ab"} for x in ("one", "two")}
    figure, caption = results.r_panel("Fig 0", rows, "what", "two domains", "the same")
    (axis,) = figure.axes
    for metric, container in zip("ab", axis.containers, strict=True):
        shown = container.lines[0].get_ydata()
        assert list(shown) == [row[metric].value for row in rows.values()]
        assert list(container.lines[0].get_xdata().round()) == [0, 1]
    assert caption.startswith("Fig 0. r of score and absolute change over two domains;")
    assert results.r_panel("Fig 0", {}, "what", "of none", "the same") is None
    plt.close(figure)


def test_saved_figures_are_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FIGURES", tmp_path)
    contents = []
    for _ in range(2):
        figure, axis = plt.subplots()
        axis.plot([1, 3, 2], label="x")
        results.save("fig0", figure, "A caption.", "The setting.", "run")
        assert not plt.fignum_exists(figure.number)
        files = [tmp_path / "run" / f"fig0.{kind}" for kind in ("pdf", "png", "txt")]
        contents.append([file.read_bytes() for file in files])
    assert contents[0] == contents[1] and len(list((tmp_path / "run").iterdir())) == 3
    assert contents[0][2].decode() == "A caption.\nThe setting.\n"
    assert b"/FontFile2" in contents[0][0] or b"/Type42" in contents[0][0]  # embedded TrueType


def test_saved_tables_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FIGURES", tmp_path)
    table = pd.DataFrame({"source": ["sts_act", "paper"], "r_low": [1 / 3, np.nan], "n": [14, 8]})
    results.save("table0", table, "100% of r_low.", "The setting.", "run")
    csv, md, tex, txt = (tmp_path / "run" / f"table0.{k}" for k in ("csv", "md", "tex", "txt"))
    pd.testing.assert_frame_equal(pd.read_csv(csv), table, rtol=1e-5)
    assert md.read_text().startswith("100% of r_low. The setting.\n\n| source")
    assert r"100\% of r\_low. The setting." in tex.read_text() and r"r\_low &" in tex.read_text()
    assert r"sts\_act & " in tex.read_text()  # LaTeX takes a bare _ for mathematics
    assert txt.read_text() == "100% of r_low.\nThe setting.\n"


def test_the_setting_says_how_accuracy_is_measured():
    written = results.setting(config.load("llama3-8b"))
    assert "Performance is accuracy, of answers written behind 5 examples, on at most" in written
    assert "written" not in results.setting(config.load("smol"))
