"""Which features are zeroed and what is made of it; what SFT moves, on random statistics."""

import numpy as np
import pandas as pd
import pytest

from sts_utils.config import AblationSettings
from sts_utils.experiments import ablation


def test_chosen_features(random_stats):
    actual, settings = random_stats(features=40), AblationSettings(counts=(10, 99), draws=3)
    chosen = ablation.chosen(actual, settings)  # 40 features only
    assert len(chosen) == 1 + 1 + 3 and len(chosen["none", 0, 0]) == 0
    assert set(chosen["shifted", 10, 0]) == set(np.argsort(-actual.dh2.sum(0))[:10])
    draws = [chosen["random", 10, draw] for draw in range(3)]
    assert len({frozenset(ids) for ids in draws}) == 3
    assert all(len(set(ids)) == 10 for ids in draws)


def test_changes_are_paired_by_question():
    rng = np.random.default_rng(0)
    choices = [("none", 0, 0), ("shifted", 2, 0), ("random", 2, 0), ("random", 2, 1)]
    values = {choice: rng.normal(size=6) for choice in choices}
    wide = pd.DataFrame(values, list("abcdef")).rename_axis("id")
    table = wide.rename_axis(["features", "count", "draw"], axis=1).unstack().rename("loglik")
    table = table.reset_index().sample(frac=1, random_state=0)
    lost = ablation.changes(table, "loglik", {})
    alike = ablation.changes(table, "loglik", dict.fromkeys("abcdef", "one template"))
    assert np.isnan(alike["shifted", 2].half)  # of one template nothing is known
    intact, shifted = values["none", 0, 0], values["shifted", 2, 0]
    assert lost["shifted", 2].value == pytest.approx((shifted - intact).mean())
    random = np.mean([values["random", 2, draw] - intact for draw in range(2)])
    assert lost["random", 2].value == pytest.approx(random)


def test_shares_and_overlap_of_shifts_by_hand(run, notebook_functions):
    """Of the 8 of 40 features most moved, the 8 most active, and the 8 most shifted."""
    both, by_hand = [run.shifts(side) for side in ("train", "actual")], []
    for before, after in zip(run.train, run.actual, strict=True):
        total = after.dh2.sum(0)
        moved, active, shifted = (
            np.argsort(-x)[:8] for x in (total, before.h.sum(0), before.dh2.sum(0))
        )
        shares = [total[top].sum() / total.sum() for top in (moved, active)]
        by_hand.append([*shares, len({*moved} & {*shifted}) / 8])
    moved = notebook_functions("07_moved")
    share_held = moved.share_held
    shares = [share_held(both[1], by, 8) for by in (both[1], run.shifts("train", "h"))]
    assert [e.value for e in (*shares, run.overlap())] == pytest.approx(np.mean(by_hand, 0))
    assert all(e.low < e.value < e.high for e in shares)
    # every side leaves out the same questions: what ranks alike has no difference, without any
    gap = run.overlap() - moved.overlap(3 * both[0], both[1], 8)
    assert gap.low == gap.value == gap.high == 0


def test_losses_are_paired_by_question(run):
    before = pd.DataFrame({"id": list("cab"), "solution_loglik": [-3.0, -1.0, -2.0]})
    one = pd.DataFrame({"id": list("abc"), "solution_loglik": [-0.9, -1.8, -2.7]})
    two = pd.DataFrame({"id": list("bca"), "solution_loglik": [-1.6, -2.4, -0.8]})
    after = [one.assign(when="after", seed=0), two.assign(when="after", seed=1)]
    run.held_out = pd.concat([before.assign(when="before", seed=pd.NA), *after])
    change = run.loss_change()
    assert change.value == pytest.approx(np.mean([-0.1, -0.2, -0.3, -0.2, -0.4, -0.6]))
    assert -0.6 <= change.low < change.value < change.high < 0
