"""Selective fine-tuning: which features, and what is freed first."""

from types import SimpleNamespace

import numpy as np
import pytest

from sts_utils.experiments import selective


def test_chosen_features():
    ranked = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(selective.chosen(ranked, "estimated", 8), ranked[:8])
    draws = [selective.chosen(ranked, "random", 8, (0, 8, draw)) for draw in range(4)]
    assert len({frozenset(d) for d in draws}) == 4 and all(len(set(d)) == 8 for d in draws)
    with pytest.raises(ValueError, match=r"selective.dims holds 41, but an SAE has 40 features"):
        selective.chosen(ranked, "random", 41, (0, 41, 0))


def test_a_training_for_each_choice_of_dims(profile):
    expected = [("estimated", 8, 0), ("random", 8, 0), ("random", 8, 1)]
    assert selective.choices(profile) == expected
    assert not selective.choices(profile.model_copy(update={"sweep": type(profile.sweep)()}))
    paths = {selective.tuned.path(profile, 0, *choice) for choice in expected}
    more = profile.selective.model_copy(update={"dims": (8, 16)})  # of other choices, not of this
    again = profile.model_copy(update={"selective": more})
    assert {selective.tuned.path(again, 0, *choice) for choice in expected} == paths
    assert len(paths) == 3


def test_truncated_models_are_gone_before_the_whole_one_is_loaded(
    profile, monkeypatch, random_stats, tmp_path
):
    """What they read first: dims and sink thresholds. Together they would not fit on a GPU."""
    order, arrays = [], random_stats().arrays()

    def noted(what, result=None):
        return lambda *_, **__: order.append(what) or result

    monkeypatch.setattr(selective.run, "train_features", noted("dims", arrays))
    monkeypatch.setattr(selective.run, "hook", noted("sink", SimpleNamespace(sink_norm=1.0)))
    monkeypatch.setattr(selective.run, "release", noted("release"))

    def load(*_):
        raise InterruptedError(" ".join(order))

    monkeypatch.setattr(selective.models, "load_model", load)
    with pytest.raises(InterruptedError, match=r"^(dims )+(sink )+release$"):
        selective.tuned.function(profile, 0, "estimated", 8, 0, out=tmp_path)
