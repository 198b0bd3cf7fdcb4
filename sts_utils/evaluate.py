"""How a model does: likelihoods of options (lm-eval) and solutions, or written answers' letters."""

import contextlib
import io
import itertools
import logging
import random
import re
import sys
from collections.abc import Sequence

import datasets
import lm_eval
import numpy as np
import pandas as pd
import torch
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks.mmlu_pro import utils as lm_eval_mmlu_pro
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from sts_utils import batches, generate, models
from sts_utils.prompts import Example, by_domain

logging.getLogger("lm_eval").setLevel(logging.ERROR)

#: What is measured on every question; columns of `option_likelihoods`.
MEASURES = ("gold_probability", "gold_loglik", "gold_log_odds", "accuracy")
#: Of solutions read at once: sequences and padded tokens; and rows of logits.
SEQUENCES, TOKENS, ROWS = 8, 16384, 1024


def option_likelihoods(model, tokenizer, examples, tokens=None, desc="evaluate") -> pd.DataFrame:
    """Each question's performance under `model`, a row a question: domain, id and MEASURES.
    With ℓ_o the log-likelihood of option o's text, n_o its tokens and g the gold option:
    `gold_probability` = exp(ℓ_g) / Σ_o exp(ℓ_o), free of style and length of the text before it;
    `gold_loglik` = ℓ_g / n_g in nats a token; `gold_log_odds` = ℓ_g − log Σ_{o≠g} exp(ℓ_o);
    `accuracy` = 1 if ℓ_g / characters is the largest. `tokens`: of one forward pass.
    An lm-eval task whose prompts list no options: a small model can't name an option's letter."""
    asked, rows = [e for group in by_domain(examples).values() for e in group], []
    shown = {"prompt": [generate.chat_text(tokenizer, e.question) for e in asked]}
    shown |= {"gold": [e.options.index(e.answer) for e in asked]}
    shown |= {"options": [list(e.options) for e in asked]}
    dataset = {"test": datasets.Dataset.from_dict(shown)}
    config = {"task": "options", "custom_dataset": lambda **_: dataset, "test_split": "test"}
    config |= {"output_type": "multiple_choice", "doc_to_text": "prompt", "target_delimiter": ""}
    config |= {"doc_to_choice": "options", "doc_to_target": "gold"}
    tasks = {"options": ConfigurableTask(config=config)}
    lm = OptionsLM(model, tokenizer, tokens, desc)
    with contextlib.redirect_stderr(io.StringIO()):  # lm-eval's own bars
        results = lm_eval.evaluate(lm, {"tasks": tasks}, bootstrap_iters=0, verbosity="ERROR")
    for e, sample in zip(asked, results["samples"]["options"], strict=True):
        gold, options = sample["doc"]["gold"], sample["doc"]["options"]
        loglik = np.array([float(answered[0]) for answered in sample["filtered_resps"]])
        odds = np.exp(loglik - loglik.max())
        per_character = loglik / [max(len(option), 1) for option in options]
        length = max(len(tokenizer(options[gold], add_special_tokens=False).input_ids), 1)
        log_odds = loglik[gold] - np.logaddexp.reduce(np.delete(loglik, gold))
        measured = (odds[gold] / odds.sum(), loglik[gold] / length, log_odds)
        rows.append((e.domain, e.id, *measured, float(per_character.argmax() == gold)))
    return pd.DataFrame(rows, columns=["domain", "id", *MEASURES])


class OptionsLM(LM):
    """lm-eval's LM interface over a transformers model, all options of a question in one pass.
    One row is [context, option 1, option 2, …] under an attention mask in which every option sees
    the context and itself, so the context is computed once (about 3× faster; equal up to rounding),
    and what all contexts begin with (the template's system turn) once for all of them."""

    def __init__(self, model, tokenizer, tokens: int | None = None, desc: str = "evaluate"):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.bar = {"desc": desc, "unit": "batch", "leave": False, "file": sys.stderr}
        # rows are short and share no cache, so larger batches are faster
        self.tokens = tokens or max(2048, batches.batch_tokens())

    def pieces(self, context: str, options: Sequence[str]) -> list[list[int]]:
        """A row: the tokens of the context and of each option."""
        return [self.tokenizer(t, add_special_tokens=False).input_ids for t in (context, *options)]

    @torch.inference_mode()
    def loglikelihood(self, requests) -> list[tuple[float, bool]]:
        """(log-likelihood of the continuation, False) of each request, in order."""
        groups = itertools.groupby((request.args for request in requests), key=lambda args: args[0])
        rows = [self.pieces(context, [args[1] for args in group]) for context, group in groups]
        columns = zip(*(row[0][:-1] for row in rows), strict=False)  # options follow a last token
        shared = [ids[0] for ids in itertools.takewhile(lambda ids: len(set(ids)) == 1, columns)]
        cache = models.context_cache(self.model.model, shared)
        rows = [[row[0][len(shared) :], *row[1:]] for row in rows]
        lengths, scores = [sum(map(len, row)) for row in rows], {}
        for batch in tqdm(list(batches.by_length(lengths, self.tokens)), **self.bar):
            scores |= zip(batch, self.score([rows[i] for i in batch], cache), strict=True)
        return [(value, False) for i in range(len(rows)) for value in scores[i].tolist()]

    def score(self, rows: list[list[list[int]]], cache=None) -> list[torch.Tensor]:
        """[options] log-likelihood of each of each row of pieces, behind `cache`; with gradient."""
        device, table = self.model.device, []
        past = cache.get_seq_length() if cache else 0
        for row in rows:  # of each token: its id, its position behind the context, its piece
            places = [(n, i) for n, piece in enumerate(row) for i in range(len(piece))]
            found = [(row[n][i], past + (n > 0) * len(row[0]) + i, n) for n, i in places]
            table.append(torch.tensor(found))
        table = pad_sequence(table, batch_first=True, padding_value=-1).to(device)
        ids, positions, number = table.unbind(-1)
        seen = ((number[:, :, None] == number[:, None]) | (number == 0)[:, None]).tril()
        inputs = {"input_ids": ids.clamp(0), "position_ids": positions.clamp(0)}
        inputs["attention_mask"] = models.option_masks(self.model, seen, positions.clamp(0), past)
        hidden = self.model.model(**inputs, **models.behind(cache, len(rows))).last_hidden_state
        states, targets, lengths = [], [], []
        for row, (context, *options) in zip(hidden, rows, strict=True):
            start = len(context)
            for option in filter(None, options):  # its first follows the context's last token
                states += [row[len(context) - 1, None], row[start : start + len(option) - 1]]
                targets, start = targets + option, start + len(option)
            lengths += map(len, options)
        picked = token_logliks(self.model, torch.cat(states), torch.tensor(targets, device=device))
        sums = torch.stack([some.sum() for some in picked.split(lengths)])
        return list(sums.split([len(row) - 1 for row in rows]))

    generate_until = loglikelihood_rolling = None  # of lm-eval's interface: not asked for


def token_logliks(model, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[tokens] log-likelihood, float64, of the tokens `targets` after final states `hidden`."""
    parts = []
    for states, tokens in zip(hidden.split(ROWS), targets.split(ROWS), strict=True):
        logliks = models.vocabulary_logits(model, states).log_softmax(-1)
        parts.append(logliks.gather(1, tokens[:, None])[:, 0].double())
    return torch.cat(parts)


@torch.inference_mode()
def solution_loglik(model, tokenizer, examples: Sequence[Example], max_length: int) -> pd.DataFrame:
    """Mean log-likelihood a token (nats) of each gold solution: columns id, solution_loglik."""
    rows, values = generate.tokenize(tokenizer, examples, max_length), {}
    cut = list(batches.by_length([len(row["input_ids"]) for row in rows], TOKENS, SEQUENCES))
    for chosen in tqdm(cut, desc="held-out solutions", leave=False):
        batch = generate.collate([rows[i] for i in chosen])
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        targets = batch.pop("labels")[:, 1:]
        answer = targets != -100
        hidden = models.final_states(model, **batch, keep=torch.nn.functional.pad(answer, (0, 1)))
        picked = token_logliks(model, hidden, targets[answer]).split(answer.sum(1).tolist())
        values |= {examples[i].id: of.mean().item() for i, of in zip(chosen, picked, strict=True)}
    return pd.DataFrame({"id": list(values), "solution_loglik": list(values.values())})


#: Patterns of the letter, in turn. lm-eval's rule ("strict") is the first; the official one
#: (TIGER-AI-Lab/MMLU-Pro, evaluate_from_local.py) goes on with the last "Answer: X" on its line,
#: and with the last letter that stands alone.
PATTERNS = r"answer is \(?([A-J])\)?", r".*[aA]nswer:\s*([A-J])", r"(?s).*\b([A-J])\b"
LETTERS = "ABCDEFGHIJ"
STOP = "Question:"  #: Where a base model goes on with one of its own; both harnesses stop there.
#: lm-eval's description of the task, and the official prompt's first line.
DESCRIPTION = (
    "The following are multiple choice questions (with answers) about {domain}. Think step by step "
    'and then finish your answer with "the answer is (X)" where X is the correct letter choice.\n'
)


def written_accuracy(write, tokenizer, examples, shots, settings, context: int) -> pd.DataFrame:
    """Each question's performance, a row a question: the columns of `option_likelihoods` and three.
    `write`: prompts -> of each its text, the text's tokens, and whether it ended by itself.
    `shots`: domain -> demonstrations, of which the first `settings.shots` are shown; `context`: the
    model's length. `accuracy` is 1.0 where the letter read is the gold option's; likelihoods are
    NaN. `answered`: an answer was found, not guessed; `cut_off`: the text reached
    `settings.max_new_tokens`; `tokens`: its length."""
    room, prompts, rows = context - settings.max_new_tokens, [], []
    for e in examples:
        if len(shown := shots.get(e.domain, ())[: settings.shots]) < settings.shots:
            raise ValueError(f"domain {e.domain!r} lacks evaluation.shots {settings.shots}")
        prompts.append(prompt(tokenizer, e, shown, room))
    for e, (text, tokens, finished) in zip(examples, write(prompts), strict=True):
        letter, answered = answer(text.split(STOP)[0], len(e.options), settings.rule, e.id)
        right = float(letter == LETTERS[e.options.index(e.answer)])
        rows.append((e.domain, e.id, *[np.nan] * 3, right, answered, not finished, tokens))
    return pd.DataFrame(rows, columns=["domain", "id", *MEASURES, "answered", "cut_off", "tokens"])


def answer(text: str, options: int, rule: str = "official", key: str = "") -> tuple[str, bool]:
    """(letter, whether it was read) that `text` gives to a question with `options` options.
    Without any, a guess by rule "official", drawn by `key` (the question's id): always the same."""
    for pattern in PATTERNS[:1] if rule == "strict" else PATTERNS:
        if match := re.search(pattern, text):
            return match[1], True
    guess = LETTERS[random.Random(f"mmlu-pro {key}").randrange(options)]
    return "" if rule == "strict" else guess, False


def prompt(tokenizer, example: Example, shots: Sequence[Example], room: int) -> str:
    """lm-eval's prompt: the description, shots with their chains of thought, as many as fit into
    `room` tokens (as in the official script), and the question; ValueError where it is too long."""
    asked, shown = lm_eval_mmlu_pro.doc_to_text(vars(example)), []
    for shot in shots:
        chain = shot.solution.strip().removeprefix("Let's think step by step.").strip()
        shown.append(f"{lm_eval_mmlu_pro.fewshot_to_text(vars(shot))} {chain}\n\n")
    for n in range(len(shots), -1, -1):
        text = DESCRIPTION.format(domain=example.domain) + "".join(shown[:n]) + asked
        if len(tokenizer(text).input_ids) <= room:
            return text
    raise ValueError(f"question {example.id} over {room} tokens: lower evaluation.max_new_tokens")
