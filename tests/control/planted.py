"""Planted truth: features that move by construction, so that a score's right answer is known.

Words belong to topics, and each topic owns a few features. A word fires its topic's features; a
context moves the features of its words' topics on every later token, and a set of generic features
by its length alone. Domain d writes a share `AFFINITY[d]` of its words about the training set's
topic, so scores must order domains as AFFINITY.
"""

import random
from functools import cache
from types import SimpleNamespace

import numpy as np
import torch
from sae_lens import StandardSAE, StandardSAEConfig

from sts_utils import features as extract
from sts_utils import scores as shift
from sts_utils.features import FeatureStats, Hook
from sts_utils.prompts import Prompt
from sts_utils.scores import SCORES, ShiftedDims, over_domains

#: Share of each domain's words that are the training set's; the first domain is its own.
AFFINITY = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
TOPICS, OWNED, GENERIC, WORDS = len(AFFINITY) + 2, 6, 10, 20
FEATURES = TOPICS * OWNED + GENERIC
#: How far a context moves the features of its topic, and a long one the generic ones.
TOPICAL_SHIFT, GENERIC_SHIFT = 1.0, 1.5


def _moves() -> torch.Tensor:
    """[topics, topical features] how a context of a topic moves each feature: its own up or down,
    others a little."""
    noise = np.random.default_rng(0).normal(size=(TOPICS, TOPICS * OWNED))
    moves = 0.2 * torch.from_numpy(noise).float()
    for k in range(TOPICS):
        moves[k, k * OWNED : (k + 1) * OWNED] = TOPICAL_SHIFT * (-1.0) ** torch.arange(OWNED)
    return moves


class _Counts:
    """Stands in for a key-value cache: words of each topic in the context, [batch, topics]."""

    def __init__(self, counts: torch.Tensor):
        self.layers, self.keys = [self], counts[:, :, None, None]
        self.values = self.keys

    @property
    def counts(self) -> torch.Tensor:
        return self.layers[0].keys[:, :, 0, 0]

    def get_seq_length(self) -> int:
        return int(self.counts[0].sum())


#: What a batch behind a cache is sized by, on a GPU.
HEADS = SimpleNamespace(num_attention_heads=1, hidden_size=1)


class PlantedModel:
    """Word w of topic k fires k's features, one more by w; residual row = feature values."""

    device, dtype, layers = torch.device("cpu"), torch.float32, [torch.nn.Identity()]
    config = SimpleNamespace(get_text_config=lambda: HEADS)

    def __call__(self, input_ids, attention_mask=None, past_key_values=None, use_cache=False, **_):
        topics = input_ids // WORDS
        seen = past_key_values.counts if past_key_values else torch.zeros(len(input_ids), TOPICS)
        length = seen.sum(-1, keepdim=True)
        rows = torch.zeros(*input_ids.shape, FEATURES)
        rows += 2  # every feature is on, so that a context can move it down too
        for k in range(TOPICS):
            rows[..., k * OWNED : (k + 1) * OWNED] += (topics == k)[..., None].float()
        rows[..., : TOPICS * OWNED] += (seen / length.clamp(min=1) @ _moves())[:, None]
        fired = (topics * OWNED + input_ids % OWNED)[..., None]
        rows.scatter_add_(-1, fired, torch.full((*topics.shape, 1), 0.5))
        rows[..., TOPICS * OWNED :] += GENERIC_SHIFT * torch.tanh(length / 40)[..., None]
        counts = seen + torch.nn.functional.one_hot(topics, TOPICS).sum(1)
        cache = _Counts(counts) if use_cache else None
        self.layers[0](rows)  # hooks read what it gives
        return SimpleNamespace(past_key_values=cache)


def sae() -> StandardSAE:
    """An SAE that reads each residual dim as a feature."""
    made = StandardSAE(
        StandardSAEConfig(d_in=FEATURES, d_sae=FEATURES, dtype="float32", device="cpu")
    )
    for weight in (made.W_enc, made.W_dec):
        weight.data = torch.eye(FEATURES)
    made.b_enc.data.zero_(), made.b_dec.data.zero_()
    return made.eval().requires_grad_(False)


def _text(rng: random.Random, own: int, share: float, words: int) -> tuple[int, ...]:
    """Words of topic 0 (the training set's) with probability `share`, else of topic `own`."""
    return tuple(
        (0 if rng.random() < share else own) * WORDS + rng.randrange(WORDS) for _ in range(words)
    )


@cache
def _stats(
    own: int, share: float, shown: tuple[int, float], seed: int, queries: int = 60
) -> FeatureStats:
    """Features of a corpus without and with demonstrations of the corpus `shown` (topic, share)."""
    rng = random.Random(f"{own} {share} {shown} {seed}")
    contexts = [_text(rng, *shown, 40) for _ in range(8)]
    pairs = []
    for i in range(queries):
        query = _text(rng, own, share, 12)
        plain, icl = (context + query for context in ((), contexts[i % 8]))
        spans = (0, len(query)), (len(contexts[0]), len(icl))
        both = (plain, spans[0], f"q{i}", "plain"), (icl, spans[1], f"q{i}", "icl")
        pairs.append(tuple(Prompt(*of) for of in both))
    hooks = [Hook(0, sae(), float("inf"))]
    (stats,) = extract.feature_stats(pairs, PlantedModel(), hooks, desc="planted")
    return stats


def scores(seed: int = 0, n: int = 16, shuffle: int | None = None) -> dict[str, np.ndarray]:
    """Score -> its value in each domain; it must order them as AFFINITY does.

    `shuffle`: the ids of D_N are permuted with this seed, so that nothing is left to recover.
    """
    domains = [_stats(d + 1, share, (d + 1, share), seed) for d, share in enumerate(AFFINITY)]
    train = _stats(0, 1.0, (0, 1.0), seed)
    order = np.arange(FEATURES)
    if shuffle is not None:
        order = np.random.default_rng(shuffle).permutation(FEATURES)
    ranked = shift.shifted_dims(train, n)
    dims = ShiftedDims(order[ranked.ids], ranked.shift)
    towards = np.empty(FEATURES)
    towards[order] = train.mean("dh")
    return {name: over_domains(name, domains, dims, towards=towards) for name in SCORES}
