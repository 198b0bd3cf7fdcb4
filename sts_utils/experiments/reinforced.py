"""Fig 6: GRPO and SFT on the same questions; cached functions take the run `supervised(p)`."""

import math
from pathlib import Path

import pandas as pd

from sts_utils import questions, run
from sts_utils.cache import cached
from sts_utils.config import Profile, TrainingSet

LEARNT = (*run.MODEL, "train", "grpo", "shift.held_out")


def supervised(p: Profile) -> Profile:
    """The run that fine-tunes on GRPO's training set: its first two seeds, and GRPO's steps,
    questions a step (with more, SFT would learn from others), learning rate and precision."""
    g, other = p.grpo, questions.trained_on(p, TrainingSet(train=p.grpo.train, seeds=2))
    size = {"examples": g.steps * g.prompts, "epochs": 1, "batch": g.prompts}
    size |= {"micro_batch": math.gcd(g.prompts, other.sft.micro_batch), "lr": g.lr}
    sft = other.sft.model_copy(update=size | {"dtype": g.dtype})
    return other.model_copy(update={"sft": sft})


@cached(*LEARNT, "engine", folder=True)
def reinforced(p: Profile, seed: int, *, out: Path) -> None:
    """The model after GRPO on the questions that SFT learns from."""
    asked = p.grpo.steps * p.grpo.prompts
    run.grpo(p, questions.training_examples(p, seed)[0][:asked], seed, out)


@cached(*LEARNT, "evaluation.held_out", "evaluation.dtype")
def accuracy(p: Profile, model: run.Model) -> pd.DataFrame:
    """Greedy accuracy on held-out questions before (None) or after RL; columns id, accuracy."""
    from sts_utils import grpo  # TRL takes seconds to import

    examples = questions.training_examples(p, 0)[1][: p.evaluation.held_out]
    whole, read = run.whole(p, model), questions.tokenizer(p)
    return grpo.accuracy(whole, read, examples, p.grpo.completion_tokens)
