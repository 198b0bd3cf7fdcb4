"""A probe: a few steps of fine-tuning on the training set, and what they do to every domain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from sts_utils import evaluate as options
from sts_utils import models, stats, store
from sts_utils import stats as correlation
from sts_utils import train as sft
from sts_utils.config import Profile, SftSettings
from sts_utils.examples import Example, digest, with_answer
from sts_utils.features import tokens_read
from sts_utils.prediction.sources import drawn
from sts_utils.prompts import Prompt
from sts_utils.runs import models as held
from sts_utils.runs import recipes, samples

#: The quick probe of the positive control: small batches at ten times fine-tuning's learning rate
#: (control/sets.py), which is lower where a model is wider than the one it was found on.
SETTINGS = SftSettings(batch=sft.QUICK_BATCH, micro_batch=sft.QUICK_BATCH, lr=1e-3)
WIDTH = 576
#: Of a domain, at most.
QUESTIONS = 64


#: What a measure is called, and its unit.
NAMES = {
    "gold_log_odds": ("log-odds of the right option against the others", "log-odds"),
    "solution_loglik": ("log-likelihood a token of the answer", "nats a token"),
}


@dataclass(frozen=True)
class Probe:
    """What `steps` of fine-tuning changed: `answers` has a row a domain and question, with
    `measure` of its answer `before` and `after`; `cost` is said in words."""

    steps: int
    answers: pd.DataFrame
    cost: str
    measure: str

    @property
    def name(self) -> str:
        """What is measured, in words."""
        return NAMES[self.measure][0]

    @property
    def unit(self) -> str:
        return NAMES[self.measure][1]

    @property
    def changes(self) -> dict[str, np.ndarray]:
        """Domain -> [1 seed, Q] after − before."""
        change = self.answers.after - self.answers.before
        return {d: of.to_numpy()[None] for d, of in change.groupby(self.answers.domain)}

    @property
    def table(self) -> pd.DataFrame:
        """A row a domain, the largest change first: domain, questions, before, after, change,
        `change_low` and `change_high` (95% bootstrap over questions)."""
        rows = []
        for domain, of in self.answers.groupby("domain"):
            low, high = stats.interval(stats.mean_draws(self.changes[domain]))
            row = {"domain": domain, "questions": len(of)}
            row |= {"before": of.before.mean(), "after": of.after.mean()}
            change = {"change": row["after"] - row["before"]}
            rows.append(row | change | {"change_low": low, "change_high": high})
        order = {"by": "change", "key": abs, "ascending": False}
        return pd.DataFrame(rows).sort_values(**order, ignore_index=True)

    @property
    def reliability(self) -> float:
        """Share of the variance of the change between domains that is signal (correlation)."""
        return correlation.reliability(list(self.changes.values()))


def questions(asked: Mapping[str, Sequence[Example]], seed: int) -> list[Example]:
    """At most QUESTIONS of each domain that have an answer. All are multiple choice, or else an
    answer is its solution: of multiple choice the gold option's text, without the options."""
    chosen = []
    for examples in asked.values():
        answered = [e for e in examples if e.solution or e.answer]
        chosen += drawn(answered, QUESTIONS, seed)
    if measure(chosen) == "gold_log_odds":
        return chosen
    plain = [replace(e, solution=e.solution or e.answer) for e in chosen]
    return [with_answer(e) if e.options and e.answer else e for e in plain]


def measure(asked: Sequence[Example]) -> str:
    """What is measured: free of form where there are options, and only there."""
    free = all(e.answer in e.options and len(e.options) > 1 for e in asked)
    return "gold_log_odds" if free else "solution_loglik"


def training(train: Sequence[Example], steps: int, seed: int) -> list[Example]:
    """The examples of so many steps; all of them where there are fewer, which are then seen
    again."""
    return drawn(train, steps * SETTINGS.batch, seed)


def cost(
    profile: Profile,
    steps: int,
    train: Sequence[Example],
    asked: Sequence[Example],
    pairs: Sequence[tuple[Prompt, Prompt]],
) -> str:
    """What a probe computes beside the scores, which read `pairs`, in words, before it is run.

    In tokens × blocks; a backward pass counts as two forward ones.
    """
    tokenizer = samples.tokenizer(profile.model, profile.revision)
    depth = models.depth(profile.model, profile.revision)

    def length(examples: Sequence[Example]) -> int:
        texts = [f"{e.query}\n{e.solution}" for e in examples]
        return sum(map(len, tokenizer(texts).input_ids))

    seen = steps * SETTINGS.batch
    trained = seen * length(train) / len(train)
    read = (profile.layer + 1) * tokens_read(pairs)
    times = depth * (3 * trained + 2 * length(asked)) / read
    width = getattr(torch, profile.dtype).itemsize
    held = models.size(profile.model, profile.revision) * (2 * width + sft.MASTER_BYTES) / 1e9
    return (
        f"A probe of {steps} steps learns from {seen} examples and reads {len(asked)} questions "
        f"before and after: {times:.1f} times what the scores compute; it holds a whole model, its "
        f"gradients and the optimizer's state in memory, {held:.1f} GB beside activations."
    )


def run(
    profile: Profile, steps: int, train: Sequence[Example], asked: Sequence[Example], seed: int
) -> pd.DataFrame:
    """Fine-tune the model for `steps` and measure `asked` before and after; nothing but that is
    stored."""

    def compute() -> pd.DataFrame:
        held.release()
        tokenizer = samples.tokenizer(profile.model, profile.revision)
        whole = models.load_model(profile.model, profile.dtype, profile.revision)

        def measured() -> np.ndarray:
            if chosen == "gold_log_odds":
                of = options.option_likelihoods(whole.eval(), tokenizer, asked, desc="probe")
            else:
                length = SETTINGS.max_length
                of = options.solution_loglik(whole.eval(), tokenizer, asked, length)
            of = of.drop_duplicates("id").set_index("id")  # one question may be in two domains
            return of[chosen].loc[[e.id for e in asked]].to_numpy()

        before = measured()
        told = SETTINGS, train, lr, seed, "probe", steps
        sft.train_answers(whole.train(), tokenizer, *told, warmup=0)
        rows = {"domain": [e.domain for e in asked], "id": [e.id for e in asked]}
        return pd.DataFrame(rows | {"before": before, "after": measured()})

    chosen = measure(asked)
    lr = SETTINGS.lr * min(1, WIDTH / models.check(profile.model, profile.layer, profile.revision))
    told = {"sft": SETTINGS.model_dump() | {"lr": lr}, "seed": seed, "measure": chosen}
    told |= {"steps": steps, "examples": digest(train), "asked": digest(asked)}
    recipe = recipes.of(profile, "model", "revision", "dtype", **told)
    return store.frame("probe", recipe, compute)
