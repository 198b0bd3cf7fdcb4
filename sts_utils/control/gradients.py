"""Which way the answers pull the residual stream before training (ours): the gradient of their
log-odds, free of what training on a whole answer mostly raises, the form that all options share."""

from collections.abc import Sequence

import numpy as np
import torch
from sae_lens import SAE
from tqdm import tqdm

from sts_utils import generate, interventions, saes
from sts_utils.evaluate import OptionsLM
from sts_utils.examples import Example

#: Questions of one backward pass.
QUESTIONS = 8


def answer_gradients(
    model, tokenizer, examples: Sequence[Example], layer: int, sae: SAE, sink_norm: float, desc: str
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
    rows = []
    for example in examples:
        others = [option for option in example.options if option != example.answer]
        if not others:
            raise ValueError(f"question {example.id} has no options to tell its answer from")
        texts = [generate.chat_text(tokenizer, example.question), example.answer, *others]
        rows.append([tokenizer(text, add_special_tokens=False).input_ids for text in texts])
    model.requires_grad_(False)
    lm, sums = OptionsLM(model, tokenizer), {}
    for start in tqdm(range(0, len(rows), QUESTIONS), desc=desc, leave=False):
        read: list[torch.Tensor] = []

        def leaf(residual: torch.Tensor, read=read) -> torch.Tensor:
            read.append(residual.detach().requires_grad_())
            return read[0]

        with interventions.edited(model, {layer: leaf}):
            options = lm.score(rows[start : start + QUESTIONS])
        odds = sum(scores[0] - scores[1:].logsumexp(0) for scores in options)
        loglik = sum(scores[0] for scores in options)
        residual = read[0].detach().flatten(0, 1).float()
        kept = residual.norm(dim=-1) < sink_norm
        of_odds, of_loglik = (
            torch.autograd.grad(value, read, retain_graph=value is odds)[0].flatten(0, 1)[kept]
            for value in (odds, loglik)
        )
        carried = saes.encode(sae, residual[kept]) * (of_odds.float() @ sae.W_dec.float().T)
        for key, g in {"odds": of_odds, "features": carried, "loglik": of_loglik}.items():
            sums[key] = sums.get(key, 0) + g.sum(0).double().cpu()
    return {key: (total / len(rows)).float().numpy() for key, total in sums.items()}
