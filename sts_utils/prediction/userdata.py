"""People's own data: a file, a `datasets.Dataset` or a list -> list[Example], with one clear line for what is wrong."""

import hashlib
import itertools
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sts_utils.config import nearest
from sts_utils.corpora import data
from sts_utils.corpora.data import CORPORA
from sts_utils.examples import Example, by_domain
from sts_utils.prediction import sources

log = logging.getLogger(__name__)

#: Rows kept of a source: a seeded sample of it, so that memory does not grow with the file.
LIMIT = 5000
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#: What a column is for -> the names it is recognised by, the first that is there.
COLUMNS = {
    "question": ("question", "prompt", "query", "problem", "instruction", "input"),
    "solution": ("solution", "cot", "cot_content", "rationale", "completion", "response", "output"),
    "answer": ("answer", "answer_index", "answer_idx", "answerKey", "label", "target"),
    "options": ("options", "choices"),
    "messages": ("messages", "conversations"),
}
#: Corpora of questions whose worked examples are another corpus.
PARTNERS = {"mmlu-test": "mmlu-cot", "mmlu-pro": "mmlu-pro-cot"}


def read(
    source, *, domain: str, columns: Mapping[str, str] | None = None, answers: bool = False, limit: int = LIMIT,
    seed: int = 0, notes: list[str] | None = None,
) -> list[Example]:  # fmt: skip
    """At most `limit` examples of `source`, a seeded sample in the order of its rows, each question once.

    `source` is a corpus name (data.CORPORA), a JSON-lines, CSV or parquet file, a `datasets.Dataset` (streaming
    too), or a list of (question, answer) pairs or dicts. Columns are recognised by name (COLUMNS): question and
    answer or solution, prompt and completion, chat `messages` (the assistant's last turn and the user's before
    it), and multiple choice (`options`, or columns A, B, …, with the answer's index, letter or text); `columns` names
    them otherwise, like {"question": "ask"}. A row without an answer has an empty `solution`; `answers` asks for
    some. What was left out is logged, and added to `notes`.

    >>> read([("What is 2 + 2?", "4"), ("What is 3 + 4?", "7")], domain="sums")[1].solution
    '7'
    >>> read([{"question": "Which is a metal?", "choices": ["iron", "air"], "answer": "A"}], domain="x")[0].answer
    'iron'
    >>> read([{"ask": "Why?", "say": "Because."}], domain="x")
    Traceback (most recent call last):
    ValueError: the list: no column for the question; it has ask, say (name it, like question=ask)

    Raises ValueError, in one line, for an empty source, a missing column, a file that is not UTF-8 or not what its
    name says (with the line), and a column of mixed types or of something that is no text.
    """
    if isinstance(source, str) and source in CORPORA:
        return [replace(e, domain=domain) for e in data.load(source, seed, limit)]
    name = named(source)
    kept, total = sources.sample(sources.rows(source, name), limit, seed)
    if not kept:
        raise ValueError(f"{name} is empty: it needs rows with a question and an answer")
    if total > limit:
        note(f"{name}: {limit} of its {total} rows are used, a sample.", notes)
    rows = [(n, sources.parsed(raw, f"{name}, row {n}")) for n, raw in kept]
    chosen = _columns(list(dict.fromkeys(c for _, row in rows for c in row)), columns or {}, name, answers)
    for column in {c for c in chosen.values() if c}:
        _one_type(rows, column, name)
    found = {}
    for n, row in rows:
        if (example := _example(row, chosen, domain, f"{name}, row {n}")) is not None:
            found.setdefault(key(example), example)
    if not found:
        raise ValueError(f"{name}: every question in column {chosen['question'] or chosen['messages']!r} is empty")
    if len(found) < len(rows):
        note(f"{name}: {len(rows) - len(found)} of {len(rows)} rows left out, empty or asked twice.", notes)
    return list(found.values())


def read_domains(
    source, columns: Mapping[str, str] | None = None, notes: list[str] | None = None
) -> dict[str, list[Example]]:
    """Domain -> examples: {name: source}, or corpora (all their domains) and files (each named by its stem)."""
    if isinstance(source, Mapping):
        parts = [(str(name), part) for name, part in source.items()]
    else:
        listed = [source] if isinstance(source, str | Path) else source
        if not isinstance(listed, Sequence) or not all(isinstance(part, str | Path) for part in listed):
            raise ValueError("domains: give a corpus name, {name: source}, or a list of files")
        parts = [("" if part in CORPORA else Path(part).stem, part) for part in listed]
    if not parts:
        raise ValueError("domains is empty: name at least one")
    found = {}
    for name, part in parts:
        own = {name: part} if name else by_domain(data.load(part))
        if twice := own.keys() & found.keys():
            raise ValueError(f"two domains are named {min(twice)!r}: rename one, or give {{name: file}}")
        found |= {name: read(part, domain=name, columns=columns, notes=notes)} if name else own
    return found


def named(source) -> str:
    """What messages call a source: a file or corpus by its name, anything else by its type."""
    return str(source) if isinstance(source, str | Path) else f"the {type(source).__name__}"


def note(said: str, notes: list[str] | None) -> None:
    """Log what was left out, and keep it for the report."""
    log.warning(said)
    if notes is not None:
        notes.append(said)


def normal(question: str) -> str:
    """A question as it is compared with others: without case and spacing."""
    return " ".join(question.split()).casefold()


def key(example: Example) -> str:
    """What tells a question from others: "Which of these is true?" is another one with other options."""
    return normal("\n".join((example.question, *example.options)))


# --- columns -----------------------------------------------------------------------------------


def _columns(has: list[str], named: Mapping[str, str], name: str, answers: bool) -> dict[str, str | None]:
    """What a column is for -> the one of the columns `has` that is; None where there is none."""
    if unknown := [role for role in named if role not in COLUMNS]:
        raise ValueError(f"columns names {unknown[0]!r}: choose from {', '.join(COLUMNS)}")
    if absent := [c for c in named.values() if c not in has]:
        raise ValueError(f"{name}: no column {absent[0]!r}{nearest(absent[0], has)}; it has {', '.join(has)}")
    found = {role: named.get(role) or next((c for c in known if c in has), None) for role, known in COLUMNS.items()}
    if found["messages"] and not named.get("question") and not (found["solution"] or found["answer"]):
        found["question"] = None  # a `prompt` beside chat turns, which have the answers
    missing = [] if found["messages"] else [role for role in ("question", "solution") if found[role] is None]
    if "question" in missing or (answers and "solution" in missing and found["answer"] is None):
        near = next((hint for known in COLUMNS[missing[0]] if (hint := nearest(known, has))), "")
        raise ValueError(
            f"{name}: no column for the {missing[0]}{near}; it has {', '.join(has)} "
            f"(name it, like {missing[0]}={has[0]})"
        )
    return found


def _one_type(rows: Sequence[tuple[int, Mapping]], column: str, name: str) -> None:
    """Raises ValueError where a column holds text in one row and something else in another."""
    first = None
    for n, row in rows:
        if (kind := _kind(row.get(column))) is None:
            continue
        first = first or (n, kind)
        if kind != first[1]:
            raise ValueError(
                f"{name}: column {column!r} holds {first[1]} in row {first[0]} and {kind} in row {n}: make it one type"
            )


def _kind(value) -> str | None:
    if value is None:
        return None
    kinds = {"text": str, "bytes": bytes, "a number": int | float, "columns": Mapping, "a list": Sequence}
    return next((kind for kind, types in kinds.items() if isinstance(value, types)), type(value).__name__)


USER, ASSISTANT = ("user", "human"), ("assistant", "gpt", "model")


def _content(value, where: str, said: Sequence[str] = ()) -> str:
    """A cell as text; of a list of chat turns the last one that one of `said` has."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if all(map(sources.is_turn, value)):
            return next((text for who, text in reversed(_turns(value, where)) if who in said), "")
        if all(isinstance(part, Mapping) and "type" in part for part in value):  # of one turn; images are left out
            return "".join(str(part.get("text") or "") for part in value).strip()
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"{where} holds {_kind(value)} where text belongs: make it text")
    return "" if value is None else str(value).strip()


def _turns(cell, where: str) -> list[tuple[str, str]]:
    """(who, text) of chat turns, given as a list or its JSON."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except json.JSONDecodeError:
            cell = None
    if not isinstance(cell, Sequence) or not all(map(sources.is_turn, cell)):
        raise ValueError(f'{where}: the chat is not a list of turns like {{"role": "user", "content": "…"}}')
    return [(t.get("role", t.get("from")), _content(t.get("content", t.get("value")), where)) for t in cell]


def _dialogue(cell, where: str) -> tuple[str, str]:
    """(the user's turn before it, the assistant's last turn) of a chat; without the latter the user's last turn."""
    turns = _turns(cell, where)
    last = next((i for i in reversed(range(len(turns))) if turns[i][0] in ASSISTANT and turns[i][1]), len(turns))
    question = next((text for who, text in reversed(turns[:last]) if who in USER and text), "")
    return question, turns[last][1] if last < len(turns) else ""


def _example(row: Mapping, of: Mapping[str, str | None], domain: str, where: str) -> Example | None:
    """One row as an Example; None where its question is empty."""
    cells = {role: row.get(column) for role, column in of.items() if column}
    if of["messages"] and not of["question"]:
        question, solution = _dialogue(cells["messages"] or (), where)
    else:
        question = _content(cells["question"], f"{where}: column {of['question']!r}", USER)
        solution = _content(cells.get("solution"), f"{where}: column {of['solution']!r}", ASSISTANT)
        if of["question"] == "instruction" and row.get("input"):  # Alpaca's second half of the question
            question = f"{question}\n{_content(row['input'], where)}".strip()
    if not question:
        return None
    options, labels = _options(cells.get("options"), row, where)
    answer = _content(cells.get("answer"), f"{where}: column {of['answer']!r}", ASSISTANT)
    if options and answer:
        chosen = _choice(cells["answer"], options, labels, where)
        answer, solution = options[chosen], solution or f"The answer is ({LETTERS[chosen]})."
    solution = solution or answer
    try:
        name = hashlib.sha256(f"{question}\n{solution}".encode()).hexdigest()[:16]
    except UnicodeEncodeError as error:
        raise ValueError(f"{where} holds {error.object[error.start]!a}, half of a character: remove it") from None
    return Example(question, solution, answer or solution, domain, name, options=options, instruction="")


def _options(cell, row: Mapping, where: str) -> tuple[tuple[str, ...], list[str]]:
    """Option texts of a row and what the answer may call them: of a list (or its JSON), ARC's {"text": …, "label": …},
    {"A": text}, or columns A, B, …; empty for none."""
    if isinstance(cell, str) and cell.strip():
        try:
            cell = json.loads(cell)
        except json.JSONDecodeError:
            raise ValueError(f'{where}: the options are not a list like ["one", "two"]: {cell[:40]!r}') from None
    labels = list(LETTERS)
    if isinstance(cell, Mapping):
        labels = list(map(str, cell.get("label", LETTERS) if "text" in cell else cell))
        cell = cell["text"] if "text" in cell else list(cell.values())
    if cell is not None and (isinstance(cell, str) or not isinstance(cell, Iterable)):
        raise ValueError(f'{where}: the options are not a list like ["one", "two"]: {str(cell)[:40]!r}')
    if not cell:
        cell = [row[letter] for letter in itertools.takewhile(row.__contains__, LETTERS)]
        while cell and cell[-1] in (None, ""):
            cell.pop()
        if len(cell) < 2:
            return (), []
        if None in cell or "" in cell:
            raise ValueError(f"{where}: an option before {LETTERS[len(cell) - 1]} is empty: fill it in")
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
    raise ValueError(f"{where}: answer {text!r} is no index, letter or text of the {len(options)} options")
