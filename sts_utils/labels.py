"""What a feature is about: which kind of text drives it hardest (Tables 7, 8)."""

from collections.abc import Sequence

import numpy as np
import torch
from lm_eval.api.instance import Instance
from tqdm import tqdm

from sts_utils import generation, saes
from sts_utils.data import Example
from sts_utils.evaluate import OptionsLM

KINDS = ("math", "code", "dialogue")


def texts(tokenizer, examples: Sequence[Example], tokens: int) -> list[list[int]]:
    """Token ids of each example's text, question and solution, at most `tokens`."""
    written = [f"{e.question}\n{e.solution}".strip() for e in examples]
    return [ids[:tokens] for ids in tokenizer(written, add_special_tokens=False).input_ids]


@torch.inference_mode()
def peaks(model, sae, sequences: Sequence[list[int]], sink_norm: float) -> np.ndarray:
    """[samples, F] highest activation of each feature in each text; `model` is truncated at the SAE's layer."""
    found = []
    for sequence in tqdm(sequences, desc="highest activations", unit="text", leave=False):
        ids = torch.tensor([sequence], device=model.device)
        rows = model(input_ids=ids, use_cache=False).last_hidden_state[0, 1:].float()
        h = saes.encode(sae, rows[rows.norm(dim=-1) < sink_norm])
        found.append(h.amax(0).cpu().numpy())
    return np.stack(found)


def votes(peaks_: np.ndarray, kind: np.ndarray, top: int = 10) -> np.ndarray:
    """[F, kinds] share of each kind among the `top` samples on which a feature fires hardest.

    `kind` [samples] are indices into KINDS. A feature that fires on fewer samples is judged by those; one
    that never fires has NaN.
    """
    order = np.argsort(-peaks_, axis=0, kind="stable")[:top]
    fired = np.take_along_axis(peaks_, order, 0) > 0
    counts = np.stack([((kind[order] == k) & fired).sum(0) for k in range(len(KINDS))], -1).astype(float)
    total = counts.sum(-1, keepdims=True)
    return np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)


def labelled(shares: np.ndarray) -> np.ndarray:
    """[F] the kind with the most votes, −1 for a feature that never fires or whose vote is tied."""
    best = np.nan_to_num(shares).max(-1, keepdims=True)
    winners = (shares == best) & (best > 0)
    return np.where(winners.sum(-1) == 1, winners.argmax(-1), -1)


def judged(model, tokenizer, sequences: Sequence[list[int]]) -> np.ndarray:
    """[samples] the kind that the whole model itself gives each text: the likeliest of three words.

    The judge-free `votes` need only know where a text came from; this asks a language model, as the paper does.
    """
    requests = []
    for ids in sequences:
        question = f"{tokenizer.decode(ids)}\n\nWhat is this text? Answer with one word: math, code or dialogue."
        prompt = generation.chat_text(tokenizer, question)
        requests += [Instance("loglikelihood", {}, (prompt, word), 0) for word in KINDS]
    scored = OptionsLM(model, tokenizer, desc="judge").loglikelihood(requests)
    return np.array([value for value, _ in scored]).reshape(-1, len(KINDS)).argmax(1)
