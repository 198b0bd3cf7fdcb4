"""What is shipped of the default run gives the numbers of its store, and is given to no other."""

import json

import numpy as np
import pandas as pd
import pytest

from sts_utils import config, scores, shipped, stats


@pytest.fixture
def sums(run, tmp_path, monkeypatch):
    """The random run of `tiny`, and the folder in which it is shipped."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    monkeypatch.setattr(shipped, "WIDE", 2)
    long = [
        {"seed": s, "domain": d, "id": f"{d}-{i}", "measure": "gold_loglik", "change": x}
        for d, of in zip(run.domain_names, run.change_arrays, strict=True)
        for (s, i), x in np.ndenumerate(of)
    ]
    run.changes = pd.DataFrame(long).assign(before=1.0, after=lambda t: t.before + t.change)
    run.peaks, run.density = {"kinds": np.arange(3)}, np.full(40, 0.5)
    shipped.ship(run)
    return tmp_path


def test_scores_and_r_are_those_of_the_run(run, sums, capsys):
    read = shipped.Run(run.profile)
    assert json.loads((sums / "made.json").read_text())["commit"] in capsys.readouterr().out
    assert read.train[0].h.shape == (1, 40) and read.domains[0]["anatomy"].h.shape[1] < 33
    pd.testing.assert_frame_equal(read.scores, run.scores, rtol=1e-5)
    assert [dims.ids.tolist() for dims in read.dims] == [dims.ids.tolist() for dims in run.dims]
    np.testing.assert_allclose(scores.shift(read.actual[1]), scores.shift(run.actual[1]), rtol=1e-5)
    for metric, seen in read.observations().items():
        one, other = (stats.correlate(of) for of in (seen, run.observations()[metric]))
        found, expected = ([r.value, r.low, r.high, r.reliability] for r in (one, other))
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_only_a_run_of_these_settings_is_served(run, sums):
    p = run.profile
    assert shipped.Run(p.model_copy(update={"seeds": (1,)})).train[0].ids == ("train",)
    for other in ({"top_n": 9}, {"seeds": (0, 2)}, {"train": "code-io"}, {"layer": 1}):
        assert not shipped.Run(p.model_copy(update=other)).made
    (sums / "made.json").unlink()
    assert not shipped.Run(p).made


def test_the_default_run_is_shipped_small():
    files = list((shipped.store.DATA / "shipped").iterdir())
    assert sum(file.stat().st_size for file in files) < 10e6
    assert shipped.fitting(config.load(shipped.PROFILE))
