"""MMLU-Pro as the paper measures it: a chain of thought is written, the answer is read from it."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase

import numpy as np
import pandas as pd
from lm_eval.tasks.mmlu_pro import utils as lm_eval_mmlu_pro

from sts_utils.config import EvaluationSettings
from sts_utils.examples import Example

#: lm-eval's task (its `_default_template_yaml`), and the official rule's first step.
ANSWER_IS = re.compile(r"answer is \(?([A-J])\)?")
#: The official rule's second step (TIGER-AI-Lab/MMLU-Pro, evaluate_from_local.py): the last
#: "Answer: X" on its line.
ANSWER_COLON = re.compile(r".*[aA]nswer:\s*([A-J])")
#: Its third step: the last letter that stands alone.
LAST_LETTER = re.compile(r"\b([A-J])\b(?!.*\b[A-J]\b)", re.DOTALL)
#: Where a base model would go on with a question of its own; both harnesses stop there.
STOP = "Question:"
#: lm-eval's description of the task, and the official prompt's first line.
DESCRIPTION = (
    "The following are multiple choice questions (with answers) about {domain}. Think step by step "
    'and then finish your answer with "the answer is (X)" where X is the correct letter choice.\n'
)
LETTERS = ascii_uppercase[:10]

#: (prompts) -> for each its text, its tokens, and whether it ended by itself (False: cut off).
Generate = Callable[[Sequence[str]], Sequence[tuple[str, int, bool]]]


def accuracy(
    generate: Generate,
    tokenizer,
    examples: Sequence[Example],
    shots: Mapping[str, Sequence[Example]],
    settings: EvaluationSettings,
    context: int | None = None,
) -> pd.DataFrame:
    """Each question's performance, a row a question: the columns of `option_likelihoods` and three.

    `shots`: domain -> its demonstrations, of which the first `settings.shots` are shown; `context`:
    the model's length (the tokenizer's own if left out). `accuracy` is 1.0 where the letter read
    from the text is the gold option's; the likelihoods are NaN. `answered`: an
    answer was found, not guessed; `cut_off`: the text reached `settings.max_new_tokens`; `tokens`:
    its length.
    """
    for domain in {e.domain for e in examples}:
        if (known := len(shots.get(domain, ()))) < settings.shots:
            asks = f"evaluation.shots asks for {settings.shots}"
            raise ValueError(f"domain {domain!r} has {known} demonstrations, {asks}")
    shown = {domain: group[: settings.shots] for domain, group in shots.items()}
    size = context or tokenizer.model_max_length, settings.max_new_tokens
    texts = [fitting_prompt(tokenizer, e, shown.get(e.domain, ()), *size) for e in examples]
    rows = []
    for example, (text, tokens, finished) in zip(examples, generate(texts), strict=True):
        options = example.options
        letter, read = answer(text.split(STOP)[0], len(options), settings.rule, example.id)
        right = float(letter == LETTERS[options.index(example.answer)])
        row = {"domain": example.domain, "id": example.id, "gold_probability": np.nan}
        row |= {"gold_loglik": np.nan, "gold_log_odds": np.nan, "accuracy": right, "answered": read}
        rows.append(row | {"cut_off": not finished, "tokens": tokens})
    return pd.DataFrame(rows)


def answer(text: str, options: int, rule: str = "official", key: str = "") -> tuple[str, bool]:
    """(letter, whether it was read) that `text` gives to a question with `options` options.

    Rule "official": three patterns in turn, then a guess among the options, drawn with `key` (the
    question's id), so that a question is guessed alike before and after fine-tuning. (The official
    script draws every guess with the same seed, so all of them are one letter.) Rule "strict",
    lm-eval's: the first pattern alone, and ("", False) where it is not there.
    """
    if rule not in ("official", "strict"):
        raise ValueError(f"unknown rule {rule!r}: choose official or strict")
    patterns = (ANSWER_IS, ANSWER_COLON, LAST_LETTER) if rule == "official" else (ANSWER_IS,)
    for pattern in patterns:
        if match := pattern.search(text):
            return match[1], True
    if rule == "strict":
        return "", False
    return LETTERS[random.Random(f"mmlu-pro {key}").randrange(options)], False


def prompt(example: Example, shots: Sequence[Example]) -> str:
    """lm-eval's prompt: the description, each shot with its chain of thought, and the question."""
    parts = [DESCRIPTION.format(domain=example.domain)]
    for shot in shots:
        chain = shot.solution.strip().removeprefix("Let's think step by step.").strip()
        parts.append(f"{lm_eval_mmlu_pro.fewshot_to_text(_row(shot))} {chain}\n\n")
    return "".join([*parts, lm_eval_mmlu_pro.doc_to_text(_row(example))])


def _row(example: Example) -> dict:
    """An example as a row of the MMLU-Pro dataset."""
    options = list(example.options)
    return {"question": example.question, "options": options, "category": example.domain}


def fitting_prompt(
    tokenizer, example: Example, shots: Sequence[Example], context: int, new_tokens: int
) -> str:
    """The prompt with as many of `shots` as leave room for `new_tokens` in `context`, as the
    official script does.

    Raises ValueError where not even the bare question fits.
    """
    for n in range(len(shots), -1, -1):
        text = prompt(example, shots[:n])
        if len(tokenizer(text).input_ids) + new_tokens <= context:
            return text
    more = f"question {example.id} and {new_tokens} new tokens are more"
    raise ValueError(f"{more} than the model's {context}: lower evaluation.max_new_tokens")


def answers_report(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """What became of the answers of each domain, from two tables of `accuracy` on the same
    questions.

    Columns, each `_before` and `_after`: accuracy, no_answer (share whose answer was guessed or
    missing), cut_off (share that reached the length limit), tokens (mean length); then `change` of
    accuracy, `answered_both` (questions answered in both) and `change_answered`, the change among
    these alone: a drop that is truncation is not in it.
    """
    names = {"suffixes": ("_before", "_after"), "validate": "one_to_one"}
    both = before.merge(after, on=["domain", "id"], **names)
    if len(both) != len(before) or len(both) != len(after):
        had = f"{len(before)} questions before, {len(after)} after, {len(both)} in both"
        raise ValueError(f"{had}: ask the same ones")
    rows = []
    for domain, group in both.groupby("domain"):
        row = {"domain": domain, "questions": len(group)}
        for when in ("before", "after"):
            row[f"accuracy_{when}"] = group[f"accuracy_{when}"].mean()
            row[f"no_answer_{when}"] = 1 - group[f"answered_{when}"].mean()
            row[f"cut_off_{when}"] = group[f"cut_off_{when}"].mean()
            row[f"tokens_{when}"] = group[f"tokens_{when}"].mean()
        change = group.accuracy_after - group.accuracy_before
        answered = group.answered_before & group.answered_after
        row |= {"change": change.mean(), "answered_both": int(answered.sum())}
        row["change_answered"] = change[answered].mean()  # NaN: no question answered in both
        rows.append(row)
    return pd.DataFrame(rows)
