"""Fig 6 and the table of the model's own answers, from made-up estimates."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from sts_utils.experiments import fig6
from sts_utils.runs import features, samples


@pytest.fixture
def numbers(made, rows):
    solved = [0, 0, 0, 1, 0, 1, 1, 1.0]
    table = {"id": list("abcd") * 2, "accuracy": solved, "when": ["before"] * 4 + ["after"] * 4}
    shown = {name: made() for name in ("ground truth", "rollouts", "difference")}
    overlap, r = {"SFT": made(), "RL": made()}, rows(("estimated", "actual"))
    return fig6.Numbers(overlap, r, pd.DataFrame(table), shown, (3, 12))


def test_bars_and_points_are_the_estimates(numbers, run, same):
    figure, caption = fig6.fig6(numbers, run)
    left, right = figure.axes
    (bars,) = (c for c in left.containers if hasattr(c, "patches"))
    same(bars, list(numbers.overlap.values()), x=[0, 1])
    for metric, container in zip(("sts_act", "sts_icl"), right.containers, strict=True):
        same(container, [numbers.r[which][metric] for which in ("estimated", "actual")], x=[0, 1])
    assert "4 held-out questions 25% before, 75% after" in caption
    assert f"sts_icl actual {numbers.r['actual']['sts_icl']}" in caption
    plt.close(figure)


def test_whose_answers_are_shown(numbers, run):
    table, caption = fig6.rollouts(numbers, run)
    assert list(table.demonstrations) == list(numbers.shown)
    assert list(table.overlap) == [e.value for e in numbers.shown.values()]
    assert "(3 of 12 were); `difference`" in caption
    few = numbers._replace(shown={"ground truth": numbers.shown["ground truth"]})
    assert "(3 of 12 were, too few to show)" in fig6.rollouts(few, run)[1]


def test_claims_are_paired_differences(numbers, run):
    lower, act, _ = fig6.claims(numbers, run)
    assert lower.estimate.value == numbers.overlap["SFT"].value - numbers.overlap["RL"].value
    gap = numbers.r["actual"]["sts_act"].value - numbers.r["estimated"]["sts_act"].value
    assert act.estimate.value == gap and act.statistic.startswith("sts_act: ")


def test_too_few_correct_answers_are_not_shown(profile, monkeypatch):
    run = samples.trained_on(profile, profile.grpo.train)
    examples, asked = samples.training_examples(run, 0)[0], []
    monkeypatch.setattr(features, "extract_train", lambda p, seed: asked.append((p, seed)))
    for correct, shown in ((1, []), (2, [(run.model_copy(update={"shown": "rollouts"}), 0)])):
        monkeypatch.setattr(features, "rollouts", lambda p, seed, n=correct: examples[:n])
        assert fig6.own_answers(profile) is None and asked == shown
