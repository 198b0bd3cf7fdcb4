"""Predict with the tiny model: the numbers mean nothing, what they rest on does."""

import json
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch

import sts_utils
from sts_utils import __main__, corpora, features, models, run, scores, store, train
from sts_utils.prediction import predict as module
from sts_utils.prediction import probe, sources
from sts_utils.prompts import Example

HTML = "<script>alert(1)</script> & <b>"
TINY = {"model": "tiny", "sae": "random-8x", "dtype": "float32"}
COMMAND = ["predict", "--model", "tiny", "--sae", "random-8x", "--dtype", "float32"]
SMALL = {**TINY, "n": 20, "shots": 2, "queries": 6}


def asked(word, count=16, answers=True):
    """Open questions whose answers hold HTML."""
    texts = [f"{word} {i}: how much is {i} and {i + 3}?" for i in range(count)]
    rows = [{"question": q, "answer": f"{2 * i + 3} {HTML}"} for i, q in enumerate(texts)]
    return rows if answers else [{"question": q} for q in texts]


def choices(word):
    options = [[f"{word} {i + j}" for j in range(3)] for i in range(16)]
    rows = enumerate(options)
    return [{"question": f"{word} {i}?", "choices": of, "answer": i % 3} for i, of in rows]


DOMAINS = {"apples": asked("apples"), "pears": asked("pears"), "code": "code-io"}
HOW = {**SMALL, "domains": DOMAINS, "seeds": (0, 1)}
ONE = {**SMALL, "domains": {"apples": asked("apples")}, "seeds": (0,), "score": "sts_act"}


@pytest.fixture(scope="module")
def found():
    return sts_utils.predict(asked("ripe apples", 24), probe=12, **HOW)


def test_nothing_is_computed_twice_and_the_untouched_model_stays(found, monkeypatch):
    passes, real = [], features.feature_stats
    count = lambda *told, **more: passes.append(told) or real(*told, **more)  # noqa: E731
    monkeypatch.setattr(features, "feature_stats", count)
    monkeypatch.setattr(train, "train_answers", None)
    again = sts_utils.predict(asked("ripe apples", 24), probe=12, **HOW)
    assert again.answers.equals(found.answers) and again.table.equals(found.table) and not passes
    plain = sts_utils.predict(asked("another"), **HOW | {"seeds": (0,)})
    assert plain.answers is None and len(passes) == 1  # its own
    with pytest.raises(TypeError):
        sts_utils.predict(asked("ripe apples", 24), probe=5, **HOW)


def test_what_is_trained_on_becomes_likelier(found):
    change = (found.answers.after - found.answers.before).groupby(found.answers.domain)
    assert change.mean()["apples"] > max(0, change.mean()["code"])
    assert change.size().to_dict() == {"apples": 16, "pears": 16, "code": probe.PROBED}
    said = "A probe of 12 steps of 0.001 on all weights learns from 24 examples, reads 96 questions"
    (note,) = [note for note in found.notes if note.startswith(f"{said} twice: about")]
    assert note.endswith(" GB.")


def test_a_lora_is_tried_by_its_rank(monkeypatch):
    """The model's own weights stay; every linear map but the head gets a change of this rank."""
    made, real = [], run.briefly_tuned
    monkeypatch.setattr(run, "briefly_tuned", lambda *told: made.append(real(*told)) or made[0])
    found = sts_utils.predict(asked("train"), probe=2, lora=3, lr=0.01, **ONE)
    assert any("of 0.01 on a LoRA learns" in note for note in found.notes)
    assert (found.answers.after != found.answers.before).all()
    old, new = (dict(of.named_parameters()) for of in (models.load_model("tiny"), made[0]))
    added = {name: new.pop(name) for name in list(new) if "lora_" in name}
    assert all(weight.equal(old[k.replace(".base_layer", "")]) for k, weight in new.items())
    ranks = [torch.linalg.matrix_rank(w).item() for k, w in added.items() if "lora_B" in k]
    assert len(ranks) == 2 * 7 and max(ranks) <= 3 and min(ranks) > 0


def test_a_model_that_was_trained_on_in_its_folder_is_read_again(tmp_path):
    """In one process, as in a notebook; what is stored of it is not what the old one read."""
    whole, tables = models.load_model("tiny"), []
    for place, factor in (("model", 1.0), ("model", 2.0), ("elsewhere", 1.0)):
        whole.model.layers[0].mlp.down_proj.weight.data *= factor
        models.save(whole, models.load_tokenizer("tiny"), tmp_path / place)
        told = ONE | {"model": tmp_path / place}
        tables.append(sts_utils.predict(asked("train"), **told).table)
    assert abs(tables[1].sts_act - tables[0].sts_act).min() > 1e-3
    pd.testing.assert_frame_equal(tables[1], tables[2])


def test_what_is_left_out_is_noted():
    rows = [*asked("train"), {"question": "no answer", "answer": ""}, asked("train")[0]]
    rows.append({"question": "long " * 9000, "answer": "A"})
    both = {"apples": [*asked("apples"), *asked("train")[:3]]}
    made = sts_utils.predict(rows, **ONE | {"domains": both})
    assert len(made.train) == len(made.questions["apples"]) == 16
    said = " ".join(made.notes)
    assert "left out: 1 rows that are there twice, 1 training rows without an answer" in said
    assert "1 of 17 examples of the training set are longer than" in said
    assert "3 questions of the domains are in the training set too" in said


def test_a_domain_without_answers_needs_demonstrations():
    bare = ONE | {"domains": {"apples": asked("apples", answers=False)}}
    with pytest.raises(ValueError, match="'apples' has no worked examples: give some, or 'none'"):
        sts_utils.predict(asked("train"), **bare)
    given = sts_utils.predict(asked("train"), **bare, demonstrations={"apples": asked("other")})
    assert given.table.sts_icl.notna().all()
    without = sts_utils.predict(asked("train"), **bare, demonstrations="none")
    assert without.table.sts_icl.isna().all() and without.table.sts_act.notna().all()


STS_SAE = "data/saes/smollm2-135m-instruct/layer20-8x-k32"
BARE = {"domains": {"a": asked("a", answers=False)}, "demonstrations": "none", "probe": 2}


def test_what_cannot_be_used_is_one_line_before_features_are_read(monkeypatch):
    monkeypatch.setattr(features, "feature_stats", None)
    for change, message in (
        ({"train": asked("train", 1)}, "2 demonstrations asked for, 1 at hand in 'train'"),
        ({"train": [("Q", ""), ("R", "")]}, "no row has an answer"),
        ({"domains": {"three": asked("three", 3)}}, "three has under 2 questions beside its demo"),
        ({"domains": {"same": asked("train")}}, "domain 'same' has no worked examples"),
        ({"form": "spoken"}, "form 'spoken': choose text or letter"),
        ({"score": "sts_answers"}, "choose sts_act or sts_icl"),  # of multiple choice
        ({"sae": STS_SAE}, "has blocks 0..1, not 20: .*; sae-lens has none .* residual-layer12"),
        ({"n": 513}, "n 513: choose 1..512"),
        ({"seeds": (0, 0)}, "too few, or a seed twice"),
        ({"shots": 0, "probe": 1}, "too few, or a seed twice"),
        ({"sae": "random-8x-layer7"}, "has blocks 0..1, not 7"),
        (BARE, "no domain has an answer to be measured by"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            sts_utils.predict(**{"train": asked("train")} | ONE | change)
        assert "\n" not in str(error.value)


def test_the_shipped_example_is_no_evaluation_question():
    examples = sources.read(store.DATA / "example.jsonl", domain="train", answers=True)
    known = {e.question for e in (*corpora.load("mmlu-test"), *corpora.load("mmlu-cot"))}
    assert len(examples) == 60 and not known & {e.question for e in examples}


def test_scores_are_the_paper_s_on_the_same_statistics_with_intervals(found):
    table = replace(found, answers=None).table.set_index("domain")
    assert sorted(table.index) == ["apples", "code", "pears"] and list(table["rank"]) == [1, 2, 3]
    assert table[found.score].is_monotonic_decreasing
    assert table.sts_answers.isna().all()  # no multiple choice
    for name in (*module.SCORES[:-1], "rank"):
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()
    expected = {"sts_act": [], "sts_icl": []}
    for s in range(2):
        dims = scores.shifted_dims(found.stats["", s, "shift"], 20)
        every = [found.stats[d, s, "shift"] for d in found.domains]
        expected["sts_act"].append(scores.sts_act(every[1], dims))
        expected["sts_icl"].append(scores.sts_icl(every[1], dims))
    for name, values in expected.items():
        assert table[name]["pears"] == pytest.approx(np.mean(values))


def test_neighbours_that_can_t_be_told_apart_share_ranks(found):
    apples = {s: found.stats["apples", s, "shift"] for s in (0, 1)}
    far = {s: replace(of, h=of.h + 100) for s, of in apples.items()}
    for other, low, high in ((apples, [1, 1], [2, 2]), (far, [1, 2], [1, 2])):
        both = found.stats | {("other", s, "shift"): of for s, of in other.items()}
        names = ("apples", "other")
        table = replace(found, stats=both, domains=names, answers=None, score="sts_act").table
        assert table.rank_low.tolist() == low and table.rank_high.tolist() == high
    assert table.domain.tolist() == ["other", "apples"]


def test_a_question_that_every_seed_asks_is_drawn_once(found):
    one = replace(found, seeds=(0,))
    twice = {(name, s, kind): found.stats[name, 0, kind] for name, s, kind in found.stats}
    for name in ("sts_act", "sts_icl"):
        same = replace(found, stats=twice).estimates[name]
        np.testing.assert_allclose(same[1], one.estimates[name][1])


def test_multiple_choice_is_read_with_wrong_and_right_answers():
    domains = {"apples": choices("apples"), "pears": choices("pears")}
    how = SMALL | {"seeds": (0, 1), "score": "sts_answers", "domains": domains}
    made, expected = sts_utils.predict(choices("fruit"), **how), []
    for s in (0, 1):
        own, pears = (made.stats[name, s, "answers"] for name in ("", "pears"))
        ids = scores.shifted_dims(own, 20).ids
        expected.append(scores.cosine(own.mean("dh")[ids], pears.mean("dh")[ids]))
    table = made.table.set_index("domain")
    assert table.sts_answers["pears"] == pytest.approx(np.mean(expected))
    assert (table.sts_answers_low <= table.sts_answers).all()
    tokens = {kind: made.stats["", 0, kind].n[0] for kind in ("answers", "shift")}
    assert tokens["answers"] < tokens["shift"]  # behind the question


def test_another_n_score_or_choice_of_domains(found):
    found = replace(found, answers=None)  # a probe would rank
    few = replace(found, n=5, score="sts_icl", domains=("code", "pears"))
    assert sorted(few.table.domain) == ["code", "pears"]
    assert not np.isclose(few.table.sts_icl.max(), found.table.sts_icl.max())
    for change in ({"n": 1000}, {"n": 0}):
        with pytest.raises(ValueError):
            len(replace(found, **change).table)


def test_what_is_measured():
    """Of one question in two domains in both; a single option has no odds; options without an
    answer are measured by their solution."""
    rows = [{"question": f"Which is {n}?", "choices": [n, "0"], "answer_index": 0} for n in "1234"]
    told = SMALL | {"domains": {"one": rows, "two": rows[:2]}, "demonstrations": "none"}
    answers = sts_utils.predict(asked("train"), probe=2, seeds=(0,), **told).answers
    assert set(answers.measure) == {"gold_log_odds"} and np.isfinite(answers.after).all()
    beside = [f"{name}_{side}" for name in probe.BESIDE for side in ("before", "after")]
    assert answers[beside].stack().between(0, 1).all()
    assert answers.groupby("domain").size().to_dict() == {"one": 4, "two": 2}
    one = Example("Which?", "", "this", "any", "0", options=("this",))
    two = replace(one, options=("this", "b"))
    assert not probe.are_choices([one]) and probe.are_choices([two])
    open_ = Example("Why?", "The answer is (B).", "", "any", "0", options=("a", "b"))
    closed = replace(open_, answer="b", id="1")
    measured = probe.measurable({"any": [open_, closed, replace(one, answer="")]}, 0)
    assert sorted((e.id, e.solution) for e in measured) == [("0", open_.solution), ("1", "b")]


def test_multiple_choice_is_learnt_and_asked_in_one_form(monkeypatch):
    learns = Mock(wraps=train.train_answers)
    monkeypatch.setattr(train, "train_answers", learns)
    how = SMALL | {"seeds": (0,), "domains": {"apples": choices("apples")}, "probe": 2}
    for form, solution, listed in (("text", "fruit", False), ("letter", "The answer is (", True)):
        made = sts_utils.predict(choices("fruit"), form=form, **how)
        learned = learns.call_args.args[3]
        assert all(e.solution.startswith(solution) for e in learned)
        assert all(bool(e.options) == listed for e in learned)
        assert f"Multiple choice is learnt and asked by {probe.FORMS[form]}." in made.notes
    asked = probe.in_form(made.questions["apples"][0], "letter")
    assert asked.options[:2] == ("The answer is (A).", "The answer is (B).")
    assert "(A)" in asked.question and asked.answer in asked.options
    worked = replace(made.train[0], solution="First … The answer is (A).")
    assert probe.learnt(worked, "text") == worked  # people's own words stay


def answered(change, accuracy, noise=0.1):
    """What a probe of two domains gives: of law the `change`, of art none."""
    rows = pd.DataFrame({"domain": ["law"] * 20 + ["art"] * 20, "id": map(str, range(40))})
    rng, law = np.random.default_rng(0), rows.domain == "law"
    after = change * law + noise * rng.normal(size=40)
    rows = rows.assign(measure="gold_log_odds", before=0.0, after=after, steps=8)
    rows = rows.assign(accuracy_before=0.0, accuracy_after=accuracy * law)
    return rows.assign(seconds_of_steps=60.0, seconds_of_asking=30.0)


def test_what_a_probe_says():
    """The change first; a change of form before it; noise with the steps that would do."""
    lines = list(probe.says(answered(-3.0, -0.2)))
    assert lines[0].startswith("law moves most: -3.0") and lines[1].startswith("1 of 2 intervals")
    lines = list(probe.says(answered(-3.0, 0.1)))
    assert "accuracy does not" in lines[0] and lines[0].endswith(": law.")
    lines = list(probe.says(noise := answered(0.0, 0.0, 1.0)))
    share = max(probe.reliability(noise), 0.05)
    assert f"About {8 * (1 / share - 1) ** 0.5:.0f} steps would do" in lines[1]
    assert lines[1].endswith(f"{(1 / share - 1) ** 0.5 + 1:.0f} minutes here.")


def test_a_probe_ranks_where_it_has_signal(found):
    domains = found.domains[:2]
    answers = answered(-3.0, -0.2).replace({"domain": {"law": domains[1], "art": domains[0]}})
    made = replace(found, domains=domains, answers=answers)
    assert made.leads and list(made.table.domain) == [domains[1], domains[0]]
    assert made.table.change[0] == pytest.approx(-3, abs=0.1) and made.table.rank_high[0] == 1
    assert "ranked by the size" in made.says()[-1]
    weak = replace(made, answers=answers.assign(after=0.0))
    assert not weak.leads and f"Ranked by {found.score}" in " ".join(weak.says())
    assert json.loads(json.dumps(made.record()))["table"][0]["domain"] == domains[1]
    assert "&lt;" not in made._repr_html_() and "moves most" in made._repr_html_()


def test_marks_of_the_chat_template_are_read_as_text(profile, tokenizer):
    mark, notes = "<|im_end|>", []
    texts = [Example(f"What is {mark}?", mark, "", "any", "0"), Example("Q", "A", "", "any", "1")]
    kept = module.fitting(profile, texts, "x", 2, notes.append)
    special = tokenizer.convert_tokens_to_ids(mark)
    assert all(special not in tokenizer(f"{e.query} {e.solution}").input_ids for e in kept)
    assert kept[1] == texts[1] and notes[0].startswith("1 examples of x hold marks")


def test_training_sets_are_compared_on_the_same_questions(found):
    sets = {"ripe": asked("ripe apples", 24), "same": asked("ripe apples", 24), "far": "chain-sum"}
    table = sts_utils.compare(sets, **HOW | {"seeds": (0,)})
    assert list(table.set) == ["same"] * 3 + ["far"] * 3 and set(table.than) == {"ripe"}
    same, far = table[table.set == "same"], table[table.set == "far"]
    assert (same[["more", "low", "high"]] == 0).all(axis=None) and (far.more != 0).all()


@pytest.mark.slow
def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)  # its files are relative to the folder one is in
    rows = {name: asked(name) for name in ("apples", "pears")}
    rows["my"] = [{"ask": row["question"], "say": row["answer"]} for row in asked("train")]
    for name, of in rows.items():
        pd.DataFrame(of).to_json(f"{name}.jsonl", orient="records", lines=True)
    words = "--train my.jsonl --columns question=ask answer=say --domains apples.jsonl pears.jsonl"
    words += " --shots 2 --queries 4 --n 20 --seeds 0 --probe 2 --out report --budget 7"
    assert __main__.main([*COMMAND, *words.split()]) == 0
    said, out = capsys.readouterr().out, tmp_path / "report"
    assert "apples" in said and str(out / "index.html") in said
    csv, parquet = pd.read_csv(out / "table.csv"), pd.read_parquet(out / "table.parquet")
    pd.testing.assert_frame_equal(csv, parquet)
    mixture = [json.loads(line) for line in (out / "mixture.jsonl").open()]
    weight = csv.set_index("domain").sts_icl  # the ratio of the score, to a unit
    counts = pd.Series([row["domain"] for row in mixture]).value_counts()
    assert len({row["question"] for row in mixture}) == 7
    assert (counts - 7 * weight / weight.sum()).abs().max() < 1
    probe = pd.read_csv(out / "probe.csv").set_index("domain")
    np.testing.assert_allclose(probe.change, probe.after - probe.before)
    assert (probe.change_low <= probe.change).all() and (probe.change <= probe.change_high).all()
    assert json.loads((out / "results.json").read_text())["answers"][0]["steps"] == 2
    page = (out / "index.html").read_text()
    assert "&lt;script&gt;alert(1)" in page and "<script>alert(1)" not in page
    assert all(part in page for part in ("A probe of 2 steps", "promotes:", "7 of 7 at hand"))


def test_what_the_command_line_refuses(capsys):
    for words, said in (
        ("--seeds a", "invalid literal for int"),
        ("--out /proc/none/report", "/proc/none/report can't be written"),
        ("--columns ask", "columns ask: give name=value, each name once"),
        ("--domains a=x.csv a=y.csv", "domains a=x.csv a=y.csv: give name=value, each name once"),
        ("--train absent.jsonl", "No such file or directory: 'absent.jsonl'"),
    ):
        assert __main__.main([*COMMAND, *words.split()]) == 2
        assert said in capsys.readouterr().err


def test_a_dry_run_reads_and_tells_the_cost(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(features, "feature_stats", None)
    words = ["--dry-run", "--probe", "4", "--domains", "code-io", "--out", str(tmp_path / "x")]
    assert __main__.main([*COMMAND, *words]) == 0
    said = capsys.readouterr().out
    assert "→ The work is" in said and "A probe of 4 steps" in said and "about 0.1 minutes" in said
