"""Skills × surfaces: what is asked of a list, and the words that it is asked in (data/skills.yaml).

Fine-tuning on one skill in some words moves the same skill in other words, and not another skill in
the same words; a score that reads skill must order them so.
"""

import random
from collections.abc import Callable
from functools import cache, partial

import yaml

from sts_utils.examples import Example
from sts_utils.store import DATA

#: Examples of each skill on each surface, and how many of them are asked; the rest are shown.
SIZE, ASKED = 320, 300
#: Numbers and names that a list has.
LENGTHS = (4, 5, 6)

Items = list[tuple[str, int]]  # (name, number)


def _numbers(items: Items) -> list[int]:
    return [number for _, number in items]


def _after(items: Items, name: str) -> str:
    names = [n for n, _ in items]
    return names[names.index(name) + 1]


#: Skill -> (type of the answer, the answer to a list and what the question names).
SKILLS: dict[str, tuple[str, Callable]] = {
    "sum of two": ("number", lambda items, _: items[0][1] + items[1][1]),
    "difference": ("number", lambda items, _: abs(items[0][1] - items[1][1])),
    "maximum": ("number", lambda items, _: max(_numbers(items))),
    "minimum": ("number", lambda items, _: min(_numbers(items))),
    "third": ("number", lambda items, _: items[2][1]),
    "count": ("number", lambda items, _: len(items)),
    "last": ("number", lambda items, _: items[-1][1]),
    "spread": ("number", lambda items, _: max(_numbers(items)) - min(_numbers(items))),
    "above": ("number", lambda items, told: sum(n > told["k"] for n in _numbers(items))),
    "holder": ("name", lambda items, _: max(items, key=lambda item: item[1])[0]),
    "alphabet": ("name", lambda items, _: min(name for name, _ in items)),
    "next": ("name", lambda items, told: _after(items, told["name"])),
    "rising": ("truth", lambda items, _: _numbers(items) == sorted(_numbers(items))),
    "more": ("truth", lambda items, told: dict(items)[told["a"]] > dict(items)[told["b"]]),
}


def _asked(half: str) -> list[Example]:
    """Questions of a half; domains are named "skill, surface"."""
    return [e for e in _half(half) if _number(e) < ASKED]


def _shown(half: str) -> list[Example]:
    """Worked examples of a half's cells, which are not asked."""
    return [e for e in _half(half) if _number(e) >= ASKED]


#: The first trial's skills and surfaces, and others, to be judged once.
skills_design, skills_judgement = (partial(_asked, half) for half in ("design", "judgement"))
skills_design_shown, skills_judgement_shown = (
    partial(_shown, half) for half in ("design", "judgement")
)


def trained(corpus: str) -> tuple[str, ...]:
    """The cells of a half that are fine-tuned on: every skill on the trained surfaces."""
    half = table()[corpus.removeprefix("skills-")]
    asked = half["surfaces"][half["trained"][0]]["ask"]
    return tuple(f"{skill}, {surface}" for surface in half["trained"] for skill in asked)


def comparable(one: str, other: str) -> bool:
    """Whether two domains have the same type of answer, as far as they are cells of the table."""
    kinds = [SKILLS.get(name.split(", ")[0], ("",))[0] for name in (one, other)]
    return kinds[0] == kinds[1]


def _number(example: Example) -> int:
    return int(example.id.rpartition("-")[2])


@cache
def table() -> dict:
    """What data/skills.yaml says of each half."""
    return yaml.safe_load((DATA / "skills.yaml").read_text(encoding="utf-8"))


@cache
def _half(half: str) -> list[Example]:
    examples = []
    for surface, words in table()[half]["surfaces"].items():
        for skill, asked in words["ask"].items():
            rng, cell = random.Random(f"{half} {skill} {surface}"), {}
            while len(cell) < SIZE:
                name = f"skills-{half}-{skill}-{surface}-{len(cell):03d}".replace(" ", "-")
                example = _example(rng, skill, words, asked, f"{skill}, {surface}", name)
                cell.setdefault(example.question, example)
            examples += cell.values()
    return examples


def _example(rng, skill: str, words: dict, asked: str, domain: str, name: str) -> Example:
    """A list drawn at random, with the question that a skill asks of it and its options."""
    kind, answer_of = SKILLS[skill]
    size = rng.choice(LENGTHS)
    names = words["names"][:size] if words["ordered"] else rng.sample(words["names"], size)
    numbers = rng.sample(range(words["numbers"][0], words["numbers"][1] + 1), size)
    if skill == "rising" and rng.random() < 0.5:  # else hardly any list is
        numbers.sort()
    items = list(zip(names, numbers, strict=True))
    a, b = rng.sample(names, 2)
    told = {"name": rng.choice(names[:-1]), "k": rng.choice(numbers), "a": a, "b": b}
    answer = answer_of(items, told)
    listed = words["between"].join(words["item"].format(name=n, number=x) for n, x in items)
    question = f"{words['text'].format(items=listed)}\n{asked.format(**told)}"
    options = _options(rng, kind, answer, items)
    answer = options[0]
    rng.shuffle(options)
    return Example(question, answer, answer, domain, name, options=tuple(options), instruction="")


def _options(rng, kind: str, answer, items: Items) -> list[str]:
    """The answer first, then three others of its kind; of yes and no the other one."""
    if kind == "truth":
        return ["yes", "no"] if answer else ["no", "yes"]
    if kind == "name":
        return [answer, *rng.sample([name for name, _ in items if name != answer], 3)]
    # numbers of the list, or of a small answer its neighbours
    near = _numbers(items) if answer > len(items) else range(max(0, answer - 3), answer + 4)
    others = rng.sample(sorted({*near} - {answer}), 3)
    return [str(answer), *map(str, others)]
