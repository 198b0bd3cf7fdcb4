"""A row as an Example: which columns hold its question and answer, chats, and multiple choice."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence

from sts_utils.config import nearest
from sts_utils.examples import Example
from sts_utils.prediction.rows import is_turn

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#: What a column is for -> the names it is recognised by, the first that is there.
COLUMNS = {
    "question": ["question", "prompt", "query", "problem", "instruction", "input"],
    "solution": ["solution", "cot", "cot_content", "rationale", "completion", "response", "output"],
    "answer": ["answer", "answer_index", "answer_idx", "answerKey", "label", "target"],
    "options": ["options", "choices"],
    "messages": ["messages", "conversations"],
}
#: What a value is called in messages: the first kind that it is of.
KINDS = {"text": str, "bytes": bytes, "a number": int | float, "columns": Mapping}
KINDS["a list"] = Sequence
USER, ASSISTANT = ("user", "human"), ("assistant", "gpt", "model")


def choose(has: list[str], named: Mapping[str, str], name: str, answers: bool) -> dict:
    """What a column is for -> the one of the columns `has` that is, or None; `named` goes first.

    Raises ValueError where there is no question, or, if `answers` are asked for, no solution.
    """
    if unknown := [role for role in named if role not in COLUMNS]:
        raise ValueError(f"columns names {unknown[0]!r}: choose from {', '.join(COLUMNS)}")
    listed = f"it has {', '.join(has)}"
    if absent := [c for c in named.values() if c not in has]:
        raise ValueError(f"{name}: no column {absent[0]!r}{nearest(absent[0], has)}; {listed}")
    there = {role: [c for c in known if c in has] for role, known in COLUMNS.items()}
    of = {role: named.get(role) or next(iter(there[role]), None) for role in COLUMNS}
    answered = of["solution"] or of["answer"]
    if of["messages"]:
        if not named.get("question") and not answered:
            of["question"] = None  # a `prompt` beside chat turns, which have the answers
        return of
    if not of["question"] or (answers and not answered):
        missing = "solution" if of["question"] else "question"
        near = next((hint for known in COLUMNS[missing] if (hint := nearest(known, has))), "")
        like = f"(name it, like {missing}={has[0]})"
        raise ValueError(f"{name}: no column for the {missing}{near}; {listed} {like}")
    return of


def check_type(rows: Sequence[tuple[int, Mapping]], column: str, name: str) -> None:
    """Raise ValueError where a column holds text in one row and something else in another."""
    first = {}
    for n, row in rows:
        if row.get(column) is not None:
            first.setdefault(_kind(row[column]), n)
    if len(first) > 1:
        a, b = (f"{kind} in row {n}" for kind, n in itertools.islice(first.items(), 2))
        raise ValueError(f"{name}: column {column!r} holds {a} and {b}: make it one type")


def _kind(value) -> str:
    return next((kind for kind, of in KINDS.items() if isinstance(value, of)), type(value).__name__)


def example(row: Mapping, of: Mapping[str, str | None], domain: str, where: str) -> Example | None:
    """One row as an Example, its columns as `choose` gave them; None if its question is empty."""
    cells = {role: row.get(column) for role, column in of.items() if column}

    def text(role: str, said: Sequence[str]) -> str:
        return _text(cells.get(role), f"{where}: column {of[role]!r}", said)

    if of["messages"] and not of["question"]:
        question, solution = _last_turns(cells["messages"] or (), where)
    else:
        question, solution = text("question", USER), text("solution", ASSISTANT)
        if of["question"] == "instruction" and row.get("input"):  # Alpaca's half of the question
            question = f"{question}\n{_text(row['input'], where)}".strip()
    if not question:
        return None
    options, labels = _options(cells.get("options"), row, where)
    answer = text("answer", ASSISTANT)
    if options and answer:
        chosen = _choice(cells["answer"], options, labels, where)
        answer, solution = options[chosen], solution or f"The answer is ({LETTERS[chosen]})."
    solution = solution or answer
    try:
        key = hashlib.sha256(f"{question}\n{solution}".encode()).hexdigest()[:16]
    except UnicodeEncodeError as error:
        half = f"{error.object[error.start]!a}, half of a character"
        raise ValueError(f"{where} holds {half}: remove it") from None
    answer = answer or solution
    return Example(question, solution, answer, domain, key, options=options, instruction="")


def _text(value, where: str, said: Sequence[str] = ()) -> str:
    """A cell as text; of a list of chat turns the last one that one of `said` has."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if all(map(is_turn, value)):
            return next((text for who, text in reversed(_turns(value, where)) if who in said), "")
        if all(isinstance(part, Mapping) and "type" in part for part in value):
            return "".join(str(part.get("text") or "") for part in value).strip()  # no images
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"{where} holds {_kind(value)} where text belongs: make it text")
    return "" if value is None else str(value).strip()


# --- chats and multiple choice -----------------------------------------------------------------


def _loaded(cell):
    """What a cell of JSON holds; any other as it is."""
    try:
        return json.loads(cell) if isinstance(cell, str) else cell
    except json.JSONDecodeError:
        return cell


def _turns(cell, where: str) -> list[tuple[str, str]]:
    """(who, text) of chat turns, given as a list or its JSON."""
    cell = _loaded(cell)
    if not isinstance(cell, Sequence) or not all(map(is_turn, cell)):
        like = '{"role": "user", "content": "…"}'
        raise ValueError(f"{where}: the chat is not a list of turns like {like}")
    told = ((t.get("role", t.get("from")), t.get("content", t.get("value"))) for t in cell)
    return [(who, _text(text, where)) for who, text in told]


def _last_turns(cell, where: str) -> tuple[str, str]:
    """(the user's turn before it, the assistant's last turn), or (the user's last turn, "")."""
    question, after, solution = "", "", ""
    for who, text in _turns(cell, where):
        if who in USER and text:
            after = text
        elif who in ASSISTANT and text:
            question, solution = after, text
    return (question, solution) if solution else (after, "")


def _options(cell, row: Mapping, where: str) -> tuple[tuple[str, ...], list[str]]:
    """(texts of the options, what the answer may call them); empty for none.

    Of a list (or its JSON), ARC's {"text": …, "label": …}, {"A": text}, or columns A, B, ….
    """
    labels, cell = list(LETTERS), _loaded(cell)
    if isinstance(cell, Mapping):
        labels = list(map(str, cell.get("label", LETTERS) if "text" in cell else cell))
        cell = cell["text"] if "text" in cell else list(cell.values())
    if cell is not None and (isinstance(cell, str) or not isinstance(cell, Iterable)):
        shown = f'a list like ["one", "two"]: {str(cell)[:40]!r}'
        raise ValueError(f"{where}: the options are not {shown}")
    if not cell:
        cell = [row[letter] for letter in itertools.takewhile(row.__contains__, LETTERS)]
        while cell and cell[-1] in (None, ""):
            cell.pop()
        if len(cell) < 2:
            return (), []
        if None in cell or "" in cell:
            last = LETTERS[len(cell) - 1]
            raise ValueError(f"{where}: an option before {last} is empty: fill it in")
    return tuple(str(option).strip() for option in cell), labels[: len(cell)]


def _choice(answer, options: Sequence[str], labels: Sequence[str], where: str) -> int:
    """Which option the gold answer is, given as its index from 0, its letter or its text."""
    text = str(answer).strip()
    if text in options and isinstance(answer, str):
        return options.index(text)
    if text.strip("().") in labels:
        return labels.index(text.strip("()."))
    if text.isdigit() and int(text) < len(options):
        return int(text)
    known = f"no index, letter or text of the {len(options)} options"
    raise ValueError(f"{where}: answer {text!r} is {known}")
