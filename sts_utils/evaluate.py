"""How a model does: the likelihood of each option (lm-eval's tasks) and of gold solutions, or the
letters of written chains of thought (MMLU-Pro)."""

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
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from sts_utils import batches, generate, models
from sts_utils.config import EvaluationSettings
from sts_utils.examples import Example, by_domain

logging.getLogger("lm_eval").setLevel(logging.ERROR)

#: What is measured on every question; columns of `option_likelihoods`.
MEASURES = ("gold_probability", "gold_loglik", "gold_log_odds", "accuracy")
#: Tokens of a pass over options: rows are short and share no cache, so larger ones are faster.
OPTION_TOKENS = 2048
#: Of solutions read at once: sequences and padded tokens; and rows of logits, of which long ones
#: have many.
SEQUENCES, TOKENS, ROWS = 8, 16384, 1024


# --- options -----------------------------------------------------------------------------------


def option_likelihoods(
    model, tokenizer, examples: Sequence[Example], tokens: int | None = None, desc: str = "evaluate"
) -> pd.DataFrame:
    """Each question's performance under `model`, a row a question: domain, id and MEASURES.

    With ℓ_o the log-likelihood of option o's text, n_o its tokens and g the gold option:
    `gold_probability` = exp(ℓ_g) / Σ_o exp(ℓ_o), free of style and length of the text before it;
    `gold_loglik` = ℓ_g / n_g in nats a token; `gold_log_odds` = ℓ_g − log Σ_{o≠g} exp(ℓ_o);
    `accuracy` = 1 if ℓ_g / characters is the largest. `tokens`: of one forward pass.
    """
    groups = by_domain(examples)
    tasks = {domain: options_task(domain, group, tokenizer) for domain, group in groups.items()}
    lm = OptionsLM(model, tokenizer, tokens, desc)
    with contextlib.redirect_stderr(io.StringIO()):  # lm-eval's own bars, one a task
        results = lm_eval.evaluate(lm, {"tasks": tasks}, bootstrap_iters=0, verbosity="ERROR")
    rows = []
    for domain, sample in ((d, sample) for d in groups for sample in results["samples"][d]):
        options, gold = sample["doc"]["options"], sample["doc"]["gold"]
        loglik = np.array([float(answered[0]) for answered in sample["filtered_resps"]])
        odds = np.exp(loglik - loglik.max())
        per_character = loglik / [max(len(option), 1) for option in options]
        length = len(tokenizer(options[gold], add_special_tokens=False).input_ids)
        measured = (
            odds[gold] / odds.sum(),
            loglik[gold] / length,
            loglik[gold] - np.logaddexp.reduce(np.delete(loglik, gold)),
            float(per_character.argmax() == gold),
        )
        rows.append((domain, sample["doc"]["id"], *measured))
    return pd.DataFrame(rows, columns=["domain", "id", *MEASURES])


def options_task(name: str, examples: Sequence[Example], tokenizer) -> ConfigurableTask:
    """An lm-eval multiple-choice task: the chat prompt of the question, and the option texts.

    The options are not listed in the prompt (the cloze form): a small model reads knowledge from an
    option's likelihood long before it can name an option's letter.
    """
    rows = []
    for e in examples:
        row = {"id": e.id, "prompt": generate.chat_text(tokenizer, e.question)}
        rows.append(row | {"options": list(e.options), "gold": e.options.index(e.answer)})
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
    than one row an option; equal up to rounding), and what all contexts begin with (the template's
    system turn) once for all of them. Only the likelihood of given text is offered.
    """

    def __init__(self, model, tokenizer, tokens: int | None = None, desc: str = "evaluate"):
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.bar = {"desc": desc, "unit": "question", "leave": False, "file": sys.stderr}
        self.tokens = tokens or max(OPTION_TOKENS, batches.batch_tokens())

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
        with tqdm(total=len(rows), **self.bar) as bar:
            for batch in batches.by_length(lengths, self.tokens):
                scored = self.score([rows[i] for i in batch], cache)
                scores.update(zip(batch, (values.tolist() for values in scored), strict=True))
                bar.update(len(batch))
        return [(value, False) for i in range(len(rows)) for value in scores[i]]

    def score(self, rows: list[list[list[int]]], cache=None) -> list[torch.Tensor]:
        """[options] log-likelihood of each option of each row of pieces, with a gradient; `cache`
        is of what comes before all rows (models.context_cache)."""
        past, device = cache.get_seq_length() if cache else 0, self.model.device
        ids, positions, number = [], [], []
        for row in rows:
            places = [(n, i) for n, piece in enumerate(row) for i in range(len(piece))]
            ids.append(torch.tensor([row[n][i] for n, i in places]))
            # each option follows the context
            positions.append(torch.tensor([past + (n > 0) * len(row[0]) + i for n, i in places]))
            number.append(torch.tensor([n for n, _ in places]))
        number = pad_sequence(number, batch_first=True, padding_value=-1)  # 0: context, 1…: option
        causal = torch.ones(2 * number.shape[1:], dtype=torch.bool).tril()
        seen = causal & ((number[:, :, None] == number[:, None, :]) | (number == 0)[:, None, :])
        mask = torch.zeros(seen.shape, dtype=self.model.dtype)  # to add to attention
        mask = mask.masked_fill(~seen, torch.finfo(mask.dtype).min)[:, None]
        hidden = self.model.model(
            input_ids=pad_sequence(ids, batch_first=True).to(device),
            position_ids=pad_sequence(positions, batch_first=True).to(device),
            attention_mask=pad(mask, (past, 0)).to(device),
            **models.behind(cache, len(rows)),
        ).last_hidden_state
        states, targets, lengths = [], [], []
        for row, (context, *options) in zip(hidden, rows, strict=True):
            start = len(context)
            for option in options:  # its first token follows the context's last, wherever it lies
                states += [row[len(context) - 1, None], row[start : start + len(option) - 1]]
                targets, start = targets + option, start + len(option)
            lengths += map(len, options)
        picked = token_logliks(self.model, torch.cat(states), torch.tensor(targets, device=device))
        sums = torch.stack([some.sum() for some in picked.split(lengths)])
        return list(sums.split([len(row) - 1 for row in rows]))

    def generate_until(self, requests):
        raise NotImplementedError("only the likelihood of options is computed")

    loglikelihood_rolling = generate_until


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
        hidden = models.final_states(model, **batch, keep=pad(answer, (0, 1)))
        picked = token_logliks(model, hidden, targets[answer]).split(answer.sum(1).tolist())
        for i, logliks in zip(chosen, picked, strict=True):
            values[examples[i].id] = logliks.mean().item()
    return pd.DataFrame({"id": list(values), "solution_loglik": list(values.values())})


# --- written answers (MMLU-Pro) ----------------------------------------------------------------

#: Patterns of the letter, in turn. lm-eval's rule is the first alone; MMLU-Pro's official one
#: (TIGER-AI-Lab/MMLU-Pro, evaluate_from_local.py) goes on with the last "Answer: X" on its line,
#: and with the last letter that stands alone.
ANSWER_IS = re.compile(r"answer is \(?([A-J])\)?")
ANSWER_COLON = re.compile(r".*[aA]nswer:\s*([A-J])")
LAST_LETTER = re.compile(r"\b([A-J])\b(?!.*\b[A-J]\b)", re.DOTALL)
RULES = {"strict": (ANSWER_IS,), "official": (ANSWER_IS, ANSWER_COLON, LAST_LETTER)}
LETTERS = ascii_uppercase[:10]
#: Where a base model would go on with a question of its own; both harnesses stop there.
STOP = "Question:"
#: lm-eval's description of the task, and the official prompt's first line.
DESCRIPTION = (
    "The following are multiple choice questions (with answers) about {domain}. Think step by step "
    'and then finish your answer with "the answer is (X)" where X is the correct letter choice.\n'
)


def written_accuracy(
    write: Callable[[Sequence[str]], Sequence[tuple[str, int, bool]]],
    tokenizer,
    examples: Sequence[Example],
    shots: Mapping[str, Sequence[Example]],
    settings: EvaluationSettings,
    context: int | None = None,
) -> pd.DataFrame:
    """Each question's performance, a row a question: the columns of `option_likelihoods` and three.

    `write`: prompts -> of each its text, the text's tokens, and whether it ended by itself.
    `shots`: domain -> its demonstrations, of which the first `settings.shots` are shown; `context`:
    the model's length (the tokenizer's own if left out). `accuracy` is 1.0 where the letter read
    from the text is the gold option's; the likelihoods are NaN. `answered`: an answer was found,
    not guessed; `cut_off`: the text reached `settings.max_new_tokens`; `tokens`: its length.
    """
    few = [e.domain for e in examples if len(shots.get(e.domain, ())) < settings.shots]
    if few:
        asked = f"the {settings.shots} demonstrations that evaluation.shots asks for"
        raise ValueError(f"domain {few[0]!r} lacks {asked}")
    size = context or tokenizer.model_max_length, settings.max_new_tokens
    shown = [shots.get(e.domain, ())[: settings.shots] for e in examples]
    prompts = [fitting_prompt(tokenizer, e, s, *size) for e, s in zip(examples, shown, strict=True)]
    rows = []
    for e, (text, tokens, finished) in zip(examples, write(prompts), strict=True):
        letter, answered = answer(text.split(STOP)[0], len(e.options), settings.rule, e.id)
        right = float(letter == LETTERS[e.options.index(e.answer)])
        measured = (np.nan, np.nan, np.nan, right)
        rows.append((e.domain, e.id, *measured, answered, not finished, tokens))
    return pd.DataFrame(rows, columns=["domain", "id", *MEASURES, "answered", "cut_off", "tokens"])


def answer(text: str, options: int, rule: str = "official", key: str = "") -> tuple[str, bool]:
    """(letter, whether it was read) that `text` gives to a question with `options` options.

    Rule "official": three patterns in turn, then a guess among the options, drawn with `key` (the
    question's id), so that a question is guessed alike before and after fine-tuning. (The official
    script draws every guess with the same seed, so all of them are one letter.) Rule "strict",
    lm-eval's: the first pattern alone, and ("", False) where it is not there.
    """
    for pattern in RULES[rule]:
        if match := pattern.search(text):
            return match[1], True
    if rule == "strict":
        return "", False
    return LETTERS[random.Random(f"mmlu-pro {key}").randrange(options)], False


def prompt(example: Example, shots: Sequence[Example]) -> str:
    """lm-eval's prompt: the description, each shot with its chain of thought, and the question."""
    shown = [{"question": e.question, "options": list(e.options)} for e in (*shots, example)]
    text = DESCRIPTION.format(domain=example.domain)
    for shot, row in zip(shots, shown, strict=False):
        chain = shot.solution.strip().removeprefix("Let's think step by step.").strip()
        text += f"{lm_eval_mmlu_pro.fewshot_to_text(row)} {chain}\n\n"
    return text + lm_eval_mmlu_pro.doc_to_text(shown[-1])


def fitting_prompt(
    tokenizer, example: Example, shots: Sequence[Example], context: int, new_tokens: int
) -> str:
    """The prompt with as many of `shots` as leave room for `new_tokens` in `context`, as the
    official script does. Raises ValueError where not even the bare question fits."""
    for n in range(len(shots), -1, -1):
        text = prompt(example, shots[:n])
        if len(tokenizer(text).input_ids) + new_tokens <= context:
            return text
    more = f"question {example.id} and {new_tokens} new tokens are more"
    raise ValueError(f"{more} than the model's {context}: lower evaluation.max_new_tokens")


def answers_report(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """What became of the answers of each domain, from two tables of `written_accuracy` on the same
    questions.

    Columns, each `_before` and `_after`: accuracy, no_answer (share whose answer was guessed or
    missing), cut_off (share that reached the length limit), tokens (mean length); then `change` of
    accuracy, `answered_both` (questions answered in both) and `change_answered`, the change among
    these alone (NaN if none is): a drop that is truncation is not in it.
    """
    names = {"suffixes": ("_before", "_after"), "validate": "one_to_one"}
    both = before.merge(after, on=["domain", "id"], **names)
    if not len(both) == len(before) == len(after):
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
        both_answered = group.answered_before & group.answered_after
        row |= {"change": change.mean(), "answered_both": int(both_answered.sum())}
        rows.append(row | {"change_answered": change[both_answered].mean()})
    return pd.DataFrame(rows)
