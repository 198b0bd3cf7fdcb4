"""Predict with the tiny model: the numbers mean nothing, what they rest on does."""

import base64
import copy
import doctest
import importlib
import json
import random
import re
from dataclasses import replace
from html.parser import HTMLParser

import jupytext
import numpy as np
import pandas as pd
import papermill
import pytest

import sts_utils
from sts_utils import corpora, saes, store
from sts_utils.corpora import contrast
from sts_utils.method import extract, score, shift
from sts_utils.prediction import explanation, page, prediction, scores, sources
from sts_utils.report import run
from sts_utils.runs import models as held
from sts_utils.runs import samples
from sts_utils.runs import scores as ours

TINY = {"model": "tiny", "sae": "random-8x", "dtype": "float32", "progress": False}
SMALL = {**TINY, "n": 20, "shots": 2, "queries": 6}
ALONE = {**SMALL, "score": "sts_act"}  # for one domain: the default compares domains
HTML = "<script>alert(1)</script> & <b>"


def questions(word, count=16, answers=True):
    rows = [
        {"question": f"{word} {i}: how much is {i} and {i + 3}?", "answer": f"{2 * i + 3} {HTML}"}
        for i in range(count)
    ]
    return rows if answers else [{"question": row["question"]} for row in rows]


@pytest.fixture(scope="module")
def found():
    domains = {"apples": questions("apples"), "pears": questions("pears"), "code": "code-io"}
    return sts_utils.predict(
        questions("train"), domains=domains, seeds=(0, 1), signed=True, **SMALL
    )


@pytest.mark.parametrize(("module", "least"), [("predict", 5), ("prediction", 1), ("sources", 3)])
def test_docstring_examples(module, least):
    result = doctest.testmod(importlib.import_module(f"sts_utils.prediction.{module}"))
    assert result.attempted >= least and not result.failed


def test_table_holds_every_score_with_its_interval(found):
    table = found.table
    assert sorted(table.domain) == ["apples", "code", "pears"]
    assert list(table["rank"]) == [1, 2, 3]
    assert table[found.score].is_monotonic_decreasing
    for name in (*scores.SCORES, "signed"):
        assert (table[f"{name}_low"] <= table[name]).all() and (
            table[name] <= table[f"{name}_high"]
        ).all()
    assert (table.rank_low <= table["rank"]).all() and (table["rank"] <= table.rank_high).all()
    assert table.signed.between(-1, 1).all()


def test_scores_are_the_paper_s_on_the_same_statistics(found):
    row = found.table.set_index("domain").loc["pears"]
    expected = {"sts_act": [], "sts_icl": [], "sts_act_contrastive": [], "sts_relative": []}
    for s in range(2):
        plain = shift.shifted_dims(found.train_stats[s], 20)
        contrastive = shift.shifted_dims(found.train_stats[s], 20, contrast=found.contrast_stats[s])
        expected["sts_act"].append(score.sts_act(found.domain_stats[s]["pears"], plain))
        expected["sts_icl"].append(score.sts_icl(found.domain_stats[s]["pears"], plain))
        expected["sts_act_contrastive"].append(
            score.sts_act(found.domain_stats[s]["pears"], contrastive)
        )
        relative = ours.sts_relative(list(found.domain_stats[s].values()), plain)
        expected["sts_relative"].append(relative[found.domains.index("pears")])
    assert len(found.contrast_stats[0]) == 2  # prose, and the other domains' examples
    for name, values in expected.items():
        assert row[name] == pytest.approx(np.mean(values))


def test_signed_only_where_asked_for(found):
    assert replace(found, signed=False).table.signed.isna().all()


def test_the_same_again_without_the_model(found, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr(extract, "feature_stats", refuse)
    domains = {"apples": questions("apples"), "pears": questions("pears"), "code": "code-io"}
    again = sts_utils.predict(
        questions("train"), domains=domains, seeds=(0, 1), signed=True, **SMALL
    )
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


def test_domains_are_computed_once_for_all_training_sets(found, monkeypatch):
    read, real = [], extract.feature_stats

    def counted(pairs, *rest, desc, **more):
        read.append(desc)
        return real(pairs, *rest, desc=desc, **more)

    monkeypatch.setattr(extract, "feature_stats", counted)
    domains = {"apples": questions("apples"), "pears": questions("pears"), "code": "code-io"}
    shown = SMALL | {"progress": True}
    sts_utils.predict(questions("another"), domains=domains, seeds=(0,), **shown)
    assert read == ["own seed 0", "generic seed 0", "other domains seed 0"]
    read.clear()
    domains["apples"] = questions("riper apples")
    sts_utils.predict(questions("another"), domains=domains, seeds=(0,), **shown)
    assert "apples seed 0" in read and "pears seed 0" not in read


def test_contrast_is_as_long_as_the_demonstrations(found):
    tokenizer, rng, like = samples.tokenizer("tiny"), random.Random(0), found.train[0]
    prose = contrast.prose(tokenizer, rng, like)
    for side in ("query", "solution"):
        wanted, made = (
            len(tokenizer(getattr(e, side), add_special_tokens=False).input_ids)
            for e in (like, prose)
        )
        assert abs(made - wanted) <= 1 + wanted // 20
    worked = found.questions["code"]
    sizes = contrast.lengths(tokenizer, worked)
    (near,) = contrast.lengths(
        tokenizer, [contrast.nearest(tokenizer, rng, worked[3], worked, sizes)]
    )
    assert abs(near - sizes[3]) <= np.sort(np.abs(sizes - sizes[3]))[contrast.NEAREST - 1]


def test_how_sure_is_said(found):
    said = " ".join(found.sureness())
    assert (
        "3 domains, 2 seed(s), 6 to 6 questions" in said and "D_20 on 8 training questions" in said
    )


def test_neighbours_that_flip_are_ties(found):
    apples = [of["apples"] for of in found.domain_stats]
    twins = replace(found, domain_stats=[{"apples": of, "twin": of} for of in apples])
    ((a, b, p),) = twins.ties
    assert {a, b} == {"apples", "twin"} and 0.3 < p < 0.7
    assert f"{a} and {b} ({p:.0%})" in " ".join(twins.sureness())
    assert twins.table.rank_low.tolist() == [1, 1] and twins.table.rank_high.tolist() == [2, 2]
    far = [replace(of["pears"], h=of["pears"].h + 100) for of in found.domain_stats]
    pairs = zip(apples, far, strict=True)
    apart = replace(found, domain_stats=[{"apples": a, "far": b} for a, b in pairs])
    assert apart.ties == [] and "No two neighbours" in " ".join(apart.sureness())
    assert apart.table.domain.tolist() == ["far", "apples"]
    assert apart.table.rank_low.tolist() == apart.table.rank_high.tolist() == [1, 2]


def test_positive_control_is_quoted_when_it_exists(found, tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "CONTROL_SCORES", tmp_path / "scores.csv")
    assert "not backed by it yet" in " ".join(found.sureness())
    row = {
        "score": "sts_act",
        "statistic": "rank of the own domain",
        "value": 3.25,
        "low": 2.0,
        "high": 4.5,
    }
    pd.DataFrame([row]).to_csv(tmp_path / "scores.csv", index=False)
    assert "(rank of the own domain): sts_act 3.25 [2.00, 4.50]." in " ".join(found.sureness())
    assert "Its contrast there" in " ".join(
        found.rescored(score="sts_relative_contrastive").sureness()
    )


def test_the_sign_is_quoted_as_it_is_and_beside_the_others(found):
    (said,) = (line for line in found.sureness() if "the signed score had" in line)
    table = pd.read_csv(scores.CONTROL_SIGNS)
    rows = table[(table.change == "gold_loglik") & (table.score == "cosine, D_N")]
    assert len(rows) == 2 and all(
        row.accuracy in said and row.r in said for row in rows.itertuples()
    )


def test_a_question_that_every_seed_asks_is_drawn_once(found):
    kinds = ("train_stats", "contrast_stats", "domain_stats")
    one = replace(found, seeds=(0,), **{name: getattr(found, name)[:1] for name in kinds})
    same = replace(one, seeds=(0, 1), **{name: getattr(one, name) * 2 for name in kinds})
    for name in ("sts_act", "sts_relative"):
        np.testing.assert_allclose(same.estimates[name][1], one.estimates[name][1])


def test_advice_is_in_the_ratio_of_the_score(found):
    advice = found.advice(10)
    assert advice.examples.sum() == 10 and advice.domain.tolist() == found.table.domain.tolist()
    assert np.abs(advice.examples - 10 * advice.weight / advice.weight.sum()).max() < 1
    np.testing.assert_allclose(advice.weight, np.exp(found.table.sts_relative))
    rows = found.mixture(10)
    counts = pd.Series([row["domain"] for row in rows]).value_counts()
    assert counts.to_dict() == dict(zip(advice.domain, advice.examples, strict=True))
    assert all(row["question"] and row["answer"] for row in rows)
    assert len({row["question"] for row in rows}) == 10
    for budget in (0, 2.5):
        with pytest.raises(ValueError, match="give a whole number of extra examples"):
            found.advice(budget)


def test_largest_remainder_spends_the_whole_budget():
    for seed in range(20):
        share = np.random.default_rng(seed).dirichlet(np.ones(14))
        counts = prediction.largest_remainder(share, 101)
        assert counts.sum() == 101 and (np.abs(counts - 101 * share) < 1).all()


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.seen, self.text = [], ""
        self.feed(page)

    def handle_data(self, text):
        self.text += text

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_report_is_self_contained_and_escaped(found, tmp_path):
    stats = [{HTML if d == "code" else d: of[d] for d in of} for of in found.domain_stats]
    asked = {HTML if d == "code" else d: of for d, of in found.questions.items()}
    hostile = replace(found, source=HTML, notes=(HTML,), domain_stats=stats, questions=asked)
    paths = hostile.write(tmp_path / "report", budget=10, features=3)
    assert [p.name for p in paths] == ["index.html", "table.csv", "table.parquet", "mixture.jsonl"]
    page = paths[0].read_text(encoding="utf-8")
    parsed = Tags(page)
    tags = parsed.seen
    assert not [t for t, _ in tags if t in ("script", "link", "b")]
    (image,) = [a["src"] for t, a in tags if t == "img"]
    kind, _, png = image.partition(",")
    assert kind == "data:image/png;base64" and base64.b64decode(png).startswith(b"\x89PNG")
    assert parsed.text.count(HTML) >= 4  # the source, a domain, a note, a row of the mixture
    assert len(found.limits()) == 7 and all(said in parsed.text for said in found.limits())
    assert pd.read_parquet(paths[2]).equals(hostile.table)
    assert len([json.loads(line) for line in paths[3].open()]) == 10
    assert not (
        hostile.write(tmp_path / "report")[0].parent / "mixture.jsonl"
    ).exists()  # no stale one
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file: give a folder"):
        found.write(tmp_path / "file")


def test_explanation(found):
    features = found.explain(4).features
    assert [f.id for f in features] == np.argsort(-found.shifts, kind="stable")[:4].tolist()
    assert features[0].shift == pytest.approx(found.shifts.max())
    spans = [s for f in features for s in (*f.train, *f.elsewhere)]
    assert spans and all(max(level for _, level in s.tokens) == pytest.approx(1) for s in spans)
    texts = [
        "\n".join((e.query, e.solution))
        for e in (*found.train, *(e for of in found.questions.values() for e in of))
    ]
    assert all(any("".join(t for t, _ in s.tokens) in text for text in texts) for s in spans)
    assert all(s.domain == explanation.OWN for f in features for s in f.train)
    for f in features:
        for domain, mean in f.domains:
            assert mean == pytest.approx(
                np.mean([of[domain].mean("h")[f.id] for of in found.domain_stats])
            )
    hostile = replace(features[0], promotes=("<script>",))
    assert "&lt;script&gt;" in page.macros().cards(explanation.Explanation((hostile,)))
    with pytest.raises(ValueError, match=r"k is 0: choose 1..512"):
        found.explain(0)


def test_spans_peak_where_the_feature_is_strongest(found, backbone, sae):
    """Against the features of the text alone, by brute force."""
    from sts_utils.method.extract import query_residuals

    feature = found.explain(1).features[0]
    span = feature.train[0]
    text = next(
        f"{e.query}\n{e.solution}"
        for e in found.train
        if "".join(t for t, _ in span.tokens) in f"{e.query}\n{e.solution}"
    )
    ids = samples.tokenizer("tiny")(text, add_special_tokens=False).input_ids[: explanation.TOKENS]
    h = sae.encode(query_residuals(held.backbone(found.profile), None, [ids], [0])[0])[
        1:, feature.id
    ]
    assert span.peak == pytest.approx(h.max().item(), rel=1e-4)


def test_logit_lens(found, whole):
    (words,) = explanation.promoted(found.profile, np.array([7]))
    direction = whole.model.norm(held.sae(found.profile).W_dec[7:8])
    best = whole.lm_head(direction)[0].argmax().item()
    assert words[0] == samples.tokenizer("tiny").decode([best]).strip()


def test_neuronpedia_link(found, monkeypatch):
    assert all(f.link is None for f in found.explain(2).features)
    monkeypatch.setattr(held.sae(found.profile).cfg.metadata, "neuronpedia_id", "model/20-res")
    feature = found.explain(1).features[0]
    assert feature.link == f"https://www.neuronpedia.org/model/20-res/{feature.id}"


# --- bad input ---------------------------------------------------------------------------------


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


def test_the_stem_alone_makes_no_question_the_same():
    stem = "Which of these is true?"
    train = [*questions("train"), {"question": stem, "choices": ["a", "b"], "answer": "A"}]
    asked = sources._asked_by(sources.read(train, domain="train"))
    choices = [
        {"choices": ["c", "d"], "answer": "A"},
        {"choices": ["a", "b"], "answer": "B"},
        {"answer": "open"},
    ]
    other = [{"question": stem, **row} for row in choices]
    assert [asked(e) for row in other for e in sources.read([row], domain="x")] == [
        False,
        True,
        True,
    ]


def test_what_was_left_out_is_in_the_report():
    rows = [*questions("train"), {"question": "no answer", "answer": ""}, questions("train")[0]]
    made = sts_utils.predict(rows, domains={"apples": questions("apples")}, seeds=(0,), **ALONE)
    said = " ".join(made.sureness())
    assert (
        "1 of 18 rows left out, empty or asked twice" in said
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


def test_unknown_domain_or_score_of_a_rescored_prediction(found):
    with pytest.raises(ValueError, match="unknown domain 'law': choose from apples"):
        found.rescored(domains=["law"])
    with pytest.raises(ValueError, match="unknown domain"):
        found.rescored(domains=[])
    with pytest.raises(ValueError, match=r"n is 1000: choose 1..512"):
        found.rescored(n=1000)


# --- the command line and the notebook ---------------------------------------------------------


def command(*words):
    tiny = [
        "--model",
        "tiny",
        "--sae",
        "random-8x",
        "--dtype",
        "float32",
        "--shots",
        "2",
        "--queries",
        "4",
    ]
    return run.main(["predict", *tiny, "--n", "20", "--seeds", "0", *words])


def test_command_line(tmp_path, capsys):
    (tmp_path / "my.jsonl").write_text(
        "".join(
            f"{json.dumps({'ask': q, 'say': a})}\n"
            for q, a in ((row["question"], row["answer"]) for row in questions("train"))
        )
    )
    for name in ("apples", "pears"):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(f"{json.dumps(row)}\n" for row in questions(name))
        )
    out = tmp_path / "report"
    files = [str(tmp_path / f"{name}.jsonl") for name in ("apples", "pears")]
    named = ["--columns", "question=ask", "answer=say"]
    done = command(
        "--train",
        str(tmp_path / "my.jsonl"),
        *named,
        "--domains",
        *files,
        "--out",
        str(out),
        "--budget",
        "7",
    )
    assert done == 0
    said = capsys.readouterr().out
    assert (
        "apples" in said
        and "The ranking rests on 2 domains" in said
        and str(out / "index.html") in said
    )
    assert sum(1 for _ in (out / "mixture.jsonl").open()) == 7
    assert command("--train", str(tmp_path / "my.jsonl")) == 2
    assert capsys.readouterr().err.startswith("error: ")
    for words, said in (
        (["--seeds", "a"], "--seeds 'a': give whole"),
        (["--budget", "0"], "budget is 0"),
        (["--out", str(tmp_path / "my.jsonl")], "is a file: give a folder"),
        (["--out", str(tmp_path / "my.jsonl" / "report")], "is a file: give a folder"),
        (["--columns", "ask"], "columns 'ask': give role=column"),
        (["--domains", "a=x.csv", "a=y.csv"], "a=x.csv a=y.csv: a name is there twice"),
    ):
        assert command(*words) == 2
        assert said in capsys.readouterr().err


def test_the_shipped_example_is_no_evaluation_question():
    examples = sources.read_training(store.DATA / "example.jsonl", None)
    assert len(examples) == 60 and all(
        re.search(r"The answer is .+\.$", e.solution) for e in examples
    )
    asked = {e.question for e in (*corpora.load("mmlu-test"), *corpora.load("mmlu-cot"))}
    assert not asked & {e.question for e in examples}


@pytest.mark.slow
def test_the_notebook_runs_under_papermill(tmp_path):
    source = tmp_path / "predict.ipynb"
    jupytext.write(jupytext.read(store.ROOT / "notebooks/predict.py"), source)
    given = {"MODEL": "tiny", "SAE": "random-8x", "SEEDS": [0], "QUERIES": 4, "N": 20}
    done = papermill.execute_notebook(
        source,
        tmp_path / "done.ipynb",
        given,
        kernel_name="python3",
        cwd=str(store.ROOT / "notebooks"),
        progress_bar=False,
        execution_timeout=300,
    )
    outputs = [o for cell in done.cells if cell.cell_type == "code" for o in cell.outputs]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert any("application/vnd.jupyter.widget-view+json" in o.get("data", {}) for o in outputs)
    assert not [o for o in outputs if o.output_type == "error"]
