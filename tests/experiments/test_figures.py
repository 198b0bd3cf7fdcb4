"""Figures and tables against independent computations on random tensors."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sts_utils import corpora, stats
from sts_utils.experiments import figures, tables
from sts_utils.stats import Estimate


@pytest.fixture
def small(profile):
    return profile.model_copy(update={"top_n": 8})


def line(axis, label):
    return next(x for x in axis.lines if x.get_label() == label)








@pytest.fixture
def observed():
    rng = np.random.default_rng(0)
    domains = ("biology", "business", "chemistry", "computer science", "economics", "engineering", "health",
               "history", "law", "math", "other", "philosophy", "physics", "psychology")  # fmt: skip

    def one(slope):
        x = rng.normal(5, 1, size=14)
        sums = [[x[d] + 0.1 * rng.normal(size=9) for d in range(14)] for _ in range(2)]
        changes = [0.01 * slope * x[d] + rng.normal(0, 0.01, size=(2, 30)) for d in range(14)]
        return stats.ratio_of_sums(domains, sums, [[np.ones(9)] * 14] * 2, changes)

    return {"sts_act": one(1.0), "sts_icl": one(-0.5)}


def test_fig3_points_are_scores_and_changes(observed, small):
    table = stats.correlations(observed, permutations=50)
    figure, caption = figures.fig3(observed, table, small)
    for axis, values in zip(figure.axes, observed.values(), strict=True):
        points = [x for x in axis.lines if x.get_marker() in ("o", "D")]
        assert len(points) == 14 and sum(p.get_markerfacecolor() != "white" for p in points) == 8
        np.testing.assert_allclose([p.get_xdata()[0] for p in points], values.scores.mean(0))
        expected = 100 * np.abs(values.mean_changes()).mean(0)
        np.testing.assert_allclose([p.get_ydata()[0] for p in points], expected)
    row = table.query("metric == 'sts_act' and selection == 'all' and change == 'absolute'").iloc[0]
    assert f"sts_act, all 14 domains: r = {row.r:.2f}" in caption
    plt.close(figure)


def test_seeds_are_drawn_again_too():
    drawn = np.broadcast_to(np.array([0.0, 1.0])[None, :, None], (4000, 2, 3))
    means = stats.over_seeds(drawn)
    assert means.shape == (4000, 3) and set(np.unique(means)) == {0.0, 0.5, 1.0}
    assert means.mean() == pytest.approx(0.5, abs=0.03)


def test_a_domain_looks_the_same_everywhere():
    assert len({(tuple(c), m) for c, m in figures.STYLES.values()}) == 14 and set(figures.STYLES) == set(corpora.domains("mmlu-pro"))


def test_tables_6_and_9_stand_beside_the_paper_s(observed, small):
    correlations = stats.correlations(observed, permutations=50)
    table, _ = tables.table6(correlations, small)
    theirs = table[table.source == "paper"]
    paper = figures.paper("table06_pearson")
    assert sorted(theirs.r) == sorted(paper.pearson_mean) and sorted(theirs.r_sd) == sorted(paper.pearson_sd)
    ours = table[table.source == "ours"]
    assert list(ours.r) == list(correlations.r) and list(ours.p) == list(correlations.p)
    nine, _ = tables.table9(correlations, small)
    assert sorted(nine[nine.source == "paper"].r2) == sorted(figures.paper("table09_r2").r2_mean)
    assert list(nine[nine.source == "ours"].r2) == list(correlations.r2)




def test_saved_files_are_the_same_each_time(observed, small, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FIGURES", tmp_path)
    contents = []
    for _ in range(2):
        figure, caption = figures.fig3(observed, stats.correlations(observed, permutations=20), small)
        paths = figures.save(figure, "fig3", caption, small)
        contents.append([p.read_bytes() for p in paths])
        plt.close(figure)
    assert contents[0] == contents[1]
    assert contents[0][2].decode() == caption + "\n"
    assert b"/FontFile2" in contents[0][0] or b"/Type42" in contents[0][0]  # embedded TrueType


# --- the further experiments, from made-up estimates -------------------------------------------


@pytest.fixture
def made():
    """A maker of estimates, each another: value and draws around it."""
    rng = np.random.default_rng(0)

    def make(centre=0.3):
        value = centre + 0.3 * rng.normal()
        return Estimate(value, value + 0.1 * rng.normal(size=200))

    return make


def drawn(container):
    """[points, (x, y, low, high)] of an error bar, or of bars with error bars."""
    if hasattr(container, "patches"):
        bars = container.patches
        points = np.array([[b.get_x() + b.get_width() / 2, b.get_height()] for b in bars])
        (segments,) = container.errorbar.lines[2]
    else:
        points, (segments,) = container.lines[0].get_xydata(), container.lines[2]
    return np.array([[x, y, *s[:, 1]] for (x, y), s in zip(points, segments.get_segments(), strict=True)])


def same(container, estimates, factor=1, x=None):
    found = drawn(container)
    expected = [[e.value, *np.percentile(e.draws, [2.5, 97.5])] for e in estimates]
    np.testing.assert_allclose(found[:, 1:], factor * np.array(expected))
    if x is not None:
        np.testing.assert_allclose(found[:, 0], x)




@pytest.mark.parametrize("panel", "abcde")
def test_fig4_points_are_the_estimates(made, small, panel):
    metrics = ("r",) if panel == "e" else ("sts_act", "sts_icl")
    rows = {name: {m: made() for m in metrics} for name in ("one", "two", "three")}
    figure, caption = figures.fig4(panel, rows, small)
    (axis,) = figure.axes
    assert [t.get_text() for t in axis.get_xticklabels()] == list(rows)
    for metric, container in zip(metrics, axis.containers, strict=True):
        same(container, [row[metric] for row in rows.values()])
        assert list(drawn(container)[:, 0].round()) == [0, 1, 2]
    assert caption.startswith(f"Fig 4{panel}.") and all(
        f"{e}" in caption for row in rows.values() for e in row.values()
    )
    plt.close(figure)




def test_fig6_bars_and_points_are_the_estimates(made, small):
    found = {f"overlap {name}": made() for name in ("SFT", "RL")}
    found |= {f"{m} {which}": made() for m in ("sts_act", "sts_icl") for which in ("estimated", "actual")}
    accuracy = pd.DataFrame(
        {"id": list("abcd") * 2, "accuracy": [0, 0, 0, 1, 0, 1, 1, 1.0], "when": ["before"] * 4 + ["after"] * 4}
    )
    figure, caption = figures.fig6(found, accuracy, small)
    left, right = figure.axes
    same(
        next(c for c in left.containers if hasattr(c, "patches")), [found["overlap SFT"], found["overlap RL"]], x=[0, 1]
    )
    for metric, container in zip(("sts_act", "sts_icl"), right.containers, strict=True):
        same(container, [found[f"{metric} estimated"], found[f"{metric} actual"]])
    assert "4 held-out questions 25% before, 75% after" in caption
    plt.close(figure)


def test_fig7_bars_are_the_estimates(made, small):
    found = {(which, n): made() for n in (8, 24) for which in ("estimated", "random")}
    figure, caption = figures.fig7(found, small)
    bars = [c for c in figure.axes[0].containers if hasattr(c, "patches")]
    for which, container in zip(("estimated", "random"), bars, strict=True):
        same(container, [found[which, 8], found[which, 24]])
    assert bars[0].patches[0].get_facecolor()[:3] == figures.SAE_COLOUR
    assert all(f"{n} {which}: {e}" in caption for (which, n), e in found.items())
    plt.close(figure)




def ours(row, estimate):
    assert (row["value"], row.low, row.high) == (estimate.value, estimate.low, estimate.high)


def test_table1(made, small):
    found = {name: {m: made() for m in ("sts_act", "sts_icl", "overlap")} for name in ("gsm-symbolic", "code-io")}
    table, _ = tables.table1(found, small)
    index = table.set_index(["source", "training set", "measure"]).sort_index()
    for name, row in found.items():
        for measure, e in row.items():
            ours(index.loc[("ours", name, measure)], e)
    for r in figures.paper("table01_other_training_sets").itertuples():
        theirs = index.loc[("paper", r.training_domain)]["value"]
        assert (theirs[r.metric], theirs["overlap"]) == (r.pearson_mean, r.overlap_top100 / 100)
    assert len(table) == 6 + 4


@pytest.fixture
def predicted(made):
    names = (
        "feature_activations", "similarity_domain_to_training_set", "similarity_before_after_sft",
        "probe_raw_activations", "probe_sae_activations", "sts_act", "sts_icl",
    )  # fmt: skip
    return {name: made() for name in names}


def test_table5(predicted, small):
    costs = {name: 1e12 * (i + 1) for i, name in enumerate(predicted)}
    table = tables.table5(predicted, costs, small)[0].set_index("predictor")
    theirs = figures.paper("table05_baselines").set_index("baseline")
    for name, row in table.iterrows():
        ours(row, predicted[name])
        assert row["cost, TFLOP"] == list(predicted).index(name) + 1
        if name in theirs.index:
            assert row["uses the tuned model"] == (theirs.uses_finetuned_model[name] == "yes")
            assert row.paper == theirs.pearson[name]
    assert table.paper["sts_icl"] == theirs.pearson["sts"] and np.isnan(table.paper["sts_act"])
    assert set(table.index) == set(predicted) - {"probe_raw_activations", "probe_sae_activations"}


def test_table13(predicted, small):
    table = tables.table13(predicted, small)[0].set_index("predictor")
    theirs = figures.paper("table13_probes").set_index("predictor").pearson
    for name, row in table.iterrows():
        ours(row, predicted[name])
    expected = [theirs["probe_raw_activations"], theirs["probe_sae_activations"], np.nan, theirs["sts"]]
    np.testing.assert_array_equal(table.paper.astype(float), expected)


def test_tables_7_and_8(made, small):
    shares, recalls = {n: made() for n in (50, 100, 200, "all")}, {n: made() for n in ("math", "code", "chance")}
    seven, caption = tables.table7(shares, 0.5, small)
    eight, _ = tables.table8(recalls, 0.5, small)
    for table, of in ((seven, shares), (eight, recalls)):
        for (_, row), e in zip(table.iterrows(), of.values(), strict=True):
            ours(row, e)
    assert list(seven.dims) == ["D_50", "D_100", "D_200", "all labelled"] and "source of 50% of the texts" in caption
    theirs = figures.paper("table07_math_share").math_percent
    np.testing.assert_allclose(seven.paper.astype(float), [*theirs / 100, np.nan])
    theirs = figures.paper("table08_recall").set_index("annotation").recall_percent_in_top500
    np.testing.assert_allclose(eight.paper.astype(float), [theirs["math"] / 100, theirs["code"] / 100, np.nan])




def test_table11(made, small):
    found = {(which, n): made() for n in (8, 24) for which in ("estimated", "random")}
    index = tables.table11(found, small)[0].set_index(["source", "dims", "which"]).sort_index()
    for (which, n), e in found.items():
        ours(index.loc[("ours", n, which)], e)
    for r in figures.paper("table11_selective_finetuning").itertuples():
        for which in ("random", "estimated"):
            change = getattr(r, f"{which}_dims") - r.before_sft
            assert index["value"]["paper (points)", r.selected_dims, which] == pytest.approx(change)


def test_table12(made, small):
    by_l0 = {name: {m: made() for m in ("sts_act", "sts_icl")} for name in ("8", "32")}
    table, _ = tables.table12(by_l0, small)
    index = table[table.source == "ours"].set_index(["l0", "metric"])
    for name, row in by_l0.items():
        for metric, e in row.items():
            ours(index.loc[(float(name), metric)], e)
    theirs, paper = table[table.source == "paper"], figures.paper("table12_sparsity")
    assert list(theirs.l0) == list(paper.l0) and list(theirs["value"]) == list(paper.pearson)


def test_saved_tables_read_back(made, small, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "FIGURES", tmp_path)
    by_l0 = {"8": {"sts_act": made(), "sts_icl": made()}}
    table, caption = tables.table12(by_l0, small)
    paths = tables.save(table, "table12", caption, small)
    assert [p.name for p in paths] == [f"table12.{kind}" for kind in ("csv", "md", "tex", "txt")]
    pd.testing.assert_frame_equal(pd.read_csv(paths[0]), table, check_dtype=False, rtol=1e-5)
    assert paths[3].read_text() == caption + "\n" and paths[1].read_text().startswith(caption)
