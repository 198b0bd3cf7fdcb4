"""The statistics of a sweep are numpy's, and L0 is the SAE's."""

from types import SimpleNamespace

import numpy as np
import pytest

from sts_utils import run as computed
from sts_utils.experiments import swept


def test_slope_and_variance_are_numpy_s(rows):
    panel = rows([8.0, 32.0, 64.0])
    r = [row["sts_icl"] for row in panel.values()]
    slope, x = swept.slope(panel, "sts_icl"), np.log2([8, 32, 64])
    assert slope.value == pytest.approx(np.polyfit(x, [e.value for e in r], 1)[0])
    np.testing.assert_allclose(slope.domains, np.polyfit(x, [e.domains for e in r], 1)[0])
    a, b, _ = r
    found = swept.variance(dict(list(panel.items())[:2]), "sts_icl").value
    variance = (a.value - b.value) ** 2 / 2
    folded = ((a.domains - b.domains) ** 2 / 2).mean() - variance  # of 14 left out in turn
    assert found == pytest.approx(variance - 13 * folded)


def test_the_run_is_read_through_each_sae_once(profile):
    asked = []
    read = SimpleNamespace(profile=profile)
    read.with_sae = lambda name: asked.append(name) or SimpleNamespace(correlations=lambda: name)
    panels = swept.panels(read)
    assert sorted(asked) == ["random-4x", "random-4x-k2", "random-4x-layer1", "random-8x"]
    assert panels["widths"] == {256: "random-4x", 512: "random-8x"}
    assert panels["layers"] == {0: "random-4x", 1: "random-4x-layer1"}
    assert panels["sparsities"] == {2.0: "random-4x-k2", 8.0: "random-4x"}


def test_l0_is_k_or_measured(profile, monkeypatch):
    assert swept.l0(computed.with_sae(profile, "random-4x-k2")) == 2.0
    p = computed.with_sae(profile, "random-4x-k16")
    sae = computed.sae(p)
    config = SimpleNamespace(d_sae=sae.cfg.d_sae)
    other = SimpleNamespace(cfg=config, encode=sae.encode, decode=sae.decode, dtype=sae.dtype)
    monkeypatch.setattr(computed, "sae", lambda *_: other)
    assert swept.l0(p) == pytest.approx(16, abs=0.5)
