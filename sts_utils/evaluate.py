"""How a model does in each domain: lm-eval's tasks, scored by the likelihood of each option."""

import contextlib
import io
import itertools
import logging
import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from string import ascii_uppercase

import datasets
import lm_eval
import numpy as np
import pandas as pd
import torch
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks.mmlu_pro import utils as lm_eval_mmlu_pro
from tqdm import tqdm

from sts_utils import batches, models
from sts_utils import generate as generation
from sts_utils.config import EvaluationSettings
from sts_utils.examples import Example, by_domain

logging.getLogger("lm_eval").setLevel(logging.ERROR)

#: What is measured on every question; columns of `option_likelihoods`.
MEASURES = ("gold_probability", "gold_loglik", "gold_log_odds", "accuracy")
#: Of one forward pass over options: rows are short and share no cache, so larger ones are faster.
OPTION_TOKENS = 2048
#: Of written solutions read at once: sequences and padded tokens; and rows of logits, of which long
#: solutions have many.
SEQUENCES, TOKENS, ROWS = 8, 16384, 1024


# --- options -----------------------------------------------------------------------------------


def option_likelihoods(
    model, tokenizer, examples: Sequence[Example], tokens: int | None = None, desc: str = "evaluate"
) -> pd.DataFrame:
    """Each question's performance under `model`, a row a question: domain, id and MEASURES.

    With ℓ_o the log-likelihood of option o's text, n_o its tokens and g the gold option:
    `gold_probability` = exp(ℓ_g) / Σ_o exp(ℓ_o), free of style and length of the text before it;
    `gold_loglik` = ℓ_g / n_g in nats a token; `gold_log_odds` = ℓ_g − log Σ_{o≠g} exp(ℓ_o);
    `accuracy` = 1 if ℓ_g / characters is the largest.
    `tokens`: of one forward pass.
    """
    groups = by_domain(examples)
    tasks = {domain: options_task(domain, group, tokenizer) for domain, group in groups.items()}
    lm = OptionsLM(model, tokenizer, tokens, desc)
    with contextlib.redirect_stderr(io.StringIO()):  # lm-eval's own bars, one a task
        told = {"bootstrap_iters": 0, "verbosity": "ERROR"}
        answered = lm_eval.evaluate(lm, {"tasks": tasks}, **told)["samples"]
    rows = []
    for domain, sample in ((name, sample) for name in groups for sample in answered[name]):
        doc, gold = sample["doc"], sample["doc"]["gold"]
        loglik = np.array([float(r[0]) for r in sample["filtered_resps"]])
        odds = np.exp(loglik - loglik.max())
        per_character = loglik / [max(len(option), 1) for option in doc["options"]]
        length = len(tokenizer(doc["options"][gold], add_special_tokens=False).input_ids)
        measured = odds[gold] / odds.sum(), loglik[gold] / length
        against = loglik[gold] - np.logaddexp.reduce(np.delete(loglik, gold))
        accurate = float(per_character.argmax() == gold)
        rows.append((domain, doc["id"], *measured, against, accurate))
    return pd.DataFrame(rows, columns=["domain", "id", *MEASURES])


def options_task(name: str, examples: Sequence[Example], tokenizer) -> ConfigurableTask:
    """An lm-eval multiple-choice task: the chat prompt of the question, and the option texts.

    The options are not listed in the prompt (the cloze form): a small model reads knowledge from an
    option's likelihood long before it can name an option's letter.
    """
    columns = {"id": [e.id for e in examples]}
    columns["prompt"] = [generation.chat_text(tokenizer, e.question) for e in examples]
    columns["options"] = [list(e.options) for e in examples]
    columns["gold"] = [e.options.index(e.answer) for e in examples]
    dataset = datasets.Dataset.from_dict(columns)
    config = {
        "task": name,
        "custom_dataset": lambda **_: {"test": dataset},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": lambda doc: doc["prompt"],
        "doc_to_choice": lambda doc: doc["options"],
        "doc_to_target": lambda doc: doc["gold"],
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    return ConfigurableTask(config=config)


class OptionsLM(LM):
    """lm-eval's LM interface over a transformers model, all options of a question in one pass.

    One row is [context, option 1, option 2, …] under an attention mask in which every option sees
    the context and itself, so the context is computed once and not once an option (about 3× faster
    than one row an option; equal up to rounding), and what all contexts begin with (the template's
    system turn) once for all of them. Only the likelihood of given text is offered.
    """

    def __init__(self, model, tokenizer, tokens: int | None = None, desc: str = "evaluate"):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.bar = {"desc": desc, "unit": "question", "leave": False, "file": sys.stderr}
        self.tokens = tokens or max(OPTION_TOKENS, batches.batch_tokens())

    def loglikelihood(self, requests) -> list[tuple[float, bool]]:
        """(log-likelihood of the continuation, False) of each request, in order."""
        rows = []  # a row is the pieces [context, option 1, …]
        for context, group in itertools.groupby(requests, key=lambda r: r.args[0]):
            texts = [context, *(request.args[1] for request in group)]
            rows.append([self.tokenizer(t, add_special_tokens=False).input_ids for t in texts])
        columns = zip(*(row[0][:-1] for row in rows), strict=False)  # options follow a last token
        shared = [ids[0] for ids in itertools.takewhile(lambda ids: len(set(ids)) == 1, columns)]
        rows = [[row[0][len(shared) :], *row[1:]] for row in rows]
        with torch.inference_mode():
            cache = models.context_cache(self.model.model, shared)
        lengths, scores = [sum(map(len, row)) for row in rows], [None] * len(rows)
        with tqdm(total=len(rows), **self.bar) as bar:
            for batch in batches.by_length(lengths, self.tokens):
                with torch.inference_mode():
                    scored = self.score([rows[i] for i in batch], cache)
                for i, values in zip(batch, scored, strict=True):
                    scores[i] = values.tolist()
                bar.update(len(batch))
        return [(value, False) for values in scores for value in values]

    def score(self, rows: list[list[list[int]]], cache=None) -> list[torch.Tensor]:
        """[options] log-likelihood of each option of each row of pieces, with a gradient; `cache`
        is of what comes before all rows (models.context_cache)."""
        past = cache.get_seq_length() if cache else 0
        shape = len(rows), max(sum(map(len, row)) for row in rows)
        ids, positions = torch.zeros(2, *shape, dtype=torch.long)
        part = torch.full(shape, -1)  # 0: context, 1…: option, -1: padding
        for row, pieces in enumerate(rows):
            start = 0
            for number, piece in enumerate(pieces):
                stop, offset = start + len(piece), len(pieces[0]) if number else 0
                ids[row, start:stop] = torch.tensor(piece)
                positions[row, start:stop] = torch.arange(offset, offset + len(piece)) + past
                part[row, start:stop] = number
                start = stop
        inputs = {"input_ids": ids, "position_ids": positions}
        inputs["attention_mask"] = self._mask(part, past)
        inputs = {name: values.to(self.model.device) for name, values in inputs.items()}
        hidden = self.model.model(**inputs, **models.behind(cache, len(rows))).last_hidden_state
        states, targets, lengths = [], [], []
        for row, (context, *options) in zip(hidden, rows, strict=True):
            # the token before an option is the context's last, wherever the option lies in the row
            last, start = len(context) - 1, len(context)
            for option in options:
                states += [row[last : last + 1], row[start : start + len(option) - 1]]
                targets, start = targets + option, start + len(option)
            lengths += map(len, options)
        picked = _picked(self.model, torch.cat(states), torch.tensor(targets, device=hidden.device))
        sums = torch.stack([part.sum() for part in picked.split(lengths)])
        return list(sums.split([len(row) - 1 for row in rows]))

    def _mask(self, part: torch.Tensor, past: int) -> torch.Tensor:
        """[batch, 1, tokens, past + tokens], to add to attention: 0 where a token sees another."""
        causal = torch.ones(2 * part.shape[1:], dtype=torch.bool).tril()
        same = part[:, :, None] == part[:, None, :]
        hidden = ~(causal & (same | (part == 0)[:, None, :]))
        mask = torch.zeros(hidden.shape, dtype=self.model.dtype)
        mask = mask.masked_fill(hidden, torch.finfo(mask.dtype).min)[:, None]
        return torch.nn.functional.pad(mask, (past, 0))

    def loglikelihood_rolling(self, requests):
        raise ValueError("OptionsLM scores options only; use lm-eval's own models for whole texts")

    def generate_until(self, requests):
        raise ValueError("OptionsLM scores options only; use lm-eval's own models to generate")


# --- solutions ---------------------------------------------------------------------------------


@torch.inference_mode()
def solution_loglik(model, tokenizer, examples: Sequence[Example], max_length: int) -> pd.DataFrame:
    """Mean log-likelihood a token (nats) of each gold solution: columns id, solution_loglik."""
    rows, values = generation.tokenize(tokenizer, examples, max_length), {}
    lengths = [len(row["input_ids"]) for row in rows]
    cut = list(batches.by_length(lengths, TOKENS, SEQUENCES))
    for chosen in tqdm(cut, desc="held-out solutions", leave=False):
        batch = generation.collate([rows[i] for i in chosen])
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        targets = batch.pop("labels")[:, 1:]
        keep = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
        keep[:, :-1] = targets != -100
        hidden = models.final_states(model, **batch, keep=keep)
        picked = _picked(model, hidden, targets[targets != -100])
        lengths = (targets != -100).sum(1).tolist()
        for i, logliks in zip(chosen, picked.split(lengths), strict=True):
            values[examples[i].id] = logliks.mean().item()
    return pd.DataFrame({"id": list(values), "solution_loglik": list(values.values())})


def _picked(model, hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """[tokens] log-likelihood of the tokens `wanted` after these final hidden states."""
    parts = []
    for states, tokens in zip(hidden.split(ROWS), wanted.split(ROWS), strict=True):
        logliks = models.vocabulary_logits(model, states).log_softmax(-1)
        parts.append(logliks.gather(1, tokens[:, None])[:, 0].double())
    return torch.cat(parts)


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


def written_accuracy(
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
