"""Changing the residual stream while the model runs: features zeroed, or decoded by new maps."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from sae_lens import SAE

from sts_utils import models, saes

ROWS = 4096  #: Encoded at once: all features of each are held.
#: What an intervention does to the residual stream [batch, tokens, d_model].
Edit = Callable[[torch.Tensor], torch.Tensor]


@contextlib.contextmanager
def edited(model, edits: Mapping[int, Edit]) -> Iterator[None]:
    """A causal LM whose residual stream after block `layer` is `edits[layer]` of it."""

    def hook(edit: Edit, _block, _inputs, output):
        whole = isinstance(output, torch.Tensor)
        return edit(output) if whole else (edit(output[0]), *output[1:])

    with models.hooked(model.model.layers, {n: partial(hook, edit) for n, edit in edits.items()}):
        yield


def added(hidden: torch.Tensor, part: torch.Tensor, sink_norm: float) -> torch.Tensor:
    """`hidden` + `part` [batch, tokens, d_model], but attention sinks (rows above `sink_norm`) as
    they are: they carry no text, and the model breaks without them whatever is changed."""
    rows = hidden.float()
    text = rows.norm(dim=-1, keepdim=True) < sink_norm
    return (rows + text.to(part.dtype) * part).to(hidden.dtype)


def zeroed(sae: SAE, features: Sequence[int], sink_norm: float) -> Edit:
    """The edit that takes `features` out: r − Σ_j h_j(r) d_j; the reconstruction's error stays."""

    def edit(hidden: torch.Tensor) -> torch.Tensor:
        parts = []
        for rows in hidden.float().flatten(0, 1).split(ROWS):
            h = saes.encode(sae, rows)
            only = torch.zeros_like(h)
            only[:, features] = h[:, features]
            parts.append(sae.decode(torch.zeros_like(only[:1])) - sae.decode(only))
        return added(hidden, torch.cat(parts).view_as(hidden), sink_norm)

    return edit


class SelectiveMaps(torch.nn.Module):
    """Trainable maps [K, d_model], one a layer of `chosen` (layer -> SAE and feature ids), that
    decode these features into the residual stream: r + h_D(r) M (selective fine-tuning, Fig 7).
    They start at zero, so training starts from the model itself."""

    def __init__(self, chosen: Mapping[int, tuple[SAE, Sequence[int]]]):
        super().__init__()
        self.chosen, self.maps = chosen, torch.nn.ParameterDict()
        for layer, (sae, ids) in chosen.items():
            self.maps[str(layer)] = torch.zeros(len(ids), sae.cfg.d_in)

    def edits(self, sink_norm: Mapping[int, float]) -> dict[int, Edit]:
        def edit(layer: int, hidden: torch.Tensor) -> torch.Tensor:
            sae, ids = self.chosen[layer]
            h = saes.encode(sae, hidden.float().flatten(0, 1), ids).view(*hidden.shape[:2], -1)
            return added(hidden, h @ self.maps[str(layer)], sink_norm[layer])

        return {layer: partial(edit, layer) for layer in self.chosen}
