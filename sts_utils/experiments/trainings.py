"""Other trainings. Fig 5, Table 10: SFT with extra data of the domain of highest STS_ICL, and of
the lowest; a mixture's model is (mixed, seed, ends, extra examples of each): those of the same
sizes are one. Fig 6: GRPO and SFT on the same questions, by functions of `supervised(p)`."""

import math
import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd

from sts_utils import generate, questions, run
from sts_utils.cache import cached
from sts_utils.config import Profile, TrainingSet
from sts_utils.measured import Run
from sts_utils.prompts import Example

NAMES = ("none", "all low", "half", "all high", "STS")
POOLS = (*run.MODEL, "domains", "demonstrations", "evaluation.dtype")
POOLS += ("mixture.extra", "mixture.answer_tokens")
LEARNT = (*run.MODEL, "train", "grpo", "shift.held_out")


@cache
def mixtures(p: Profile) -> tuple[tuple[str, str], dict[str, tuple[int, int]]]:
    """(the domains of the highest and of the lowest STS_ICL, mixture -> extra examples of each); no
    outcome is read. Raises ValueError where fewer than two domains have questions enough."""
    table, extra = Run(p).scores, p.mixture.extra
    sts = table[table.metric == "sts_icl"].groupby("domain").value.mean().to_dict()
    sts = {d: value for d, value in sts.items() if len(questions.halves(p, d)[0]) >= extra}
    if len(sts) < 2:
        raise ValueError(f"mixture.extra is {extra}, but fewer than two domains have as many")
    high, low = max(sts, key=sts.get), min(sts, key=sts.get)
    return (high, low), sizes(extra, sts[high], sts[low])


def sizes(extra: int, sts_high: float, sts_low: float) -> dict[str, tuple[int, int]]:
    """Mixture -> extra examples of the (high-STS, low-STS) domain, in the ratio of the two scores
    in "STS"; a ratio within one example of "half" is the half."""
    half, split = extra // 2, round(extra * sts_high / (sts_high + sts_low))
    of_high = {"none": 0, "all low": 0, "half": half, "all high": extra}
    of_high["STS"] = half if abs(split - half) <= 1 else split
    return {name: (n, extra - n if name != "none" else 0) for name, n in of_high.items()}


@cached(*POOLS)
def answered(p: Profile, domain: str) -> pd.DataFrame:
    """Id and answer, sampled from the untouched model (the paper's way), of training questions."""
    examples, tokens = questions.halves(p, domain)[0][: p.mixture.extra], p.mixture.answer_tokens
    asked, model = [e.query for e in examples], run.whole(p)
    written = generate.completions(model, questions.tokenizer(p), asked, tokens, temperature=1.0)
    return pd.DataFrame({"id": [e.id for e in examples], "answer": written})


def with_answers(p: Profile, domain: str) -> list[Example]:
    """Those questions with these answers as solutions; the gold one where nothing was written."""
    answers, examples = answered(p, domain).set_index("id").answer, questions.halves(p, domain)[0]
    return [replace(e, solution=answers[e.id] or e.answer) for e in examples[: p.mixture.extra]]


@cached(*POOLS, "train", "sft", "shift.held_out", "mixture.examples", folder=True)
def mixed(p: Profile, seed: int, ends: tuple, extra: tuple, *, out: Path) -> None:
    """The model after SFT on the training set and `extra` examples of each of `ends`."""
    examples = questions.training_examples(p, seed)[0][: p.mixture.examples]
    for domain, n in zip(ends, extra, strict=True):
        examples = examples + with_answers(p, domain)[:n]
    random.Random(seed).shuffle(examples)
    run.sft(p, p.sft, examples, seed, out)


def evaluated(p: Profile, name: str | None) -> pd.Series:
    """(domain, id) -> the profile's measure on the two domains' test halves, and mathematics, of
    the model after one of NAMES, trained now if it is missing; None: untouched."""
    ends, extra = mixtures(p)
    model = name and (mixed, p.seeds[0], ends, extra[name])
    tests = tuple(e for d in ends for e in questions.halves(p, d)[1][: p.mixture.questions])
    asked = run.performance(p, model, None, tests).set_index(["domain", "id"])
    solved = run.mathematics(p, model).assign(domain="mathematics").set_index(["domain", "id"])
    return pd.concat([asked[p.evaluation.measure], solved[run.mathematics_measure(p)[0]]])


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
