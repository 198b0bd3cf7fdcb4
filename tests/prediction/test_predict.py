"""Predict with the tiny model: the numbers mean nothing, what they rest on does."""

import doctest
import html
import importlib
import json

import numpy as np
import pandas as pd
import pytest
from tiny_sets import ALONE, HTML, SMALL, TINY, questions

import sts_utils
from sts_utils import cli, corpora, features, models, run, saes, store
from sts_utils.prediction import sources
from sts_utils.prediction.predict import _profile, reread

DOMAINS = {"apples": questions("apples"), "pears": questions("pears"), "code": "code-io"}
ONE = {"domains": {"apples": questions("apples")}, "seeds": (0,), **ALONE}


@pytest.mark.parametrize(("module", "least"), [("predict", 5), ("sources", 2)])
def test_docstring_examples(module, least):
    result = doctest.testmod(importlib.import_module(f"sts_utils.prediction.{module}"))
    assert result.attempted >= least and not result.failed


def test_what_was_read_is_not_read_again(found, monkeypatch, tmp_path):
    """Nor by another training set, nor by the report's own process."""
    passes, real = [], features.feature_stats

    def counted(*told, **more):
        passes.append(told)
        return real(*told, **more)

    monkeypatch.setattr(features, "feature_stats", counted)
    again = sts_utils.predict(questions("train"), domains=DOMAINS, seeds=(0, 1), **SMALL)
    pd.testing.assert_frame_equal(again.table, found.table)
    few = found.rescored(n=5, score="sts_icl", domains=["pears", "code"])
    (tmp_path / "record.json").write_text(few.recorded(), encoding="utf-8")
    pd.testing.assert_frame_equal(reread(tmp_path / "record.json").table, few.table)
    assert not passes
    sts_utils.predict(questions("another"), domains=DOMAINS, seeds=(0,), **SMALL)
    assert len(passes) == 1
    riper = DOMAINS | {"apples": questions("riper apples")}
    sts_utils.predict(questions("another"), domains=riper, seeds=(0,), **SMALL)
    assert len(passes) == 2


def test_a_model_that_was_trained_on_in_its_folder_is_read_again(tmp_path):
    """In one process, as in a notebook; what is stored of it is not what the old one read."""
    whole, tables = models.load_model("tiny"), []
    for place, factor in (("model", 1.0), ("model", 2.0), ("elsewhere", 1.0)):
        whole.model.layers[0].mlp.down_proj.weight.data *= factor
        models.save(whole, models.load_tokenizer("tiny"), tmp_path / place)
        told = ONE | {"model": tmp_path / place}
        tables.append(sts_utils.predict(questions("train"), **told).table)
    assert abs(tables[1].sts_act - tables[0].sts_act).min() > 1e-3
    pd.testing.assert_frame_equal(tables[1], tables[2])


def test_what_is_left_out_is_noted():
    rows = [*questions("train"), {"question": "no answer", "answer": ""}, questions("train")[0]]
    rows.append({"question": "long " * 9000, "answer": "A"})
    both = {"apples": [*questions("apples"), *questions("train")[:3]]}
    made = sts_utils.predict(rows, **ONE | {"domains": both})
    assert len(made.train) == len(made.questions["apples"]) == 16
    said = " ".join(made.notes)
    assert "1 of 19 rows left out, empty, asked twice or" in said
    assert "1 of 18 training rows have no answer" in said
    assert "1 of 17 examples of the training set are longer than" in said
    assert "3 questions of the domains are in the training set too" in said


def test_a_domain_without_answers_needs_demonstrations():
    bare = ONE | {"domains": {"apples": questions("apples", answers=False)}}
    with pytest.raises(ValueError, match="'apples' has no worked examples, which STS_ICL needs"):
        sts_utils.predict(questions("train"), **bare)
    shown = {"apples": questions("other")}
    given = sts_utils.predict(questions("train"), **bare, demonstrations=shown)
    assert given.table.sts_icl.notna().all()
    without = sts_utils.predict(questions("train"), **bare, demonstrations="none")
    assert without.table.sts_icl.isna().all() and without.table.sts_act.notna().all()
    assert without.mixture(3) == []
    with pytest.raises(ValueError, match="score 'sts_icl' needs the domains' worked examples"):
        without.rescored(score="sts_icl")


LONG = [(f"{i} {'long ' * 9000}", "A") for i in range(4)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": questions("train", 1)}, r"set has 1 usable example\(s\), but 2 in context"),
        ({"train": [("Q", ""), ("R", "")]}, "no row has an answer"),
        ({"domains": {"one": questions("one", 1)}}, "2 demonstrations asked for, 1 at hand"),
        ({"domains": {"three": questions("three", 3)}}, r"has 1 question\(s\) beside its 2 demo"),
        ({"domains": {"same": questions("train")}}, "'same' has no question that the training set"),
        ({"domains": {"apples": LONG}}, "too long for the context"),
        ({"score": "sts"}, "score 'sts': choose from sts_relative"),
        ({"score": "sts_relative"}, "needs domains to compare, here is one"),
        ({"score": "sts_answers"}, "'sts_answers' needs multiple choice"),
        ({"n": 0}, "n is 0: choose 1"),
        ({"n": 513}, r"n is 513: choose 1..512"),
        ({"seeds": ()}, "give one or more of each"),
        ({"seeds": (0, 0)}, "each seed once"),
        ({"probe": 1}, "probe is 1: give 2 or more steps"),
        ({"probe": "8"}, "probe is '8': give 2 or more steps"),
        ({"domain_columns": {"question": "ask"}}, "no column for the question, 'ask'"),
        ({"sae": "random-8x-layer7"}, "has blocks 0..1, not 7"),
        ({"demonstrations": {"pears": questions("x")}}, "domain 'apples' has no worked examples"),
    ],
)
def test_what_cannot_be_used_is_one_line_before_features_are_read(change, message, monkeypatch):
    monkeypatch.setattr(features, "feature_stats", None)
    with pytest.raises(ValueError, match=message) as error:
        sts_utils.predict(**{"train": questions("train")} | ONE | change)
    assert "\n" not in str(error.value)


def test_an_sae_in_the_folder_one_is_in(tmp_path, monkeypatch):
    saes.load("random-8x", 64, 0).save_model(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    made = _profile("tiny", "./mine", "float32")
    assert made.layer == 0 and made.sae == str(tmp_path / "mine")


def test_the_shipped_example_is_no_evaluation_question():
    examples = sources.read(store.DATA / "example.jsonl", domain="train", answers=True)
    asked = {e.question for e in (*corpora.load("mmlu-test"), *corpora.load("mmlu-cot"))}
    assert len(examples) == 60 and not asked & {e.question for e in examples}


# --- why -----------------------------------------------------------------------------------------


def test_explanation(found):
    """Against the features of each text alone, by brute force."""
    rows = found.explain(4)
    assert rows.feature.unique().tolist() == np.argsort(-found.shifts, kind="stable")[:4].tolist()
    assert rows["shift"].iloc[0] == pytest.approx(found.shifts.max()) and not rows.link.any()
    read, model = models.load_tokenizer("tiny"), run.backbone(found.profile)
    for row in rows[rows.peak > 0].itertuples():
        own = found.train if row.domain == "the training set" else found.questions[row.domain]
        _, token, _ = row.text.replace("⟧", "⟦").split("⟦")
        plain = row.text.replace("⟦", "").replace("⟧", "")
        texts = [t for e in own if plain in (t := f"{e.query}\n{e.solution}".strip())]
        peaks = []
        for text in texts:
            ids = read(text, add_special_tokens=False).input_ids[:256]
            hidden = features.query_residuals(model, None, [ids], [0])[0]
            h = run.sae(found.profile).encode(hidden)[1:, row.feature]
            peaks.append((h.max().item(), read.decode(ids[1 + int(h.argmax())])))
        assert any(p == pytest.approx(row.peak, rel=1e-4) and t == token for p, t in peaks)
    with pytest.raises(ValueError, match=r"k is 0: choose 1..512"):
        found.explain(0)


# --- the command line and the report -------------------------------------------------------------


def lines(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


@pytest.mark.slow
def test_command_line(tmp_path, capsys):
    rows = [{"ask": row["question"], "say": row["answer"]} for row in questions("train")]
    train = lines(tmp_path / "my.jsonl", rows)
    files = [lines(tmp_path / f"{name}.jsonl", questions(name)) for name in ("apples", "pears")]
    words = ["--train", train, "--columns", "question=ask", "answer=say", "--domains", *files]
    words += ["--shots", "2", "--queries", "4", "--n", "20", "--seeds", "0", "--probe", "2"]
    words += ["--out", str(tmp_path / "report"), "--budget", "7"]
    tiny = [word for name in ("model", "sae", "dtype") for word in (f"--{name}", TINY[name])]
    assert cli.main(["predict", *tiny, *words]) == 0
    said, out = capsys.readouterr().out, tmp_path / "report"
    assert "apples" in said and str(out / "index.html") in said
    assert len((out / "mixture.jsonl").read_text().splitlines()) == 7
    csv, parquet = pd.read_csv(out / "table.csv"), pd.read_parquet(out / "table.parquet")
    pd.testing.assert_frame_equal(csv, parquet)
    assert len(pd.read_csv(out / "probe.csv")) == 2
    page = (out / "index.html").read_text()
    assert html.escape(HTML, quote=False) in page and HTML[:16] not in page
    assert all(part in page for part in ("A probe of 2 steps", "promotes:", "7 of 7 at hand"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", "a"], "--seeds 'a': give whole"),
        (["--budget", "0"], "--budget 0: give 1 or more"),
        (["--out", "/proc/none/report"], "/proc/none/report can't be written"),
        (["--columns", "ask"], "columns ['ask']: give role=column"),
        (["--domains", "a=x.csv", "a=y.csv"], "a=x.csv a=y.csv: a name is there twice"),
        (["--train", "absent.jsonl"], "absent.jsonl is no .jsonl, .csv or .parquet file"),
    ],
)
def test_what_the_command_line_refuses(words, said, capsys):
    assert cli.main(["predict", "--model", "tiny", "--sae", "random-8x", *words]) == 2
    assert said in capsys.readouterr().err
