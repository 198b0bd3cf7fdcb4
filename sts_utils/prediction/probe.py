"""A probe: a few steps of fine-tuning on people's own data, and what these change (ours)."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from string import ascii_uppercase as LETTERS

import numpy as np
import pandas as pd
import torch

from sts_utils import batches, evaluate, generate, models, questions, run, stats
from sts_utils import train as sft
from sts_utils.cache import cached
from sts_utils.config import Profile
from sts_utils.prediction.sources import drawn
from sts_utils.prompts import Example, chat, with_answer
from sts_utils.stats import Jackknife

#: How multiple choice is learnt and asked: by …
FORMS = {"text": "the options' texts, none listed", "letter": "the letters of a list"}
#: The batch; the learning rate, for models of this width and lower for wider ones (the quick probe
#: of notebook 16); questions of a domain, at most.
BATCH, LR, WIDTH, PROBED = sft.QUICK_BATCH, 1e-3, 576, 64
#: Measured beside the log-odds; what sources.example gives for a letter's solution.
BESIDE, SENTENCE = ("gold_probability", "accuracy"), "The answer is ({})."


def are_choices(examples: Sequence[Example]) -> bool:
    """Whether all are multiple choice with a known answer."""
    return all(len(e.options) > 1 and e.answer in e.options for e in examples)


def measurable(asked: Mapping[str, Sequence[Example]], seed: int) -> list[Example]:
    """At most PROBED of each domain that have an answer. All are multiple choice, or else an answer
    is its solution: of multiple choice the gold option's text, without the options."""
    answered = ([e for e in of if e.solution or e.answer] for of in asked.values())
    chosen = [e for of in answered for e in drawn(of, PROBED, seed)]
    if not chosen:
        raise ValueError("probe: no domain has an answer to be measured by: give some, or no probe")
    if are_choices(chosen):
        return chosen
    plain = [replace(e, solution=e.solution or e.answer) for e in chosen]
    return [with_answer(e) if e.options and e.answer else e for e in plain]


def learnt(e: Example, form: str) -> Example:
    """An example as the probe learns it: one that has only a letter for a solution, in `form`."""
    by_letter = e.options and e.solution in map(SENTENCE.format, LETTERS)
    return with_answer(e) if by_letter and form == "text" else e


def in_form(e: Example, form: str) -> Example:
    """A question as the probe asks it; by letters, the options are the sentences that name them."""
    if not e.options or form == "text":
        return e
    named = tuple(SENTENCE.format(letter) for letter, _ in zip(LETTERS, e.options, strict=False))
    answer = named[e.options.index(e.answer)]
    return replace(e, question=e.query, options=named, answer=answer)


def costs(p: Profile, steps, lr, lora, learned: Sequence, asked, seed, form: str) -> list[str]:
    """What a probe learns and asks, in what form, and about what time and memory it takes: weights
    twice, gradients, AdamW's moments and copy, and the activations of its longest rows."""
    rows = generate.tokenize(tokenizer := questions.tokenizer(p), learned, p.sft.max_length)
    longest = max(lengths := [len(row["input_ids"]) for row in rows])
    config, weight = models.config_of(p.model), getattr(torch, p.sft.dtype).itemsize
    square = 2 * longest if longest <= models.EAGER_TOKENS else 0  # longer rows: the flash kernel
    numbers = 8 * config.hidden_size + square * config.num_attention_heads
    numbers = config.num_hidden_layers * numbers + 3 * config.vocab_size  # of a token
    held = models.size(p.model) * (2 * weight + (0 if lora else sft.MASTER_BYTES))
    held += BATCH * longest * numbers * weight
    texts = [f"{e.question}\n{e.solution or ' '.join(e.options)}" for e in asked]
    tokens = 6 * sum(lengths) + 4 * sum(map(len, tokenizer(texts).input_ids))
    seconds = models.size(p.model) * tokens / batches.flops_a_second(p.sft.dtype)
    said = f"A probe of {steps} steps of {lr:g} on {'a LoRA' if lora else 'all weights'}"
    said += f" learns from {len(learned)} examples, reads {len(asked)} questions twice: about"
    notes = [f"{said} {seconds / 60:.0f} min, {held / 1e9:.1f} GB."]
    if any(e.options for e in asked):
        notes.append(f"Multiple choice is learnt and asked by {FORMS[form]}.")
    whole = tokenizer.apply_chat_template(chat("q", "answer"), tokenize=False)
    if whole.rstrip().endswith("answer"):
        notes.append("The chat template ends no answer: what is trained on it never ends.")
    return notes


@cached(*run.MODEL, "sft", "evaluation.dtype")
def tried(p: Profile, steps, lr, lora, learned: Sequence, asked, seed: int) -> pd.DataFrame:
    """`asked` before and after fine-tuning on `learned`, whose model is not kept: domain, id,
    measure, before, after: of multiple choice log-odds, or the answer's log-likelihood a token;
    beside log-odds accuracy_before, …; steps; seconds_of_steps, seconds_of_asking."""
    measure, name = partial(evaluate.option_likelihoods, desc="probe"), "gold_log_odds"
    if not are_choices(asked):
        measure = partial(evaluate.solution_loglik, max_length=p.sft.max_length)
        name = "solution_loglik"
    rows = {"domain": [e.domain for e in asked], "id": [e.id for e in asked], "measure": name}
    for side in ("before", "after"):
        how, start = (learned, lr, seed, "probe", steps, lora), time.monotonic()
        model = run.whole(p) if side == "before" else run.briefly_tuned(p, *how)
        rows["seconds_of_steps"], start = time.monotonic() - start, time.monotonic()
        found = measure(model, questions.tokenizer(p), asked).drop_duplicates("id")
        found = found.set_index("id").loc[rows["id"]]  # one in two domains
        rows["seconds_of_asking"] = time.monotonic() - start
        rows |= {f"{k}_{side}": found[k].to_numpy() for k in BESIDE if k in found}
        rows[side] = found[name].to_numpy()
    return pd.DataFrame(rows).assign(steps=steps)


def changes(answers: pd.DataFrame, measure: str = "") -> dict[str, Jackknife]:
    """Domain -> mean change, 95% over questions, of the probe's measure or of one of BESIDE."""
    before, after = (f"{measure}_{side}".strip("_") for side in ("before", "after"))
    each = (answers[after] - answers[before]).groupby(answers.domain, sort=False)
    return {domain: Jackknife.mean(of.to_numpy()[None]) for domain, of in each}


def reliability(answers: pd.DataFrame) -> float:
    """The share of the variance of the change between domains that is signal; of one NaN."""
    each = (answers.after - answers.before).groupby(answers.domain)
    values = [of.to_numpy()[None] for _, of in each]
    return stats.reliability(values) if len(values) > 1 else np.nan


def table(answers: pd.DataFrame) -> pd.DataFrame:
    """A row a domain: questions, before, after, change with its interval, and of BESIDE."""
    rows = answers.groupby("domain", sort=False)[["before", "after"]].mean()
    rows.insert(0, "questions", answers.groupby("domain", sort=False).size())
    found = changes(answers).values()
    for end, name in (("", "value"), ("_low", "low"), ("_high", "high")):
        rows[f"change{end}"] = [float(getattr(e, name)) for e in found]
    for name in (name for name in BESIDE if f"{name}_after" in answers):
        rows[f"{name} change"] = list(map(str, changes(answers, name).values()))
    return rows.reset_index()


def says(answers: pd.DataFrame) -> Iterator[str]:
    """What a probe found, in short lines: what moves most, or how many steps would show it."""
    rows, share, steps = table(answers), reliability(answers), int(answers.steps[0])
    name = {"gold_log_odds": "log-odds of the right option"}.get(answers.measure[0], "nats a token")
    apart = rows.change_low * rows.change_high > 0
    if share < stats.TESTABLE:
        factor = (1 / max(share, 0.05) - 1) ** 0.5  # signal grows with steps, noise does not
        seconds = factor * answers.seconds_of_steps[0] + 2 * answers.seconds_of_asking[0]
        yield f"The probe's {steps} steps show mostly noise: reliability {max(share, 0):.2f} of 1."
        yield f"About {steps * factor:.0f} steps would do, {seconds / 60:.0f} minutes here."
        return
    if "accuracy_after" in answers:
        accuracy = np.array([float(e.value) for e in changes(answers, "accuracy").values()])
        if odd := ", ".join(rows.domain[apart & (rows.change * accuracy <= 0)]):
            yield f"Log-odds move and accuracy does not, or the other way: {odd}."
    most = rows.loc[rows.change.abs().idxmax()]
    change = f"{most.change:+.2f} [{most.change_low:+.2f}, {most.change_high:+.2f}]"
    yield f"{most.domain} moves most: {change}, {name}, after {steps} steps."
    yield f"{apart.sum()} of {len(rows)} intervals leave 0 out ({len(rows) / 20:.1f} by chance)."
    if len(rows) > 1:
        yield f"Reliability {share:.2f} of 1."
