"""Performance of a model in each domain: lm-eval's tasks, scored by the likelihood of each option."""

import contextlib
import io
import itertools
import logging
import sys
from collections.abc import Iterator, Sequence

import datasets
import lm_eval
import numpy as np
import pandas as pd
import torch
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from tqdm import tqdm

from sts_utils import generation, models
from sts_utils.examples import Example, by_domain
from sts_utils.method.extract import batch_tokens
from sts_utils.training.sft import answer_states, collate, tokenize

logging.getLogger("lm_eval").setLevel(logging.ERROR)

#: What is measured on every question; columns of `performance`.
MEASURES = ("gold_probability", "gold_loglik", "accuracy")


class OptionsLM(LM):
    """lm-eval's LM interface over a transformers model, all options of a question in one pass.

    One row is [context, option 1, option 2, …] under an attention mask in which every option sees the
    context and itself, so the context is computed once and not once an option (about 3× faster than
    one row an option; equal up to rounding). Only the likelihood of given text is offered.
    """

    def __init__(self, model, tokenizer, tokens: int | None = None, desc: str = "evaluate"):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.bar = {"desc": desc, "unit": "question", "leave": False, "file": sys.stderr}
        self.tokens = tokens or batch_tokens()

    def loglikelihood(self, requests) -> list[tuple[float, bool]]:
        """(log-likelihood of the continuation, False) of each request, in order."""
        rows, options = [], []
        for context, group in itertools.groupby(requests, key=lambda r: r.args[0]):
            rows.append(self._encode(context))
            options.append([self._encode(request.args[1]) for request in group])
        found = [None] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]) + sum(map(len, options[i])))
        with tqdm(total=len(rows), **self.bar) as bar:
            for batch in self._batches(order, rows, options):
                scored = self._score([rows[i] for i in batch], [options[i] for i in batch])
                for i, values in zip(batch, scored, strict=True):
                    found[i] = values
                bar.update(len(batch))
        return [(value, False) for values in found for value in values]

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _batches(self, order, rows, options):
        batch = []
        for i in order:
            width = len(rows[i]) + sum(map(len, options[i]))
            if batch and width * (len(batch) + 1) > self.tokens:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    @torch.inference_mode()
    def _score(self, contexts, options) -> list[list[float]]:
        """Log-likelihood of each option of each row."""
        width = max(len(c) + sum(map(len, o)) for c, o in zip(contexts, options, strict=True))
        shape = len(contexts), width
        ids = torch.zeros(shape, dtype=torch.long)
        positions = torch.zeros(shape, dtype=torch.long)
        part = torch.full(shape, -1)  # 0: context, 1…: option, -1: padding
        for row, (context, row_options) in enumerate(zip(contexts, options, strict=True)):
            start = 0
            for number, piece in enumerate([context, *row_options]):
                stop = start + len(piece)
                ids[row, start:stop] = torch.tensor(piece)
                offset = len(context) if number else 0
                positions[row, start:stop] = torch.arange(offset, offset + len(piece))
                part[row, start:stop] = number
                start = stop
        causal = torch.ones(width, width, dtype=torch.bool).tril()
        same = part[:, :, None] == part[:, None, :]
        visible = causal & (same | (part == 0)[:, None, :])
        dtype = self.model.dtype
        mask = torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
        device = self.model.device
        hidden = self.model.model(
            input_ids=ids.to(device), position_ids=positions.to(device),
            attention_mask=mask[:, None].to(device), use_cache=False,
        ).last_hidden_state  # fmt: skip
        results = []
        for row, (context, row_options) in enumerate(zip(contexts, options, strict=True)):
            # the token before an option is the context's last, wherever the option lies in the row
            start, before, targets = len(context), [], []
            for piece in row_options:
                before += [len(context) - 1, *range(start, start + len(piece) - 1)]
                targets += piece
                start += len(piece)
            logits = models.vocabulary_logits(self.model, hidden[row, before])
            picked = logits.log_softmax(-1)[torch.arange(len(targets)), targets].double()
            results.append([piece.sum().item() for piece in picked.split([len(o) for o in row_options])])
        return results

    def loglikelihood_rolling(self, requests):
        raise ValueError("OptionsLM scores options only; use lm-eval's own models for whole texts")

    def generate_until(self, requests):
        raise ValueError("OptionsLM scores options only; use lm-eval's own models to generate")


def options_task(name: str, examples: Sequence[Example], tokenizer) -> ConfigurableTask:
    """An lm-eval multiple-choice task: the chat prompt of the question, and the option texts.

    The options are not listed in the prompt (the cloze form): a small model reads knowledge from an
    option's likelihood long before it can name an option's letter.
    """
    rows = [
        {
            "id": example.id,
            "prompt": generation.chat_text(tokenizer, example.question),
            "options": list(example.options),
            "gold": example.options.index(example.answer),
        }
        for example in examples
    ]
    dataset = datasets.Dataset.from_list(rows)
    return ConfigurableTask(
        config={
            "task": name, "custom_dataset": lambda **_: {"test": dataset}, "test_split": "test",
            "output_type": "multiple_choice", "doc_to_text": lambda doc: doc["prompt"],
            "doc_to_choice": lambda doc: doc["options"], "doc_to_target": lambda doc: doc["gold"],
            "target_delimiter": "",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
    )  # fmt: skip


def performance(
    model, tokenizer, examples: Sequence[Example], tokens: int | None = None, desc: str = "evaluate"
) -> pd.DataFrame:
    """Each question's performance under `model`, a row a question: domain, id and MEASURES.

    With ℓ_o the log-likelihood of option o's text, n_o its tokens and g the gold option:
    `gold_probability` = exp(ℓ_g) / Σ_o exp(ℓ_o), free of style and length of the text before it;
    `gold_loglik` = ℓ_g / n_g in nats a token; `accuracy` = 1 if ℓ_g / characters is the largest.
    """
    groups = by_domain(examples)
    tasks = {domain: options_task(domain, questions, tokenizer) for domain, questions in groups.items()}
    lm = OptionsLM(model, tokenizer, tokens, desc)
    with contextlib.redirect_stderr(io.StringIO()):  # lm-eval's own bars, one a task
        results = lm_eval.evaluate(lm, {"tasks": tasks}, bootstrap_iters=0, verbosity="ERROR")
    rows = []
    for domain in groups:
        for sample in results["samples"][domain]:
            doc, loglik = sample["doc"], np.array([float(r[0]) for r in sample["filtered_resps"]])
            gold, options = doc["gold"], doc["options"]
            length = len(tokenizer(options[gold], add_special_tokens=False).input_ids)
            odds = np.exp(loglik - loglik.max())
            per_character = loglik / np.array([max(len(option), 1) for option in options])
            rows.append(
                {
                    "domain": domain, "id": doc["id"], "gold_probability": odds[gold] / odds.sum(),
                    "gold_loglik": loglik[gold] / length,
                    "accuracy": float(per_character.argmax() == gold),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


#: Of written solutions read at once: sequences, padded tokens, and rows of logits, which long solutions have most of.
SEQUENCES, TOKENS, ROWS = 8, 16384, 4096


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices by length, SEQUENCES or fewer at once, TOKENS padded tokens at most."""
    batch = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == SEQUENCES or (len(batch) + 1) * lengths[i] > TOKENS):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@torch.inference_mode()
def solution_loglik(model, tokenizer, examples: Sequence[Example], max_length: int) -> pd.DataFrame:
    """Mean log-likelihood a token (nats) of each example's gold solution: columns id, solution_loglik."""
    rows = tokenize(tokenizer, examples, max_length)
    values = {}
    for chosen in tqdm(list(_batches([len(row["input_ids"]) for row in rows])), desc="held-out solutions", leave=False):
        batch = collate([rows[i] for i in chosen])
        batch = {k: v.to(model.device) for k, v in batch.items()}
        targets = batch["labels"][:, 1:]
        keep = torch.zeros_like(batch["labels"], dtype=torch.bool)
        keep[:, :-1] = targets != -100
        hidden = answer_states(model, batch["input_ids"], batch["attention_mask"], keep)
        picked = torch.cat(
            [
                models.vocabulary_logits(model, part).log_softmax(-1).gather(1, wanted[:, None])[:, 0].double()
                for part, wanted in zip(hidden.split(ROWS), targets[targets != -100].split(ROWS), strict=True)
            ]
        )
        for i, part in zip(chosen, picked.split((targets != -100).sum(1).tolist()), strict=True):
            values[examples[i].id] = part.mean().item()
    return pd.DataFrame({"id": list(values), "solution_loglik": list(values.values())})
