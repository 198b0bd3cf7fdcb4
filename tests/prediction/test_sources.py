"""Every kind of source that people bring, and every way in which it can be wrong."""

import csv
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


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Q", "answer": "A"},
        {"question": "Q", "solution": "A", "answer": "7"},
        {"prompt": "Q", "completion": "A"},
        {
            "prompt": [{"role": "user", "content": "Q"}],
            "completion": [{"role": "assistant", "content": "A"}],
        },
        {"instruction": "Q", "input": "", "output": "A"},
        {
            "messages": [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": "y"},
                {"role": "user", "content": "Q"},
                {"role": "assistant", "content": "A"},
            ]
        },
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "Q"},
                {"role": "assistant", "content": "A"},
                {"role": "user", "content": "thanks"},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Q"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "A"}]},
            ]
        },
        {"messages": '[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]'},
        {
            "prompt": "not this",
            "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
        },
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
    ],
)
def test_multiple_choice(row):
    (example,) = read([{"question": "Which is a metal?", **row}], domain="x")
    assert (example.answer, example.options, example.solution) == (
        "iron",
        ("air", "iron"),
        "The answer is (B).",
    )
    assert "(A) air (B) iron" in example.query


def test_an_answer_that_is_no_option_names_the_row():
    with pytest.raises(
        ValueError, match="row 1: answer 'E' is no index, letter or text of the 2 options"
    ):
        read([{"question": "Q", "options": ["a", "b"], "answer": "E"}], domain="x")
    with pytest.raises(ValueError, match="row 1: the options are not a list"):
        read([{"question": "Q", "options": "5", "answer": "A"}], domain="x")


def test_options_that_are_zero_or_missing_keep_their_letters():
    (example,) = read(
        [{"question": "Q", "A": 5, "B": 3, "C": 0, "D": 7, "answer": "C"}], domain="x"
    )
    assert (example.options, example.answer) == (("5", "3", "0", "7"), "0")
    with pytest.raises(ValueError, match="row 1: an option before D is empty"):
        read([{"question": "Q", "A": "5", "B": "3", "C": "", "D": "7", "answer": "D"}], domain="x")


def test_questions_with_other_options_are_other_questions():
    rows = [
        {"question": "Which is true?", "choices": [f"a{i}", f"b{i}"], "answer": 0} for i in range(3)
    ]
    assert len(read(rows, domain="x")) == 3


def test_chats_and_arrays_of_pandas(tmp_path):
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    table = pd.DataFrame({"messages": [turns]})
    table.to_parquet(tmp_path / "x.parquet")
    for source in (pd.read_parquet(tmp_path / "x.parquet").to_dict("records"), [turns]):
        (example,) = read(source, domain="x")
        assert (example.question, example.solution) == ("Q", "A")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"question": "Q", "answer": {"value": "A"}},
            "row 1: column 'answer' holds columns where text belongs",
        ),
        (
            {"question": "Q", "answer": ["A"]},
            "row 1: column 'answer' holds a list where text belongs",
        ),
        (
            {"question": b"Q", "answer": "A"},
            "row 1: column 'question' holds bytes where text belongs",
        ),
        (
            {"question": "Q\ud800", "answer": "A"},
            "row 1 holds '.ud800', half of a character: remove it",
        ),
        ({"messages": "no chat"}, "row 1: the chat is not a list of turns"),
        ({"messages": ["no chat"]}, "row 1: the chat is not a list of turns"),
    ],
)
def test_what_is_no_text_is_said_with_its_row(row, said):
    with pytest.raises(ValueError, match=said):
        read([row], domain="x")


def test_deeply_nested_json(tmp_path):
    (tmp_path / "x.jsonl").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"row 1 is (nested too deeply|not JSON)"):
        read(tmp_path / "x.jsonl", domain="x")


def test_an_unclosed_quote_or_a_short_row_of_a_csv(tmp_path):
    (tmp_path / "x.csv").write_text('question,answer\nQ,A\n"R,B\nS,C\n')
    with pytest.raises(
        ValueError, match=r"row 3: unexpected end of data \(a quote that is not closed\?\)"
    ):
        read(tmp_path / "x.csv", domain="x")
    (tmp_path / "x.csv").write_text("question,answer\nQ,A\nR\n")
    with pytest.raises(ValueError, match="row 3: fewer fields than the 2 columns"):
        read(tmp_path / "x.csv", domain="x")


def test_csv_parquet_and_lists_read_alike(tmp_path):
    table = pd.DataFrame(PAIRS, columns=["question", "answer"])
    table.to_csv(tmp_path / "x.csv", index=False, encoding="utf-8-sig")
    table.to_parquet(tmp_path / "x.parquet")
    streamed = datasets.Dataset.from_pandas(table).to_iterable_dataset()
    expected = read(PAIRS, domain="x")
    for source in (
        tmp_path / "x.csv",
        str(tmp_path / "x.parquet"),
        streamed,
        table.to_dict("records"),
    ):
        assert read(source, domain="x") == expected


def test_columns_can_be_named(tmp_path):
    file = jsonl(tmp_path / "x.jsonl", [{"ask": "Q", "say": "A", "answer": "no"}])
    (example,) = read(file, domain="x", columns={"question": "ask", "solution": "say"})
    assert (example.question, example.solution) == ("Q", "A")
    with pytest.raises(ValueError, match=r"no column 'aks'; it has ask, say, answer"):
        read(file, domain="x", columns={"question": "aks"})
    with pytest.raises(ValueError, match="columns names 'questoin': choose from question"):
        read(file, domain="x", columns={"questoin": "ask"})


def test_a_missing_column_names_those_there():
    with pytest.raises(ValueError, match=r"no column for the question; it has questions"):
        read([{"questions": "Q", "answer": "A"}], domain="x")
    rows = [{"question": "Q", "anwser": "A"}]
    with pytest.raises(ValueError, match=r"no column for the solution.*it has question, anwser"):
        read(rows, domain="x", answers=True)
    assert read(rows, domain="x")[0].solution == ""


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_an_empty_file(suffix, tmp_path):
    (tmp_path / f"x.{suffix}").touch()
    with pytest.raises(ValueError, match=rf"x.{suffix} is empty"):
        read(tmp_path / f"x.{suffix}", domain="x")
    with pytest.raises(ValueError, match="the list is empty"):
        read([], domain="x")


def test_not_utf8_names_the_line(tmp_path):
    for suffix, lines in (
        (
            "jsonl",
            [b'{"question": "ok", "answer": "1"}', b'{"question": "caf\xe9", "answer": "2"}'],
        ),
        ("csv", [b"question,answer", b"caf\xe9,2"]),
    ):
        file = tmp_path / f"x.{suffix}"
        file.write_bytes(b"\n".join(lines))
        with pytest.raises(
            ValueError, match=r"row 2 is not UTF-8 \(byte 0xe9\): save the file as UTF-8"
        ):
            read(file, domain="x")


def test_not_what_its_name_says(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"question": "Q", "answer": "A"}\n[1,\n')
    with pytest.raises(ValueError, match=r"row 2 is not JSON .*: write one object a line"):
        read(tmp_path / "x.jsonl", domain="x")
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(ValueError, match="can't be read as parquet"):
        read(tmp_path / "x.parquet", domain="x")
    (tmp_path / "x.csv").write_text("question,answer\nQ,A,B\n")
    with pytest.raises(ValueError, match="row 2: more fields than the 2 columns"):
        read(tmp_path / "x.csv", domain="x")
    (tmp_path / "x.txt").write_text("no")
    with pytest.raises(ValueError, match=r"ends in '.txt'; give .jsonl, .csv or .parquet"):
        read(tmp_path / "x.txt", domain="x")
    with pytest.raises(
        ValueError, match="is neither a file nor a corpus: the corpora are gsm-symbolic"
    ):
        read("absent.jsonl", domain="x")
    with pytest.raises(ValueError, match="row 1 is 'what', neither columns nor"):
        read(["what"], domain="x")
    with pytest.raises(ValueError, match="the int is no source"):
        read(3, domain="x")


def test_a_column_of_mixed_types():
    rows = [
        {"question": "Q", "answer": "A"},
        {"question": "R", "answer": None},
        {"question": "S", "answer": 7},
    ]
    with pytest.raises(
        ValueError,
        match="column 'answer' holds text in row 1 and a number in row 3: make it one type",
    ):
        read(rows, domain="x")


def test_questions_asked_twice_or_empty_are_left_out_and_counted(caplog):
    found = read([*PAIRS, ("what is  2 + 2?", "four"), ("", "nothing")], domain="x")
    assert [e.answer for e in found] == ["4", "7"]
    assert "2 of 4 rows left out" in caplog.text
    with pytest.raises(ValueError, match="every question in column 'question' is empty"):
        read([("", "A")], domain="x")


def test_large_files_stream_into_a_seeded_sample(tmp_path, caplog):
    file = tmp_path / "x.jsonl"
    with file.open("w") as out:
        for i in range(4000):
            out.write(
                json.dumps({"question": f"What is {i}? {'x' * 1000}", "answer": str(i)}) + "\n"
            )
    tracemalloc.start()
    with caplog.at_level(logging.WARNING):
        found = read(file, domain="x", limit=50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6 < file.stat().st_size  # of a file of 4 MB
    assert "50 of its 4000 rows are used" in caplog.text
    numbers = [int(e.answer) for e in found]
    assert len(numbers) == 50 and numbers == sorted(numbers) and 1000 < sum(numbers) / 50 < 3000
    assert read(file, domain="x", limit=50) == found != read(file, domain="x", limit=50, seed=1)


def test_domains_of_every_form(tmp_path):
    file = jsonl(tmp_path / "sums.jsonl", [{"question": q, "answer": a} for q, a in PAIRS])
    assert list(read_domains([file])) == list(read_domains(file)) == ["sums"]
    assert len(read_domains("mmlu-test")) == 14
    mixed = read_domains({"mine": PAIRS, "code": "code-io"})
    assert {d: {e.domain for e in of} for d, of in mixed.items()} == {
        "mine": {"mine"},
        "code": {"code"},
    }
    assert list(read_domains(["mmlu-test", file]))[-2:] == ["psychology", "sums"]
    with pytest.raises(ValueError, match="two domains are named 'sums'"):
        read_domains([file, file])
    with pytest.raises(ValueError, match="domains: give a corpus name"):
        read_domains(PAIRS)
    with pytest.raises(ValueError, match="domains is empty"):
        read_domains({})


def test_long_fields_of_a_csv(tmp_path):
    with (tmp_path / "x.csv").open("w", newline="") as out:
        csv.writer(out).writerows([("question", "answer"), ("a\nb", "x" * 200_000)])
    with pytest.raises(ValueError, match=r"row .*field larger than field limit"):
        read(tmp_path / "x.csv", domain="x")


def test_the_stem_alone_makes_no_question_the_same():
    stem = "Which of these is true?"
    train = [*questions("train"), {"question": stem, "choices": ["a", "b"], "answer": "A"}]
    asked = sources._asked_by(read(train, domain="train"))
    choices = [
        {"choices": ["c", "d"], "answer": "A"},
        {"choices": ["a", "b"], "answer": "B"},
        {"answer": "open"},
    ]
    other = [{"question": stem, **row} for row in choices]
    assert [asked(e) for row in other for e in read([row], domain="x")] == [False, True, True]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"choices": ["yes", None, "no"]}, "an option before C is empty: fill it in"),
        ({"choices": {"A": "yes", "B": "", "C": "no"}}, "an option before C is empty: fill it in"),
        ({"choices": [f"option {i}" for i in range(30)]}, "there are 30 options: give at most 26"),
        ({"choices": [{"text": "yes"}, {"text": "no"}]}, "an option is columns: give its text"),
        ({"choices": ["yes", "\ud83d"]}, "half of a character: remove it"),
    ],
)
def test_options_that_can_t_be_asked_are_one_line(row, said):
    with pytest.raises(ValueError, match=f"row 1.*{said}"):
        read([{"question": "Is it?", "answer": "A"} | row], domain="x")


def test_options_that_pad_a_row_are_none_of_it():
    """`datasets` and parquet fill missing fields of a struct with null."""
    padded = [
        {"A": "yes", "B": "no", "C": None},
        ["yes", "no", None, ""],
        {"text": ["yes", "no"], "label": None},
    ]
    for choices in padded:
        (e,) = read([{"question": "Is it?", "choices": choices, "answer": "B"}], domain="x")
        assert e.options == ("yes", "no") and e.answer == "no"


def test_the_same_stem_with_other_options_is_another_question():
    rows = [{"question": "Which is true?", "choices": of, "answer": "B"} for of in ("ab", "cd")]
    rows = [row | {"choices": list(row["choices"])} for row in rows]
    one, other = read(rows, domain="x")
    assert one.id != other.id and one.solution == other.solution == "The answer is (B)."


def test_a_chat_goes_before_a_grade_and_a_prompt_if_it_is_named():
    chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    graded = {"prompt": "p", "messages": chat, "label": "safe"}
    named = {"conv": chat, "input": "u17", "answer": "en"}
    for row, columns in ((graded, None), (named, {"messages": "conv"})):
        (e,) = read([row], domain="x", columns=columns)
        assert (e.question, e.solution) == ("Why?", "So.")
    (e,) = read([{"prompt": "p", "messages": chat, "answer": "a"}], domain="x")
    assert (e.question, e.answer) == ("p", "a")


def test_columns_that_are_no_text_and_domains_without_a_name_are_one_line():
    with pytest.raises(ValueError, match=r"no column for the solution.*it has question, 1, None"):
        read([{"question": "Why?", 1: "a", None: "b"}], domain="x", answers=True)
    with pytest.raises(ValueError, match=r"a domain has no name: give {name: source}"):
        read_domains({"": PAIRS})
    with pytest.raises(ValueError, match=r"of a DataFrame give .to_dict\('records'\)"):
        read(pd.DataFrame({"question": ["a"], "answer": ["b"]}), domain="x")


def test_demonstrations_of_a_domain_of_another_name_are_none(caplog):
    worked = {"Law": [*PAIRS, ("", "c")]}
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="no worked examples"):
        sources.read_evaluation({"law": [("x?", "y"), ("z?", "u")]}, worked, None, [])
    assert "left out, empty, asked twice" in caplog.text


def test_gold_options_by_letter_text_and_index():
    """Where a letter of one option is another's text nothing is guessed."""
    numbers = {"question": "How many?", "choices": ["1", "0", "2"]}
    assert read([numbers | {"answer_index": "0"}], domain="x")[0].answer == "1"
    assert read([numbers | {"answer": "0"}], domain="x")[0].answer == "0"
    blood = {"question": "Which?", "choices": ["O", "A", "B"], "answer": "A"}
    with pytest.raises(ValueError, match="'A' is one option's letter and another's text"):
        read([blood], domain="x")
    labels = {"text": ["a", "b"], "label": ["A", "A"]}
    with pytest.raises(ValueError, match="2 options have 1 labels: give each its own"):
        read([blood | {"choices": labels}], domain="x")


def test_a_question_is_kept_with_its_answer_and_without_two_gold_options(caplog):
    rows = [("Why?", ""), ("Why?", "So."), ("How?", "Thus.")]
    with caplog.at_level(logging.WARNING):
        found = read(rows, domain="x")
    assert {e.question: e.solution for e in found} == {"Why?": "So.", "How?": "Thus."}
    assert "1 of 3 rows left out" in caplog.text
    twice = {"question": "Which?", "choices": ["4", "4", "5"]}
    (kept,) = read([twice | {"answer": 0}, twice | {"answer": 2}], domain="x")
    assert kept.answer == "5"


def test_turns_of_both_kinds_in_one_file():
    """Arrow gives every turn the keys of all, with null."""
    both = [
        {"from": "human", "value": "Why?", "role": None, "content": None},
        {"role": "assistant", "content": "So.", "from": None, "value": None},
    ]
    (e,) = read([{"messages": both}], domain="x")
    assert (e.question, e.solution) == ("Why?", "So.")


def test_a_header_twice_and_a_name_too_long_are_one_line(tmp_path):
    (tmp_path / "x.csv").write_text("question,answer,answer\nq,right,other\n")
    with pytest.raises(ValueError, match="row 1: column 'answer' is there twice"):
        read(tmp_path / "x.csv", domain="x")
    with pytest.raises(ValueError, match="neither a file nor a corpus"):
        read("x" * 5000, domain="x")
    (tmp_path / "x.jsonl").write_text("null\n")
    with pytest.raises(ValueError, match="pair: write one object a line"):
        read(tmp_path / "x.jsonl", domain="x")
