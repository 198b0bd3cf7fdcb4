"""What is read of the positive control's training sets and domains before any training."""

import random

import numpy as np
import torch

from sts_utils import corpora, interventions, prompts, questions, run, saes
from sts_utils.cache import cached
from sts_utils.config import Profile
from sts_utils.control import sets
from sts_utils.evaluate import OptionsLM
from sts_utils.examples import by_domain
from sts_utils.generate import chat_text

READ = (*run.READ, *run.DOMAINS, "sft.examples", "control.demonstrations", "control.contexts")
QUESTIONS = 8  # of one backward pass


def at_answer(p: Profile) -> Profile:
    """The run that reads the tokens between a query and its answer in the place of the query's."""
    return p.model_copy(update={"place": "answer"})


@cached(*READ)
def shift_features(p: Profile, name: str, seed: int) -> dict:
    """Features of a set's questions without and with demonstrations (for D_N): half of its examples
    are asked, half are demonstrations."""
    chosen, size = sets.examples(p, name, seed), (p.control.demonstrations, p.control.contexts)
    asked, shown = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    shown = prompts.choose_demonstrations(shown, *size, seed)
    return run.read(p, questions.pairs(p, asked[: p.sts.queries], shown), f"{name}, {seed}")


@cached(*READ)
def answer_features(p: Profile, name: str, seed: int | None = None) -> dict:
    """Features of questions after demonstrations with wrong answers, then with the right ones: what
    is left of the shift is neither wording nor form. Of a training set and seed, or of a domain."""
    return run.read(p, answer_pairs(p, name, seed), f"{name}, right and wrong")


def answer_pairs(p: Profile, name: str, seed: int | None = None) -> prompts.Pairs:
    """(wrong, right) prompts of a training set and seed, or of a domain."""
    if seed is None:
        shown = by_domain(corpora.load(p.demonstrations))[name]
        asked = questions.domain_queries(p, name, 0)
    else:
        chosen = sets.drawn(p, name, seed)
        asked, shown = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    size = p.control.demonstrations, p.control.contexts
    rng = random.Random(f"wrong {name} {seed}")
    shown = prompts.choose_demonstrations(shown, *size, seed or 0)
    return questions.answer_pairs(p, asked[: p.sts.queries], shown, rng)


@cached(*READ, "evaluation.dtype")
def gradients(p: Profile, name: str, seed: int | None = None) -> dict[str, np.ndarray]:
    """Which way the answers of a training set and seed, or of a domain's scored questions, pull the
    residual stream r after the SAE's block, before training: sums over a question's tokens, sinks
    left out, mean over questions, of gradients g = ∂/∂r of the log-odds of the gold option against
    the others (ours). Training raises the likelihood of whole answers, most of which is form that
    all options share; the log-odds leave that out.

    | key | shape | is |
    |---|---|---|
    | odds | [d_model] | g of the log-odds |
    | features | [F] | h_j (d_j · g): how far each active feature carries the log-odds |
    | loglik | [d_model] | g of the gold option's log-likelihood |
    """
    chosen = questions.domain_queries(p, name, 0) if seed is None else sets.drawn(p, name, seed)
    chosen, hook, tokenizer = chosen[: p.sts.queries], run.hook(p), questions.tokenizer(p)
    model, sums = run.whole(p).requires_grad_(False), {}
    lm, leaves = OptionsLM(model, tokenizer), []

    def leaf(residual: torch.Tensor) -> torch.Tensor:
        leaves.append(residual.detach().requires_grad_())
        return leaves[-1]

    for start in range(0, len(chosen), QUESTIONS):
        rows = []
        for e in chosen[start : start + QUESTIONS]:
            options = [e.answer, *(option for option in e.options if option != e.answer)]
            rows.append(lm.pieces(chat_text(tokenizer, e.question), options))
        with interventions.edited(model, {hook.layer: leaf}):
            scores = lm.score(rows)  # of each question: the gold option's, then the others'
        odds = sum(options[0] - options[1:].logsumexp(0) for options in scores)
        loglik, at = sum(options[0] for options in scores), leaves.pop()
        residual = at.detach().flatten(0, 1).float()
        kept = residual.norm(dim=-1) < hook.sink_norm
        g_odds = torch.autograd.grad(odds, at, retain_graph=True)[0].flatten(0, 1)[kept]
        g_loglik = torch.autograd.grad(loglik, at)[0].flatten(0, 1)[kept]
        along = g_odds.float() @ hook.sae.W_dec.float().T
        carried = saes.encode(hook.sae, residual[kept]) * along
        for key, terms in (("odds", g_odds), ("features", carried), ("loglik", g_loglik)):
            sums[key] = sums.get(key, 0) + terms.sum(0).double().cpu()
    return {key: (total / len(chosen)).float().numpy() for key, total in sums.items()}


def rounds(profile: Profile) -> list[list[tuple]]:
    """All that the control computes, as rounds of (cached function, its arguments): what the
    untouched model does on each part's domains, then a part's training sets, a seed at a time."""
    parts, after = sets.parts(profile).values(), []
    before = [(run.performance, (p,)) for p in {p.domains: p for p in parts}.values()]
    for p in parts:
        q, short = at_answer(p), (sets.steps(p, probe=True), sets.PROBE_QUESTIONS)
        for d in sets.domains(p):
            before += [(answer_features, (q, d)), (gradients, (p, d))]
            before += [(run.domain_features, (at, d, s)) for at in (p, q) for s in p.seeds]
        for cell in ((name, seed) for seed in p.seeds for name in p.control.part.sets):
            after += [(sets.change, (p, *cell, sets.steps(p))), (sets.change, (p, *cell, *short))]
            after += [(sets.quick_probe, (p, *cell)), (gradients, (p, *cell))]
            after += [(shift_features, (at, *cell)) for at in (p, q)]
            after.append((answer_features, (q, *cell)))
    return [before, after]
