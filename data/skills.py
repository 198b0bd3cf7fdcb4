"""Writes data/skills.parquet: skills × surfaces (skills.yaml), which the positive control learns
and asks: what is asked of a list, and the words it is asked in."""

import random
from collections.abc import Iterator

import pandas as pd
import yaml

from sts_utils.prompts import Example
from sts_utils.store import DATA

NAMES = ["half", "part", "id", "domain", "question", "answer", "options"]
#: Which examples of each skill on each surface are asked, shown, and trained on.
PARTS = {"asked": slice(300), "shown": slice(300, 320), "trained": slice(320, 620)}
#: Of each half: the first trial's skills and surfaces, and others, to be judged once.
HALVES = ("design", "judgement")
TABLE = yaml.safe_load((DATA / "skills.yaml").read_text("utf-8"))
#: Skill -> the answer to names n, numbers x and what the question names.
SKILLS = {
    "sum of two": lambda n, x, _: x[0] + x[1],
    "difference": lambda n, x, _: abs(x[0] - x[1]),
    "maximum": lambda n, x, _: max(x),
    "minimum": lambda n, x, _: min(x),
    "third": lambda n, x, _: x[2],
    "count": lambda n, x, _: len(x),
    "last": lambda n, x, _: x[-1],
    "spread": lambda n, x, _: max(x) - min(x),
    "above": lambda n, x, named: sum(number > named["k"] for number in x),
    "holder": lambda n, x, _: n[x.index(max(x))],
    "alphabet": lambda n, x, _: min(n),
    "next": lambda n, x, named: n[n.index(named["name"]) + 1],
    "rising": lambda n, x, _: x == sorted(x),
    "more": lambda n, x, named: x[n.index(named["a"])] > x[n.index(named["b"])],
}


def skills(half: str, part: str) -> Iterator[Example]:
    """Examples of a half's cells ("skill, surface"): "asked", "shown", or of some "trained"."""
    surfaces, size = TABLE[half]["surfaces"], PARTS[part].stop
    for surface in TABLE[half]["trained"] if part == "trained" else surfaces:
        for skill, asked in surfaces[surface]["ask"].items():
            rng, cell = random.Random(f"{half} {skill} {surface}"), {}
            while len(cell) < size:
                name = f"skills-{half}-{skill}-{surface}-{len(cell):03d}".replace(" ", "-")
                e = _of_skill(rng, skill, surfaces[surface], asked, f"{skill}, {surface}", name)
                cell.setdefault(e.question, e)
            yield from list(cell.values())[PARTS[part]]


def _of_skill(rng, skill: str, words: dict, asked: str, domain: str, name: str) -> Example:
    kind, answer_to = TABLE["kinds"][skill], SKILLS[skill]
    size, (least, most) = rng.choice((4, 5, 6)), words["numbers"]
    names = words["names"][:size] if words["ordered"] else rng.sample(words["names"], size)
    numbers = rng.sample(range(least, most + 1), size)
    if skill == "rising" and rng.random() < 0.5:  # else hardly any list is
        numbers.sort()
    a, b = rng.sample(names, 2)
    named = {"name": rng.choice(names[:-1]), "k": rng.choice(numbers), "a": a, "b": b}
    answer = answer_to(names, numbers, named)
    items = [words["item"].format(name=n, number=x) for n, x in zip(names, numbers, strict=True)]
    text = words["text"].format(items=words["between"].join(items))
    if kind == "truth":
        options = ["yes", "no"] if answer else ["no", "yes"]
    elif kind == "name":
        options = [answer, *rng.sample([n for n in names if n != answer], 3)]
    else:  # numbers of the list, or of a small answer its neighbours
        near = numbers if answer > len(names) else range(max(0, answer - 3), answer + 4)
        options = list(map(str, [answer, *rng.sample(sorted({*near} - {answer}), 3)]))
    answer, question = options[0], f"{text}\n{asked.format(**named)}"
    rng.shuffle(options)
    return Example(question, answer, answer, domain, name, options=tuple(options), instruction="")


def table() -> pd.DataFrame:
    """A row an example: half, part, id, domain, question, answer, options."""
    rows = []
    for half in HALVES:
        for part in PARTS:
            for e in skills(half, part):
                rows.append((half, part, e.id, e.domain, e.question, e.answer, list(e.options)))
    return pd.DataFrame(rows, columns=NAMES)


if __name__ == "__main__":
    table().to_parquet(DATA / "skills.parquet", compression="zstd", index=False)
