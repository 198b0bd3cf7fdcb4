"""How a model does in each domain: lm-eval's tasks, scored by the likelihood of each option."""

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

from sts_utils import batches, generation, models
from sts_utils.examples import Example, by_domain

logging.getLogger("lm_eval").setLevel(logging.ERROR)

#: What is measured on every question; columns of `option_likelihoods`.
MEASURES = ("gold_probability", "gold_loglik", "gold_log_odds", "accuracy")
#: Of one forward pass over options: rows are short and share no cache, so larger ones are faster.
OPTION_TOKENS = 2048
#: Of written solutions read at once: sequences, padded tokens, and rows of logits, which long
#: solutions have most of.
SEQUENCES, TOKENS, ROWS = 8, 16384, 4096


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
    than one row an option; equal up to rounding). Only the likelihood of given text is offered.
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
        lengths = [sum(map(len, row)) for row in rows]

        def fits(batch, i):
            return lengths[i] * (len(batch) + 1) <= self.tokens

        scores = [None] * len(rows)
        order = sorted(range(len(rows)), key=lengths.__getitem__)
        with tqdm(total=len(rows), **self.bar) as bar:
            for batch in batches.greedy(order, fits):
                with torch.inference_mode():
                    scored = self.score([rows[i] for i in batch])
                for i, values in zip(batch, scored, strict=True):
                    scores[i] = values.tolist()
                bar.update(len(batch))
        return [(value, False) for values in scores for value in values]

    def score(self, rows: list[list[list[int]]]) -> list[torch.Tensor]:
        """[options] log-likelihood of each option of each row of pieces, with a gradient."""
        shape = len(rows), max(sum(map(len, row)) for row in rows)
        ids, positions = torch.zeros(2, *shape, dtype=torch.long)
        part = torch.full(shape, -1)  # 0: context, 1…: option, -1: padding
        for row, pieces in enumerate(rows):
            start = 0
            for number, piece in enumerate(pieces):
                stop, offset = start + len(piece), len(pieces[0]) if number else 0
                ids[row, start:stop] = torch.tensor(piece)
                positions[row, start:stop] = torch.arange(offset, offset + len(piece))
                part[row, start:stop] = number
                start = stop
        inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": self._mask(part)}
        inputs = {name: values.to(self.model.device) for name, values in inputs.items()}
        hidden = self.model.model(**inputs, use_cache=False).last_hidden_state
        return [self._sums(states, *pieces) for states, pieces in zip(hidden, rows, strict=True)]

    def _mask(self, part: torch.Tensor) -> torch.Tensor:
        """[batch, 1, tokens, tokens], to add to attention: 0 where a token sees another."""
        causal = torch.ones(2 * part.shape[1:], dtype=torch.bool).tril()
        same = part[:, :, None] == part[:, None, :]
        hidden = ~(causal & (same | (part == 0)[:, None, :]))
        mask = torch.zeros(hidden.shape, dtype=self.model.dtype)
        return mask.masked_fill(hidden, torch.finfo(mask.dtype).min)[:, None]

    def _sums(self, states: torch.Tensor, context: list[int], *options: list[int]) -> torch.Tensor:
        """Log-likelihood of each option, from the final hidden states of its row."""
        # the token before an option is the context's last, wherever the option lies in the row
        start, before, targets = len(context), [], []
        for option in options:
            before += [len(context) - 1, *range(start, start + len(option) - 1)]
            targets += option
            start += len(option)
        logits = models.vocabulary_logits(self.model, states[before])
        picked = logits.log_softmax(-1)[torch.arange(len(targets)), targets].double()
        return torch.stack([part.sum() for part in picked.split(list(map(len, options)))])

    def loglikelihood_rolling(self, requests):
        raise ValueError("OptionsLM scores options only; use lm-eval's own models for whole texts")

    def generate_until(self, requests):
        raise ValueError("OptionsLM scores options only; use lm-eval's own models to generate")


# --- solutions ---------------------------------------------------------------------------------


@torch.inference_mode()
def solution_loglik(model, tokenizer, examples: Sequence[Example], max_length: int) -> pd.DataFrame:
    """Mean log-likelihood a token (nats) of each gold solution: columns id, solution_loglik."""
    rows, values = generation.tokenize(tokenizer, examples, max_length), {}
    cut = list(_batches([len(row["input_ids"]) for row in rows]))
    for chosen in tqdm(cut, desc="held-out solutions", leave=False):
        batch = generation.collate([rows[i] for i in chosen])
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        targets = batch.pop("labels")[:, 1:]
        keep = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
        keep[:, :-1] = targets != -100
        hidden = models.final_states(model, **batch, keep=keep).split(ROWS)
        wanted = targets[targets != -100].split(ROWS)
        picked = [_picked(model, *part) for part in zip(hidden, wanted, strict=True)]
        lengths = (targets != -100).sum(1).tolist()
        for i, logliks in zip(chosen, torch.cat(picked).split(lengths), strict=True):
            values[examples[i].id] = logliks.mean().item()
    return pd.DataFrame({"id": list(values), "solution_loglik": list(values.values())})


def _picked(model, hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """[tokens] log-likelihood of the tokens `wanted` after these final hidden states."""
    logliks = models.vocabulary_logits(model, hidden).log_softmax(-1)
    return logliks.gather(1, wanted[:, None])[:, 0].double()


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices by length, SEQUENCES or fewer at once, TOKENS padded tokens at most."""

    def fits(batch, i):
        return len(batch) < SEQUENCES and (len(batch) + 1) * lengths[i] <= TOKENS

    return batches.greedy(sorted(range(len(lengths)), key=lengths.__getitem__), fits)
