"""A probe with the tiny model: it measures before and after, with a sign, and says its cost."""

import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny_sets import SMALL, questions

import sts_utils
from sts_utils import models
from sts_utils import train as sft
from sts_utils.examples import Example
from sts_utils.prediction import probe
from sts_utils.prediction.scores import SCORES

DOMAINS = {"apples": questions("apples"), "code": "code-io"}


@pytest.fixture(scope="module")
def probed():
    return sts_utils.predict(
        questions("ripe apples", 24), domains=DOMAINS, seeds=(0,), probe=12, **SMALL
    )


def test_what_is_trained_on_becomes_likelier(probed):
    table = probed.probe.table.set_index("domain")
    assert table.loc["apples", "change_low"] > 0
    assert table.loc["apples", "change"] > table.loc["code", "change"]
    np.testing.assert_allclose(table.change, table.after - table.before)
    assert (table.change_low <= table.change).all() and (table.change <= table.change_high).all()
    assert table.questions.to_dict() == {"apples": 16, "code": probe.QUESTIONS}


def test_nothing_is_trained_twice_and_the_untouched_model_stays(probed, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(sft, "train_answers", refuse)
    again = sts_utils.predict(
        questions("ripe apples", 24), domains=DOMAINS, seeds=(0,), probe=12, **SMALL
    )
    assert again.probe.answers.equals(probed.probe.answers)
    plain = sts_utils.predict(questions("ripe apples", 24), domains=DOMAINS, seeds=(0,), **SMALL)
    assert plain.probe is None and plain.table.equals(probed.table)
    with pytest.raises(AssertionError, match="trained again"):
        sts_utils.predict(
            questions("ripe apples", 24), domains=DOMAINS, seeds=(0,), probe=5, **SMALL
        )


def test_the_report_leads_with_what_the_score_reads_and_shows_the_probe(probed, tmp_path):
    page = probed.write(tmp_path)[0].read_text(encoding="utf-8")
    assert page.index("reads the wording") < page.index(">Ranking<") < page.index("Probe: 12 steps")
    assert "A probe of 12 steps" in page
    written = pd.read_csv(tmp_path / "probe.csv")
    pd.testing.assert_frame_equal(written, probed.probe.table)
    replace(probed, probe=None).write(tmp_path)
    assert not (tmp_path / "probe.csv").exists()  # no stale one
    assert len(probed.plot().axes) == len(SCORES)  # a probe's, and no sts_answers
    assert "reliability" in probed.reads()[1] or "% of the variance" in probed.reads()[1]
    assert "--probe 8" in replace(probed, probe=None).reads()[1]


def test_what_it_costs_is_said_before(caplog, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(probe, "run", stop)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        sts_utils.predict(questions("pears"), domains=DOMAINS, seeds=(0,), probe=4, **SMALL)
    assert "A probe of 4 steps learns from 16 examples and reads 80 questions" in caplog.text
    weights = models.size("tiny") * (4 + 4 + 16) / 1e9  # float32, gradients, AdamW's copies
    assert f"{weights:.1f} GB beside activations" in caplog.text


@pytest.mark.parametrize("steps", [1, 0, -3, 2.5, "8"])
def test_steps_that_teach_nothing_are_one_line(steps):
    with pytest.raises(ValueError, match="give 2 or more steps"):
        sts_utils.predict(questions("train"), domains=DOMAINS, probe=steps, **SMALL)


def test_domains_without_answers_are_left_out_or_said():
    bare = {"apples": questions("apples", answers=False), "code": "code-io"}
    alone = SMALL | {"demonstrations": "none", "seeds": (0,), "probe": 2}
    mixed = sts_utils.predict(questions("train"), domains=bare, **alone)
    assert mixed.probe.table.domain.tolist() == ["code"]
    with pytest.raises(ValueError, match="no domain has an answer to be measured by"):
        pair = {name: questions(name, answers=False) for name in ("apples", "pears")}
        sts_utils.predict(questions("train"), domains=pair, **alone)


def test_one_question_in_two_domains_is_measured_in_both():
    rows = [{"question": "Which is red?", "choices": ["a cherry", "the sky"], "answer": 0}]
    rows += [{"question": f"Which is {n}?", "choices": [str(n), "0"], "answer": 0} for n in "123"]
    mixed = {"one": rows, "two": rows[:2]}
    alone = SMALL | {"demonstrations": "none", "seeds": (0,), "probe": 2}
    found = sts_utils.predict(questions("train"), domains=mixed, **alone).probe
    assert found.measure == "gold_log_odds"
    assert found.table.set_index("domain").questions.to_dict() == {"one": 4, "two": 2}
    assert np.isfinite(found.answers[["before", "after"]]).all(axis=None)


def test_a_single_option_has_no_odds():
    one = Example("Which?", "", "this", "any", "0", options=("this",))
    assert probe.measure([one]) == "solution_loglik"
    assert probe.measure([replace(one, options=("this", "that"))]) == "gold_log_odds"


def test_options_without_an_answer_are_measured_by_their_solution():
    said = "Because. The answer is (B)."
    open_, choice = Example("Why?", said, "", "any", "0", options=("a", "b")), ("a", "b")
    closed = Example("Which?", said, "b", "any", "1", options=choice)
    asked = probe.questions({"any": [open_, closed]}, 0)
    assert sorted((e.id, e.solution) for e in asked) == [("0", said), ("1", "b")]
