import ast
import re

import pandas as pd
import pytest

from sts_utils import config
from sts_utils.corpora import data, texts
from sts_utils.examples import by_domain, split
from sts_utils.runs import units


def test_domains_are_mmlu_pros_and_demonstrations_suffice():
    questions = by_domain(data.load("mmlu-test"))
    shown = by_domain(data.load("mmlu-cot"))
    assert tuple(questions) == data.DOMAINS
    assert all(len(shown[domain]) >= 5 for domain in data.DOMAINS)
    assert all(e.answer in e.options for e in data.load("mmlu-test"))


def test_no_demonstration_is_an_evaluation_question():
    shown = {e.question for e in data.load("mmlu-cot")}
    assert not shown & {e.question for e in data.load("mmlu-test")}


def test_sae_text_holds_no_evaluation_question(tokenizer):
    text = "\n".join([*texts.passages(), *(q for q, _ in texts.dialogues())])
    long = [e.question for e in data.load("mmlu-test") if len(e.question) > 60]
    assert len(long) > 1000
    assert not [question for question in long if question in text]
    chats = texts.training_sequences(tokenizer)
    assert max(map(len, chats)) <= 1024


def test_training_set_is_split_by_template():
    train, held_out = split(data.load("gsm-symbolic"), 0.2, seed=0)
    assert held_out and not {e.group for e in train} & {e.group for e in held_out}
    assert len(train) + len(held_out) == len(data.load("gsm-symbolic"))


def test_order_depends_on_the_seed_alone():
    assert data.load("mmlu-test", 1, 20) == data.load("mmlu-test", 1, 20)
    assert data.load("mmlu-test", 1, 20) != data.load("mmlu-test", 2, 20)


def test_boxed_drops_calculator_notes_and_trivial_lines():
    chain = "He has 2*3=<<2*3=6>>6 apples.\n48=48\nSo 12=12.5 is kept.\n#### 6"
    assert data.boxed(chain, "6") == "He has 2*3=6 apples.\nSo 12=12.5 is kept.\nThe final answer is \\boxed{6}."


def test_chain_sum_s_arithmetic_is_right():
    for e in data.load("chain-sum", 0, 200):
        expression = re.fullmatch(r"What is ([\d+\- ]+)\?", e.question).group(1)
        *lines, final = e.solution.splitlines()
        for line in lines:
            left, right = line.split(" = ")
            assert eval(left) == int(right)
        assert eval(expression) == int(e.answer) == int(right)
        assert final == f"The final answer is \\boxed{{{e.answer}}}."
        assert len(lines) == len(expression.split()) // 2


def test_code_is_ascii_python():
    examples = data.load("code-io")
    assert len(examples) > 200
    for e in examples:
        assert e.query.isascii() and e.solution == f"```python\n{e.answer}\n```" and e.solution.isascii()
        assert ast.parse(e.answer).body


def test_biomedical_answers_and_dialogues():
    for e in data.load("pubmedqa", 0, 300):
        assert e.solution.endswith(f"\nThe answer is {e.answer}.") and e.answer in ("yes", "no", "maybe")
        assert "Context (" not in e.solution
    dialogues = data.load("mts-dialog")
    assert len(dialogues) >= 90 and all("Doctor:" in e.question and not e.solution for e in dialogues)


@pytest.mark.parametrize("name", ["chain-sum", "code-io", "pubmedqa", "mts-dialog"])
def test_corpora_name_each_example_once(name):
    examples = data.load(name)
    assert len({e.id for e in examples}) == len(examples) and data.source(name) == name
    shown = {e.question for e in data.load("mmlu-test")}
    assert not shown & {e.question for e in examples}


def test_unknown_corpus():
    with pytest.raises(ValueError, match="unknown corpus 'mmlu-por': choose from"):
        data.load("mmlu-por")


def test_mirror_is_read_first(tmp_path, monkeypatch):
    folder = tmp_path / "openai/gsm8k"
    folder.mkdir(parents=True)
    pd.DataFrame({"question": ["1+1?"], "answer": ["1+1=<<1+1=2>>2\n#### 2"]}).to_parquet(folder / "train.parquet")
    monkeypatch.setenv("STS_MIRROR", str(tmp_path))
    assert data.gsm8k()[0].solution == "1+1=2\nThe final answer is \\boxed{2}."


def test_a_fall_back_is_named(tmp_path, monkeypatch):
    assert data.source("gsm-symbolic") == "gsm-symbolic" and data.source("mmlu-cot") == "mmlu-cot"
    folder = tmp_path / "openai/gsm8k"
    folder.mkdir(parents=True)
    pd.DataFrame({"question": ["1+1?"], "answer": ["2\n#### 2"]}).to_parquet(folder / "train.parquet")
    monkeypatch.setenv("STS_MIRROR", str(tmp_path))
    data._read.cache_clear()
    assert data.source("limo-or-gsm8k") == "gsm8k"
    data._read.cache_clear()


def test_missing_field_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "openai/gsm8k"
    folder.mkdir(parents=True)
    pd.DataFrame({"question": ["1+1?"], "reply": ["2"]}).to_parquet(folder / "train.parquet")
    monkeypatch.setenv("STS_MIRROR", str(tmp_path))
    with pytest.raises(ValueError, match="without field 'answer'"):
        data.gsm8k()


def test_unreachable_hub_names_the_mirror_path(tmp_path, monkeypatch):
    monkeypatch.setenv("STS_MIRROR", str(tmp_path))
    with pytest.raises(ValueError, match=r"GAIR/LIMO.*can't be fetched.*GAIR/LIMO/train.parquet"):
        data.limo()


def test_mirror_holds_the_real_benchmarks(mirror):
    assert {e.domain for e in data.mmlu_pro()} == set(data.DOMAINS)
    assert len(data.mmlu_pro()) > 11_000
    assert len(data.gsm8k()) == 7473
    units.prepare(config.load("smol-hub"))


@pytest.fixture
def mirror():
    import os

    if not os.environ.get("STS_MIRROR"):
        pytest.skip("STS_MIRROR is unset: no mirror of public datasets")
