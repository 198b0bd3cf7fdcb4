"""A question with its solution and answer, as every corpus gives them."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from string import ascii_uppercase

#: The paper's instruction after every training question.
MATH_INSTRUCTION = "Let's think step by step and output the final answer within \\boxed{}."


@dataclass(frozen=True)
class Example:
    """One question. `solution` is its chain of thought, `answer` the gold answer alone, one of the
    `options` of a multiple choice. Examples that share a `group` are variants of one template and
    are never split over training and held-out data."""

    question: str
    solution: str
    answer: str
    domain: str
    id: str
    group: str = ""
    options: tuple[str, ...] = ()
    instruction: str = MATH_INSTRUCTION

    @property
    def query(self) -> str:
        """The user's turn: the question, with its options or its instruction."""
        if not self.options:
            return f"{self.question}\n{self.instruction}".rstrip()
        lettered = zip(ascii_uppercase, self.options, strict=False)
        return f"{self.question}\n" + " ".join(f"({c}) {text}" for c, text in lettered)


def with_answer(example: Example) -> Example:
    """The example with the text of its answer for a solution, and its options not shown."""
    return replace(example, options=(), instruction="", solution=example.answer)


def with_wrong_answer(rng: random.Random, example: Example) -> Example:
    """The same with one of its wrong options for an answer."""
    wrong = [option for option in example.options if option != example.answer]
    return with_answer(replace(example, answer=rng.choice(wrong)))


def chat(*texts: str) -> list[dict[str, str]]:
    """The turns of a chat: the user's first, the assistant's next, and so on."""
    return [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(texts)]


def by_domain(examples: Iterable[Example]) -> dict[str, list[Example]]:
    """The examples of each domain, domains in alphabetical order."""
    examples = list(examples)
    names = sorted({e.domain for e in examples})
    return {name: [e for e in examples if e.domain == name] for name in names}


def split(examples: list[Example], held_out: float, seed: int) -> tuple[list, list]:
    """(training, held-out) examples; whole groups go to one side, so no template is on both."""
    groups = sorted({e.group or e.id for e in examples})
    random.Random(seed).shuffle(groups)
    held = set(groups[: round(held_out * len(groups))])
    train = [e for e in examples if (e.group or e.id) not in held]
    return train, [e for e in examples if (e.group or e.id) in held]
