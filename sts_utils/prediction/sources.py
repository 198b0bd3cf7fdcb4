"""People's own data: a file, a `datasets.Dataset`, a list or a corpus as list[Example]."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sts_utils import corpora
from sts_utils.examples import Example, by_domain
from sts_utils.prediction import columns as cells
from sts_utils.prediction.rows import parsed, rows, sample

warn = logging.getLogger(__name__).warning

Columns = Mapping[str, str] | None
#: Rows kept of a source: a seeded sample of it, so that memory does not grow with the file.
LIMIT = 5000


def read(
    source, *, domain: str, columns: Columns = None, answers=False, limit=LIMIT, seed=0, note=warn
) -> list[Example]:
    """At most `limit` examples of `source`, a seeded sample in the order of its rows, each once.

    `source` is a corpus name, a JSON-lines, CSV or parquet file, a `datasets.Dataset` (streaming
    too), or a list of (question, answer) pairs or dicts. Columns are recognised by name
    (columns.COLUMNS), or named, like {"question": "ask"}; chats give the assistant's last turn and
    the user's before it; an answer to options is their index, letter or text. A row without an
    answer has an empty `solution`; `answers` asks for some. `note` is told what was left out.

    >>> read([("What is 2 + 2?", "4"), ("What is 3 + 4?", "7")], domain="sums")[1].solution
    '7'
    >>> metal = {"question": "Which is a metal?", "choices": ["iron", "air"], "answer": "A"}
    >>> read([metal], domain="x")[0].answer
    'iron'
    >>> read([{"ask": "Why?", "say": "Because."}], domain="x")
    Traceback (most recent call last):
    ValueError: the list: no column for the question; it has ask, say (name it, like question=ask)

    Raises ValueError, in one line, for an empty source, a missing column, a file that is not UTF-8
    or not what its name says (with the line), and a column of mixed types or of no text.
    """
    if isinstance(source, str) and source in corpora.names():
        return [replace(e, domain=domain) for e in corpora.load(source, seed, limit)]
    name = name_of(source)
    kept, total = sample(rows(source, name), limit, seed)
    if not kept:
        raise ValueError(f"{name} is empty: it needs rows with a question and an answer")
    if total > limit:
        note(f"{name}: {limit} of its {total} rows are used, a sample.")
    numbered = [(n, parsed(raw, f"{name}, row {n}")) for n, raw in kept]
    has = list(dict.fromkeys(column for _, row in numbered for column in row))
    of = cells.choose(has, columns or {}, name, answers)
    for column in {c for c in of.values() if c}:
        cells.check_type(numbered, column, name)
    examples = {}
    for n, row in numbered:
        if example := cells.example(row, of, domain, f"{name}, row {n}"):
            examples.setdefault(key(example), example)
    if not examples:
        asked = of["question"] or of["messages"]
        raise ValueError(f"{name}: every question in column {asked!r} is empty")
    if left := len(numbered) - len(examples):
        note(f"{name}: {left} of {len(numbered)} rows left out, empty or asked twice.")
    return list(examples.values())


def read_training(source, columns: Columns, note=warn) -> list[Example]:
    """The examples of a training set that have an answer."""
    examples = read(source, domain="train", columns=columns, answers=True, note=note)
    worked = [e for e in examples if e.solution]
    if not worked:
        why = "no row has an answer; predict compares with and without answers"
        raise ValueError(f"training set {name_of(source)}: {why}")
    if left := len(examples) - len(worked):
        note(f"{left} of {len(examples)} training rows have no answer: left out.")
    return worked


def read_domains(source, columns: Columns = None, note=warn) -> dict[str, list[Example]]:
    """Domain -> examples, of {name: source}, or of corpora (all their domains) and files (a domain
    named by its stem)."""
    if isinstance(source, Mapping):
        parts = [(str(name), part) for name, part in source.items()]
    else:
        paths = listed(source)
        if not isinstance(paths, Sequence) or not all(isinstance(p, str | Path) for p in paths):
            raise ValueError("domains: give a corpus name, {name: source}, or a list of files")
        parts = [("" if p in corpora.names() else Path(p).stem, p) for p in paths]
    if not parts:
        raise ValueError("domains is empty: name at least one")
    domains = {}
    for name, part in parts:
        own = {name: part} if name else by_domain(corpora.load(part))
        if twice := own.keys() & domains.keys():
            mend = "rename one, or give {name: file}"
            raise ValueError(f"two domains are named {min(twice)!r}: {mend}")
        domains |= {name: read(part, domain=name, columns=columns, note=note)} if name else own
    return domains


def read_evaluation(
    domains, demonstrations, columns: Columns, training: Sequence[Example], note=warn
) -> tuple[dict[str, list[Example]], dict[str, list[Example]]]:
    """(domain -> questions, domain -> worked examples), none of which the training set asks too.

    `demonstrations`: where worked examples are; the domains themselves, or the corpus that belongs
    to theirs, if None; and if "none" there are none.
    """
    asked = read_domains(domains, columns, note)
    if demonstrations is None and not isinstance(domains, Mapping):
        known = [name for name in listed(domains) if name in corpora.names()]
        partners = {name: corpora.entry(name).demonstrations for name in known}
        if any(partners.values()):
            demonstrations = [partners.get(name) or name for name in listed(domains)]
    worked = asked if demonstrations is None else {}
    if demonstrations not in (None, "none"):
        worked = read_domains(demonstrations, columns)
    known, left = _asked_by(training), 0
    for of in (asked, worked):
        for d in of:
            kept = [e for e in of[d] if not known(e)]
            left += len(of[d]) - len(kept)
            of[d] = kept
    if left:
        note(f"{left} questions of the domains are in the training set too and were left out.")
    if worked:
        worked = {d: [e for e in worked.get(d, ()) if e.solution] for d in asked}
    for d, examples in asked.items():
        if not examples:
            has = "has no question that the training set does not have"
            raise ValueError(f"domain {d!r} {has}: give others")
        if worked and not worked[d]:
            raise ValueError(
                f"domain {d!r} has no worked examples, which STS_ICL needs: give demonstrations="
                f"{{{d!r}: …}} with answers, or demonstrations='none' to leave STS_ICL out"
            )
    return asked, worked


def listed(source) -> Sequence:
    """One source as a list of it, a list as it is."""
    return [source] if isinstance(source, str | Path) else source


def name_of(source) -> str:
    """What messages call a source: a file or corpus by its name, anything else by its type."""
    return str(source) if isinstance(source, str | Path) else f"the {type(source).__name__}"


# --- the same question -------------------------------------------------------------------------


def key(example: Example) -> str:
    """What tells a question from others; with other options it is another one."""
    return _normal("\n".join((example.question, *example.options)))


def _normal(question: str) -> str:
    return " ".join(question.split()).casefold()  # without case and spacing


def _asked_by(training: Sequence[Example]) -> Callable[[Example], bool]:
    """Whether a training set asks a question too; options tell apart two that both have some."""
    same = {key(e) for e in training}
    every = {_normal(e.question) for e in training}
    bare = {_normal(e.question) for e in training if not e.options}
    return lambda e: key(e) in same or _normal(e.question) in (bare if e.options else every)
