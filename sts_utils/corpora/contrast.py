"""Demonstrations to compare with: the same question with a wrong answer, or prose as long."""

import random
from dataclasses import replace
from functools import cache

from sts_utils.corpora import texts
from sts_utils.examples import Example


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
        ids += _ids(tokenizer, rng.choice(passages()))
    parts = tokenizer.decode(ids[:question]), tokenizer.decode(ids[question : question + solution])
    return Example(*parts, "", "prose", f"prose-{like.id}", instruction="")


def _ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


@cache
def passages() -> list[str]:
    """The packaged prose."""
    return [text for text in texts.passages() if len(text) > 400]
