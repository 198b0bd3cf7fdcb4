import ast
import hashlib
import os
import re
from dataclasses import astuple
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
import yaml

from sts_utils import corpora
from sts_utils.corpora import texts
from sts_utils.corpora.packaged import boxed
from sts_utils.examples import by_domain, split

DIGESTS = yaml.safe_load(Path(__file__).with_name("digests.yaml").read_text())


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A function that puts rows where a corpus of the hub is looked for first, and reads them."""
    corpora._read.cache_clear()
    monkeypatch.setenv("STS_MIRROR", str(tmp_path))

    def write(corpus, *rows):
        source = corpora.entry(corpus).hub
        folder = tmp_path / source["path"]
        folder.mkdir(parents=True)
        pd.DataFrame(list(rows)).to_parquet(folder / f"{source['split']}.parquet")
        return corpora.in_order(corpus)

    yield write
    corpora._read.cache_clear()


@pytest.mark.parametrize("name", DIGESTS)
def test_corpora_are_what_they_were(name):
    entry = corpora.entry(name)
    if entry.hub and not os.environ.get("STS_MIRROR"):
        pytest.skip("STS_MIRROR is unset: no mirror of public datasets")
    examples = corpora.load(name)
    said = repr([astuple(e) for e in examples])
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == DIGESTS[name]
    counted = {domain: len(group) for domain, group in by_domain(examples).items()}
    assert entry.questions == counted and corpora.domains(name) == tuple(counted)
    assert len({e.id for e in examples}) == len(examples)
    assert all(e.options.count(e.answer) == 1 for e in examples if e.options)


@pytest.mark.parametrize("names", [("mmlu-test", "mmlu-cot"), ("benchmarks", "benchmarks-shown")])
def test_demonstrations_are_not_asked(names):
    asked, shown = (corpora.load(name) for name in names)
    assert corpora.domains(names[0]) == corpora.domains(names[1])
    assert not {e.question for e in asked} & {e.question for e in shown}
    for group in by_domain(asked).values():  # the right option has no place of its own
        assert len({e.options.index(e.answer) for e in group}) > 1


def test_the_text_that_saes_learn_is_what_was_read_for_leaks(tokenizer):
    """Of no question or solution recur a fifth of its twelve-word windows in it."""
    said = repr([texts.passages(), texts.dialogues()])
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == "ed280522538ade3b"
    assert max(map(len, texts.training_sequences(tokenizer))) <= 1024


def test_a_training_set_is_split_by_template_and_ordered_by_seed():
    whole = corpora.load("gsm-symbolic")
    train, held_out = split(whole, 0.2, seed=0)
    assert not {e.group for e in train} & {e.group for e in held_out}
    assert held_out and len(train) + len(held_out) == len(whole)
    one, same, other = (corpora.load("mmlu-test", seed, 20) for seed in (1, 1, 2))
    assert one == same != other


def test_solutions_are_right_and_end_in_a_box():
    chain = "He has 2*3=<<2*3=6>>6 apples.\n48=48\nSo 12=12.5 is kept.\n#### 6"
    left = "He has 2*3=6 apples.\nSo 12=12.5 is kept.\nThe final answer is \\boxed{6}."
    assert boxed(chain, "6") == left
    for text, inside in (("none", None), (r"\boxed{a{b}c} d", "a{b}c"), (r"\boxed{open", None)):
        assert corpora.last_boxed(text) == inside
    for e in corpora.load("chain-sum", 0, 200):
        terms = re.fullmatch(r"What is ([\d+\- ]+)\?", e.question).group(1)
        lines = f"{terms} = {eval(terms)}", f"The final answer is \\boxed{{{eval(terms)}}}."
        assert e.solution == "\n".join(lines)
    for e in corpora.load("code-io"):
        assert e.solution == f"```python\n{e.answer}\n```" and ast.parse(e.answer).body


def test_what_is_not_there_is_one_line(written, monkeypatch):
    with pytest.raises(ValueError, match="unknown corpus 'mmlu-por': choose from"):
        corpora.load("mmlu-por")
    with pytest.raises(ValueError, match=r"without column 'answer' \(has question, reply\)"):
        written("gsm8k", {"question": "1+1?", "reply": "2"})
    with pytest.raises(ValueError, match="corpus 'math' is empty"):
        written("math", {"problem": "1/2?", "solution": "half"})
    hiccup = Mock(side_effect=ConnectionError("reset by peer\nand more"))
    monkeypatch.setattr("datasets.load_dataset", hiccup)  # no other corpus is read in its place
    with pytest.raises(ValueError, match=r"^dataset 'GAIR/LIMO' \(train\): reset by peer$"):
        corpora.load("limo")


def test_columns_become_examples(written):
    (gsm8k,) = written("gsm8k", {"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"})
    assert gsm8k.solution == "1+1=2\nThe final answer is \\boxed{2}." and gsm8k.answer == "2"
    (limo,) = written("limo", {"question": " Why? ", "solution": " So. ", "answer": 7})
    assert astuple(limo)[:5] == ("Why?", " So. ", "7", "math", "limo-0000")
    row = {"question": "Which?", "options": ["a ", "b", "N/A"], "answer_index": 1}
    row |= {"category": "law", "cot_content": "A: Let's think. It is b. "}
    twice = {"options": ["a", "a"], "question_id": 71}  # a gold option that stands twice
    rows = [*(row | {"question_id": n} for n in (70, 9, 101)), row | twice]
    shown = written("mmlu-pro-cot", *rows)  # in their dataset's order
    assert [e.id for e in shown] == [f"mmlu-pro-cot-{n}" for n in (9, 70, 101)]
    said = ("law", ("a", "b"), "b", "Let's think. It is b.")
    assert all((e.domain, e.options, e.answer, e.solution) == said for e in shown)
    coding = {"problem": " Add. ", "gold_standard_solution": "print(1)"}
    (code,) = written("verifiable-coding", coding, {"problem": "x", "gold_standard_solution": ""})
    assert code.query == "Add.\nWrite a Python program."
    assert (code.solution, code.answer) == ("```python\nprint(1)\n```", "print(1)")
    asked = {"question": "Why?", "answer": "So.", "metadata": {"reasoning": "Hm."}}
    (health,) = written("mens-mental-health", asked)
    assert (health.solution, health.answer, health.domain) == ("Hm.\nSo.", "So.", "health")
    boxes = r"so \boxed{2}, no \boxed{\frac{1}{2}}."
    solved = {"problem": "1/2?", "solution": boxes}
    (math,) = written("math", solved, {"problem": "?", "solution": "none"})
    assert (math.answer, math.solution, math.id) == (r"\frac{1}{2}", boxes, "math-00000")
    (talk,) = written("hh-rlhf", {"chosen": "\n\nHuman: hi\n\nAssistant: hello"})
    assert talk.question.startswith("Human: hi")
