"""Whatever people bring: examples, or one line that says what is wrong, and nothing else.

Of every ten thousand rows a few are usable; a longer run: HYPOTHESIS_EXAMPLES=100000.
"""

import json
import os
import warnings

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sts_utils.examples import Example
from sts_utils.prediction import page, sources
from sts_utils.prediction.columns import COLUMNS

pytestmark = pytest.mark.slow
#: Examples of about seven rows each.
MANY = int(os.environ.get("HYPOTHESIS_EXAMPLES", "1500"))
fuzz = settings(
    max_examples=MANY,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
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
    """The examples that a source gives, if it gives any."""
    try:
        read = sources.read(source, domain="x", note=lambda said: None)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1 and type(error) is ValueError, error
        return []
    assert read and all(isinstance(e, Example) and e.question for e in read)
    for e in read:
        assert not e.options or e.answer in ("", *e.options)
    return read


@fuzz
@given(ROWS)
@example([{"question": "Which?", "choices": ["a", "b"], "answer": 1}, ("Why?", "So.")])
@example([{"question": "Which?", "choices": ["a", "b"], "solution": "It is b."}])
def test_any_rows(rows):
    usable_or_one_line(rows)


@fuzz
@given(st.lists(st.dictionaries(NAMES | TEXTS, VALUES, max_size=5) | VALUES, max_size=8))
def test_any_json_lines(tmp_path, rows):
    file = tmp_path / "any.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    usable_or_one_line(file)


@fuzz
@given(st.binary(max_size=80) | st.text(alphabet='",\n\r ab\x00é', max_size=60).map(str.encode))
@example(b"question,answer\nWhy?,So.\n")
def test_any_csv_or_bytes(tmp_path, data):
    for name in ("any.csv", "any.jsonl", "any.parquet"):
        (tmp_path / name).write_bytes(data)
        usable_or_one_line(tmp_path / name)


@settings(fuzz, max_examples=min(MANY, 300))
@given(
    st.lists(st.dictionaries(NAMES, TEXTS | st.floats() | st.integers(), max_size=4), max_size=8)
)
def test_any_parquet(tmp_path, rows):
    file = tmp_path / "any.parquet"
    with warnings.catch_warnings(action="ignore"):
        try:
            pd.DataFrame(rows).to_parquet(file)
        except Exception:  # pandas writes no columns of mixed types
            return
    usable_or_one_line(file)


@fuzz
@given(TEXTS, TEXTS, st.lists(st.tuples(TEXTS, st.floats(0, 1)), max_size=4))
@example("<script>alert(1)</script>", '"><img src=x>', [("</p><b>", 1.0)])
def test_any_text_is_escaped_in_the_report(domain, word, tokens):
    span = {"domain": domain, "peak": 1.0, "tokens": tokens}
    shown = {"id": 1, "shift": 0.5, "link": None, "promotes": [word], "domains": [(domain, 0.1)]}
    html = page.macros().cards({"features": [shown | {"train": [span], "elsewhere": []}]})
    ours = ("div", "/div", "p", "/p", "strong", "/strong", "code", "/code", "em", "/em", "mark")
    for tag in html.split("<")[1:]:
        assert tag.split(">")[0].split(" ")[0] in (*ours, "/mark"), tag
