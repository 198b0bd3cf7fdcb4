"""Whatever people bring: examples, or one line that says what is wrong, and nothing else.

Of every ten thousand rows a few are usable; a longer run: HYPOTHESIS_EXAMPLES=100000.
"""

import json
import os

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sts_utils.examples import Example
from sts_utils.prediction import sources
from sts_utils.prediction.sources import COLUMNS

pytestmark = pytest.mark.slow
#: Examples of about seven rows each; a file takes longer than a list.
MANY = int(os.environ.get("HYPOTHESIS_EXAMPLES", "1500"))
fuzz = settings(
    max_examples=MANY,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
files = settings(fuzz, max_examples=MANY // 10)
TEXTS = st.text(max_size=12) | st.sampled_from(["A", "B", "0", "1", "user", "assistant", "</p>"])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
TURN = st.fixed_dictionaries({"role": TEXTS, "content": PLAIN})
VALUES = st.recursive(
    PLAIN | st.lists(TURN, max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from([name for names in COLUMNS.values() for name in names] + list("ABC"))
ROWS = st.lists(st.dictionaries(NAMES | TEXTS, VALUES, max_size=5) | VALUES, max_size=15)


def usable_or_one_line(source):
    try:
        read = sources.read(source, domain="x", note=lambda said: None)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1 and type(error) is ValueError, error
        return
    assert read and all(isinstance(e, Example) and e.question for e in read)
    assert all(not e.options or e.answer in ("", *e.options) for e in read)


@fuzz
@given(ROWS)
@example([{"question": "Which?", "choices": ["a", "b"], "answer": 1}, ("Why?", "So.")])
@example([{"question": "Which?", "choices": ["a", "b"], "solution": "It is b."}])
def test_any_rows(rows):
    usable_or_one_line(rows)


@files
@given(ROWS)
def test_any_json_lines(tmp_path, rows):
    file = tmp_path / "any.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    usable_or_one_line(file)


@files
@given(st.binary(max_size=80) | st.text(alphabet='",\n\r ab\x00é', max_size=60).map(str.encode))
@example(b"question,answer\nWhy?,So.\n")
def test_any_bytes(tmp_path, data):
    for name in ("any.csv", "any.jsonl", "any.parquet"):
        (tmp_path / name).write_bytes(data)
        usable_or_one_line(tmp_path / name)
