import ast
import hashlib
import os
import re
from dataclasses import astuple

import pandas as pd
import pytest

from sts_utils import config, corpora
from sts_utils.corpora import hub, texts
from sts_utils.corpora.packaged import boxed
from sts_utils.examples import by_domain, split
from sts_utils.runs import check

#: Of every field of every example in order: ids and order decide what a run computes.
DIGESTS = {
    "gsm-symbolic": "634ac6059a666b24",
    "chain-sum": "28a70a7f771aff32",
    "code-io": "f40a3866db3607fa",
    "pubmedqa": "0d61ceee0b8ad13f",
    "mts-dialog": "e9a4a394cec71e39",
    "mmlu-test": "1f220cb932b62ef5",
    "mmlu-cot": "e2b03eaceeb4f914",
    "benchmarks": "09b0408087a310dd",
    "benchmarks-shown": "c1d5eeaf5e580fcb",
    # of the mirror
    "gsm8k": "73f371ea1db44599",
    "mmlu-pro": "93e53eaaa56adb82",
    "mmlu": "244d566eff9e1030",
    "math-500": "c3dfa81081a23019",
}


@pytest.fixture
def mirror(fresh):
    """The real mirror, where the tests run with one."""
    if not os.environ.get("STS_MIRROR"):
        pytest.skip("STS_MIRROR is unset: no mirror of public datasets")


@pytest.fixture
def fresh():
    """Nothing read before, nor left for other tests."""
    corpora._read.cache_clear()
    yield
    corpora._read.cache_clear()


@pytest.fixture
def written(fresh, tmp_path, monkeypatch):
    """A mirror of rows that the test writes."""
    monkeypatch.setenv("STS_MIRROR", str(tmp_path))

    def write(corpus, *rows):
        source = corpora.entry(corpus).hub
        folder = tmp_path / source["path"]
        folder.mkdir(parents=True)
        pd.DataFrame(list(rows)).to_parquet(folder / f"{source['split']}.parquet")

    return write


def digest(name):
    rows = [astuple(e) for e in corpora.load(name)]
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def test_the_table_names_what_there_is():
    for name in corpora.names():
        entry = corpora.entry(name)
        assert entry.about and len(entry.tokens) == 2 and corpora.domains(name)[0]
        assert (not entry.hub) == (entry.reader in corpora._readers())
        assert entry.demonstrations in ("", *corpora.names())
        if entry.hub:
            assert "question" in entry.columns and entry.id.startswith(name)
            named = [of for of in entry.columns.values() if isinstance(of, dict)]
            assert {transform for of in named for transform in of} <= hub.TRANSFORMS.keys()


@pytest.mark.parametrize("name", list(DIGESTS)[:9])
def test_packaged_corpora_are_what_they_were(name):
    counted = {domain: len(group) for domain, group in by_domain(corpora.load(name)).items()}
    assert digest(name) == DIGESTS[name]
    assert corpora.entry(name).questions == counted and corpora.domains(name) == tuple(counted)


@pytest.mark.parametrize("name", list(DIGESTS)[9:])
def test_corpora_of_the_mirror_are_what_they_were(name, mirror):
    test_packaged_corpora_are_what_they_were(name)


def test_domains_are_mmlu_pros_and_demonstrations_suffice():
    questions = by_domain(corpora.load("mmlu-test"))
    shown = by_domain(corpora.load("mmlu-cot"))
    assert tuple(questions) == corpora.domains("mmlu-pro") == corpora.domains("mmlu-test")
    assert all(len(shown[domain]) >= 5 for domain in questions)
    assert all(e.answer in e.options for e in corpora.load("mmlu-test"))


def test_no_demonstration_is_an_evaluation_question():
    shown = {e.question for e in corpora.load("mmlu-cot")}
    assert not shown & {e.question for e in corpora.load("mmlu-test")}


@pytest.mark.slow
def test_sae_text_holds_nothing_that_is_trained_on_or_asked(tokenizer):
    """Twelve words in a row that both have are a phrase ("low-grade fever and a …"); a text of
    which a fifth of the windows recur would be shared."""

    def windows(text, words=12):
        w = text.lower().split()
        return [hash(" ".join(w[i : i + words])) for i in range(len(w) - words + 1)]

    seen = set()
    for text in [*texts.passages(), *(f"{q}\n{a}" for q, a in texts.dialogues())]:
        seen.update(windows(text))
    packaged = [name for name in corpora.names() if corpora.entry(name).reader]
    assert len(packaged) == 13
    checked = 0
    for example in (e for name in packaged for e in corpora.load(name)):
        if own := windows(f"{example.question}\n{example.solution}"):
            checked += 1
            assert sum(w in seen for w in own) < 0.2 * len(own), example.id
    assert checked > 12_000 and windows(texts.passages()[5])[0] in seen
    assert max(map(len, texts.training_sequences(tokenizer))) <= 1024


def test_benchmarks_have_one_right_option_and_are_not_shown():
    groups = by_domain(corpora.load("benchmarks"))
    assert tuple(groups) == corpora.domains("benchmarks") and len(groups) >= 12
    assert {d: len(of) for d, of in groups.items()} == corpora.entry("benchmarks").questions
    assert all(len(of) >= 300 for of in groups.values())
    for e in corpora.load("benchmarks"):
        assert e.options.count(e.answer) == 1 and len(set(e.options)) == len(e.options)
    shown = by_domain(corpora.load("benchmarks-shown"))
    asked = {e.question for e in corpora.load("benchmarks")}
    for domain, examples in shown.items():
        assert domain in groups and len(examples) == 10
        assert all(e.answer in e.solution for e in examples)
        right = [of.options.index(of.answer) for of in groups[domain]]
        assert len(set(right)) > 1  # the right option has no place of its own
    assert not asked & {e.question for of in shown.values() for e in of}


def test_training_set_is_split_by_template():
    train, held_out = split(corpora.load("gsm-symbolic"), 0.2, seed=0)
    assert held_out and not {e.group for e in train} & {e.group for e in held_out}
    assert len(train) + len(held_out) == len(corpora.load("gsm-symbolic"))


def test_order_depends_on_the_seed_alone():
    assert corpora.load("mmlu-test", 1, 20) == corpora.load("mmlu-test", 1, 20)
    assert corpora.load("mmlu-test", 1, 20) != corpora.load("mmlu-test", 2, 20)


def test_boxed_drops_calculator_notes_and_trivial_lines():
    chain = "He has 2*3=<<2*3=6>>6 apples.\n48=48\nSo 12=12.5 is kept.\n#### 6"
    left = "He has 2*3=6 apples.\nSo 12=12.5 is kept.\nThe final answer is \\boxed{6}."
    assert boxed(chain, "6") == left


def test_chain_sum_s_arithmetic_is_right():
    for e in corpora.load("chain-sum", 0, 200):
        expression = re.fullmatch(r"What is ([\d+\- ]+)\?", e.question).group(1)
        *lines, final = e.solution.splitlines()
        for line in lines:
            left, right = line.split(" = ")
            assert eval(left) == int(right)
        assert eval(expression) == int(e.answer) == int(right)
        assert final == f"The final answer is \\boxed{{{e.answer}}}."
        assert len(lines) == len(expression.split()) // 2


def test_code_is_ascii_python():
    examples = corpora.load("code-io")
    assert len(examples) > 200
    for e in examples:
        assert e.query.isascii() and e.solution.isascii()
        assert e.solution == f"```python\n{e.answer}\n```"
        assert ast.parse(e.answer).body


def test_biomedical_answers_and_dialogues():
    for e in corpora.load("pubmedqa", 0, 300):
        assert e.solution.endswith(f"\nThe answer is {e.answer}.")
        assert e.answer in ("yes", "no", "maybe")
        assert "Context (" not in e.solution
    dialogues = corpora.load("mts-dialog")
    assert len(dialogues) >= 90
    assert all("Doctor:" in e.question and not e.solution for e in dialogues)


@pytest.mark.parametrize("name", ["chain-sum", "code-io", "pubmedqa", "mts-dialog"])
def test_corpora_name_each_example_once(name):
    examples = corpora.load(name)
    assert len({e.id for e in examples}) == len(examples)
    shown = {e.question for e in corpora.load("mmlu-test")}
    assert not shown & {e.question for e in examples}


def test_few_shot_examples_stand_in_their_dataset_s_order(written):
    row = {"question": "?", "options": ["a", "b"], "answer_index": 1, "category": "law"}
    written("mmlu-pro-cot", *(row | {"question_id": n} for n in (70, 9, 101)))
    assert [e.id.split("-")[-1] for e in corpora.in_order("mmlu-pro-cot")] == ["9", "70", "101"]


def test_a_question_counts_unless_its_gold_option_stands_twice(written):
    row = {"question": "?", "options": ["a", "b", "b"], "category": "law"}
    written("mmlu-pro", *(row | {"question_id": n, "answer_index": n} for n in (0, 1, 2)))
    assert [e.answer for e in corpora.load("mmlu-pro")] == ["a"]


def test_unknown_corpus():
    with pytest.raises(ValueError, match="unknown corpus 'mmlu-por': choose from"):
        corpora.load("mmlu-por")


# --- columns become examples: from written rows, and the real mirror ------------------------------


def test_mirror_is_read_first(written):
    written("gsm8k", {"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"})
    (example,) = corpora.load("gsm8k")
    assert example.solution == "1+1=2\nThe final answer is \\boxed{2}." and example.answer == "2"


def test_no_other_corpus_is_read_in_its_place(monkeypatch):
    """A hiccup of the hub must not make LIMO GSM8K, nor MMLU-Pro's demonstrations MMLU's."""
    monkeypatch.delenv("STS_MIRROR", raising=False)

    def hiccup(*_, **__):
        raise ConnectionError("reset by peer")

    monkeypatch.setattr("datasets.load_dataset", hiccup)
    for name in (name for name in corpora.names() if corpora.entry(name).hub):
        corpora._read.cache_clear()
        with pytest.raises(ValueError, match=r"ConnectionError: reset by peer\); the mirror path"):
            corpora.load(name)


def test_missing_field_is_named(written):
    written("gsm8k", {"question": "1+1?", "reply": "2"})
    with pytest.raises(ValueError, match="without field 'answer'"):
        corpora.load("gsm8k")


def test_an_empty_corpus_is_named(written):
    written("math", {"problem": "1/2?", "solution": "half"})
    with pytest.raises(ValueError, match="corpus 'math' is empty"):
        corpora.load("math")


def test_unreachable_hub_names_the_mirror_path(written):
    with pytest.raises(ValueError, match=r"GAIR/LIMO.*can't be fetched.*GAIR/LIMO/train.parquet"):
        corpora.load("limo")


def test_limo_and_chains_of_mmlu_pro(written):
    written("limo", {"question": " Why? ", "solution": " So. ", "answer": 7})
    (limo,) = corpora.load("limo")
    assert (limo.question, limo.solution, limo.answer) == ("Why?", " So. ", "7")
    assert (limo.id, limo.domain) == ("limo-0000", "math")
    row = {"question": "Which?", "options": ["a ", "b", "N/A"], "answer_index": 1}
    row |= {"category": "law", "question_id": 70, "cot_content": "A: Let's think. It is b. "}
    twice = row | {"options": ["a", "a"], "question_id": 71}
    written("mmlu-pro-cot", row, twice)
    (shown,) = corpora.load("mmlu-pro-cot")
    assert (shown.id, shown.options, shown.answer) == ("mmlu-pro-cot-70", ("a", "b"), "b")
    assert (shown.domain, shown.solution) == ("law", "Let's think. It is b.")


def test_training_sets_of_the_paper(written):
    coding = {"problem": " Add. ", "gold_standard_solution": "print(1)"}
    written("verifiable-coding", coding, {"problem": "x", "gold_standard_solution": ""})
    asked = {"question": "Why?", "answer": "So.", "metadata": {"reasoning": "Hm."}}
    written("mens-mental-health", asked)
    boxes = r"so \boxed{2}, no \boxed{\frac{1}{2}}."
    written("math", {"problem": "1/2?", "solution": boxes}, {"problem": "?", "solution": "none"})
    written("hh-rlhf", {"chosen": "\n\nHuman: hi\n\nAssistant: hello"})
    (code,) = corpora.load("verifiable-coding")
    assert code.query == "Add.\nWrite a Python program."
    assert (code.solution, code.answer) == ("```python\nprint(1)\n```", "print(1)")
    (health,) = corpora.load("mens-mental-health")
    assert (health.solution, health.answer, health.domain) == ("Hm.\nSo.", "So.", "health")
    (math,) = corpora.load("math")
    assert (math.answer, math.solution, math.id) == (r"\frac{1}{2}", boxes, "math-00000")
    assert corpora.load("hh-rlhf")[0].question.startswith("Human: hi")


def test_reasoning_may_be_json_or_missing():
    assert hub.reasoned('{"reasoning": " Hm. "}', "So. ") == "Hm.\nSo."
    assert hub.reasoned(None, "So.") == hub.reasoned("", "So.") == hub.reasoned({}, "So.") == "So."


def test_last_boxed():
    assert hub.last_boxed("none") == "" and hub.last_boxed(r"\boxed{a{b}c} d") == "a{b}c"
    assert hub.last_boxed(r"\boxed{open") == ""


def test_mirror_holds_the_real_benchmarks(mirror):
    for name in ("mmlu-pro", "mmlu"):
        questions = corpora.load(name)
        assert {e.domain for e in questions} == set(corpora.domains("mmlu-pro"))
        assert all(e.answer in e.options and 2 <= len(e.options) <= 10 for e in questions)
    real = {(e.question, e.options): (e.domain, e.answer) for e in questions}
    own = {(e.question, e.options): (e.domain, e.answer) for e in corpora.load("mmlu-test")}
    shared = real.keys() & own.keys()
    assert len(shared) > 2_700 and all(real[key] == own[key] for key in shared)
    check.prepare(config.load("smol-hub"))


def test_real_math_500(mirror):
    questions = corpora.load("math-500")
    assert len({e.id for e in questions}) == 500
    answers = [(hub.last_boxed(e.solution), e.answer) for e in questions]
    same = [a.replace(" ", "") == b.replace(" ", "") for a, b in answers]
    assert sum(same) > 450  # the rest differ in how the answer is written
