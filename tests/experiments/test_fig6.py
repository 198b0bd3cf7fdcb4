"""Fig 6 and its tables, SFT and RL on the same set, from made-up estimates."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sts_utils.experiments import fig6
from sts_utils.results import judged
from sts_utils.runs import features, samples
from sts_utils.runs.run import Run


@pytest.fixture
def numbers(made, rows):
    solved = [0, 0, 0, 1, 0, 1, 1, 1.0]
    table = {"id": list("abcd") * 2, "accuracy": solved, "when": ["before"] * 4 + ["after"] * 4}
    shown = {name: made() for name in ("ground truth", "rollouts", "difference")}
    moved = {"main SFT": 1218.4, "SFT": 0.75, "GRPO": 0.5}
    overlap = {name: made() for name in moved}
    r = {name: rows(("estimated", "actual")) for name in ("SFT", "GRPO")}
    return fig6.Numbers(overlap, moved, 0.875, r, pd.DataFrame(table), shown, (3, 12), (57.4, 8.1))


def test_bars_and_points_are_the_estimates(numbers, run, same):
    figure, caption = fig6.fig6(numbers, run)
    left, right = figure.axes
    (bars,) = (c for c in left.containers if hasattr(c, "patches"))
    same(bars, list(numbers.overlap.values()), x=[0, 1, 2])
    labels = [t.get_text() for t in left.get_xticklabels()]
    assert labels[0] == "main SFT on\ngsm-symbolic\nshift 1,220"
    assert labels[1:] == ["SFT on\nchain-sum\nshift 0.75", "GRPO on\nchain-sum\nshift 0.5"]
    of = [numbers.r[name][dims] for name in ("SFT", "GRPO") for dims in ("estimated", "actual")]
    for metric, container in zip(("sts_act", "sts_icl"), right.containers, strict=True):
        same(container, [row[metric] for row in of], x=[0, 1, 2, 3])
    assert "accuracy 25%, then 75%; completions 57, then 8 tokens" in caption
    assert list(left.lines[-1].get_ydata()) == [8 / 40] * 2  # chance
    assert "0.90 (SFT), 0.90 (GRPO)" in caption and len(caption.split()) <= 60
    plt.close(figure)


def test_sft_and_grpo_are_compared_in_pairs(numbers, run):
    table, caption = fig6.rl_and_sft(numbers, run)
    rows = table.set_index("statistic")
    assert list(rows.loc["total squared shift"])[:2] == [0.75, 0.5]
    both = numbers.overlap["SFT"], numbers.overlap["GRPO"]
    gap, row = both[0] - both[1], rows.loc["overlap at 8"]
    assert (both[0].value, both[1].value) == (row.SFT, row.GRPO)
    assert (row["SFT − GRPO"], row.low, row.high) == (gap.value, gap.low, gap.high)
    sft, rl = (numbers.r[name]["actual"]["sts_icl"] for name in ("SFT", "GRPO"))
    row = rows.loc["r of sts_icl, actual dims"]
    assert row["SFT − GRPO"] == pytest.approx(sft.value - rl.value) and row.reliability == 0.9
    # each domain left out of both at once
    leave = sft.domains - rl.domains
    width = 2.160 * np.sqrt(13 / 14 * ((leave - leave.mean()) ** 2).sum())  # t, 13 degrees
    assert row.high - row.low == pytest.approx(2 * width, rel=1e-3)
    assert "They share 88% of the top 8" in caption
    assert len(table) == 6 and len(caption.split()) <= 60


def test_sft_like_grpo_has_its_steps_questions_and_rate(profile):
    g = profile.grpo.model_copy(update={"steps": 12, "prompts": 6, "lr": 3e-6, "dtype": "float32"})
    like = fig6.supervised(profile.model_copy(update={"grpo": g}))
    sft = like.sft
    assert (like.train, like.seeds) == ("chain-sum", profile.seeds[:1])
    assert (sft.examples, sft.epochs, sft.batch, sft.micro_batch) == (72, 1, 6, 2)
    assert (sft.lr, sft.dtype) == (3e-6, "float32")
    pool = samples.training_examples(like, 0)[0]
    assert len(pool) >= sft.examples and sft.examples / sft.batch == 12


def test_overlap_and_r_are_of_the_same_questions(run, random_stats, monkeypatch, made, profile):
    """Two models that moved the same features alike: every difference is 0 in every draw."""
    kept = {"train": run.train[:1], "domains": run.domains[:1], "actual": run.actual[:1]}
    kept |= {
        "change_arrays": [of[:1] for of in run.change_arrays],
        "domain_names": run.domain_names,
    }

    class Same(Run):
        def __init__(self, profile, after=None):
            super().__init__(profile, after)
            vars(self).update(kept)

        def with_models(self, after):
            return Same(self.profile, after)

    monkeypatch.setattr(fig6, "Run", Same)
    monkeypatch.setattr(fig6, "supervised", lambda _: run.profile)
    monkeypatch.setattr(fig6, "reinforced", lambda _: None)
    monkeypatch.setattr(fig6, "own_answers", lambda _: None)
    monkeypatch.setattr(fig6, "accuracy", lambda _: None)
    log = pd.DataFrame({"length": [60.0, 30.0, 10.0]})
    monkeypatch.setattr(fig6.models, "training_logs", lambda _: log)
    monkeypatch.setattr(features, "rollouts", lambda *_: [])
    numbers = fig6.compute(run)
    assert numbers.length == (60, 10)
    assert numbers.moved["GRPO"] == pytest.approx(run.actual[0].dh2.sum() / run.actual[0].n.sum())
    both = [of.dh2.sum() / of.n.sum() for of in run.actual]
    assert numbers.moved["main SFT"] == pytest.approx(np.mean(both))
    gap = numbers.overlap["SFT"] - numbers.overlap["GRPO"]
    assert gap.value == 0 and not gap.draws.any() and numbers.overlap["SFT"].draws.std() > 0
    for dims in ("estimated", "actual"):
        gap = numbers.r["SFT"][dims]["sts_act"] - numbers.r["GRPO"][dims]["sts_act"]
        assert (gap.value, gap.low, gap.high) == (0, 0, 0)
    assert list(numbers.shown) == ["ground truth"] and numbers.shared == 1
    kept["train"] = [random_stats(3)]  # SFT and GRPO moved what seeds 0 and 1 did
    first, second = ([random_stats(seed)] for seed in (50, 51))
    monkeypatch.setattr(Same, "with_models", lambda self, _: moved(Same(self.profile), second))
    monkeypatch.setattr(fig6, "Run", lambda *of: moved(Same(*of), first))
    tops = [set(np.argsort(-of.dh2.sum(0) / of.n.sum())[:8]) for of in (*first, *second)]
    assert 0 < len(tops[0] & tops[1]) < 8
    assert fig6.compute(run).shared == len(tops[0] & tops[1]) / 8


def moved(run, actual):
    """A run after another training."""
    run.actual = actual
    return run


def test_every_model_is_trained_and_measured(profile):
    steps = fig6.steps(profile)
    kinds = [step.kind for step in steps]
    assert kinds.count("evaluation") == kinds.count("actual shift") == 2
    (tuned,) = (step for step in steps if step.kind == "fine-tuning on chain-sum")
    assert tuned.args == (fig6.supervised(profile), profile.seeds[0])
    assert sum(tuned in step.args for step in steps) == 2


def test_whose_answers_are_shown(numbers, run):
    table, caption = fig6.rollouts(numbers, run)
    assert list(table.demonstrations) == list(numbers.shown)
    assert list(table.overlap) == [e.value for e in numbers.shown.values()]
    assert "(3 of 12 were); `difference`" in caption and len(caption.split()) <= 60
    few = numbers._replace(shown={"ground truth": numbers.shown["ground truth"]})
    caption = fig6.rollouts(few, run)[1]
    assert "(3 of 12 were, too few to show)" in caption and len(caption.split()) <= 60


def test_claims_are_paired_differences(numbers, run):
    lower, act, _ = fig6.claims(numbers, run)
    gap = numbers.overlap["SFT"] - numbers.overlap["GRPO"]
    np.testing.assert_array_equal(lower.estimate.draws, gap.draws)
    assert lower.statistic == "overlap, SFT minus GRPO, 2 steps on chain-sum each"
    of = numbers.r["GRPO"]
    gap = of["actual"]["sts_act"].value - of["estimated"]["sts_act"].value
    assert act.estimate.value == gap and act.statistic.startswith("sts_act: ")


def test_an_unreliable_change_tests_nothing(numbers, run, made_r):
    weak = {dims: {m: made_r(0.2) for m in ("sts_act", "sts_icl")} for dims in numbers.r["GRPO"]}
    table = judged(fig6.claims(numbers._replace(r=numbers.r | {"GRPO": weak}), run))
    assert list(table.verdict)[1:] == ["not testable"] * 2
    assert table.verdict[0] != "not testable"


def test_too_few_correct_answers_are_not_shown(profile, monkeypatch):
    run = samples.trained_on(profile, profile.grpo.train)
    examples, asked = samples.training_examples(run, 0)[0], []
    monkeypatch.setattr(features, "extract_train", lambda p, seed: asked.append((p, seed)))
    for correct, shown in ((1, []), (2, [(run.model_copy(update={"shown": "rollouts"}), 0)])):
        monkeypatch.setattr(features, "rollouts", lambda p, seed, n=correct: examples[:n])
        assert fig6.own_answers(profile) is None and asked == shown
