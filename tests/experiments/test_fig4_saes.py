"""Fig 4a–c and Table 12: what is drawn are the estimates, and L0 is the SAE's."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sts_utils.experiments import fig4_saes
from sts_utils.experiments.fig4_saes import Panel
from sts_utils.results import paper
from sts_utils.runs import models


@pytest.fixture
def numbers(rows):
    def panel(*at):
        return Panel(list(at), list(rows(at).values()))

    return {"widths": panel(256, 512), "layers": panel(0, 1), "sparsities": panel(8.0, 32.0, 64.0)}


@pytest.mark.parametrize(("panel", "what"), [("a", "widths"), ("b", "layers"), ("c", "sparsities")])
def test_points_are_the_estimates(numbers, run, same, panel, what):
    figure, caption = getattr(fig4_saes, f"fig4{panel}")(numbers, run)
    (axis,), of = figure.axes, numbers[what]
    assert [t.get_text() for t in axis.get_xticklabels()] == [f"{at:g}" for at in of.at]
    for metric, container in zip(("sts_act", "sts_icl"), axis.containers, strict=True):
        same(container, [row[metric] for row in of.r], x=range(len(of.at)))
    assert caption.startswith(f"Fig 4{panel}. r of score")
    assert len(caption.split()) <= 60
    plt.close(figure)


def test_a_run_with_no_other_saes_shows_and_claims_nothing_of_them(run):
    none = dict.fromkeys(("widths", "layers", "sparsities"), Panel([], []))
    assert fig4_saes.fig4a(none, run) is None and not list(fig4_saes.claims(none, run))


def test_table12(numbers, run, ours):
    table, _ = fig4_saes.table12(numbers, run)
    index = table[table.source == "ours"].set_index(["l0", "metric"])
    for at, row in zip(numbers["sparsities"].at, numbers["sparsities"].r, strict=True):
        for metric, e in row.items():
            ours(index.loc[(at, metric)], e)
    theirs, said = table[table.source == "paper"], paper("table12_sparsity")
    assert list(theirs.l0) == list(said.l0) and list(theirs["value"]) == list(said.pearson)


def test_slopes_and_the_range_are_numpy_s(numbers, run):
    claims = {(c.figure, c.statistic.partition(":")[0]): c for c in fig4_saes.claims(numbers, run)}
    assert len(claims) == 6
    of = numbers["sparsities"]
    r = [row["sts_icl"] for row in of.r]
    slope = claims["table12", "sts_icl"].estimate
    assert slope.value == pytest.approx(np.polyfit(np.log2(of.at), [e.value for e in r], 1)[0])
    domains = np.polyfit(np.log2(of.at), np.stack([e.domains for e in r]), 1)[0]
    np.testing.assert_allclose(slope.domains, domains)
    a, b = (row["sts_act"] for row in numbers["layers"].r)
    variance = (a.value - b.value) ** 2 / 2
    folded = ((a.domains - b.domains) ** 2 / 2).mean() - variance  # of 14 left out in turn
    spread = claims["fig4b", "sts_act"].estimate
    assert spread.value == pytest.approx(variance - 13 * folded - fig4_saes.LITTLE**2)


def test_the_run_is_read_through_each_sae_once(run, profile, monkeypatch):
    asked = []

    def with_sae(self, name):
        asked.append(name)
        return SimpleNamespace(correlations=lambda: name)

    monkeypatch.setattr(type(run), "with_sae", with_sae)
    monkeypatch.setattr(type(run), "correlations", lambda self: "own")
    numbers = fig4_saes.compute(run)
    assert sorted(asked) == ["random-4x", "random-4x-k2", "random-4x-layer1"]
    assert numbers["widths"] == Panel([256, 512], ["random-4x", "own"])
    assert numbers["layers"] == Panel([0, 1], ["random-4x", "random-4x-layer1"])
    assert numbers["sparsities"] == Panel([2.0, 8.0], ["random-4x-k2", "random-4x"])


def test_l0_is_k_or_measured(profile, monkeypatch):
    assert fig4_saes.l0(models.with_sae(profile, "random-4x-k2")) == 2.0
    run = models.with_sae(profile, "random-4x-k16")
    sae = models.sae(run)
    config = SimpleNamespace(d_sae=sae.cfg.d_sae)
    other = SimpleNamespace(cfg=config, encode=sae.encode, decode=sae.decode, dtype=sae.dtype)
    monkeypatch.setattr(models, "sae", lambda *_: other)
    assert fig4_saes.l0(run) == pytest.approx(16, abs=0.5)
