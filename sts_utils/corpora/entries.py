"""The table of corpora, data/corpora.yaml, as values; its head says what each key means."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import yaml

from sts_utils.examples import MATH_INSTRUCTION
from sts_utils.store import DATA


@dataclass(frozen=True)
class Entry:
    """A row of the table."""

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
def entries() -> dict[str, Entry]:
    """Every corpus by its name, in the table's order."""
    rows = yaml.safe_load((DATA / "corpora.yaml").read_text(encoding="utf-8"))
    return {name: Entry(name, **row) for name, row in rows.items()}
