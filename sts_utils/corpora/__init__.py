"""Corpora by name -> list[Example]: from packages, $STS_MIRROR or the hub (data/corpora.yaml)."""

import json
import os
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml
from pyarrow import parquet

from sts_utils.corpora import benchmarks, packaged, skills
from sts_utils.examples import MATH_INSTRUCTION, Example
from sts_utils.store import DATA, digest

#: The functions that read packages or make examples, by name.
READERS = vars(packaged) | vars(benchmarks) | vars(skills)


@dataclass(frozen=True)
class Entry:
    """A row of data/corpora.yaml, whose head says what each key means."""

    name: str
    about: str
    tokens: tuple[int, int]
    reader: str = ""
    hub: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping = field(default_factory=dict)
    id: str = ""
    domain: str = ""
    instruction: str = MATH_INSTRUCTION
    demonstrations: str = ""
    questions: Mapping[str, int] = field(default_factory=dict)


@cache
def _table() -> dict[str, Entry]:
    table = yaml.safe_load((DATA / "corpora.yaml").read_text(encoding="utf-8"))
    return {name: Entry(name, **row) for name, row in table.items()}


def names() -> tuple[str, ...]:
    """Every corpus, by the name that a profile uses."""
    return tuple(_table())


def entry(name: str) -> Entry:
    """What corpora.yaml says of a corpus. Raises ValueError, in one line, for an unknown one."""
    if name not in _table():
        raise ValueError(f"unknown corpus {name!r}: choose from {', '.join(names())}")
    return _table()[name]


def domains(name: str) -> tuple[str, ...]:
    """The domains of a corpus, in alphabetical order, from the table: nothing is read."""
    return tuple(sorted(entry(name).questions)) or (entry(name).domain,)


def load(name: str, seed: int = 0, size: int | None = None) -> list[Example]:
    """The corpus `name`, in an order that `seed` alone decides; at most `size` examples.

    Raises ValueError, in one line, for an unknown name, a missing column or an empty corpus.
    """
    examples = list(_read(name))
    random.Random(seed).shuffle(examples)
    return examples[:size]


def in_order(name: str) -> list[Example]:
    """The corpus `name` in the order of its dataset, which the numbers of its ids tell."""
    return sorted(_read(name), key=lambda e: [int(n) for n in re.findall(r"\d+", e.id)])


@cache
def content(name: str) -> str:
    """A short hash of what the corpus `name` says."""
    fields = ("id", "group", "domain", "query", "solution", "answer", "options")
    return digest([[getattr(e, field) for field in fields] for e in _read(name)])


@cache
def _read(name: str) -> tuple[Example, ...]:
    """The examples of a corpus in the order of their ids."""
    row = entry(name)
    examples = READERS[row.reader]() if row.reader else _from_columns(row)
    if not examples:
        raise ValueError(f"corpus {name!r} is empty")
    return tuple(sorted(examples, key=lambda e: e.id))


# --- datasets of the hub -------------------------------------------------------------------------


def rows(path: str, split: str, **more) -> list[dict]:
    """Rows of a dataset: ``$STS_MIRROR/<path>/<split>.parquet`` if there is one, else the hub's."""
    mirror = os.environ.get("STS_MIRROR")
    if mirror and (file := Path(mirror, path, f"{split}.parquet")).exists():
        return parquet.read_table(file).to_pylist()
    import datasets

    try:
        return datasets.load_dataset(path, split=split, **more).to_list()
    except Exception as error:  # the hub client raises a dozen unrelated types
        first, *_ = str(error).split("\n")
        raise ValueError(f"dataset {path!r} ({split}): {first}") from None


def _from_columns(row: Entry) -> list[Example]:
    """The rows of which every column of the entry can be made, without those whose gold option
    stands twice."""
    made = []
    for number, cells in enumerate(rows(**row.hub)):
        values = {key: _value(cells, column, row.name) for key, column in row.columns.items()}
        if None in values.values():
            continue
        listed = [option.strip() for option in values.get("options", ())]
        answer = listed[int(values["answer_index"])] if listed else values.get("answer", "")
        options = tuple(option for option in listed if option != "N/A")
        if options.count(answer) > 1:
            continue
        question, solution = values["question"].strip(), values.get("solution", "")
        domain, name = values.get("domain", row.domain), row.id.format_map(cells | {"row": number})
        fields = question, solution, str(answer), domain, name
        made.append(Example(*fields, options=options, instruction=row.instruction))
    return made


def _value(cells: Mapping, column: str | Mapping, corpus: str):
    """The cell of a column, or what {transform: column(s)} makes of theirs; None leaves the row
    out. A column that ends in ? may be missing."""
    if isinstance(column, str):
        transform, columns = None, [column]
    else:
        ((transform, columns),) = column.items()
        columns = [columns] if isinstance(columns, str) else columns
    if absent := [c for c in columns if not c.endswith("?") and cells.get(c) is None]:
        has = ", ".join(cells)
        raise ValueError(f"corpus {corpus!r} has a row without column {absent[0]!r} (has {has})")
    values = [cells.get(c.removesuffix("?")) for c in columns]
    return TRANSFORMS[transform](*values) if transform else values[0]


def last_boxed(solution: str) -> str | None:
    """What stands in the last \\boxed{...} of a solution, braces matched; None without one."""
    _, mark, text = solution.rpartition("\\boxed{")
    depth = 1
    for end, sign in enumerate(text if mark else ""):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth == 0:
            return text[:end] or None
    return None


def python_block(code: str | None) -> str:
    """Code in a fence, unless it stands in one."""
    code = (code or "").strip()
    return code if code.startswith("```") else f"```python\n{code}\n```"


def reasoned(details: Mapping | str | None, answer: str) -> str:
    """The reasoning that a row's metadata hold (perhaps as JSON), then the answer."""
    details = json.loads(details) if isinstance(details, str) and details else details or {}
    return f"{(details.get('reasoning') or '').strip()}\n{answer.strip()}".strip()


TRANSFORMS = {
    "boxed": last_boxed,
    "gsm_answer": lambda chain: chain.split("####")[-1].strip(),
    "gsm_chain": lambda chain: packaged.boxed(chain, chain.split("####")[-1].strip()),
    "mmlu_category": lambda subject: packaged.mmlu_categories().get(subject),
    "python_block": python_block,
    "reasoned": reasoned,
    "code": lambda code: (code or "").strip() or None,
    "stripped": str.strip,
    "worked": lambda chain: (chain or "").removeprefix("A: ").strip(),
}
