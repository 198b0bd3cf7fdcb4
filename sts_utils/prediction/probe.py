"""A probe: a few steps of fine-tuning on the training set, and what they do to every domain."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from sts_utils import evaluate, models, run, stats, train
from sts_utils.cache import cached
from sts_utils.config import Profile, SftSettings
from sts_utils.examples import Example, with_answer
from sts_utils.features import tokens_read
from sts_utils.prediction.sources import drawn

log = logging.getLogger(__name__)

#: The quick probe of the positive control (notebook 07): small batches at ten times fine-tuning's
#: learning rate, which is lower where a model is wider than the one it was found on.
BATCH, LR, WIDTH = train.QUICK_BATCH, 1e-3, 576
#: Of a domain, at most.
QUESTIONS = 64


@dataclass(frozen=True)
class Probe:
    """What `steps` of fine-tuning changed: `answers` has a row a domain and question, with
    `measure` of its answer `before` and `after`; `cost` is said in words."""

    steps: int
    answers: pd.DataFrame
    cost: str
    measure: str

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
            before, after = of.before.mean(), of.after.mean()
            rows.append((domain, len(of), before, after, after - before, low, high))
        columns = ["domain", "questions", "before", "after", "change", "change_low", "change_high"]
        table = pd.DataFrame(rows, columns=columns)
        return table.sort_values("change", key=abs, ascending=False, ignore_index=True)

    @property
    def reliability(self) -> float:
        """Share of the variance of the change between domains that is signal."""
        return stats.reliability(list(self.changes.values()))


def measure(asked: Sequence[Example]) -> str:
    """What is measured: the right option's log-odds, or the likelihood a token of the solution
    unless all are multiple choice."""
    choice = all(e.answer in e.options and len(e.options) > 1 for e in asked)
    return "gold_log_odds" if choice else "solution_loglik"


def questions(asked: Mapping[str, Sequence[Example]], seed: int) -> list[Example]:
    """At most QUESTIONS of each domain that have an answer. All are multiple choice, or else an
    answer is its solution: of multiple choice the gold option's text, without the options."""
    answered = {d: [e for e in of if e.solution or e.answer] for d, of in asked.items()}
    chosen = [e for of in answered.values() for e in drawn(of, QUESTIONS, seed)]
    if measure(chosen) == "gold_log_odds":
        return chosen
    plain = [replace(e, solution=e.solution or e.answer) for e in chosen]
    return [with_answer(e) if e.options and e.answer else e for e in plain]


def probe(p: Profile, steps: int, train_set: Sequence[Example], domains, pairs, seed: int) -> Probe:
    """Try so many steps on the training set, on all of it where they take more; the cost is said
    before it is run, beside that of the scores, which read `pairs`."""
    asked, learned = questions(domains, seed), drawn(train_set, steps * BATCH, seed)
    log.warning(said := cost(p, steps, learned, asked, pairs))
    width = models.check(p.model, p.layer, p.revision)
    how = {"batch": BATCH, "micro_batch": BATCH, "lr": LR * min(1, WIDTH / width)}
    settings = SftSettings(**how, dtype=p.dtype)
    answers = tried(p, settings, steps, tuple(learned), tuple(asked), seed)
    return Probe(steps, answers, said, measure(asked))


@cached(*run.MODEL, "dtype")
def tried(p: Profile, settings: SftSettings, steps: int, learned, asked, seed: int) -> pd.DataFrame:
    """`asked` before and after fine-tuning on `learned`, whose model is not kept."""
    run.release()
    tokenizer, model = run.tokenizer(p), models.load_model(p.model, p.dtype, p.revision)
    name = measure(asked)

    def measured() -> np.ndarray:
        if name == "gold_log_odds":
            found = evaluate.option_likelihoods(model.eval(), tokenizer, asked, desc="probe")
        else:
            length = settings.max_length
            found = evaluate.solution_loglik(model.eval(), tokenizer, asked, length)
        found = found.drop_duplicates("id").set_index("id")  # one may be in two domains
        return found[name].loc[[e.id for e in asked]].to_numpy()

    rows = {"domain": [e.domain for e in asked], "id": [e.id for e in asked], "before": measured()}
    trained = settings, learned, settings.lr, seed, "probe", steps
    train.train_answers(model.train(), tokenizer, *trained, warmup=0)
    return pd.DataFrame(rows | {"after": measured()})


def cost(p: Profile, steps: int, learned: Sequence[Example], asked, pairs: Sequence) -> str:
    """What a probe computes beside the scores, which read `pairs`, in words, before it is run: in
    tokens × blocks, of which a backward pass counts as two forward ones."""
    read = run.tokenizer(p)
    texts = ([f"{e.query}\n{e.solution}" for e in examples] for examples in (learned, asked))
    train_tokens, asked_tokens = (sum(map(len, read(of).input_ids)) for of in texts)
    seen = steps * BATCH
    computed = 3 * seen * train_tokens / len(learned) + 2 * asked_tokens
    times = models.depth(p.model, p.revision) * computed / (p.layer + 1) / tokens_read(pairs)
    bytes_each = 2 * getattr(torch, p.dtype).itemsize + train.MASTER_BYTES
    size = models.size(p.model, p.revision) * bytes_each / 1e9
    return (
        f"A probe of {steps} steps learns from {seen} examples and reads {len(asked)} questions "
        f"before and after: {times:.1f} times what the scores compute; it holds a whole model, its "
        f"gradients and the optimizer's state in memory, {size:.1f} GB beside activations."
    )
