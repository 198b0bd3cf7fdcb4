"""Which way the answers pull the residual stream: the gradient of their log-odds, before training.

Training raises the likelihood of whole answers, most of which is form that all options share. The
log-odds of the right option against the others leave that out, and their gradient with it: it is of
what tells the right answer from the wrong ones (ours; notebook 07_control).
"""

from collections.abc import Sequence

import numpy as np
import torch
from sae_lens import SAE
from tqdm import tqdm

from sts_utils import interventions, saes
from sts_utils.evaluate import OptionsLM
from sts_utils.examples import Example
from sts_utils.generate import chat_text

#: Questions of one backward pass.
QUESTIONS = 8


def answer_gradients(
    model,
    tokenizer,
    examples: Sequence[Example],
    layer: int,
    sae: SAE,
    sink_norm: float,
    desc: str | None = None,
) -> dict[str, np.ndarray]:
    """Sums over a question's tokens, mean over questions, of gradients g = ∂/∂r in the residual
    stream r after block `layer`, of the log-odds of the gold option against the others:

    | key | shape | is |
    |---|---|---|
    | odds | [d_model] | g of the log-odds |
    | features | [F] | h_j (d_j · g): how far each active feature carries the log-odds |
    | loglik | [d_model] | g of the gold option's log-likelihood, which form is most of |

    Tokens above `sink_norm` are left out. Raises ValueError for a question without options.
    """
    if bare := [e.id for e in examples if len(e.options) < 2]:
        raise ValueError(f"question {bare[0]} has no options to tell its answer from")
    model.requires_grad_(False)
    lm, sums = OptionsLM(model, tokenizer), {}
    for start in tqdm(range(0, len(examples), QUESTIONS), desc=desc, leave=False, disable=not desc):
        rows, leaves = [], []
        for e in examples[start : start + QUESTIONS]:
            options = [e.answer, *(option for option in e.options if option != e.answer)]
            rows.append(lm.pieces(chat_text(tokenizer, e.question), options))

        def leaf(residual: torch.Tensor, leaves=leaves) -> torch.Tensor:
            leaves.append(residual.detach().requires_grad_())
            return leaves[0]

        with interventions.edited(model, {layer: leaf}):
            scores = lm.score(rows)  # of each question: the gold option's, then the others'
        odds = sum(options[0] - options[1:].logsumexp(0) for options in scores)
        loglik = sum(options[0] for options in scores)
        residual = leaves[0].detach().flatten(0, 1).float()
        kept = residual.norm(dim=-1) < sink_norm
        g_odds = torch.autograd.grad(odds, leaves, retain_graph=True)[0].flatten(0, 1)[kept]
        g_loglik = torch.autograd.grad(loglik, leaves)[0].flatten(0, 1)[kept]
        carried = saes.encode(sae, residual[kept]) * (g_odds.float() @ sae.W_dec.float().T)
        for key, terms in (("odds", g_odds), ("features", carried), ("loglik", g_loglik)):
            sums[key] = sums.get(key, 0) + terms.sum(0).double().cpu()
    return {key: (total / len(examples)).float().numpy() for key, total in sums.items()}
