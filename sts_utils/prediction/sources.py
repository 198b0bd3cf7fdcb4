"""People's own data: a file, a `datasets.Dataset`, a list or a corpus as list[Example]."""

import contextlib
import hashlib
import io
import itertools
import json
import logging
import random
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os.path import isfile
from pathlib import Path
from string import ascii_uppercase as LETTERS

import pandas as pd
from datasets import Dataset, Features, Value

from sts_utils import corpora
from sts_utils.examples import Example, by_domain

warn = logging.getLogger(__name__).warning
logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)  # what it says is raised

#: What a column is for -> the names it is recognised by, the first that is there.
COLUMNS = {
    "question": ["question", "prompt", "query", "problem", "instruction", "input"],
    "solution": ["solution", "cot", "cot_content", "rationale", "completion", "response", "output"],
    "answer": ["answer", "answer_index", "answer_idx", "answerKey", "label", "target"],
    "options": ["options", "choices"],
    "messages": ["messages", "conversations"],
}
USER, ASSISTANT = ("user", "human"), ("assistant", "gpt", "model")
#: Rows kept of a source: a seeded sample of it, so that memory does not grow with the file.
LIMIT = 5000
#: The column of a line of JSON that is not parsed yet: no file has one of that name.
LINE = "\n"

# --- a source -> its rows --------------------------------------------------------------------


def rows_of(source, name: str, limit: int, seed: int) -> tuple[dict[int, dict], int]:
    """(number from 1 -> columns of at most `limit` rows, in order; how many rows there are)."""
    kept, total, rng, table = {}, 0, random.Random(seed), {}
    with tempfile.TemporaryDirectory() as scratch:
        rows = _file(Path(source), scratch) if isinstance(source, str | Path) else source
        whole = isinstance(rows, Dataset)
        for total, row in enumerate(range(len(rows)) if whole else rows, 1):
            slot = total - 1 if total <= limit else rng.randrange(total)  # a reservoir sample
            if slot < limit:
                kept[slot] = total, row
        kept = dict(sorted(kept.values(), key=lambda numbered: numbered[0]))
        if whole and kept:
            kept = dict(zip(kept, rows.select(list(kept.values())), strict=True))
    for n, row in kept.items():
        try:
            table[n] = _columns(row)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name}, row {n}: {error}") from None
    return {n: row for n, row in table.items() if row}, total


def _file(path: Path, scratch: str) -> Dataset:
    """A file's rows: JSON as lines of text, CSV as columns of text, parquet as it is typed."""
    kind, text = path.suffix.lower(), Value("string")
    if kind not in (".jsonl", ".ndjson", ".csv", ".parquet") or not isfile(path):
        known = ", ".join(corpora.names())
        raise ValueError(f"{path} is no .jsonl, .csv or .parquet file, and no corpus: {known}")
    (link := Path(scratch) / f"data{kind}").symlink_to(path.absolute())  # "[1]" is no pattern here
    read = {"path_or_paths": str(link), "cache_dir": scratch}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            if kind == ".parquet":
                return Dataset.from_parquet(**read)
            if kind != ".csv":  # the JSON reader makes a date of "2020-01-01", and 1.0 of 1
                line = Features({LINE: text})
                return Dataset.from_text(**read, features=line, encoding="utf-8-sig")
            head = pd.read_csv(link, dtype=str, nrows=1)
            if not isinstance(head.index, pd.RangeIndex):  # pandas would shift the columns
                raise ValueError(f"row 1 has more fields than the header's {head.shape[1]}")
            columns = Features({column: text for column in head})
            return Dataset.from_csv(**read, features=columns, keep_default_na=False)
    except Exception as error:  # of a dozen types, in one of datasets'
        while error.__cause__:
            error = error.__cause__
        if "corresponds to no data" in str(error):
            return Dataset.from_list([])
        raise ValueError(f"{path} can't be read: {str(error).splitlines()[0]}") from None


def _columns(raw) -> dict:
    """A row as columns, cells of arrays as lists and NaN as None."""
    if isinstance(raw, Mapping) and LINE in raw:
        raw = json.loads(raw[LINE].strip() or "{}")
    if isinstance(raw, list | tuple) and raw and all(map(_is_turn, raw)):
        raw = {"messages": raw}
    elif isinstance(raw, list | tuple) and len(raw) == 2:
        raw = dict(zip(("question", "answer"), raw, strict=True))
    if not isinstance(raw, Mapping):
        raise ValueError(f"{str(raw)[:40]!r} is neither columns nor a (question, answer) pair")
    cells = {str(c): v.tolist() if hasattr(v, "tolist") else v for c, v in raw.items()}
    return {c: None if isinstance(v, float) and v != v else v for c, v in cells.items()}


# --- a row -> an Example ---------------------------------------------------------------------


def roles(has: Sequence[str], named: Mapping[str, str], answers: bool) -> dict[str, str | None]:
    """What a column is for -> the one of the columns `has` that is, or None; `named` goes first.

    Raises ValueError where there is no question, or, if `answers` are asked for, no solution.
    """
    found = {role: next((c for c in known if c in has), None) for role, known in COLUMNS.items()}
    lacks = [f"{role}, {c!r}" for role, c in named.items() if role not in COLUMNS or c not in has]
    found |= named
    answered = found["solution"] or found["answer"]
    if found["messages"]:
        own = answered and found["answer"] not in ("label", "target")  # of a chat, mostly a grade
        if "question" not in named and ("messages" in named or not own):
            found["question"] = None  # a `prompt` beside chat turns, which have the answers
    elif not found["question"] or (answers and not answered):
        lacks.append("solution" if found["question"] else "question")
    if lacks:
        mend = f"name one of {', '.join(COLUMNS)}, like question=its_name"
        raise ValueError(
            f"no column for the {lacks[0]}; it has {', '.join(map(repr, has))}: {mend}"
        )
    return found


def example(row: Mapping, column: Mapping[str, str | None], domain: str) -> Example | None:
    """One row as an Example, its columns as `roles` gave them; None if its question is empty or
    its gold option there twice. Raises ValueError for a cell that can't be used."""
    if column["messages"] and not column["question"]:
        question, solution = _last_turns(row.get(column["messages"]) or ())
    else:
        question = _text(row, column["question"], USER)
        solution = _text(row, column["solution"], ASSISTANT)
        if column["question"] == "instruction":  # Alpaca has half of the question in `input`
            question = f"{question}\n{_text(row, 'input')}".strip()
    if not question:
        return None
    options, answer = _options(row, column["options"]), _text(row, column["answer"], ASSISTANT)
    texts = tuple(options.values())
    if options and answer:
        chosen = _choice(row[column["answer"]], options, column["answer"])
        answer = texts[chosen]
        if texts.count(answer) > 1:
            return None  # no single gold option
        solution = solution or f"The answer is ({LETTERS[chosen]})."
    solution, answer = solution or answer, answer or ("" if options else solution)
    said = "\n".join((question, solution, *texts))
    name = hashlib.sha256(said.encode()).hexdigest()[:16]  # half of a character is a ValueError
    return Example(question, solution, answer, domain, name, options=texts, instruction="")


def _text(row: Mapping, column: str | None, said: Sequence[str] = ()) -> str:
    """A cell as text; of a list of chat turns the last one that one of `said` has."""
    value = row.get(column)
    if isinstance(value, list | tuple) and all(map(_is_turn, value)):
        return next((text for who, text in reversed(_turns(value)) if who in said), "")
    if isinstance(value, list) and all(isinstance(x, Mapping) and "type" in x for x in value):
        return "".join(str(part.get("text") or "") for part in value).strip()  # no images
    if not isinstance(value, str | int | float | None):
        raise ValueError(f"column {column!r} holds a {type(value).__name__}: make it text")
    return "" if value is None else str(value).strip()


def _loaded(cell):
    """What a cell of JSON holds; any other as it is."""
    with contextlib.suppress(TypeError, ValueError):
        return json.loads(cell)
    return cell


def _is_turn(value) -> bool:
    return isinstance(value, Mapping) and bool({"role", "from"} & value.keys())


def _turns(cell) -> list[tuple[str, str]]:
    """(who, text) of chat turns, given as a list or its JSON."""
    cell = _loaded(cell)
    if not isinstance(cell, Sequence) or not all(map(_is_turn, cell)):
        raise ValueError('the chat is not a list of turns like {"role": "user", "content": "…"}')
    # where a file holds both kinds, each turn has the other's keys with null
    said = [(turn, "value" if turn.get("content") is None else "content") for turn in cell]
    return [(turn.get("role") or turn.get("from"), _text(turn, key)) for turn, key in said]


def _last_turns(cell) -> tuple[str, str]:
    """(the user's turn before it, the assistant's last turn), or (the user's last turn, "")."""
    turns = [(who, text) for who, text in _turns(cell) if text]
    last = max((i for i, (who, _) in enumerate(turns) if who in ASSISTANT), default=None)
    asked = ["", *(text for who, text in turns[:last] if who in USER)]
    return asked[-1], "" if last is None else turns[last][1]


def _options(row: Mapping, column: str | None) -> dict[str, str]:
    """What the answer may call an option -> its text, in order; empty where there is no choice.

    Of a list (or its JSON), ARC's {"text": …, "label": …}, {"A": text}, or columns A, B, ….
    """
    labels, texts = LETTERS, _loaded(row.get(column))
    if isinstance(texts, Mapping) and "text" in texts:
        labels, texts = texts.get("label") or LETTERS, texts["text"]
    elif isinstance(texts, Mapping):
        labels, texts = texts.keys(), texts.values()
    if isinstance(texts, str) or not all(isinstance(x, Iterable | None) for x in (labels, texts)):
        raise ValueError(f'the options are not a list like ["one", "two"]: {str(texts)[:40]!r}')
    texts = list(texts or ())
    if not (listed := bool(texts)):
        labels, texts = LETTERS, [row[c] for c in itertools.takewhile(row.__contains__, LETTERS)]
    while texts and texts[-1] in (None, ""):  # columns of the rows with most options
        texts.pop()
    if len(texts) < 2 and not listed:
        return {}
    labels = [str(label) for label in labels][: len(texts)]
    usable = all(isinstance(text, str | int | float) and text != "" for text in texts)
    if not usable or len(set(labels)) < len(texts) or len(texts) > len(LETTERS):
        mend = f"give at most {len(LETTERS)} texts, none empty, each with a label of its own"
        raise ValueError(f"options {str(texts)[:60]}: {mend}")
    return {label: str(text).strip() for label, text in zip(labels, texts, strict=True)}


def _choice(answer, options: Mapping[str, str], column: str) -> int:
    """Which option the gold answer is, given as its index from 0, its letter or its text."""
    text, labels, texts = str(answer).strip(), list(options), list(options.values())
    index = int(text) if text.isdecimal() and int(text) < len(texts) else None
    if column in ("answer_index", "answer_idx") and index is not None:
        return index
    found = {texts.index(text)} if text in texts and isinstance(answer, str) else set()
    if (label := text.strip("().")) in labels:
        found.add(labels.index(label))
    if len(found) > 1:
        raise ValueError(f"answer {text!r} is one option's letter and another's text: index it")
    if not found and index is None:
        raise ValueError(f"answer {text!r} is no index, letter or text of the {len(texts)} options")
    return found.pop() if found else index


# --- examples --------------------------------------------------------------------------------


def read(source, *, domain, columns=None, answers=False, limit=LIMIT, seed=0, note=warn) -> list:
    """At most `limit` Examples of `source`, a seeded sample in the order of its rows, each once.

    `source` is a corpus name, a JSON-lines, CSV or parquet file, a `datasets.Dataset` (streaming
    too), or a list of (question, answer) pairs or dicts. Columns are recognised by name (COLUMNS),
    or named, like {"question": "ask"}; chats give the assistant's last turn and the user's before
    it; an answer to options is their index, letter or text. A row without an answer has an empty
    `solution`, or with `answers` is left out. `note` is told what was left out.

    >>> metal = {"question": "Which is a metal?", "choices": ["iron", "air"], "answer": "A"}
    >>> read([metal], domain="x")[0].answer
    'iron'

    Raises ValueError, in one line, for an empty source, a missing column, a file that can't be
    read, and, with its row, for a cell that can't be used.
    """
    where = name = name_of(source)
    if name in corpora.names():
        made = [replace(e, domain=domain) for e in corpora.load(name, seed)]
        made, rows, total = made[:limit], made[:limit], len(made)
    else:
        (rows, total), found = rows_of(source, name, limit, seed), {}
        if not rows:
            raise ValueError(f"{name} is empty: it needs rows with a question and an answer")
        has = list(dict.fromkeys(itertools.chain.from_iterable(rows.values())))
        try:
            column = roles(has, columns or {}, answers)
            for n, row in rows.items():
                where = f"{name}, row {n}"
                e = example(row, column, domain)
                if e and not getattr(found.get(key(e)), "solution", ""):  # the first with an answer
                    found[key(e)] = e
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        made = list(found.values())
    worked = [e for e in made if e.solution]
    if not made or (answers and not worked):
        raise ValueError(
            f"{name}: no row has {'an answer to learn from' if made else 'a question'}"
        )
    if total > limit:
        note(f"{name}: {limit} of its {total} rows are used, a sample.")
    if left := len(rows) - len(made):
        why = "empty, asked twice or with its gold option twice"
        note(f"{name}: {left} of {len(rows)} rows left out, {why}.")
    if answers and (left := len(made) - len(worked)):
        note(f"{left} of {len(made)} training rows have no answer: left out.")
    return worked if answers else made


def read_domains(source, columns=None, note=warn) -> dict[str, list[Example]]:
    """Domain -> examples, of {name: source}, or of corpora (all their domains) and files (a domain
    named by its stem)."""
    domains = {}
    for name, part in source.items() if isinstance(source, Mapping) else _listed(source):
        if name is None:
            own = by_domain(corpora.load(part))
        else:
            own = {str(name): read(part, domain=str(name), columns=columns, note=note)}
        if twice := [d for d in own if d in domains or not d.strip()]:
            raise ValueError(f"domain {twice[0]!r} is there twice or has no name")
        domains |= own
    if not domains:
        raise ValueError("domains is empty: name at least one")
    return domains


def _listed(source) -> list[tuple[str | None, str | Path]]:
    """(domain, its file) or (None, a corpus of several); none of {name: source}."""
    paths = [source] if isinstance(source, str | Path) else source
    if isinstance(paths, Mapping):
        return []
    if not all(isinstance(path, str | Path) for path in paths):
        raise ValueError("domains: give a corpus name, {name: source}, or a list of files")
    return [(None if p in corpora.names() else Path(p).stem, p) for p in paths]


def read_evaluation(domains, demonstrations, columns, training: Sequence[Example], note=warn):
    """(domain -> questions, domain -> worked examples), none of which the training set asks too.

    `demonstrations`: where worked examples are; if None the domains themselves, or the corpus that
    belongs to theirs; and if "none" there are none.
    """
    asked = worked = read_domains(domains, columns, note)
    if demonstrations is not None:
        worked = {} if demonstrations == "none" else read_domains(demonstrations, columns, note)
    else:
        for entry in (corpora.entry(p) for name, p in _listed(domains) if name is None):
            if entry.demonstrations:
                worked = worked | by_domain(corpora.load(entry.demonstrations))
    known = asked_by(training)
    if left := {key(e) for e in itertools.chain(*asked.values(), *worked.values()) if known(e)}:
        note(f"{len(left)} questions of the domains are in the training set too and were left out.")
    asked = {d: [e for e in of if not known(e)] for d, of in asked.items()}
    shown = {d: worked.get(d, ()) for d in asked if worked}
    worked = {d: [e for e in of if e.solution and not known(e)] for d, of in shown.items()}
    for d in asked:
        if not asked[d]:
            raise ValueError(f"domain {d!r} has no question that the training set lacks: add some")
        if worked and not worked[d]:
            needs = "which STS_ICL needs: give demonstrations with answers, or 'none'"
            raise ValueError(f"domain {d!r} has no worked examples, {needs}")
    return asked, worked


def asked_by(training: Sequence[Example]):
    """Whether a training set asks a question too; options tell apart two that both have some."""
    same = {key(e) for e in training}
    bare = {key(replace(e, options=())) for e in training}
    return lambda e: key(e) in same or key(replace(e, options=())) in (same if e.options else bare)


def name_of(source) -> str:
    """What messages call a source: a file or corpus by its name, anything else by its type."""
    return str(source) if isinstance(source, str | Path) else f"the {type(source).__name__}"


def drawn(examples: Sequence[Example], most: int, seed: int = 0) -> list[Example]:
    """At most so many of the examples, drawn by the seed."""
    return random.Random(seed).sample(list(examples), min(most, len(examples)))


def key(example: Example) -> str:
    """What tells a question from others, whatever its case and spacing; with other options it is
    another one."""
    return " ".join("\n".join((example.question, *example.options)).split()).casefold()
