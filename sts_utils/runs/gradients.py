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

from sts_utils import generate as generation
from sts_utils import interventions, saes
from sts_utils.evaluate import OptionsLM
from sts_utils.examples import Example

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
    for example in examples:
        if len(example.options) < 2:
            raise ValueError(f"question {example.id} has no options to tell its answer from")
    model.requires_grad_(False)
    lm, sums = OptionsLM(model, tokenizer), {}
    for start in tqdm(range(0, len(examples), QUESTIONS), desc=desc, leave=False, disable=not desc):
        rows = [_pieces(tokenizer, e) for e in examples[start : start + QUESTIONS]]
        read: list[torch.Tensor] = []

        def leaf(residual: torch.Tensor, read=read) -> torch.Tensor:
            read.append(residual.detach().requires_grad_())
            return read[0]

        with interventions.edited(model, {layer: leaf}):
            options = lm.score(rows)
        odds = sum(of[0] - of[1:].logsumexp(0) for of in options)
        loglik = sum(of[0] for of in options)
        residual = read[0].detach().flatten(0, 1).float()
        kept = residual.norm(dim=-1) < sink_norm
        of_odds, of_loglik = (
            torch.autograd.grad(value, read, retain_graph=value is odds)[0].flatten(0, 1)[kept]
            for value in (odds, loglik)
        )
        carried = saes.encode(sae, residual[kept]) * (of_odds.float() @ sae.W_dec.float().T)
        found = {"odds": of_odds, "features": carried, "loglik": of_loglik}
        for key, of in found.items():
            sums[key] = sums.get(key, 0) + of.sum(0).double().cpu()
    return {key: (of / len(examples)).float().numpy() for key, of in sums.items()}


def _pieces(tokenizer, example: Example) -> list[list[int]]:
    """Tokens of the prompt, the gold option and the others."""
    others = [option for option in example.options if option != example.answer]
    texts = [generation.chat_text(tokenizer, example.question), example.answer, *others]
    return [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
