"""Which features are zeroed, and what is shown of it."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sts_utils.experiments import fig1b


def test_chosen_features(random_stats):
    actual = random_stats(features=400)
    chosen = fig1b.choices(actual, (10, 50), 3)
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
    alike = fig1b.relative_activity(activity, chosen, 3)
    by_hand = [activity[chosen["active", 10, draw]].sum() for draw in range(3)]
    assert list(alike) == [10, 50]
    assert alike[10] == pytest.approx(np.mean(by_hand) / activity[chosen["shifted", 10, 0]].sum())


def test_more_features_than_there_are_others_to_match(random_stats):
    chosen = fig1b.choices(random_stats(), (15, 30, 99), 1)
    assert len(set(chosen["active", 15, 0])) == 15
    assert not set(chosen["active", 15, 0]) & set(chosen["shifted", 15, 0])
    active = chosen["active", 30, 0]
    assert len(set(active)) == len(active) == len(chosen["shifted", 30, 0])
    assert not [count for _, count, _ in chosen if count == 99]  # 40 features only


def test_changes_are_paired_by_question(run, monkeypatch):
    rng = np.random.default_rng(0)
    choices = [("none", 0, 0), ("shifted", 2, 0), ("random", 2, 0), ("random", 2, 1)]
    values = {choice: rng.normal(size=6) for choice in choices}
    frames = [
        pd.DataFrame({"id": list("abcdef"), "solution_loglik": of}).assign(
            features=which, count=count, draw=draw
        )
        for (which, count, draw), of in values.items()
    ]
    table = pd.concat(frames).sample(frac=1, random_state=0)
    monkeypatch.setattr(fig1b, "zero_features", lambda _: table)
    lost = fig1b.compute(run).lost
    intact, shifted = values["none", 0, 0], values["shifted", 2, 0]
    assert lost["shifted", 2].value == pytest.approx((shifted - intact).mean())
    random = np.mean([values["random", 2, draw] - intact for draw in range(2)])
    assert lost["random", 2].value == pytest.approx(random)
    assert lost["shifted", 2].draws.mean() == pytest.approx((shifted - intact).mean(), abs=0.05)


def test_a_control_is_as_active_or_absent(run, monkeypatch):
    """Counts at which the others have 80% of the activity of the shifted, or not."""
    rng = np.random.default_rng(0)
    draws = [("none", 0, 0)]
    draws += [(which, k, 0) for which in ("shifted", "random", "active") for k in (2, 8)]
    frames = [
        pd.DataFrame({"id": list("abc"), "solution_loglik": rng.normal(size=3)}).assign(
            features=which, count=count, draw=draw
        )
        for which, count, draw in draws
    ]
    monkeypatch.setattr(fig1b, "zero_features", lambda _: pd.concat(frames))
    monkeypatch.setattr(fig1b, "relative_activity", lambda *_: {2: 0.81, 8: 0.79})
    lost = fig1b.compute(run).lost
    assert {k for which, k in lost if which == "active"} == {2}
    assert {
        k for which, k, _ in fig1b.matched(run.actual[0], (2, 8), 1)[0] if which == "active"
    } == {2}
    assert {k for which, k in lost if which == "shifted"} == {2, 8}


@pytest.mark.parametrize("matched", [(3, 10), ()])
def test_lines_are_the_estimates(made, run, matched):
    names = {"shifted": "most shifted by SFT", "active": "as active", "random": "random"}
    counts = {which: (3, 10, 100) for which in names} | {"active": matched}
    lost = {(which, k): made() for which in names for k in reversed(counts[which])}
    activity = {k: 0.9 if k in matched else 0.33 for k in (3, 10, 100)}
    numbers = fig1b.Numbers(lost, activity)
    figure, caption = fig1b.fig1b(numbers, run)
    said = "only at 3, 10." if matched else "The most active others reach 33% of the"
    assert said in caption and len(caption.split()) <= 60
    (axis,) = figure.axes
    lines = {line.get_label(): line for line in axis.lines}
    shown = [which for which in names if counts[which]]
    assert ("as active" in lines) == bool(matched)
    for which, band in zip(shown, axis.collections, strict=True):
        of = {k: lost[which, k] for k in counts[which]}
        x, y = lines[names[which]].get_data()
        assert tuple(x) == counts[which] and list(y) == [e.value for e in of.values()]
        corners = band.get_paths()[0].vertices
        for k, e in of.items():
            assert {*corners[corners[:, 0] == k, 1]} == {e.low, e.high}
    for which in ("shifted", "random"):
        assert f"{which} {lost[which, 10]}" in caption  # 10 is nearest to N = 8
    plt.close(figure)
    claims = list(fig1b.claims(numbers, run))
    assert len(claims) == 3 + len(matched)
    for claim in claims:
        *_, which, k, _ = claim.statistic.replace(",", "").split()
        gap = lost[which, int(k)].value - lost["shifted", int(k)].value
        assert claim.estimate.value == gap
