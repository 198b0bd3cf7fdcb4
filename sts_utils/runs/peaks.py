"""Where features fire in texts."""

from collections.abc import Sequence

import torch

from sts_utils import saes
from sts_utils.features import Hook


@torch.inference_mode()
def activations(
    model, hook: Hook, ids: Sequence[int], features: Sequence[int] | None = None, first: int = 1
) -> torch.Tensor:
    """[tokens, F] features (all, or those named) of one text, its token ids as they are.

    0 at attention sinks and before token `first`, which are not encoded; by default position 0 is
    left out. `model` is truncated at the hook's layer.
    """
    read = torch.tensor([ids], device=model.device)
    rows = model(input_ids=read, use_cache=False).last_hidden_state[0].float()
    kept = rows.norm(dim=-1) < hook.sink_norm
    kept[:first] = False
    fired = saes.encode(hook.sae, rows[kept], features)
    h = fired.new_zeros(len(rows), fired.shape[-1])
    h[kept] = fired
    return h
