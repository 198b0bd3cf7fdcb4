"""Selective fine-tuning: which features, how the change is averaged, and what is shown."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sts_utils.experiments import fig7
from sts_utils.results import SAE_COLOUR, paper


def test_chosen_features():
    ranked = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(fig7.chosen(ranked, "estimated", 8), ranked[:8])
    draws = [fig7.chosen(ranked, "random", 8, (0, 8, draw)) for draw in range(4)]
    assert len({frozenset(d) for d in draws}) == 4 and all(len(set(d)) == 8 for d in draws)
    line = r"selective.dims holds 41, but SAE 'random-4x' has 40 features"
    with pytest.raises(ValueError, match=line):
        fig7.chosen(ranked, "random", 41, (0, 41, 0), "random-4x")


def test_changes_are_means_over_draws_and_questions():
    rng, ids = np.random.default_rng(0), list("abcde")
    before, *after = (
        pd.DataFrame({"id": ids, "solution_loglik": rng.normal(size=5)}) for _ in range(3)
    )
    start = before.solution_loglik.to_numpy()
    ends = [table.solution_loglik.to_numpy() for table in after]
    other_order = [table.iloc[::-1] for table in after]
    assert fig7.change(before, other_order[:1], "solution_loglik", {}).value == pytest.approx(
        (ends[0] - start).mean()
    )
    both = fig7.change(before, other_order, "solution_loglik", {})
    assert both.value == pytest.approx(np.mean([end - start for end in ends]))
    assert both.draws.mean() == pytest.approx(both.value, abs=0.1)


def test_one_step_for_each_choice_of_dims(profile):
    choices = [step.args[1:] for step in fig7.steps(profile)]
    assert choices == [("estimated", 8, 0), ("random", 8, 0), ("random", 8, 1)]
    none = profile.model_copy(update={"sweep": type(profile.sweep)()})
    assert not fig7.steps(none) and fig7.fig7({}, None) is fig7.table11({}, None) is None


def test_truncated_models_are_gone_before_the_whole_one_is_loaded(profile, monkeypatch):
    """What they read first: dims and sink thresholds. Together they would not fit on a GPU."""
    order = []
    monkeypatch.setattr(fig7.features, "extract_train", lambda *_: order.append("dims"))
    ranked = SimpleNamespace(ids=np.arange(40))
    monkeypatch.setattr(fig7.shift, "shifted_dims", lambda *_: ranked)
    monkeypatch.setattr(fig7.held, "sink_norm", lambda _: order.append("sink"))
    monkeypatch.setattr(fig7.held, "release", lambda: order.append("release"))

    def load(*_):
        raise InterruptedError(" ".join(order))

    monkeypatch.setattr(fig7.models, "load_model", load)
    own = profile.model_copy(update={"seeds": (31,)})  # not in the store
    with pytest.raises(InterruptedError, match=r"^(dims )+(sink )+release$"):
        fig7.tune(own, "estimated", 8, 0)


@pytest.fixture
def numbers(made):
    return {(which, n): made() for n in (8, 24) for which in ("estimated", "random")}


def test_bars_are_the_estimates(numbers, run, same):
    figure, caption = fig7.fig7(numbers, run)
    bars = [c for c in figure.axes[0].containers if hasattr(c, "patches")]
    for which, container in zip(("estimated", "random"), bars, strict=True):
        same(container, [numbers[which, 8], numbers[which, 24]], x=[0, 1])
    assert bars[0].patches[0].get_facecolor()[:3] == SAE_COLOUR
    assert "2 random draws" in caption and len(caption.split()) <= 60
    plt.close(figure)


def test_table11_and_claims(numbers, run, ours):
    table, caption = fig7.table11(numbers, run)
    assert len(caption.split()) <= 60
    index = table.set_index(["source", "dims", "which"]).sort_index()
    for (which, n), e in numbers.items():
        ours(index.loc[("ours", n, which)], e)
    for r in paper("table11_selective_finetuning").itertuples():
        for which in ("random", "estimated"):
            change = getattr(r, f"{which}_dims") - r.before_sft
            assert index["value"]["paper (points)", r.selected_dims, which] == pytest.approx(change)
    small, large = fig7.claims(numbers, run)
    assert small.estimate.value == numbers["estimated", 8].value - numbers["random", 8].value
    assert (small.paper, large.paper) == (
        "75.6 against 74.2, 1000 dims",
        "76.9 against 74.0, 3000 dims",
    )
