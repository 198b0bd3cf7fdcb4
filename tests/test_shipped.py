"""What is shipped of the default run gives the numbers of its store, and is given to no other."""

import runpy

import numpy as np
import pandas as pd
import pytest

from sts_utils import config, scores, shipped, stats
from sts_utils.experiments import labels


@pytest.fixture
def sums(run, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "shipped")
    monkeypatch.setattr(shipped.store, "RUNS", tmp_path / "runs")  # nothing is computed yet
    changes = dict(zip(run.domain_names, run.change_arrays, strict=True)).items()
    rows = [(s, d, f"{d}-{i}", x) for d, of in changes for (s, i), x in np.ndenumerate(of)]
    table = pd.DataFrame(rows, columns=["seed", "domain", "id", "change"])
    run.changes = table.assign(measure="gold_loglik", before=1.0, after=1 + table.change)
    run.peaks, run.density = {"kinds": np.arange(3)}, np.full(40, 0.5)
    runpy.run_path(str(shipped.store.DATA / "ship.py"))["ship"](run, wide=2)
    return shipped.Run(run.profile)


def test_scores_and_r_are_those_of_the_run(run, sums):
    assert sums.train[0].h.shape == (1, 40) and sums.domains[0]["anatomy"].h.shape[1] < 33
    pd.testing.assert_frame_equal(sums.scores, run.scores, rtol=1e-5)
    assert [dims.ids.tolist() for dims in sums.dims] == [dims.ids.tolist() for dims in run.dims]
    np.testing.assert_allclose(scores.shift(sums.actual[1]), scores.shift(run.actual[1]), rtol=1e-5)
    for pair in zip(sums.observations().values(), run.observations().values(), strict=True):
        read, own = ([r.value, r.low, r.high, r.reliability] for r in map(stats.correlate, pair))
        np.testing.assert_allclose(read, own, rtol=1e-4)


def test_only_a_run_of_these_settings_is_served(run, sums):
    assert shipped.Run(run.profile.model_copy(update={"seeds": (1,)})).train[0].ids == ("train",)
    for other in ({"top_n": 9}, {"seeds": (0, 2)}, {"train": "code-io"}, {"layer": 1}):
        assert not shipped.Run(run.profile.model_copy(update=other)).made
    own = shipped.run.domain_features.path(run.profile, run.domain_names[-1], run.profile.seeds[-1])
    own.mkdir(parents=True)  # as after the first part of a run, which trains nothing yet
    assert not shipped.Run(run.profile).made


def test_the_default_run_is_shipped_and_small():
    assert shipped.fitting(config.load(shipped.PROFILE))["commit"]
    assert 1e6 < sum(file.stat().st_size for file in shipped.FOLDER.iterdir()) < 10e6


def test_a_text_is_escaped_and_what_is_lowered_is_not_raised(profile, tokenizer):
    html = labels.coloured(tokenizer, tokenizer("<b>a</b>").input_ids, np.arange(7.0))
    assert "&lt;" in html and "<b>" not in html and html.count("<span") == 7
    raised, lowered = (labels.promoted(profile, np.array([7]), low)[0] for low in (False, True))
    assert not {*raised} & {*lowered}
