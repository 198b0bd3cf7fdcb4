"""MMLU-Pro as the paper measures it: a chain of thought is written, and the answer is read from it."""

import random
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from lm_eval.tasks.mmlu_pro import utils as lm_eval_mmlu_pro
from tqdm import tqdm

from sts_utils import generation, models
from sts_utils.config import EvaluationSettings
from sts_utils.examples import Example

#: What lm-eval's task takes as the answer (its `_default_template_yaml`), and the official rule's first step.
ANSWER_IS = re.compile(r"answer is \(?([A-J])\)?")
#: The official rule's second step (TIGER-AI-Lab/MMLU-Pro, evaluate_from_local.py): "Answer: X", the last on its line.
ANSWER_COLON = re.compile(r".*[aA]nswer:\s*([A-J])")
#: Its third step: the last letter that stands alone.
LAST_LETTER = re.compile(r"\b[A-J]\b(?!.*\b[A-J]\b)", re.DOTALL)
#: Where a base model would go on with a question of its own; both harnesses stop there.
STOP = "Question:"
#: lm-eval's description of the task, and the official prompt's first line.
DESCRIPTION = (
    "The following are multiple choice questions (with answers) about {domain}. Think step by step and then "
    'finish your answer with "the answer is (X)" where X is the correct letter choice.\n'
)
LETTERS = "ABCDEFGHIJ"

#: (prompts) -> for each its text, its tokens, and whether it ended by itself (False: cut off).
Generate = Callable[[Sequence[str]], Sequence[tuple[str, int, bool]]]


def answer(text: str, options: int, rule: str = "official", key: str = "") -> tuple[str, bool]:
    """(letter, found) that `text` gives as its answer to a question with `options` options.

    Rule "official": three patterns in turn, then a guess among the options, drawn with `key` (the
    question's id), so that a question is guessed alike before and after fine-tuning. (The official
    script draws every guess with the same seed, so all of them are one letter.) Rule "strict", lm-eval's:
    the first pattern alone, and ("", False) where it is not there.
    """
    if rule not in ("official", "strict"):
        raise ValueError(f"unknown rule {rule!r}: choose official or strict")
    if found := ANSWER_IS.search(text):
        return found.group(1), True
    if rule == "strict":
        return "", False
    if found := ANSWER_COLON.search(text):
        return found.group(1), True
    if found := LAST_LETTER.search(text):
        return found.group(0), True
    return LETTERS[random.Random(f"mmlu-pro {key}").randrange(options)], False


def prompt(example: Example, shots: Sequence[Example]) -> str:
    """lm-eval's prompt: the description, each shot with its chain of thought, and the question."""
    parts = [DESCRIPTION.format(domain=example.domain)]
    for shot in shots:
        chain = shot.solution.strip().removeprefix("Let's think step by step.").strip()
        parts.append(f"{lm_eval_mmlu_pro.fewshot_to_text(_doc(shot))} {chain}\n\n")
    return "".join([*parts, lm_eval_mmlu_pro.doc_to_text(_doc(example))])


def _doc(example: Example) -> dict:
    """An example as a row of the MMLU-Pro dataset."""
    return {"question": example.question, "options": list(example.options), "category": example.domain}


def fitting_prompt(tokenizer, example: Example, shots: Sequence[Example], context: int, new_tokens: int) -> str:
    """The prompt with as many of `shots` as leave room for `new_tokens` in `context`, as the official script does.

    Raises ValueError where not even the bare question fits.
    """
    for n in range(len(shots), -1, -1):
        text = prompt(example, shots[:n])
        if len(tokenizer(text).input_ids) + new_tokens <= context:
            return text
    raise ValueError(
        f"question {example.id} and {new_tokens} new tokens are more than the model's {context}: "
        "lower evaluation.max_new_tokens"
    )


def performance(
    generate: Generate, tokenizer, examples: Sequence[Example], shots: Mapping[str, Sequence[Example]],
    settings: EvaluationSettings, context: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Each question's performance, a row a question, with the columns of `evaluate.performance` and three more.

    `shots`: domain -> its demonstrations, of which the first `settings.shots` are shown; `context`: the
    model's length (the tokenizer's own if left out). `accuracy` is 1.0 where the letter read from the text is the gold
    option's; `gold_probability` and `gold_loglik` are NaN. `answered`: an answer was found, not guessed;
    `cut_off`: the text reached `settings.max_new_tokens`; `tokens`: its length.
    """
    for domain in {e.domain for e in examples}:
        if len(shots.get(domain, ())) < settings.shots:
            raise ValueError(
                f"domain {domain!r} has {len(shots.get(domain, ()))} demonstrations, evaluation.shots asks for "
                f"{settings.shots}"
            )
    context = context or tokenizer.model_max_length
    texts = [
        fitting_prompt(tokenizer, e, shots.get(e.domain, ())[: settings.shots], context, settings.max_new_tokens)
        for e in examples
    ]
    rows = []
    for example, (text, tokens, finished) in zip(examples, generate(texts), strict=True):
        letter, found = answer(text.split(STOP)[0], len(example.options), settings.rule, example.id)
        gold = LETTERS[example.options.index(example.answer)]
        rows.append(
            {
                "domain": example.domain, "id": example.id, "gold_probability": np.nan, "gold_loglik": np.nan,
                "accuracy": float(letter == gold), "answered": found, "cut_off": not finished, "tokens": tokens,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def transformers_generate(model, tokenizer, max_new_tokens: int, batch: int = 16) -> Generate:
    """Greedy generation by a transformers model, in batches of prompts of like length."""
    stops = {*generation.stop_ids(model, tokenizer), tokenizer.pad_token_id}

    @torch.inference_mode()
    def generate(prompts: Sequence[str]) -> list[tuple[str, int, bool]]:
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        found = {}
        with tqdm(total=len(order), desc="generate", unit="question", leave=False) as bar:
            for start in range(0, len(order), batch):
                chosen = order[start : start + batch]
                inputs = tokenizer(
                    [prompts[i] for i in chosen], padding=True, padding_side="left", return_tensors="pt"
                ).to(model.device)
                with models.quiet():
                    out = model.generate(
                        **inputs, do_sample=False, max_new_tokens=max_new_tokens, repetition_penalty=1.0,
                        eos_token_id=sorted(stops), pad_token_id=tokenizer.pad_token_id, stop_strings=[STOP],
                        tokenizer=tokenizer,
                    )  # fmt: skip
                for i, ids in zip(chosen, out[:, inputs.input_ids.shape[1] :].tolist(), strict=True):
                    found[i] = _completion(tokenizer, ids, stops)
                bar.update(len(chosen))
        return [found[i] for i in range(len(prompts))]

    return generate


def _completion(tokenizer, ids: Sequence[int], stops: set[int]) -> tuple[str, int, bool]:
    """(text, tokens, finished) of generated ids, whose end is the first stop token or the stop string."""
    tokens = next((n for n, token in enumerate(ids) if token in stops), len(ids))
    text = tokenizer.decode(ids[:tokens], skip_special_tokens=True)
    return text, tokens, tokens < len(ids) or STOP in text


def answers_report(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """What became of the answers of each domain, from two tables of `performance` on the same questions.

    Columns, each `_before` and `_after`: accuracy, no_answer (share whose answer was guessed or missing), cut_off
    (share that reached the length limit), tokens (mean length); then `change` of accuracy, `answered_both`
    (questions answered in both) and `change_answered`, the change among these alone: a drop that is truncation is
    not in it.
    """
    both = before.merge(after, on=["domain", "id"], suffixes=("_before", "_after"), validate="one_to_one")
    if len(both) != len(before) or len(both) != len(after):
        raise ValueError(f"{len(before)} questions before, {len(after)} after, {len(both)} in both: ask the same ones")
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
        row["change_answered"] = change[answered].mean()  # NaN where no question was answered in both
        rows.append(row)
    return pd.DataFrame(rows)
