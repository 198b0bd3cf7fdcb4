"""A probe with the tiny model: it measures before and after, with a sign, and says its cost."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from tiny_sets import SMALL, questions

import sts_utils
from sts_utils import models, train
from sts_utils.examples import Example
from sts_utils.prediction import probe

DOMAINS = {"apples": questions("apples"), "code": "code-io"}
HOW = {**SMALL, "domains": DOMAINS, "seeds": (0,)}


@pytest.fixture(scope="module")
def probed():
    return sts_utils.predict(questions("ripe apples", 24), probe=12, **HOW)


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

    monkeypatch.setattr(train, "train_answers", refuse)
    again = sts_utils.predict(questions("ripe apples", 24), probe=12, **HOW)
    assert again.probe.answers.equals(probed.probe.answers)
    plain = sts_utils.predict(questions("ripe apples", 24), **HOW)
    assert plain.probe is None and plain.table.equals(probed.table)


def test_what_it_costs_is_said_before(caplog, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(probe, "tried", stop)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        sts_utils.predict(questions("pears"), probe=4, **HOW)
    assert "A probe of 4 steps learns from 16 examples and reads 80 questions" in caplog.text
    weights = models.size("tiny") * (4 + 4 + 16) / 1e9  # float32, gradients, AdamW's copies
    assert f"{weights:.1f} GB beside activations" in caplog.text


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


def test_what_is_measured():
    """A single option has no odds; options without an answer are measured by their solution."""
    one = Example("Which?", "", "this", "any", "0", options=("this",))
    assert probe.measure([one]) == "solution_loglik"
    assert probe.measure([replace(one, options=("this", "that"))]) == "gold_log_odds"
    said = "Because. The answer is (B)."
    open_ = Example("Why?", said, "", "any", "0", options=("a", "b"))
    closed = Example("Which?", said, "b", "any", "1", options=("a", "b"))
    asked = probe.questions({"any": [open_, closed]}, 0)
    assert sorted((e.id, e.solution) for e in asked) == [("0", said), ("1", "b")]
