"""Corpora by name -> list[Example]: from packages, the mirror or the hub (data/corpora.yaml)."""

import random
import re
from functools import cache

from sts_utils.corpora import benchmarks, hub, packaged, skills
from sts_utils.corpora.entries import Entry, entries
from sts_utils.examples import Example, digest


def names() -> tuple[str, ...]:
    """Every corpus, by the name that a profile uses."""
    return tuple(entries())


def entry(name: str) -> Entry:
    """What corpora.yaml says of a corpus. Raises ValueError, in one line, for an unknown one."""
    if name not in entries():
        raise ValueError(f"unknown corpus {name!r}: choose from {', '.join(entries())}")
    return entries()[name]


def load(name: str, seed: int = 0, size: int | None = None) -> list[Example]:
    """The corpus `name`, in an order that `seed` alone decides; at most `size` examples.

    Raises ValueError, in one line, for an unknown name, a missing field or an empty corpus.
    """
    examples = list(_read(name))
    random.Random(seed).shuffle(examples)
    return examples[:size]


def in_order(name: str) -> list[Example]:
    """The corpus `name` in the order of its dataset, which the numbers of its ids tell."""
    return sorted(_read(name), key=lambda e: [int(n) for n in re.findall(r"\d+", e.id)])


@cache
def _read(name: str) -> tuple[Example, ...]:
    row = entry(name)
    examples = _readers()[row.reader]() if row.reader else hub.examples(row)
    if not examples:
        raise ValueError(f"corpus {name!r} is empty")
    return tuple(sorted(examples, key=lambda e: e.id))


@cache
def content(name: str) -> str:
    """A short hash of what the corpus `name` says."""
    return digest(_read(name))


def _readers() -> dict:
    """The functions that read packages or make examples, by name."""
    return vars(packaged) | vars(benchmarks) | vars(skills)


def domains(name: str) -> tuple[str, ...]:
    """The domains of a corpus, in alphabetical order, from the table: nothing is read."""
    row = entry(name)
    return tuple(sorted(row.questions)) or (row.domain,)
