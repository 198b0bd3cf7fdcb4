"""Which features are zeroed and what is made of it; what SFT moves, on random statistics."""

import itertools

import numpy as np
import pandas as pd
import pytest

from sts_utils import stats
from sts_utils.config import AblationSettings
from sts_utils.experiments import ablation
from sts_utils.measured import overlap


def test_chosen_features(random_stats):
    actual = random_stats(features=400)
    chosen = ablation.choices(actual, (10, 50), 3)
    assert len(chosen) == 1 + 2 * (1 + 3 + 3) and len(chosen["none", 0, 0]) == 0
    activity = actual.h.sum(0) / actual.n.sum()
    rank = np.argsort(np.argsort(-activity))
    for count in (10, 50):
        shifted = chosen["shifted", count, 0]
        assert set(shifted) == set(np.argsort(-actual.dh2.sum(0))[:count])
        for which, draw in itertools.product(("random", "active"), range(3)):
            assert len(set(chosen[which, count, draw])) == count
        for draw in range(3):
            active = chosen["active", count, draw]
            assert not set(active) & set(shifted)
            # rank for rank: a handful of places away, among 400
            assert np.abs(np.sort(rank[active]) - np.sort(rank[shifted])).mean() < 10
            assert activity[active].mean() == pytest.approx(activity[shifted].mean(), rel=0.1)
        for which in ("random", "active"):
            assert len({frozenset(chosen[which, count, draw]) for draw in range(3)}) == 3
    alike = ablation.relative_activity(activity, chosen)
    by_hand = [activity[chosen["active", 10, draw]].sum() for draw in range(3)]
    assert list(alike) == [10, 50]
    assert alike[10] == pytest.approx(np.mean(by_hand) / activity[chosen["shifted", 10, 0]].sum())


def test_more_features_than_there_are_others_to_match(random_stats):
    chosen = ablation.choices(random_stats(), (15, 30, 99), 1)
    assert len(set(chosen["active", 15, 0])) == 15
    assert not set(chosen["active", 15, 0]) & set(chosen["shifted", 15, 0])
    active = chosen["active", 30, 0]
    assert len(set(active)) == len(active) == len(chosen["shifted", 30, 0])
    assert not [count for _, count, _ in chosen if count == 99]  # 40 features only


def test_a_control_is_as_active_or_absent(random_stats, monkeypatch):
    monkeypatch.setattr(ablation, "relative_activity", lambda *_: {2: 0.81, 8: 0.79})
    chosen, _ = ablation.matched(random_stats(), AblationSettings(counts=(2, 8), draws=1))
    assert {count for which, count, _ in chosen if which == "active"} == {2}
    assert {count for which, count, _ in chosen if which == "shifted"} == {2, 8}


def test_changes_are_paired_by_question():
    rng = np.random.default_rng(0)
    choices = [("none", 0, 0), ("shifted", 2, 0), ("random", 2, 0), ("random", 2, 1)]
    values = {choice: rng.normal(size=6) for choice in choices}
    wide = pd.DataFrame(values, list("abcdef")).rename_axis("id")
    table = wide.rename_axis(["features", "count", "draw"], axis=1).unstack().rename("loglik")
    table = table.reset_index().sample(frac=1, random_state=0)
    lost = ablation.changes(table, "loglik", {})
    intact, shifted = values["none", 0, 0], values["shifted", 2, 0]
    assert lost["shifted", 2].value == pytest.approx((shifted - intact).mean())
    random = np.mean([values["random", 2, draw] - intact for draw in range(2)])
    assert lost["random", 2].value == pytest.approx(random)
    assert lost["shifted", 2].draws.mean() == pytest.approx((shifted - intact).mean(), abs=0.05)


# --- of every side's shifts ----------------------------------------------------------------------


def test_overlap_of_drawn_dims(run):
    both = [run.shifts(side) for side in ("train", "actual")]
    np.testing.assert_allclose(both[0][0], [x.dh2.sum(0) / x.n.sum() for x in run.train])
    tops = [[[set(np.argsort(-row)[:8]) for row in seeds] for seeds in side] for side in both]
    draws = zip(*tops, strict=True)
    shares = np.array([[len(a & b) / 8 for a, b in zip(*seeds, strict=True)] for seeds in draws])
    assert run.overlap().value == pytest.approx(shares[0].mean())
    np.testing.assert_allclose(run.overlap().draws, stats.over_seeds(shares[1:]))
    # every side sees the same questions redrawn: what ranks alike has no difference, in no draw
    gap = run.overlap() - overlap(3 * both[0], both[1], 8)
    assert gap.value == 0 and not gap.draws.any()


def test_losses_are_paired_by_question(run):
    before = pd.DataFrame({"id": list("cab"), "solution_loglik": [-3.0, -1.0, -2.0]})
    one = pd.DataFrame({"id": list("abc"), "solution_loglik": [-0.9, -1.8, -2.7]})
    two = pd.DataFrame({"id": list("bca"), "solution_loglik": [-1.6, -2.4, -0.8]})
    after = [one.assign(when="after", seed=0), two.assign(when="after", seed=1)]
    run.held_out = pd.concat([before.assign(when="before", seed=pd.NA), *after])
    change = run.loss_change()
    assert change.value == pytest.approx(np.mean([-0.1, -0.2, -0.3, -0.2, -0.4, -0.6]))
    assert -0.6 <= change.low < change.value < change.high <= -0.1
