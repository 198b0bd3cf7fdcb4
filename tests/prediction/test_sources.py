"""Every kind of source that people bring, and whatever else: examples, or one line."""

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import datasets
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import example as case
from hypothesis import strategies as st

from sts_utils.prediction import sources
from sts_utils.prediction.sources import COLUMNS, read, read_domains
from sts_utils.prompts import Example

PAIRS = [("What is 2 + 2?", "4"), ("What is 3 + 4?", "7")]
CHAT = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
EARLIER = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
NAMED = {"question": "ask", "context": "bg"}
ROWS = yaml.safe_load(Path(__file__).with_name("rows.yaml").read_text(encoding="utf-8"))


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_columns_are_recognised(tmp_path):
    for row in ROWS["columns"]:
        file = jsonl(tmp_path / "x.jsonl", [row])
        for source in ([row], file, datasets.Dataset.from_list([row])):
            (e,) = read(source, domain="mine", answers=True)
            assert (e.query, e.question, e.solution, e.domain) == ("Q", "Q", "A", "mine")
    (alpaca,) = read([{"instruction": "Add", "input": "2 and 3", "output": "5"}], domain="x")
    assert alpaca.question == "Add\n2 and 3"


def test_all_that_stands_before_an_answer_belongs_to_its_question():
    system, last = {"role": "system", "content": "s"}, CHAT[1] | {"weight": 0}
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    called = [CHAT[0], call, {"role": "tool", "content": "4"}, CHAT[1]]
    told = "User: x\n\nAssistant: y\n\nUser: Q"
    for row, question, answer in (
        ({"messages": [system, *CHAT]}, "s\n\nQ", "A"),
        ({"messages": [system, *EARLIER, *CHAT]}, f"s\n\n{told}", "A"),
        ({"messages": [*EARLIER, CHAT[0], last]}, "x", "y"),  # a turn of weight 0 is no answer
        ({"history": [["x", "y"]], "prompt": "Q", "response": "A"}, told, "A"),
        ({"system": "s", "passage": "p", "question": "Q", "answer": "A"}, "s\np\nQ", "A"),
        ({"messages": called}, 'User: Q\n\nAssistant: [{"name": "f"}]\n\nTool: 4', "A"),
    ):
        (e,) = read([row], domain="x", answers=True)
        assert (e.question, e.solution) == (question, answer)
    chats = [[*EARLIER, {"role": "user", "content": f"{i}"}, CHAT[1]] for i in range(3)]
    assert len(read(chats, domain="x", answers=True)) == 3
    notes, bad = [], {"prompt": "Q", "completion": "B", "label": False}
    thought = [CHAT[0], CHAT[1] | {"reasoning_content": "hm"}]
    good = bad | {"completion": "A", "label": True, "score": 1}
    assert [e.solution for e in read([bad, good], domain="x", note=notes.append)] == ["A"]
    read([{"messages": thought}], domain="x", note=notes.append)
    assert "not read: column score" in notes[0] and "1 rows whose answer is marked" in notes[1]
    assert "1 thoughts beside answers" in notes[3]
    assert notes[2].startswith("the list: 1 rows; messages: messages; not read: column none")
    (e,) = read([{"ask": "Q", "bg": "c", "answer": "A"}], domain="x", columns=NAMED)
    assert e.question == "c\nQ"


def test_multiple_choice():
    for row in ROWS["choices"]:
        (e,) = read([{"question": "Which is a metal?", **row}], domain="x")
        found = e.answer, e.options, e.solution
        assert found == ("iron", ("air", "iron"), "The answer is (B).")
        assert "(A) air (B) iron" in e.query
    numbers = {"question": "How many?", "choices": ["1", "0", "2"]}
    zero = {"question": "Q", "A": 5, "B": 3, "C": 0, "D": 7, "answer": "C"}
    rows = [numbers | {"answer_index": "0"}, numbers | {"answer_text": "0"}, zero]
    assert [read([row], domain="x")[0].answer for row in rows] == ["1", "0", "0"]
    four = {"question": "Q", "choices": list("wxyz")}
    for asks in ([numbers | {"answer": 0}], [four | {"answer": n} for n in (1, 4)]):
        with pytest.raises(ValueError, match="answer' can be read in two ways: name it answer_ind"):
            read(asks, domain="x")
    sciq = {"distractor1": "air", "distractor2": "salt", "correct_answer": "iron"}
    (e,) = read([{"question": "Which?", **sciq}], domain="x")
    assert e.answer == "iron" and sorted(e.options) == ["air", "iron", "salt"]
    twice = {"question": "Which?", "choices": ["4", "4", "5"]}
    (kept,) = read([twice | {"answer": 0}, twice | {"answer": 2}], domain="x")
    assert kept.answer == "5"  # and none of two


ASKED = {"question": "Is it?", "answer": "A"}


def test_a_cell_that_can_t_be_used_is_one_line_with_its_row():
    for row, said in (
        (ASKED | {"answer": {"value": "A"}}, "is a dict: make it text"),
        (ASKED | {"question": "Q\ud800"}, "surrogates not allowed"),
        ({"messages": ["no chat"]}, "the chat is no list of turns"),
        (ASKED | {"options": ["a", "b"], "answer": "E"}, "answer 'E' names 0 of the 2 options"),
        (ASKED | {"options": ["O", "A", "B"]}, "answer 'A' names 2 of the 3 options: index it"),
        (ASKED | {"options": "5"}, "the options are not a list"),
        (ASKED | {"choices": ["yes", None, "no"]}, "none empty"),
        (ASKED | {"A": "5", "B": "3", "C": "", "D": "7"}, "none empty"),
        (ASKED | {"choices": [f"option {i}" for i in range(30)]}, "up to 26 texts"),
        (ASKED | {"choices": {"text": ["a", "b"], "label": ["A", "A"]}}, "no label twice"),
        (("one", "two", "three"), "is neither columns nor a"),
    ):
        with pytest.raises(ValueError, match=rf"^the list, row 1: .*{said}") as error:
            read([row], domain="x")
        assert "\n" not in str(error.value)


def test_other_options_make_another_question():
    rows = [{"question": "Which?", "choices": [f"a{i}", f"b{i}"], "answer": 0} for i in range(3)]
    assert len({e.id for e in read(rows, domain="x")}) == 3
    train = read([rows[0], ("plain", "1")], domain="train")
    own = {"x": [*rows[1:], rows[0] | {"answer": "B"}, ("Which?", "open"), ("PLAIN ", "2")]}
    left = sources.read_evaluation(own, "none", None, train, print)[0]["x"]
    assert [e.options for e in left] == [("a1", "b1"), ("a2", "b2")]


def test_a_value_is_read_as_it_is_written(tmp_path, monkeypatch):
    """No date is made of text, no 1.0 of 1, and no blank of "NA"; of every kind of source."""
    answers = ["2020-01-01", "007", "NA", "null", "1.50", "True"]
    rows = [{"question": f"Q {i}", "answer": answer} for i, answer in enumerate(answers)]
    table = pd.DataFrame(rows)
    monkeypatch.chdir(tmp_path)
    table.to_csv("x[1].csv", encoding="utf-8-sig")  # with its index, in a column without a name
    table.to_parquet("x*.PARQUET")
    data = datasets.Dataset.from_pandas(table)
    made = rows, data, data.to_iterable_dataset(), jsonl(tmp_path / "a::b.jsonl", rows)
    for source in (*made, tmp_path / "x[1].csv", "x[1].csv", "x*.PARQUET"):
        assert [e.answer for e in read(source, domain="x")] == answers
    mixed = [{"question": "Q", "answer": 1}, {"question": "R"}, {"question": "S", "answer": 2.5}]
    mixed += [{"question": "T", "answer": "a", "options": []}, ["U", "u"]]
    found = read(jsonl(tmp_path / "x.jsonl", mixed), domain="x")
    assert [e.answer for e in found] == ["1", "", "2.5", "a", "u"]
    pd.DataFrame({"messages": [CHAT]}).to_parquet("chat.parquet")
    for source in (pd.read_parquet("chat.parquet").to_dict("records"), [CHAT], "chat.parquet"):
        assert [(e.question, e.solution) for e in read(source, domain="x")] == [("Q", "A")]


def test_columns_can_be_named():
    rows = [{"ask": "Q", "say": "A", "answer": "no", 1: "a", None: "b"}]
    (example,) = read(rows, domain="x", columns={"question": "ask", "solution": "say"})
    assert (example.question, example.solution) == ("Q", "A")
    chat = {"conv": CHAT, "input": "u17", "answer": "en"}
    assert read([chat], domain="x", columns={"messages": "conv"})[0].solution == "A"
    (e,) = read([{"prompt": "p", "messages": CHAT, "answer": "a"}], domain="x")
    assert (e.question, e.answer) == ("p", "a")
    for named in ({"question": "aks"}, {"questoin": "ask"}, {}):
        said = r"a column of \['ask', 'say'" if named else r"question; it has \['ask', 'say'"
        with pytest.raises(ValueError, match=said):
            read(rows, domain="x", columns=named)
    with pytest.raises(ValueError, match=r"name one of \['final'\], solution="):  # not the question
        read([{"prompt": "Q", "final": "A"}], domain="x", answers=True)
    with pytest.raises(ValueError, match="it needs a question and an answer, as prompt/completion"):
        read([{"text": "a document"}], domain="x", answers=True)


def test_a_file_that_can_t_be_read_is_one_line(tmp_path):
    for name, content, said in (
        ("x.jsonl", b"\n \n", r"no column for the question; it has \[\]"),
        ("x.csv", b"question,answer\ncaf\xe9,2\n", "'utf-8' codec can't decode"),
        ("x.jsonl", b'{"question": "Q"}\n[1,\n', "row 2: Expecting value"),
        ("x.jsonl", b"[" * 100_000, "row 1: "),
        ("x.parquet", b"no", "Parquet file size is 2 bytes"),
        ("x.csv", b"question,answer\nQ,A,B\n", "a row has more fields than the header's 2"),
        ("x.csv", b"question,answer\nQ,A\nR,B,C\n", "Expected 2 fields in line 3, saw 3"),
        ("x.txt", b"no", "no file of .jsonl, .*; corpora: gsm-symbolic"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=said) as error:
            read(tmp_path / name, domain="x")
        assert name in str(error.value) and "\n" not in str(error.value)


def test_a_question_is_kept_once_with_its_answer_and_what_is_left_out_counted():
    rows = [*PAIRS, PAIRS[0], ("what is  2 + 2?", "4"), ("", "nothing")]
    rows += [("Why?", ""), ("Why?", "So.")]
    found = read(rows, domain="x", note=(notes := []).append)
    assert [e.answer for e in found] == ["4", "7", "4", "So."]  # of other case: another question
    assert "2 rows that are there twice, 1 rows without a question" in notes[1]
    chains = [("Q", "first"), ("Q", "second"), ("Q", "first")]
    assert len(read(chains, domain="x", answers=True)) == 2 and len(read(chains, domain="x")) == 1


def test_large_files_stream_into_a_seeded_sample(tmp_path, monkeypatch):
    rows = ({"question": f"What is {i}? {'x' * 1000}", "answer": str(i)} for i in range(4000))
    file, notes = jsonl(tmp_path / "x.jsonl", rows), []
    monkeypatch.setattr(sources, "LIMIT", 50)
    tracemalloc.start()
    numbers = [int(e.answer) for e in read(file, domain="x", note=notes.append)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6 < file.stat().st_size and "50 of its 4000 rows are used" in notes[1]
    assert len(numbers) == 50 and numbers == sorted(numbers) and 1000 < sum(numbers) / 50 < 3000
    assert numbers[:5] == [35, 148, 186, 227, 256]  # as ever: predictions stay what they were


def test_files_of_every_kind(tmp_path):
    rows = [{"question": q, "answer": a} for q, a in PAIRS]
    table = pd.DataFrame(rows)
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "b.json").write_text(json.dumps({"data": rows}))
    jsonl(tmp_path / "lines.json", rows)
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    for name, separator in (("d.csv", ";"), ("e.csv", "\t"), ("f.tsv", "\t"), ("g.csv.gz", ",")):
        table.to_csv(tmp_path / name, sep=separator, index=False, encoding="utf-8-sig")
    table.to_feather(tmp_path / "h.feather")
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    for path in (*tmp_path.glob("*.*"), tmp_path / "saved"):
        assert [(e.question, e.answer) for e in read(path, domain="x")] == PAIRS, path
    assert len(read(tmp_path, domain="x", answers=True)) == 2  # a folder of shards, each row once
    gaps = pd.DataFrame({"question": list("abc"), "answer": [72, None, 5]})
    gaps.to_parquet(tmp_path / "gaps.parquet")
    assert [e.answer for e in read(tmp_path / "gaps.parquet", domain="x")] == ["72", "", "5"]
    broken = datasets.Dataset.from_dict({"question": ["Q"], "answer": ["A"], "image": [b"no"]})
    broken = broken.cast_column("image", datasets.Image())
    assert read(broken, domain="x")[0].answer == "A"


def test_domains_of_every_form(tmp_path):
    file = jsonl(tmp_path / "sums.jsonl", [{"question": q, "answer": a} for q, a in PAIRS])
    assert list(read_domains([file])) == list(read_domains(file)) == ["sums"]
    mixed = read_domains({"mine": PAIRS, "code": "code-io"})
    assert {d: {e.domain for e in of} for d, of in mixed.items()} == {d: {d} for d in mixed}
    assert list(read_domains(["mmlu-test", file]))[-2:] == ["psychology", "sums"]
    by = [{"question": f"{d}{i}", "answer": "a", "topic": d} for d in "ab" for i in range(2)]
    found = read_domains(f"{jsonl(tmp_path / 'by.jsonl', by)}:topic")
    asked = {d: [e.question for e in of] for d, of in found.items()}
    assert asked == {"a": ["a0", "a1"], "b": ["b0", "b1"]}
    worked = sources.read_evaluation(["mmlu-test"], None, None, [], print)[1]
    assert len(worked) == 14 and all(len(of) >= 5 for of in worked.values())  # of mmlu-cot
    for wrong in ([file, file], {"": PAIRS}):
        with pytest.raises(ValueError, match="is there twice or has no name"):
            read_domains(wrong)


# --- whatever else (a longer run: HYPOTHESIS_EXAMPLES=100000) ------------------------------------

health = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
MANY = int(os.environ.get("HYPOTHESIS_EXAMPLES", "1500"))
fuzz = settings(max_examples=MANY, deadline=None, derandomize=True, suppress_health_check=health)
TEXTS = st.text(max_size=12) | st.sampled_from(["A", "B", "0", "1", "user", "assistant", "</p>"])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    PLAIN | st.lists(st.fixed_dictionaries({"role": TEXTS, "content": PLAIN}), max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from([name for names in COLUMNS.values() for name in names] + list("ABC"))
TABLES = st.lists(st.dictionaries(NAMES | TEXTS, VALUES, max_size=5) | VALUES, max_size=15)
BYTES = st.binary(max_size=80) | st.text('",\n\r ab\x00é', max_size=60).map(str.encode)


@pytest.mark.slow
@fuzz
@given(TABLES, BYTES)
@case([{"question": "Which?", "choices": ["a", "b"], "answer": 1}, ("Why?", "So.")], b"question\nA")
def test_anything_is_examples_or_one_line(tmp_path, rows, data):
    made = [rows, jsonl(tmp_path / "rows.jsonl", rows)]
    for kind in ("csv", "jsonl", "parquet"):
        made.append(tmp_path / f"any.{kind}")
        made[-1].write_bytes(data)
    for source in made:
        try:
            found = read(source, domain="x", note=str)
        except ValueError as error:
            assert len(str(error).splitlines()) == 1 and type(error) is ValueError, error
        else:
            assert found and all(isinstance(e, Example) and e.question for e in found)
            assert all(not e.options or e.answer in ("", *e.options) for e in found)
