"""What is read of training sets beside the paper's scores (ours): gradients, and a probe run."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from sts_utils import evaluate, interventions, questions, run, saes
from sts_utils.cache import cached
from sts_utils.config import Profile
from sts_utils.examples import Example
from sts_utils.generate import chat_text

PROBE_EXAMPLES, PROBE_QUESTIONS = 16, 8  # learned in a probe; asked of a domain
TOGETHER = 8  # questions of one backward pass


def pulls(p: Profile, chosen: Sequence[Example]) -> dict[str, np.ndarray]:
    """Gradients at the residual stream r after the SAE's block: sums over a question's tokens,
    sinks left out, mean over questions, of g = ∂/∂r of the log-odds of the gold option against the
    others. Training raises the likelihood of whole answers, most of which is form that all options
    share; the log-odds leave that out. Without options, g is of the solution's log-likelihood.

    | key | shape | is |
    |---|---|---|
    | odds | [d_model] | g of the log-odds |
    | features | [F] | h_j (d_j · g): how far each active feature carries the log-odds |
    | loglik | [d_model] | g of the gold option's log-likelihood |
    """
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
            rows.append(lm.pieces(chat_text(tokenizer, asked), options))
        with interventions.edited(model, {hook.layer: leaf}):
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


@cached(*run.READ, "train", "shift.held_out", *run.DOMAINS, "evaluation.dtype")
def gradients(p: Profile, domain: str | None = None) -> dict[str, np.ndarray]:
    """Pulls (`pulls`) of the training set's solutions, or of a domain's gold options; as many
    questions of either."""
    seed = p.seeds[0]
    chosen = questions.domain_queries(p, domain, seed) if domain else None
    return pulls(p, (chosen or questions.training_examples(p, seed)[0])[: p.sts.queries])


@cached(*run.ASKED, "train", "shift.held_out", "sft", "evaluation.asked")
def probe(p: Profile) -> pd.DataFrame:
    """Performance after a quick probe on the training set, first seed: a row a question, none of
    which the outcome asks too."""
    seed, desc, first = p.seeds[0], f"probe {p.train}", p.evaluation.asked or 0
    learned = questions.training_examples(p, seed)[0][:PROBE_EXAMPLES]
    model = run.briefly_tuned(p, learned, 10 * p.sft.lr, seed, desc)
    groups, last = questions.evaluation_questions(p).values(), first + PROBE_QUESTIONS
    asked = [e for of in groups for e in of[first:last]]
    return evaluate.option_likelihoods(model, questions.tokenizer(p), asked, desc=desc)
