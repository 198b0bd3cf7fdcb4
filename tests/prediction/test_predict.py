"""Predict with the tiny model: the numbers mean nothing, what they rest on does."""

import copy
import doctest
import importlib
import json
import re

import numpy as np
import pandas as pd
import pytest
from tiny_sets import ALONE, SMALL, questions

import sts_utils
from sts_utils import corpora, models, saes, store
from sts_utils import features as extract
from sts_utils.prediction import sources
from sts_utils.runs import samples


@pytest.mark.parametrize(("module", "least"), [("predict", 5), ("prediction", 1), ("sources", 3)])
def test_docstring_examples(module, least):
    result = doctest.testmod(importlib.import_module(f"sts_utils.prediction.{module}"))
    assert result.attempted >= least and not result.failed


def test_the_same_again_without_the_model(found, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(extract, "feature_stats", refuse)
    domains = {"apples": questions("apples"), "pears": questions("pears"), "code": "code-io"}
    again = sts_utils.predict(questions("train"), domains=domains, seeds=(0, 1), **SMALL)
    pd.testing.assert_frame_equal(again.table, found.table)
    other = found.rescored(n=5, score="sts_icl", domains=["pears", "code"])
    assert (
        sorted(other.table.domain) == ["code", "pears"]
        and other.table.sts_icl.is_monotonic_decreasing
    )
    assert not np.allclose(
        other.table.sts_icl,
        found.rescored(score="sts_icl", domains=["pears", "code"]).table.sts_icl,
    )


def test_a_model_that_was_trained_on_in_its_folder_is_read_again(tmp_path):
    """In one process, as in a notebook; what is stored of it is not what the old one read."""
    whole, told = models.load_model("tiny"), ALONE | {"domains": {"apples": questions("apples")}}
    tables = []
    for place, factor in (("model", 1.0), ("model", 2.0), ("elsewhere", 1.0)):
        whole.model.layers[0].mlp.down_proj.weight.data *= factor
        models.save(whole, samples.tokenizer("tiny"), tmp_path / place)
        own = told | {"model": tmp_path / place}
        tables.append(sts_utils.predict(questions("train"), seeds=(0,), **own).table)
    assert abs(tables[1].sts_act - tables[0].sts_act).min() > 1e-3
    pd.testing.assert_frame_equal(tables[1], tables[2])
    with pytest.raises(ValueError, match="model None, sae 'random-8x': give a name or a folder"):
        sts_utils.predict(questions("train"), **told | {"model": None})


def test_domains_are_computed_once_for_all_training_sets(found, monkeypatch):
    read, real = [], extract.feature_stats

    def counted(pairs, *rest, desc, **more):
        read.append(desc)
        return real(pairs, *rest, desc=desc, **more)

    monkeypatch.setattr(extract, "feature_stats", counted)
    domains = {"apples": questions("apples"), "pears": questions("pears"), "code": "code-io"}
    shown = SMALL | {"progress": True}
    sts_utils.predict(questions("another"), domains=domains, seeds=(0,), **shown)
    assert read == ["training set seed 0"]
    read.clear()
    domains["apples"] = questions("riper apples")
    sts_utils.predict(questions("another"), domains=domains, seeds=(0,), **shown)
    assert "apples seed 0" in read and "pears seed 0" not in read


def test_questions_of_the_training_set_are_dropped_from_the_domains(caplog):
    both = [*questions("apples"), *questions("train")[:3]]
    made = sts_utils.predict(questions("train"), domains={"apples": both}, seeds=(0,), **ALONE)
    assert len(made.questions["apples"]) == 16
    assert "3 questions of the domains are in the training set too" in caplog.text
    assert "3 questions of the domains" in " ".join(made.sureness())
    with pytest.raises(ValueError, match="domain 'same' has no question that the training set"):
        sts_utils.predict(questions("train"), domains={"same": questions("train")}, **SMALL)


def test_a_domain_without_answers_needs_demonstrations():
    bare = {"apples": questions("apples", answers=False)}
    with pytest.raises(
        ValueError,
        match="domain 'apples' has no worked examples, which STS_ICL needs: give demonstr",
    ):
        sts_utils.predict(questions("train"), domains=bare, seeds=(0,), **ALONE)
    given = sts_utils.predict(
        questions("train"),
        domains=bare,
        demonstrations={"apples": questions("other")},
        seeds=(0,),
        **ALONE,
    )
    assert given.table.sts_icl.notna().all()
    without = sts_utils.predict(
        questions("train"), domains=bare, demonstrations="none", seeds=(0,), **ALONE
    )
    assert without.table.sts_icl.isna().all() and without.table.sts_act.notna().all()
    assert without.mixture(3) == []
    without.plot()
    with pytest.raises(ValueError, match="score 'sts_icl' needs the domains' worked examples"):
        without.rescored(score="sts_icl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train": questions("train", 1)},
            r"the training set has 1 usable example\(s\), but 2 in context",
        ),
        ({"train": [("Q", ""), ("R", "")]}, "no row has an answer"),
        (
            {"domains": {"one": questions("one", 1)}},
            "2 demonstrations asked for, 1 at hand in 'one'",
        ),
        (
            {"domains": {"three": questions("three", 3)}},
            r"domain 'three' has 1 question\(s\) beside its 2 demonstr",
        ),
        ({"score": "sts"}, "score 'sts': choose from sts_relative"),
        ({"n": 0}, "n is 0: choose 1"),
        ({"n": 513}, r"n is 513: choose 1..512"),
        ({"seeds": ()}, "give one or more of each"),
        ({"seeds": 0}, "seeds 0: give whole numbers"),
        ({"seeds": (0, 0)}, "one is there twice"),
        (
            {"domains": {"apples": questions("apples")}, "score": "sts_relative"},
            "compares domains, here is one",
        ),
        ({"domain_columns": {"question": "ask"}}, "no column 'ask'"),
        ({"sae": "random-8x-layer7"}, "has blocks 0..1, not 7"),
        ({"model": "nowhere"}, "model 'nowhere' is neither packaged"),
        ({"demonstrations": {"pears": questions("x")}}, "domain 'apples' has no worked examples"),
        (
            {"domains": {"apples": [(f"{i} {'long ' * 9000}", "A") for i in range(4)]}},
            "too long for the context",
        ),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line_before_features_are_read(
    change, message, monkeypatch
):
    monkeypatch.setattr(extract, "feature_stats", None)
    usual = {
        "train": questions("train"),
        "domains": {"apples": questions("apples")},
        "seeds": (0,),
        **ALONE,
    }
    with pytest.raises(ValueError, match=message) as error:
        sts_utils.predict(**usual | change)
    assert "\n" not in str(error.value)


def test_a_model_without_a_chat_template(monkeypatch):
    tokenizer = copy.copy(samples.tokenizer("tiny"))
    tokenizer.chat_template = None
    monkeypatch.setattr(samples, "tokenizer", lambda *_: tokenizer)
    with pytest.raises(
        ValueError, match="model 'tiny' has no chat template: give its instruction-tuned version"
    ):
        sts_utils.predict(questions("train"), domains={"apples": questions("apples")}, **ALONE)


def test_what_was_left_out_is_in_the_report():
    rows = [*questions("train"), {"question": "no answer", "answer": ""}, questions("train")[0]]
    made = sts_utils.predict(rows, domains={"apples": questions("apples")}, seeds=(0,), **ALONE)
    said = " ".join(made.sureness())
    assert (
        "1 of 18 rows left out, empty, asked twice or" in said
        and "1 of 17 training rows have no answer" in said
    )


def test_an_sae_in_the_folder_one_is_in(tmp_path, monkeypatch):
    sae = saes.load("random-8x", 64, 0)
    sae.save_model(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert saes.layer("./mine") == 0
    cfg = json.loads((tmp_path / "mine/cfg.json").read_text())
    (tmp_path / "mine/cfg.json").write_text(
        json.dumps(
            {k: v for k, v in cfg.items() if k != "metadata"}
            | {"hook_name": "blocks.0.hook_resid_post"}
        )
    )
    assert saes.layer("./mine") == 0  # as sae-lens wrote it before version 6


def test_a_question_longer_than_the_context_is_left_out(caplog):
    rows = [*questions("train"), {"question": "long " * 9000, "answer": "A"}]
    made = sts_utils.predict(rows, domains={"apples": questions("apples")}, seeds=(0,), **ALONE)
    assert (
        len(made.train) == 16
        and "1 of 17 examples of the training set are longer than" in caplog.text
    )


def test_the_shipped_example_is_no_evaluation_question():
    examples = sources.read_training(store.DATA / "example.jsonl", None)
    assert len(examples) == 60 and all(
        re.search(r"The answer is .+\.$", e.solution) for e in examples
    )
    asked = {e.question for e in (*corpora.load("mmlu-test"), *corpora.load("mmlu-cot"))}
    assert not asked & {e.question for e in examples}
