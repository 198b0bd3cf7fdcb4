"""People's own data: a file, a `datasets.Dataset`, a list or a corpus as list[Example]."""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path

from sts_utils import corpora
from sts_utils.examples import Example, by_domain
from sts_utils.prediction import columns as cells
from sts_utils.prediction.rows import parsed, rows, sample

warn = logging.getLogger(__name__).warning

Columns = Mapping[str, str] | None
#: Rows kept of a source: a seeded sample of it, so that memory does not grow with the file.
LIMIT = 5000


def one_line(function: Callable) -> Callable:
    """The function with each ValueError in one line, whatever people's columns are called."""

    @wraps(function)
    def run(*args, **more):
        try:
            return function(*args, **more)
        except ValueError as error:
            raise ValueError(" ".join(str(error).split())) from None

    return run


@one_line
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
        whole = corpora.load(source, seed)
        if len(whole) > limit:
            note(f"{source}: {limit} of its {len(whole)} examples are used, a sample.")
        return [replace(e, domain=domain) for e in whole[:limit]]
    name = name_of(source)
    kept, total = sample(rows(source, name), limit, seed)
    table = {n: parsed(raw, f"{name}, row {n}") for n, raw in kept}
    has = list(dict.fromkeys(column for row in table.values() for column in row))
    if not has:
        raise ValueError(f"{name} is empty: it needs rows with a question and an answer")
    if total > limit:
        note(f"{name}: {limit} of its {total} rows are used, a sample.")
    of = cells.choose(has, columns or {}, name, answers)
    for column in filter(None, of.values()):
        cells.check_type(table, column, name)
    examples = {}
    for n, row in table.items():
        try:
            example = cells.example(row, of, domain)
        except UnicodeEncodeError as error:
            half = f"{error.object[error.start]!a}, half of a character: remove it"
            raise ValueError(f"{name}, row {n} holds {half}") from None
        except ValueError as error:
            raise ValueError(f"{name}, row {n}: {error}") from None
        if example and not getattr(examples.get(key(example)), "solution", ""):
            examples[key(example)] = example
    if not examples:
        asked = of["question"] or of["messages"]
        raise ValueError(f"{name}: every question in column {asked!r} is empty")
    if left := len(table) - len(examples):
        why = "empty, asked twice or with its gold option twice"
        note(f"{name}: {left} of {len(table)} rows left out, {why}.")
    return list(examples.values())


def read_training(source, columns: Columns, note=warn) -> list[Example]:
    """The examples of a training set that have an answer."""
    examples = read(source, domain="train", columns=columns, answers=True, note=note)
    worked = [e for e in examples if e.solution]
    if not worked:
        raise ValueError(f"training set {name_of(source)}: no row has an answer to learn from")
    if left := len(examples) - len(worked):
        note(f"{left} of {len(examples)} training rows have no answer: left out.")
    return worked


def read_domains(source, columns: Columns = None, note=warn) -> dict[str, list[Example]]:
    """Domain -> examples, of {name: source}, or of corpora (all their domains) and files (a domain
    named by its stem)."""
    if isinstance(source, Mapping):
        parts = [(str(name), part) for name, part in source.items()]
        if not all(name.strip() for name, _ in parts):
            raise ValueError("a domain has no name: give {name: source}, or name=file")
    else:
        parts = [(None if p in corpora.names() else Path(p).stem, p) for p in _listed(source)]
    domains = {}
    for name, part in parts:
        if name is None:
            own = by_domain(corpora.load(part))
        else:
            own = {name: read(part, domain=name, columns=columns, note=note)}
        if twice := own.keys() & domains.keys():
            raise ValueError(f"two domains are named {min(twice)!r}: give {{name: source}}")
        domains |= own
    if not domains:
        raise ValueError("domains is empty: name at least one")
    return domains


def read_evaluation(
    domains, demonstrations, columns: Columns, training: Sequence[Example], note=warn
) -> tuple[dict[str, list[Example]], dict[str, list[Example]]]:
    """(domain -> questions, domain -> worked examples), none of which the training set asks too.

    `demonstrations`: where worked examples are; if None the domains themselves, or the corpus that
    belongs to theirs; and if "none" there are none.
    """
    asked = read_domains(domains, columns, note)
    if demonstrations == "none":
        worked = {}
    elif demonstrations is not None:
        worked = read_domains(demonstrations, columns, note)
    else:
        worked, paths = dict(asked), () if isinstance(domains, Mapping) else _listed(domains)
        for entry in (corpora.entry(path) for path in paths if path in corpora.names()):
            if entry.demonstrations:
                worked |= by_domain(corpora.load(entry.demonstrations))
    known, both = _asked_by(training), (asked, worked)
    if left := {key(e) for of in both for group in of.values() for e in group if known(e)}:
        note(f"{len(left)} questions of the domains are in the training set too and were left out.")
    asked, worked = ({d: [e for e in of[d] if not known(e)] for d in of} for of in both)
    if worked:
        worked = {d: [e for e in worked.get(d, ()) if e.solution] for d in asked}
    for d in asked:
        if not asked[d]:
            raise ValueError(f"domain {d!r} has no question that the training set lacks: add some")
        if worked and not worked[d]:
            needs = "which STS_ICL needs: give demonstrations with answers, or 'none'"
            raise ValueError(f"domain {d!r} has no worked examples, {needs}")
    return asked, worked


def name_of(source) -> str:
    """What messages call a source: a file or corpus by its name, anything else by its type."""
    return str(source) if isinstance(source, str | Path) else f"the {type(source).__name__}"


def _listed(source) -> Sequence[str | Path]:
    """Corpora and files as a list of them, also where it is one alone."""
    paths = [source] if isinstance(source, str | Path) else source
    if not isinstance(paths, Sequence) or not all(isinstance(p, str | Path) for p in paths):
        raise ValueError("domains: give a corpus name, {name: source}, or a list of files")
    return paths


def drawn(examples: Sequence[Example], most: int, seed: int = 0) -> list[Example]:
    """At most so many of the examples, drawn by the seed."""
    return random.Random(seed).sample(list(examples), min(most, len(examples)))


def key(example: Example) -> str:
    """What tells a question from others, whatever its case and spacing; with other options it is
    another one."""
    return " ".join("\n".join((example.question, *example.options)).split()).casefold()


def _asked_by(training: Sequence[Example]) -> Callable[[Example], bool]:
    """Whether a training set asks a question too; options tell apart two that both have some."""
    same = {key(e) for e in training}
    bare = {key(replace(e, options=())) for e in training}
    return lambda e: key(e) in same or key(replace(e, options=())) in (same if e.options else bare)
