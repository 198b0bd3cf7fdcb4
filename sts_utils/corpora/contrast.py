"""Demonstrations from elsewhere, as long as a given one: what any context moves, to be taken off.

`nearest` gives a worked example, `prose` plain text, `wrong` the same question with a wrong answer.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from sts_utils.corpora import texts
from sts_utils.examples import Example

#: An example is replaced by one of so many that are nearest in length.
NEAREST = 8


def lengths(tokenizer, examples: Sequence[Example]) -> np.ndarray:
    """Tokens of each example, question and solution."""
    return np.array([len(_ids(tokenizer, e.query + e.solution)) for e in examples])


def nearest(
    tokenizer, rng: random.Random, like: Example, others: Sequence[Example], sizes: np.ndarray
) -> Example:
    """One of `others`, whose `lengths` are `sizes`, about as long as `like`."""
    (length,) = lengths(tokenizer, [like])
    return others[rng.choice(np.argsort(np.abs(sizes - length), kind="stable")[:NEAREST].tolist())]


def wrong(rng: random.Random, like: Example) -> Example:
    """The example with one of its wrong options for an answer. Raises ValueError without any."""
    others = [option for option in like.options if option != like.answer]
    if not others:
        raise ValueError(f"question {like.id} has no options, so no wrong answer")
    return right(replace(like, answer=rng.choice(others)))


def right(example: Example) -> Example:
    """The example with the text of its answer for a solution, and its options not shown."""
    return replace(example, options=(), instruction="", solution=example.answer)


def prose(tokenizer, rng: random.Random, like: Example) -> Example:
    """Packaged prose with as many tokens for a question and a solution as `like` has."""
    question, solution = (len(_ids(tokenizer, text)) for text in (like.query, like.solution))
    ids = []
    while len(ids) < question + solution:
        ids += _ids(tokenizer, rng.choice(_passages()))
    parts = tokenizer.decode(ids[:question]), tokenizer.decode(ids[question : question + solution])
    return Example(*parts, "", "prose", f"prose-{like.id}", instruction="")


def _ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


@cache
def _passages() -> list[str]:
    return [text for text in texts.passages() if len(text) > 400]
