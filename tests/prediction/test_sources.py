"""Every kind of source that people bring, and every way in which it can be wrong."""

import json
import logging
import tracemalloc

import datasets
import pandas as pd
import pytest
from tiny_sets import questions

from sts_utils.prediction import sources
from sts_utils.prediction.sources import read, read_domains

PAIRS = [("What is 2 + 2?", "4"), ("What is 3 + 4?", "7")]
CHAT = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
THANKS = {"role": "user", "content": "thanks"}
EARLIER = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
PARTS = [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in CHAT]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Q", "answer": "A"},
        {"question": "Q", "solution": "A", "answer": "7"},
        {"prompt": "Q", "completion": "A"},
        {"prompt": CHAT[:1], "completion": CHAT[1:]},
        {"instruction": "Q", "input": "", "output": "A"},
        {"messages": [*EARLIER, *CHAT]},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"messages": [{"role": "system", "content": "s"}, *CHAT, THANKS]},
        {"messages": PARTS},
        {"messages": json.dumps(CHAT)},
        {"prompt": "not this", "messages": CHAT},
        {"prompt": "p", "messages": CHAT, "label": "safe"},
    ],
)
def test_columns_are_recognised(row, tmp_path):
    for source in ([row], jsonl(tmp_path / "x.jsonl", [row]), datasets.Dataset.from_list([row])):
        (example,) = read(source, domain="mine", answers=True)
        assert (example.question, example.solution, example.domain) == ("Q", "A", "mine")
        assert example.query == "Q"


def test_the_second_half_of_an_alpaca_question_is_kept():
    (example,) = read([{"instruction": "Add", "input": "2 and 3", "output": "5"}], domain="x")
    assert example.question == "Add\n2 and 3"


@pytest.mark.parametrize(
    "row",
    [
        {"choices": ["air", "iron"], "answer": 1},
        {"options": ["air", "iron"], "answer": "B"},
        {"options": ["air", "iron"], "answer": "iron"},
        {"options": '["air", "iron"]', "answer": "1"},
        {"options": {"A": "air", "B": "iron"}, "answer_idx": "B"},
        {"A": "air", "B": "iron", "answer": "(B)"},
        {"choices": {"text": ["air", "iron"], "label": ["1", "2"]}, "answerKey": "2"},
        {"choices": '{"text": ["air", "iron"], "label": ["1", "2"]}', "answerKey": "2"},
        {"A": "air", "B": "iron", "C": "", "D": None, "answer": "B"},
        # `datasets` and parquet fill missing fields of a struct with null
        {"choices": {"A": "air", "B": "iron", "C": None}, "answer": "B"},
        {"choices": ["air", "iron", None, ""], "answer": "B"},
        {"choices": {"text": ["air", "iron"], "label": None}, "answer": "B"},
    ],
)
def test_multiple_choice(row):
    (example,) = read([{"question": "Which is a metal?", **row}], domain="x")
    found = example.answer, example.options, example.solution
    assert found == ("iron", ("air", "iron"), "The answer is (B).")
    assert "(A) air (B) iron" in example.query


def test_gold_options_by_letter_text_and_index():
    """Where a letter of one option is another's text nothing is guessed."""
    numbers = {"question": "How many?", "choices": ["1", "0", "2"]}
    assert read([numbers | {"answer_index": "0"}], domain="x")[0].answer == "1"
    assert read([numbers | {"answer": "0"}], domain="x")[0].answer == "0"
    zero = {"question": "Q", "A": 5, "B": 3, "C": 0, "D": 7, "answer": "C"}
    (example,) = read([zero], domain="x")
    assert (example.options, example.answer) == (("5", "3", "0", "7"), "0")
    twice = {"question": "Which?", "choices": ["4", "4", "5"]}
    (kept,) = read([twice | {"answer": 0}, twice | {"answer": 2}], domain="x")
    assert kept.answer == "5"


ARC = {"text": ["a", "b"], "label": ["A", "A"]}
ASKED = {"question": "Is it?", "answer": "A"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (ASKED | {"answer": {"value": "A"}}, "column 'answer' holds a dict: make it text"),
        (ASKED | {"answer": ["A"]}, "column 'answer' holds a list: make it text"),
        (ASKED | {"question": b"Q"}, "column 'question' holds a bytes: make it text"),
        (ASKED | {"question": "Q\ud800"}, "surrogates not allowed"),
        ({"messages": "no chat"}, "the chat is not a list of turns"),
        ({"messages": ["no chat"]}, "the chat is not a list of turns"),
        (ASKED | {"options": ["a", "b"], "answer": "E"}, "'E' is no index, letter or text of the"),
        (ASKED | {"options": "5"}, "the options are not a list"),
        (ASKED | {"options": ["O", "A", "B"]}, "'A' is one option's letter and another's text"),
        (ASKED | {"choices": ["yes", None, "no"]}, "none empty"),
        (ASKED | {"choices": {"A": "yes", "B": "", "C": "no"}}, "none empty"),
        (ASKED | {"A": "5", "B": "3", "C": "", "D": "7"}, "none empty"),
        (ASKED | {"choices": [f"option {i}" for i in range(30)]}, "give at most 26 texts"),
        (ASKED | {"choices": [{"text": "yes"}, {"text": "no"}]}, "give at most 26 texts"),
        (ASKED | {"choices": ARC}, "each with a label of its own"),
        ("what", "'what' is neither columns nor a"),
    ],
)
def test_a_cell_that_can_t_be_used_is_one_line_with_its_row(row, said):
    with pytest.raises(ValueError, match=rf"^the list, row 1: .*{said}") as error:
        read([row], domain="x")
    assert "\n" not in str(error.value)


def test_questions_with_other_options_are_other_questions():
    rows = [{"question": "Which?", "choices": [f"a{i}", f"b{i}"], "answer": 0} for i in range(3)]
    found = read(rows, domain="x")
    assert len({e.id for e in found}) == 3 and {e.solution for e in found} == {"The answer is (A)."}
    stem = {"question": "Which of these is true?"}
    train = read([*questions("train"), stem | {"choices": ["a", "b"], "answer": "A"}], domain="t")
    others = [{"choices": ["c", "d"], "answer": "A"}, {"choices": ["a", "b"], "answer": "B"}]
    asked = sources.asked_by(train)
    every = (read([stem | row], domain="x")[0] for row in (*others, {"answer": "open"}))
    assert [asked(e) for e in every] == [False, True, True]


def test_a_value_is_read_as_it_is_written(tmp_path):
    """No date is made of text, no 1.0 of 1, and no blank of "NA"."""
    answers = ["2020-01-01", "007", "NA", "null", "1.50", "True"]
    rows = [{"question": f"Q {i}", "answer": answer} for i, answer in enumerate(answers)]
    pd.DataFrame(rows).to_csv(tmp_path / "x.csv")  # with its index, in a column without a name
    for source in (rows, jsonl(tmp_path / "x.jsonl", rows), tmp_path / "x.csv"):
        assert [e.answer for e in read(source, domain="x")] == answers
    mixed = [{"question": "Q", "answer": 1}, {"question": "R"}, {"question": "S", "answer": 2.5}]
    mixed += [{"question": "T", "answer": "a", "options": []}, ["U", "u"]]
    found = read(jsonl(tmp_path / "x.jsonl", mixed), domain="x")
    assert [e.answer for e in found] == ["1", "", "2.5", "a", "u"]


def test_csv_parquet_and_lists_read_alike(tmp_path, monkeypatch):
    table = pd.DataFrame(PAIRS, columns=["question", "answer"])
    table.to_csv(tmp_path / "x[1].csv", index=False, encoding="utf-8-sig")
    table.to_parquet(tmp_path / "x*.PARQUET")
    monkeypatch.chdir(tmp_path)
    streamed = datasets.Dataset.from_pandas(table).to_iterable_dataset()
    expected = read(PAIRS, domain="x")
    files = tmp_path / "x[1].csv", str(tmp_path / "x*.PARQUET"), "x[1].csv"
    for source in (*files, streamed, table.to_dict("records")):
        assert read(source, domain="x") == expected
    pd.DataFrame({"messages": [CHAT]}).to_parquet("chat.parquet")
    for source in (pd.read_parquet("chat.parquet").to_dict("records"), [CHAT], "chat.parquet"):
        (example,) = read(source, domain="x")
        assert (example.question, example.solution) == ("Q", "A")


def test_turns_of_both_kinds_in_one_file():
    """Arrow gives every turn the keys of all, with null."""
    both = [{"from": "human", "value": "Why?", "role": None, "content": None}]
    both += [{"role": "assistant", "content": "So.", "from": None, "value": None}]
    (e,) = read([{"messages": both}], domain="x")
    assert (e.question, e.solution) == ("Why?", "So.")


def test_columns_can_be_named(tmp_path):
    file = jsonl(tmp_path / "x.jsonl", [{"ask": "Q", "say": "A", "answer": "no"}])
    (example,) = read(file, domain="x", columns={"question": "ask", "solution": "say"})
    assert (example.question, example.solution) == ("Q", "A")
    chat = {"conv": CHAT, "input": "u17", "answer": "en"}
    assert read([chat], domain="x", columns={"messages": "conv"})[0].solution == "A"
    (e,) = read([{"prompt": "p", "messages": CHAT, "answer": "a"}], domain="x")
    assert (e.question, e.answer) == ("p", "a")
    for named in ({"question": "aks"}, {"questoin": "ask"}):
        with pytest.raises(ValueError, match=r"no column for the quest.*it has 'ask', 'say'"):
            read(file, domain="x", columns=named)
    with pytest.raises(ValueError, match=r"no column for the solution; it has 'question', '1'"):
        read([{"question": "Why?", 1: "a", None: "b"}], domain="x", answers=True)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl", b"", "is empty: it needs rows"),
        ("x.jsonl", b"\n \n", "is empty: it needs rows"),
        ("x.csv", b"question,answer\n", "is empty: it needs rows"),
        ("x.csv", b"", "can't be read: No columns to parse"),
        ("x.jsonl", b'{"question": "ok"}\n{"question": "caf\xe9"}\n', "'utf-8' codec can't decode"),
        ("x.csv", b"question,answer\ncaf\xe9,2\n", "'utf-8' codec can't decode"),
        ("x.jsonl", b'{"question": "Q"}\n[1,\n', "row 2: Expecting value"),
        ("x.jsonl", b"[" * 100_000, "row 1: "),
        ("x.jsonl", b"null\n", "row 1: 'None' is neither columns nor a"),
        ("x.parquet", b"no", "can't be read: Parquet file size is 2 bytes"),
        ("x.csv", b"question,answer\nQ,A,B\n", "can't be read: row 1 has more fields than the"),
        ("x.csv", b"question,answer\nQ,A\nR,B,C\n", "Expected 2 fields in line 3, saw 3"),
        ("x.csv", b'question,answer\nQ,A\n"R,B\nS,C\n', "EOF inside string starting at row 2"),
        ("x.txt", b"no", "is no .jsonl, .csv or .parquet file, and no corpus: .*gsm-symbolic"),
    ],
)
def test_a_file_that_can_t_be_read_is_one_line(name, content, said, tmp_path, capfd):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as error:
        read(tmp_path / name, domain="x")
    assert name in str(error.value) and "\n" not in str(error.value)
    assert capfd.readouterr().err == ""  # nor a bar or a second line
    with pytest.raises(ValueError, match="and no corpus"):
        read("x" * 5000, domain="x")


def test_a_question_is_kept_once_with_its_answer_and_what_is_left_out_counted(caplog):
    rows = [*PAIRS, ("what is  2 + 2?", "four"), ("", "nothing"), ("Why?", ""), ("Why?", "So.")]
    found = read(rows, domain="x")
    assert [e.answer for e in found] == ["4", "7", "So."]
    assert "3 of 6 rows left out" in caplog.text
    with pytest.raises(ValueError, match="the list: no row has a question"):
        read([("", "A")], domain="x")
    with pytest.raises(ValueError, match="no row has an answer to learn from"):
        read([("Q", "")], domain="x", answers=True)


def test_large_files_stream_into_a_seeded_sample(tmp_path, caplog):
    rows = ({"question": f"What is {i}? {'x' * 1000}", "answer": str(i)} for i in range(4000))
    file = jsonl(tmp_path / "x.jsonl", rows)
    read(PAIRS, domain="x")  # imports
    tracemalloc.start()
    with caplog.at_level(logging.WARNING):
        found = read(file, domain="x", limit=50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6 and "50 of its 4000 rows are used" in caplog.text
    numbers = [int(e.answer) for e in found]
    assert len(numbers) == 50 and numbers == sorted(numbers) and 1000 < sum(numbers) / 50 < 3000
    assert numbers[:5] == [35, 148, 186, 227, 256]  # as ever: predictions stay what they were
    assert read(file, domain="x", limit=50) == found != read(file, domain="x", limit=50, seed=1)


def test_domains_of_every_form(tmp_path):
    file = jsonl(tmp_path / "sums.jsonl", [{"question": q, "answer": a} for q, a in PAIRS])
    assert list(read_domains([file])) == list(read_domains(file)) == ["sums"]
    assert len(read_domains("mmlu-test")) == 14
    mixed = read_domains({"mine": PAIRS, "code": "code-io"})
    assert {d: {e.domain for e in of} for d, of in mixed.items()} == {d: {d} for d in mixed}
    assert list(read_domains(["mmlu-test", file]))[-2:] == ["psychology", "sums"]
    for wrong, said in (
        ([file, file], "domain 'sums' is there twice"),
        (PAIRS, "domains: give a corpus name"),
        ({}, "domains is empty"),
        ({"": PAIRS}, "has no name"),
    ):
        with pytest.raises(ValueError, match=said):
            read_domains(wrong)
