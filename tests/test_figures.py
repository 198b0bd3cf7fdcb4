"""Figures and tables against independent computations on random tensors."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sts_utils import figures, shift, stats, tables


@pytest.fixture
def seeds(random_stats):
    return [random_stats(s) for s in (0, 1, 2)], [random_stats(s) for s in (5, 6, 7)]


@pytest.fixture
def small(profile):
    return profile.model_copy(update={"top_n": 8})


def line(axis, label):
    return next(x for x in axis.lines if x.get_label() == label)


def test_fig1a_share_of_the_top(seeds, small):
    figure, caption = figures.fig1a(seeds[1], small)
    shares = [np.sort(a.dh2.sum(0))[-8:].sum() / a.dh2.sum() for a in seeds[1]]
    assert f"hold {np.mean(shares):.1%} of the total" in caption
    assert "uniform shift would give 20.0%" in caption
    plt.close(figure)


def test_fig2a_overlap(seeds, small):
    figure, caption = figures.fig2a(*seeds, small)
    axis = figure.axes[0]
    for label, field in (("SAE features", "dh2"), ("raw dims", "dr2")):
        x, y = line(axis, label).get_data()
        size = getattr(seeds[0][0], field).shape[1]
        for percent, value in zip(x, y, strict=True):
            k = round(percent * size / 100)
            tops = [[set(np.argsort(-getattr(s, field).sum(0) / s.n.sum())[:k]) for s in side] for side in seeds]
            assert value == pytest.approx(np.mean([len(a & b) / k for a, b in zip(*tops, strict=True)]))
    direct = [shift.overlap(shift.shifted_dims(e, 8), shift.shifted_dims(a, 8), 8) for e, a in zip(*seeds, strict=True)]
    assert f"SAE features: {np.mean(direct):.0%}" in caption
    plt.close(figure)


def test_fig2b_concentration(seeds, small):
    figure, _ = figures.fig2b(seeds[1], small)
    x, y = line(figure.axes[0], "SAE features").get_data()
    expected = [np.mean([shift.top_share(shift.shift(a), round(p * 40 / 100)) for a in seeds[1]]) for p in x]
    np.testing.assert_allclose(y, expected)
    plt.close(figure)


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
    assert len({(tuple(c), m) for c, m in figures.STYLES.values()}) == 14


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


def test_performance_change_is_paired_by_question(small):
    rng = np.random.default_rng(1)
    rows = [
        {"domain": d, "id": f"{d}{q}", "seed": s, "measure": m, "before": 0.3, "after": 0.3, "change": rng.normal()}
        for d in ("law", "math") for q in range(20) for s in (0, 1)
        for m in ("gold_probability", "gold_loglik", "accuracy")
    ]  # fmt: skip
    changes = pd.DataFrame(rows)
    table, _ = tables.performance_change(changes, small)
    for row in table.itertuples(index=False):
        values = changes.query(f"domain == '{row.domain}' and measure == 'gold_probability'")
        by_question = 100 * values.groupby("id").change.mean()
        assert row[2 + 1] == pytest.approx(by_question.mean())
        assert row[2 + 2] == pytest.approx(by_question.sem())
        assert row.low < by_question.mean() < row.high
    law = figures.paper("table02_04_accuracy_change").query("domain == 'law' and model == 'Gemma-2-9B-it'")
    column = "paper: Gemma-2-9B-it"
    ours = table.set_index("domain")[column]["law"]
    assert np.isnan(ours) if law.empty else ours == law.change_percent.iloc[0]


def test_saved_files_are_the_same_each_time(observed, small, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FIGURES", tmp_path)
    contents = []
    for _ in range(2):
        figure, caption = figures.fig3(observed, stats.correlations(observed, permutations=20), small)
        paths = figures.save(figure, "fig3", caption, small)
        contents.append([p.read_bytes() for p in paths])
        plt.close(figure)
    assert contents[0] == contents[1]
    assert b"/FontFile2" in contents[0][0] or b"/Type42" in contents[0][0]  # embedded TrueType
