"""Rows of a model's residual stream, on which SAEs are trained and judged."""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

from sts_utils import batches, models
from sts_utils.saes import SINK_FACTOR

#: Sequences that are sorted by length together.
POOL = 256


def activations(model, sequences: Iterable[list[int]], tokens: int) -> Iterator[torch.Tensor]:
    """Residual rows [tokens, d_model] of `sequences` after the last block of `model`, which is
    truncated (`models.load_truncated`), without position 0 and attention sinks."""
    last = len(model.layers) - 1
    return (rows[last] for rows in layer_activations(model, sequences, (last,), tokens))


@torch.inference_mode()
def layer_activations(
    model, sequences: Iterable[list[int]], layers: Sequence[int], tokens: int
) -> Iterator[dict[int, torch.Tensor]]:
    """Block -> residual rows [tokens, d_model] after it, several blocks in one forward pass.

    Passes of at most `tokens` padded tokens, of neighbours near in length; a pass's sinks are found
    against its own median norm, block by block."""
    sequences = iter(sequences)
    while pool := list(itertools.islice(sequences, POOL)):
        passes = list(batches.by_length(list(map(len, pool)), tokens))
        random.Random(len(pool)).shuffle(passes)
        for chosen in passes:
            rows = [torch.tensor(pool[i]) for i in chosen]
            ids = pad_sequence(rows, batch_first=True).to(model.device)
            mask = torch.arange(ids.shape[1]) < torch.tensor(list(map(len, rows)))[:, None]
            mask = mask.to(model.device)
            with models.reading(model, layers) as hidden:
                model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
            mask[:, 0] = False
            residuals = {}
            for layer in layers:
                found = hidden[layer][mask].float()
                norms = found.norm(dim=-1)
                residuals[layer] = found[norms < SINK_FACTOR * norms.median()]
            yield residuals
