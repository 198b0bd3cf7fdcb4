"""Other trainings, and what else is read of them for the matrix and the control. Fig 5, Table 10:
SFT with extra data of the domain of highest STS_ICL, and of the lowest; a mixture's model is
(mixed, seed, ends, extra examples of each): those of the same sizes are one. Fig 6: GRPO and SFT on
the same questions, by functions of `supervised(p)`."""

import math
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from sts_utils import corpora, evaluate, generate, prompts, questions, run, saes
from sts_utils.cache import cached
from sts_utils.config import Profile, TrainingSet
from sts_utils.measured import Run
from sts_utils.prompts import Example, by_domain

NAMES = ("none", "all low", "half", "all high", "STS")
POOLS = (*run.MODEL, "domains", "demonstrations", "evaluation.dtype")
POOLS += ("mixture.extra", "mixture.answer_tokens")
LEARNT = (*run.MODEL, "train", "grpo", "shift.held_out")
READ = (*run.READ, "train", "shift", *run.DOMAINS)
OUTCOME = (*run.ASKED, "train", "shift.held_out", "sft", "evaluation.asked")
PROBE_EXAMPLES, PROBE_QUESTIONS = 16, 8  # learned in a probe; asked of a domain
TOGETHER = 8  # questions of one backward pass


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


def pulls(p: Profile, chosen: Sequence[Example]) -> dict[str, np.ndarray]:
    """Gradients at the residual stream r after the SAE's block: sums over a question's tokens,
    sinks left out, mean over questions, of g = ∂/∂r of the log-odds of the gold option against the
    others. Training raises the likelihood of whole answers, most of which is form that all options
    share; the log-odds leave that out. Without options, g is of the solution's log-likelihood.

    | key | shape | is |
    |---|---|---|
    | odds | [d_model] | g of the log-odds |
    | features | [F] | h_j (d_j · g): how far each active feature carries the log-odds |
    | loglik | [d_model] | g of the gold option's log-likelihood |"""
    hook, tokenizer = run.hook(p), questions.tokenizer(p)
    model, sums = run.whole(p).requires_grad_(False), {}
    lm, leaves = evaluate.OptionsLM(model, tokenizer), []

    def leaf(residual: torch.Tensor) -> torch.Tensor:
        leaves.append(residual.detach().requires_grad_())
        return leaves[-1]

    for start in range(0, len(chosen), TOGETHER):
        rows = []
        for e in chosen[start : start + TOGETHER]:
            options = [e.answer, *(option for option in e.options if option != e.answer)]
            asked, options = (e.question, options) if e.options else (e.query, [e.solution])
            rows.append(lm.pieces(generate.chat_text(tokenizer, asked), options))
        with saes.edited(model, {hook.layer: leaf}):
            scores = lm.score(rows)  # of each question: the gold option's, then the others'
        loglik, at = sum(options[0] for options in scores), leaves.pop()
        others = [options[1:].logsumexp(0) for options in scores if len(options) > 1]
        odds = loglik - sum(others) if others else loglik
        residual = at.detach().flatten(0, 1).float()
        kept = residual.norm(dim=-1) < hook.sink_norm
        g_odds = torch.autograd.grad(odds, at, retain_graph=True)[0].flatten(0, 1)[kept]
        g_loglik = torch.autograd.grad(loglik, at)[0].flatten(0, 1)[kept]
        along = g_odds.float() @ hook.sae.W_dec.float().T
        carried = saes.encode(hook.sae, residual[kept]) * along
        for key, terms in (("odds", g_odds), ("features", carried), ("loglik", g_loglik)):
            sums[key] = sums.get(key, 0) + terms.sum(0).double().cpu()
    return {key: (total / len(chosen)).float().numpy() for key, total in sums.items()}


@cached(*READ, "evaluation.dtype", "evaluation.asked")
def gradients(p: Profile, seed: int, domain: str | None = None) -> dict[str, np.ndarray]:
    """`pulls` of the training set's answers, or of a domain's; as many of either."""
    pool = questions.training_examples(p, seed, listed=True)[0]
    chosen = questions.domain_queries(p, domain, seed) if domain else pool
    return pulls(p, chosen[: min(p.sts.queries, p.evaluation.asked or p.sts.queries)])


@cached(*READ)
def answer_features(p: Profile, seed: int, domain: str | None = None) -> dict:
    """Features of questions after demonstrations with wrong answers, then with the right ones: what
    is left of the shift is neither wording nor form. Of the training set, or of a domain."""
    return run.read(p, answer_pairs(p, seed, domain), f"{domain or p.train}, right and wrong")


def answer_pairs(p: Profile, seed: int, domain: str | None = None) -> prompts.Pairs:
    """(wrong, right) prompts of the training set, or of a domain."""
    n, pool = p.sts.queries, questions.training_examples(p, seed, listed=True)[0]
    asked, shown = pool[:n], pool[n:]
    if domain:
        asked = questions.domain_queries(p, domain, seed)
        shown = by_domain(corpora.load(p.demonstrations))[domain]
    shown = prompts.choose_demonstrations(shown, p.sts.demonstrations, p.shift.sets, seed)
    rng = random.Random(f"wrong {domain or p.train} {seed}")
    return questions.answer_pairs(p, asked[:n], shown, rng)


def comparable(p: Profile) -> tuple[str, ...]:
    """The domains whose answers are of the training set's type, as far as that is known."""
    own = p.train.partition("/")[2]
    return tuple(d for d in corpora.domains(p.domains) if corpora.comparable(own, d))


def _asked(p: Profile, first: int, last: int | None) -> tuple[Example, ...]:
    groups = questions.evaluation_questions(p)
    return tuple(e for d in comparable(p) for e in groups[d][first:last])


@cached(*OUTCOME)
def outcome(p: Profile, seed: int) -> pd.DataFrame:
    """Performance on the comparable domains after fine-tuning, a row a question."""
    after = run.performance(p, (run.finetuned, seed), None, _asked(p, 0, p.evaluation.asked))
    shutil.rmtree(run.finetuned.path(p, seed), ignore_errors=True)  # dozens are a disk full
    return after


@cached(*OUTCOME)
def probe(p: Profile, seed: int) -> pd.DataFrame:
    """The same after a quick probe, of questions that the outcome does not ask."""
    desc, first = f"probe {p.train}", p.evaluation.asked or 0
    learned = questions.training_examples(p, seed)[0][:PROBE_EXAMPLES]
    model = run.briefly_tuned(p, learned, 10 * p.sft.lr, seed, desc)
    asked = _asked(p, first, first + PROBE_QUESTIONS)
    return evaluate.option_likelihoods(model, questions.tokenizer(p), asked, desc=desc)


def change(p: Profile, after: pd.DataFrame) -> pd.DataFrame:
    """What a model's performance is above the untouched one's: domain, id and the measures."""
    after, before = (t.set_index(["domain", "id"]) for t in (after, run.performance(p)))
    return (after - before.loc[after.index]).reset_index()


def at_answer(p: Profile) -> Profile:
    """The run that reads the tokens between a query and its answer in the place of the query's."""
    return p.model_copy(update={"place": "answer"})
