"""Changing the residual stream while the model runs: features zeroed, or decoded by new maps."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from sae_lens import SAE

from sts_utils import saes
from sts_utils.models import hooked

#: Rows encoded at once: all features of each are held.
ROWS = 4096
#: What an intervention does to the residual stream [batch, tokens, d_model].
Edit = Callable[[torch.Tensor], torch.Tensor]


@contextlib.contextmanager
def edited(model, edits: Mapping[int, Edit]) -> Iterator[None]:
    """A causal LM whose residual stream after block `layer` is `edits[layer]` of it."""

    def hook(edit: Edit, _block, _inputs, output):
        whole = isinstance(output, torch.Tensor)
        return edit(output) if whole else (edit(output[0]), *output[1:])

    with hooked(model.model.layers, {n: partial(hook, edit) for n, edit in edits.items()}):
        yield


def zeroed(sae: SAE, features: Sequence[int], sink_norm: float) -> Edit:
    """The edit that takes `features` out: r − Σ_j h_j(r) d_j, with the reconstruction's error left
    (Fig 1b).

    Attention sinks (rows above `sink_norm`) stay as they are: they carry no text, and the model
    breaks without them whichever features are zeroed.
    """
    chosen = torch.as_tensor(np.asarray(features), dtype=torch.long)

    def edit(hidden: torch.Tensor) -> torch.Tensor:
        rows, parts = hidden.float(), []
        for some in rows.flatten(0, 1).split(ROWS):
            h = saes.encode(sae, some)
            only = torch.zeros_like(h)
            only[:, chosen] = h[:, chosen]
            parts.append(sae.decode(only) - sae.decode(torch.zeros_like(only[:1])))
        part = torch.cat(parts).view_as(rows)
        return (rows - no_sink(rows, sink_norm, part.dtype) * part).to(hidden.dtype)

    return edit


def no_sink(rows: torch.Tensor, sink_norm: float, dtype: torch.dtype) -> torch.Tensor:
    """[..., 1] that is 1 for a row that is edited, 0 for an attention sink."""
    return (rows.norm(dim=-1, keepdim=True) < sink_norm).to(dtype)


class SelectiveMaps(torch.nn.Module):
    """Trainable linear maps [K, d_model], one a layer, that decode chosen features into the
    residual stream (selective fine-tuning, Fig 7): r + h_D(r) M.

    They start at zero, so training starts from the model itself. `chosen`: layer -> (SAE, ids).
    """

    def __init__(self, chosen: Mapping[int, tuple[SAE, Sequence[int]]]):
        super().__init__()
        self.chosen, self.maps = {}, torch.nn.ParameterDict()
        for layer, (sae, ids) in chosen.items():
            self.chosen[layer] = sae, torch.as_tensor(np.asarray(ids))
            self.maps[str(layer)] = torch.nn.Parameter(torch.zeros(len(ids), sae.cfg.d_in))

    def edits(self, sink_norm: Mapping[int, float]) -> dict[int, Edit]:
        """What `edited` takes; attention sinks stay as they are."""
        return {n: partial(self._edit, n, sink_norm[n]) for n in self.chosen}

    def _edit(self, layer: int, sink_norm: float, hidden: torch.Tensor) -> torch.Tensor:
        (sae, ids), rows = self.chosen[layer], hidden.float()
        h = saes.encode(sae, rows.flatten(0, 1), ids).view(*rows.shape[:2], -1)
        part = no_sink(rows, sink_norm, h.dtype) * (h @ self.maps[str(layer)])
        return (rows + part).to(hidden.dtype)
