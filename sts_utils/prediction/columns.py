"""A row as an Example: which columns hold its question and answer, chats, and multiple choice."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from string import ascii_uppercase as LETTERS

import pandas as pd

from sts_utils.examples import Example
from sts_utils.prediction.rows import is_turn

#: What a column is for -> the names it is recognised by, the first that is there.
COLUMNS = {
    "question": ["question", "prompt", "query", "problem", "instruction", "input"],
    "solution": ["solution", "cot", "cot_content", "rationale", "completion", "response", "output"],
    "answer": ["answer", "answer_index", "answer_idx", "answerKey", "label", "target"],
    "options": ["options", "choices"],
    "messages": ["messages", "conversations"],
}
#: What a value is called in messages: the first that it is.
KINDS = {"text": str, "bytes": bytes, "a number": int | float, "columns": Mapping, "a list": list}
USER, ASSISTANT = ("user", "human"), ("assistant", "gpt", "model")


def choose(has: list[str], named: Mapping[str, str], name: str, answers: bool) -> dict:
    """What a column is for -> the one of the columns `has` that is, or None; `named` goes first.

    Raises ValueError where there is no question, or, if `answers` are asked for, no solution.
    """
    if unknown := [role for role in named if role not in COLUMNS]:
        raise ValueError(f"columns names {unknown[0]!r}: choose from {', '.join(COLUMNS)}")
    listed = f"it has {', '.join(has)}"
    if absent := [c for c in named.values() if c not in has]:
        raise ValueError(f"{name}: no column {absent[0]!r}; {listed}")
    of = {role: next((c for c in known if c in has), None) for role, known in COLUMNS.items()}
    of |= named
    answered = of["solution"] or of["answer"]
    if of["messages"]:
        own = answered and of["answer"] not in ("label", "target")  # of a chat, mostly a grade
        if "question" not in named and ("messages" in named or not own):
            of["question"] = None  # a `prompt` beside chat turns, which have the answers
    elif not of["question"] or (answers and not answered):
        missing = "solution" if of["question"] else "question"
        like = f"(name it, like {missing}={has[0]})"
        raise ValueError(f"{name}: no column for the {missing}; {listed} {like}")
    return of


def check_type(rows: Mapping[int, Mapping], column: str, name: str) -> None:
    """Raise ValueError where a column holds text in one row and something else in another."""
    cells = pd.Series({n: row.get(column) for n, row in rows.items()}, dtype=object)
    kinds = cells.dropna().map(_kind).drop_duplicates()
    if len(kinds) > 1:
        a, b = (f"{kind} in row {n}" for n, kind in kinds[:2].items())
        raise ValueError(f"{name}: column {column!r} holds {a} and {b}: make it one type")


def _kind(value) -> str:
    return next((kind for kind, of in KINDS.items() if isinstance(value, of)), type(value).__name__)


def example(row: Mapping, of: Mapping[str, str | None], domain: str) -> Example | None:
    """One row as an Example, its columns as `choose` gave them; None if its question is empty or
    its gold option there twice.

    Raises ValueError for a cell that can't be used, UnicodeEncodeError for half of a character.
    """
    if of["messages"] and not of["question"]:
        question, solution = _last_turns(row.get(of["messages"]) or ())
    else:
        question, solution = _text(row, of["question"], USER), _text(row, of["solution"], ASSISTANT)
        if of["question"] == "instruction":  # Alpaca has half of the question in `input`
            question = f"{question}\n{_text(row, 'input')}".strip()
    if not question:
        return None
    options, answer = _options(row, of["options"]), _text(row, of["answer"], ASSISTANT)
    texts = tuple(options.values())
    if options and answer:
        chosen = _choice(row[of["answer"]], options, of["answer"] in ("answer_index", "answer_idx"))
        answer = texts[chosen]
        if texts.count(answer) > 1:
            return None  # no single gold option
        solution = solution or f"The answer is ({LETTERS[chosen]})."
    solution, answer = solution or answer, answer or ("" if options else solution)
    told = "\n".join((question, solution, *texts))
    key = hashlib.sha256(told.encode()).hexdigest()[:16]
    return Example(question, solution, answer, domain, key, options=texts, instruction="")


def _text(row: Mapping, column: str | None, said: Sequence[str] = ()) -> str:
    """A cell as text; of a list of chat turns the last one that one of `said` has."""
    value = row.get(column)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if all(map(is_turn, value)):
            return next((text for who, text in reversed(_turns(value)) if who in said), "")
        if all(isinstance(part, Mapping) and "type" in part for part in value):
            return "".join(str(part.get("text") or "") for part in value).strip()  # no images
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"column {column!r} holds {_kind(value)} where text belongs: make it text")
    return "" if value is None else str(value).strip()


def _loaded(cell):
    """What a cell of JSON holds; any other as it is."""
    try:
        return json.loads(cell)
    except (TypeError, ValueError):
        return cell


def _turns(cell) -> list[tuple[str, str]]:
    """(who, text) of chat turns, given as a list or its JSON."""
    cell = _loaded(cell)
    if not isinstance(cell, Sequence) or not all(map(is_turn, cell)):
        raise ValueError('the chat is not a list of turns like {"role": "user", "content": "…"}')
    # where a file holds both kinds, each turn has the other's keys with null
    said = [(turn, "value" if turn.get("content") is None else "content") for turn in cell]
    return [(turn.get("role") or turn.get("from"), _text(turn, key)) for turn, key in said]


def _last_turns(cell) -> tuple[str, str]:
    """(the user's turn before it, the assistant's last turn), or (the user's last turn, "")."""
    question, after, solution = "", "", ""
    for who, text in _turns(cell):
        if who in USER and text:
            after = text
        elif who in ASSISTANT and text:
            question, solution = after, text
    return (question, solution) if solution else (after, "")


def _options(row: Mapping, column: str | None) -> dict[str, str]:
    """What the answer may call an option -> its text, in order; empty where there is no choice.

    Of a list (or its JSON), ARC's {"text": …, "label": …}, {"A": text}, or columns A, B, ….
    """
    labels, texts = LETTERS, _loaded(row.get(column))
    if isinstance(texts, Mapping) and "text" in texts:
        labels, texts = texts.get("label") or LETTERS, texts["text"]
    elif isinstance(texts, Mapping):
        labels, texts = texts.keys(), texts.values()
    if isinstance(texts, str) or not isinstance(texts, Iterable | None):
        raise ValueError(f'the options are not a list like ["one", "two"]: {str(texts)[:40]!r}')
    texts, listed = ([], False) if texts is None else (list(texts), True)
    if not texts:
        there = itertools.takewhile(row.__contains__, LETTERS)
        labels, texts, listed = LETTERS, [row[letter] for letter in there], False
    while texts and texts[-1] in (None, ""):  # columns of the rows with most options
        texts.pop()
    if None in texts or "" in texts:
        raise ValueError(f"an option before {LETTERS[len(texts) - 1]} is empty: fill it in")
    if len(texts) > len(LETTERS):
        raise ValueError(f"there are {len(texts)} options: give at most {len(LETTERS)}")
    if wrong := [text for text in texts if not isinstance(text, str | int | float)]:
        raise ValueError(f"an option is {_kind(wrong[0])}: give its text")
    if len(texts) < 2 and not listed:
        return {}
    labels = list(labels)[: len(texts)]
    if len(set(labels)) < len(texts):
        raise ValueError(f"{len(texts)} options have {len(set(labels))} labels: give each its own")
    return {str(a): str(text).strip() for a, text in zip(labels, texts, strict=True)}


def _choice(answer, options: Mapping[str, str], is_index: bool = False) -> int:
    """Which option the gold answer is, given as its index from 0, its letter or its text."""
    text, labels, texts = str(answer).strip(), list(options), list(options.values())
    index = int(text) if text.isdecimal() and int(text) < len(texts) else None
    if is_index and index is not None:
        return index
    found = {texts.index(text)} if text in texts and isinstance(answer, str) else set()
    if (label := text.strip("().")) in labels:
        found.add(labels.index(label))
    if len(found) > 1:
        raise ValueError(f"answer {text!r} is one option's letter and another's text: index it")
    if found or index is not None:
        return found.pop() if found else index
    raise ValueError(f"answer {text!r} is no index, letter or text of the {len(texts)} options")
