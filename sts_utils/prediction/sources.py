"""People's own data: a file, a `datasets.Dataset`, a list or a corpus as list[Example]."""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, takewhile
from pathlib import Path
from string import ascii_uppercase as LETTERS

import pandas as pd
import pyarrow as pa
import yaml
from datasets import Dataset
from pyarrow.parquet import ParquetFile

from sts_utils import corpora, store
from sts_utils.examples import Example, by_domain

#: What a column is for -> the names it is recognised by, the first that is there.
COLUMNS = yaml.safe_load((store.DATA / "columns.yaml").read_text(encoding="utf-8"))
USER, ASSISTANT = ("user", "human"), ("assistant", "gpt", "model")
#: Rows kept of a source: a seeded sample of it, so that memory does not grow with the file.
LIMIT = 5000


def rows_of(source) -> Iterator:
    """Its rows, one at a time: of JSON the line, of CSV columns of text, of Arrow a scalar."""
    kind = Path(source).suffix.lower() if isinstance(source, str | Path) else ""
    if isinstance(source, Dataset) or kind == ".parquet":
        whole = ParquetFile(source).iter_batches if kind else source.with_format("arrow").iter
        for part in whole(1000):
            yield from part.to_struct_array()
    elif not isinstance(source, str | Path):
        yield from source
    elif kind == ".csv":
        for part in pd.read_csv(source, dtype=str, keep_default_na=False, chunksize=1000):
            if not isinstance(part.index, pd.RangeIndex):  # pandas would shift the columns
                raise ValueError(f"a row has more fields than the header's {part.shape[1]}")
            yield from part.to_dict("records")
    elif kind in (".jsonl", ".ndjson"):  # pandas would make a date of "2020-01-01", and 1.0 of 1
        with open(source, encoding="utf-8-sig") as lines:
            yield from lines
    else:
        raise ValueError(f"no .jsonl, .csv or .parquet file; corpora: {', '.join(corpora.TABLE)}")


def columns_of(raw) -> dict:
    """A row as columns, cells of arrays as lists and NaN as None."""
    raw = json.loads(raw.strip() or "{}") if isinstance(raw, str) else raw
    if isinstance(raw, list | tuple) and raw and _turns(raw) is not None:
        raw = {"messages": raw}
    elif isinstance(raw, list | tuple) and len(raw) == 2:
        raw = dict(zip(("question", "answer"), raw, strict=True))
    if not isinstance(raw, Mapping):
        raise ValueError(f"{str(raw)[:40]!r} is neither columns nor a (question, answer) pair")
    cells = {str(c): v.tolist() if hasattr(v, "tolist") else v for c, v in raw.items()}
    return {c: None if isinstance(v, float) and v != v else v for c, v in cells.items()}


def roles(has: Sequence[str], named: Mapping[str, str], answers: bool) -> dict[str, str | None]:
    """What a column is for -> the one of `has` that is, or None; `named` goes first."""
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
        raise ValueError(f"no column for the {lacks[0]}; it has {has}: name one, question=its_name")
    return found


def example(row: Mapping, column: Mapping[str, str | None], domain: str) -> Example | None:
    """A row as an Example (the one place for that), its columns as `roles` gave them; None if its
    question is empty or its gold option there twice. Raises ValueError for what can't be used."""
    cells = {role: row.get(name) for role, name in column.items()}
    if column["messages"] and not column["question"]:
        if (turns := _turns(cells["messages"] or ())) is None:
            raise ValueError('the chat is no list of turns like {"role": "user", "content": "…"}')
        turns = [(who, text) for who, text in turns if text]
        last = max((i for i, (who, _) in enumerate(turns) if who in ASSISTANT), default=None)
        question = ["", *(text for who, text in turns[:last] if who in USER)][-1]
        solution = "" if last is None else turns[last][1]
    else:
        question, solution = _text(cells["question"], USER), _text(cells["solution"], ASSISTANT)
        if column["question"] == "instruction":  # Alpaca has half of the question in `input`
            question = f"{question}\n{_text(row.get('input'))}".strip()
    if not question:
        return None
    answer = _text(cells["answer"], ASSISTANT)
    options, gold = _options(row, cells["options"], answer and cells["answer"], column["answer"])
    if gold is not None:
        answer = options[gold]
        if options.count(answer) > 1:
            return None  # no single gold option
        solution = solution or f"The answer is ({LETTERS[gold]})."
    solution, answer = solution or answer, answer or ("" if options else solution)
    said = "\n".join((question, solution, *options))
    name = hashlib.sha256(said.encode()).hexdigest()[:16]  # half of a character is a ValueError
    return Example(question, solution, answer, domain, name, options=options, instruction="")


def _text(cell, said: Sequence[str] = ()) -> str:
    """A cell as text; of a list of chat turns the last one that one of `said` has."""
    if isinstance(cell, str | int | float | None):
        return "" if cell is None else str(cell).strip()
    if (turns := _turns(cell)) is not None:
        return next((text for who, text in reversed(turns) if who in said), "")
    if isinstance(cell, list) and all(isinstance(x, Mapping) and "type" in x for x in cell):
        return "".join(str(part.get("text") or "") for part in cell).strip()  # no images
    raise ValueError(f"{str(cell)[:40]!r} is a {type(cell).__name__}: make it text")


def _turns(cell) -> list[tuple[str, str]] | None:
    """(who, text) of chat turns, given as a list or its JSON; None of anything else."""
    with suppress(TypeError, ValueError):
        cell = json.loads(cell)
    if not isinstance(cell, list | tuple):
        return None
    if not all(isinstance(turn, Mapping) and {"role", "from"} & turn.keys() for turn in cell):
        return None
    # where a file holds both kinds, each turn has the other's keys with null
    said = [(turn, "value" if turn.get("content") is None else "content") for turn in cell]
    return [(turn.get("role") or turn.get("from"), _text(turn.get(key))) for turn, key in said]


def _options(row: Mapping, cell, answer, column: str | None) -> tuple[tuple[str, ...], int | None]:
    """(texts, which is gold), of a list (or its JSON), {"A": text}, ARC's {"text": …, "label": …},
    or columns A, B, …; the gold one by its index from 0, its letter or its text."""
    with suppress(TypeError, ValueError):
        cell = json.loads(cell)
    labels, texts = LETTERS, cell or {c: row[c] for c in takewhile(row.__contains__, LETTERS)}
    if isinstance(texts, Mapping) and "text" in texts:
        labels, texts = texts.get("label") or LETTERS, texts["text"]
    elif isinstance(texts, Mapping):
        labels, texts = texts.keys(), texts.values()
    if isinstance(texts, str) or not all(isinstance(x, Iterable) for x in (labels, texts)):
        raise ValueError(f'the options are not a list like ["one", "two"]: {str(texts)[:40]!r}')
    texts = list(texts)
    while texts and texts[-1] in (None, ""):  # columns of the rows with most options
        texts.pop()
    if not texts or (len(texts) < 2 and not cell):
        return (), None
    labels = [str(label) for label in labels][: len(texts)]
    usable = all(isinstance(text, str | int | float) and text != "" for text in texts)
    if not usable or len(set(labels)) < len(texts):
        raise ValueError(f"options {str(texts)[:50]}: up to 26 texts, none empty, no label twice")
    texts, said = tuple(str(text).strip() for text in texts), str(answer).strip()
    index = {int(said)} if said.isdecimal() and int(said) < len(texts) else set()
    named = {texts.index(said)} if said in texts and isinstance(answer, str) else set()
    named |= {i for i, label in enumerate(labels) if label == said.strip("().")}
    found = index if column in ("answer_index", "answer_idx") and index else named or index
    if said and len(found) != 1:  # of two, one by its letter and one by text
        raise ValueError(
            f"answer {said!r} names {len(found)} of the {len(texts)} options: index it"
        )
    return texts, found.pop() if said else None


def read(source, *, domain, columns=None, answers=False, note=print) -> list[Example]:
    """At most LIMIT Examples of a corpus, a file (.jsonl, .csv, .parquet), a `datasets.Dataset`, or
    a list of (question, answer) pairs, dicts or chats: a seeded sample in their order, each once.

    Columns are recognised by name (COLUMNS), or named, like {"question": "ask"}. A row without an
    answer has no `solution`, or with `answers` is left out. Raises ValueError that names the row.
    """
    where = name = str(source) if isinstance(source, str | Path) else f"the {type(source).__name__}"
    rows, found, kept, total, rng = {}, {}, {}, 0, random.Random(0)
    if name in corpora.TABLE:
        every = corpora.load(name)
        total, rows = len(every), dict(enumerate(every[:LIMIT]))
        found = {n: replace(e, domain=domain) for n, e in rows.items()}
    else:
        try:
            for total, row in enumerate(rows_of(source), 1):
                slot = total - 1 if total <= LIMIT else rng.randrange(total)  # a reservoir sample
                if slot < LIMIT:
                    kept[slot] = total, row.as_py() if isinstance(row, pa.Scalar) else row
            for n, raw in sorted(kept.values(), key=lambda kept: kept[0]):
                where = f"{name}, row {n}"
                rows |= {n: row} if (row := columns_of(raw)) else {}
            where, has = name, list(dict.fromkeys(chain(*rows.values())))
            column = roles(has, columns or {}, answers)
            for n, row in rows.items():
                where = f"{name}, row {n}"
                e = example(row, column, domain)
                if e and not getattr(found.get(key(e)), "solution", ""):  # the first with an answer
                    found[key(e)] = e
        except (ValueError, OSError, RecursionError, pa.ArrowException) as error:
            raise ValueError(f"{where}: {str(error).splitlines()[0]}") from None
    used = [e for e in found.values() if e.solution or not answers]
    if not used:
        raise ValueError(f"{name}: no row has {'an answer' if found else 'a question'}")
    if total > LIMIT:
        note(f"{name}: {LIMIT} of its {total} rows are used, a sample.")
    if left := len(rows) - len(found):
        why = "empty, asked twice or with its gold option twice"
        note(f"{name}: {left} of {len(rows)} rows left out, {why}.")
    if left := len(found) - len(used):
        note(f"{left} of {len(found)} training rows have no answer: left out.")
    return used


def read_domains(source, columns=None, note=print) -> dict[str, list[Example]]:
    """Domain -> examples, of {name: source}, or of corpora (all their domains) and files."""
    domains = []
    for name in [source] if isinstance(source, str | Path) else source:
        own = source[name] if isinstance(source, Mapping) else None
        if own is None and name in corpora.TABLE:
            domains += by_domain(corpora.load(name)).items()
        else:
            domain = Path(name).stem if own is None else str(name)
            own = read(name if own is None else own, domain=domain, columns=columns, note=note)
            domains.append((domain, own))
    names = [domain for domain, _ in domains]
    if twice := [d for d in names if names.count(d) > 1 or not d.strip()]:
        raise ValueError(f"domain {twice[0]!r} is there twice or has no name")
    return dict(domains)


def read_evaluation(domains, demonstrations, columns, training: Sequence[Example], note):
    """(domain -> questions, domain -> worked examples), none of which the training set asks. The
    latter: of `demonstrations`; if None of the domains, or their corpora's own; or "none"."""
    asked = worked = read_domains(domains, columns, note)
    if demonstrations is not None:
        worked = {} if demonstrations == "none" else read_domains(demonstrations, columns, note)
    elif not isinstance(domains, Mapping):
        named = [domains] if isinstance(domains, str | Path) else domains
        shown = [corpora.entry(n).demonstrations for n in named if n in corpora.TABLE]
        worked = asked | read_domains(dict.fromkeys(filter(None, shown)).keys())
    same = {key(e) for e in training}
    bare = {key(replace(e, options=())) for e in training}

    def known(e: Example) -> bool:  # options tell apart two that both have some
        return key(e) in same or key(replace(e, options=())) in (same if e.options else bare)

    if left := {key(e) for e in chain(*asked.values(), *worked.values()) if known(e)}:
        note(f"{len(left)} questions of the domains are in the training set too and were left out.")
    asked = {d: [e for e in of if not known(e)] for d, of in asked.items()}
    shown = {d: worked.get(d, ()) for d in asked if worked}
    worked = {d: [e for e in of if e.solution and not known(e)] for d, of in shown.items()}
    if bare := [d for d in worked if not worked[d]]:
        raise ValueError(f"domain {bare[0]!r} has no worked examples: give some, or 'none'")
    return asked, worked


def drawn(examples: Sequence[Example], most: int, seed: int = 0) -> list[Example]:
    """At most so many of the examples, drawn by the seed."""
    return random.Random(seed).sample(list(examples), min(most, len(examples)))


def key(example: Example) -> str:
    """What tells a question from others, whatever its case and spacing, and its options."""
    return " ".join("\n".join((example.question, *example.options)).split()).casefold()
