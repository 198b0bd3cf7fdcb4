"""Sparse autoencoders by name: load, encode, judge. The SAEs are sae-lens's own.
And changing the residual stream while a model runs: features zeroed, or decoded by new maps."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sts_utils import batches, models
from sts_utils.store import ROOT

if TYPE_CHECKING:
    from sae_lens import SAE

#: TransformerLens's name of the residual stream after a block.
hook_point = "blocks.{}.hook_resid_post".format
#: Names of SAEs that are made here: random ones, for tests, like "random-4x-k16"; for a model
#: without any "residual-layer12": each dim of the residual stream above 0, and below.
MADE = re.compile(r"(random-(?P<of>\d+)x(-k(?P<k>\d+))?|residual)(-layer(?P<layer>\d+))?")
SINK_FACTOR = 10.0  #: A row whose norm exceeds this multiple of the median is an attention sink.
#: An SAE of the model leaves less of the variance unexplained, and is within this factor of its L0.
WRONG_FVU, WRONG_L0 = 0.9, 5.0
POOL = 256  #: Sequences that are sorted by length together.
EDITED_ROWS = 4096  #: Encoded at once: all features of each are held.
#: What an intervention does to the residual stream [batch, tokens, d_model].
Edit = Callable[[torch.Tensor], torch.Tensor]


def sae_lens():
    """The library, imported when it is first asked for: that takes seconds."""
    return import_module("sae_lens")


def load(name: str, d_in: int | None = None, layer: int | None = None) -> SAE:
    """The SAE `name`, float32: a folder, "release/sae_id" of sae-lens, or one of MADE. Raises
    ValueError if it isn't there, of another width or block, or trained on rows made otherwise."""
    lens = sae_lens()
    if made := MADE.fullmatch(name):
        how = {"d_in": d_in, "d_sae": int(made["of"] or 2) * d_in, "dtype": "float32"}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if made["of"]:
                sae = lens.TopKSAE(lens.TopKSAEConfig(**how, k=int(made["k"] or 8)))
                sae.W_enc.data.normal_()
            else:
                sae = lens.StandardSAE(lens.StandardSAEConfig(**how))
                sae.W_dec.data = torch.cat([torch.eye(d_in), -torch.eye(d_in)])
                sae.W_enc.data = sae.W_dec.data.T
        sae.cfg.metadata.hook_name = hook_point(int(made["layer"] or 0))
    elif folder := folder_of(name):
        sae = lens.SAE.load_from_disk(folder, dtype="float32")
    else:
        sae = _of_sae_lens(name, lens.SAE.from_pretrained)
    width, hook = sae.cfg.d_in, sae.cfg.metadata.hook_name
    if d_in is not None and width != d_in:
        raise ValueError(f"SAE {name!r} reads width {width}, the model's residual stream is {d_in}")
    if layer is not None and hook and hook != (reads := hook_point(layer)):
        raise ValueError(f"SAE {name!r} was trained at {hook}, the profile reads {reads}")
    scaled = sae.cfg.normalize_activations
    changed = {k: v for k, v in (sae.cfg.metadata.model_from_pretrained_kwargs or {}).items() if v}
    if changed or scaled in ("expected_average_only_in", "covariance_whitening"):
        rows = f"rows made otherwise ({scaled}, {changed})"
        raise ValueError(f"SAE {name!r} was trained on {rows}: choose another")
    for weight in sae.parameters():  # some loaders leave views, which safetensors refuses to write
        weight.data = weight.data.contiguous()
    return sae.eval().requires_grad_(False)


def folder_of(name: str) -> Path | None:
    """Where the SAE `name` lies: a folder of the project, or any other."""
    return next((at for at in (ROOT / name, Path(name)) if (at / "cfg.json").exists()), None)


def layer(name: str) -> int:
    """The block whose residual stream the SAE `name` reads, from its config alone: the weights of a
    public SAE are gigabytes. Raises ValueError for one that reads something else."""
    if made := MADE.fullmatch(name):
        return int(made["layer"] or 0)
    if folder := folder_of(name):
        cfg = json.loads((folder / "cfg.json").read_text())
    else:
        read = sae_lens().loading.pretrained_sae_loaders.load_sae_config_from_huggingface
        cfg = _of_sae_lens(name, read)
    hook = cfg.get("metadata", cfg).get("hook_name")  # sae-lens < 6: at the top
    if not (block := re.fullmatch(r"blocks\.(\d+)\.hook_resid_post", hook or "")):
        raise ValueError(f"SAE {name!r} reads {hook}: choose one on the residual stream of a block")
    return int(block[1])


def public(model: str) -> str:
    """Which releases of sae-lens have SAEs of a model, in words, and what stands in for them."""
    known = sae_lens().loading.pretrained_saes_directory.get_pretrained_saes_directory()
    own = [n for n, about in known.items() if about.model.split("/")[-1] == model.split("/")[-1]]
    said = f"sae-lens has {', '.join(own) or 'none of this model'}"
    return f"{said}; residual-layer12 reads the residual stream's own dims after block 12"


def repository(name: str) -> str:
    """The hub's repository that holds the SAE "release/sae_id" of sae-lens."""
    known = sae_lens().loading.pretrained_saes_directory.get_pretrained_saes_directory()
    return _of_sae_lens(name, lambda release, _: known[release].repo_id)


def _of_sae_lens(name: str, read: Callable):
    release, _, sae_id = name.partition("/")
    try:
        return read(release, sae_id)
    except Exception as error:  # unknown release, unknown id, no hub: there is no common type
        said = str(error).split("\n")[0]
        raise ValueError(f"SAE {name!r} is no folder and sae-lens can't load it: {said}") from None


def encode(sae: SAE, rows: torch.Tensor, features=None) -> torch.Tensor:
    """SAE features [tokens, F] of residual rows [tokens, d_model], in the SAE's dtype; or only the
    columns `features`, without computing others where a feature does not depend on them."""
    rows = rows.to(sae.dtype)
    kind = sae.cfg.architecture()
    if features is None or kind not in ("standard", "jumprelu"):
        h = sae.encode(rows)
        return h if features is None else h[:, features]
    chosen = torch.as_tensor(features, device=rows.device)
    pre = sae.process_sae_in(rows) @ sae.W_enc[:, chosen] + sae.b_enc[chosen]
    h = sae.activation_fn(pre)
    return h * (pre > sae.threshold[chosen]) if kind == "jumprelu" else h


def check(sae: SAE, name: str, rows: Sequence[torch.Tensor]) -> None:
    """Raise ValueError, in one line, for an SAE that is not of the model whose residual `rows` it
    reads: it explains nothing of them, or fires far more or less than its name says."""
    found, stated = quality(sae, rows), re.search(r"l0_(\d+)", name)
    l0 = getattr(sae.cfg, "k", None) or (int(stated[1]) if stated else None)
    if found["fvu"] >= WRONG_FVU or (l0 and not 1 / WRONG_L0 <= found["l0"] / l0 <= WRONG_L0):
        left = "of {rows:.0f} rows it leaves {fvu:.0%} of the variance unexplained, with {l0:.0f}"
        said = f"{left.format(**found)} features a row (stated: {l0 or 'no L0'})"
        raise ValueError(f"SAE {name!r} is not of this model: {said}: check model, layer and sae")


@torch.inference_mode()
def quality(sae: SAE, rows: Sequence[torch.Tensor]) -> dict[str, float]:
    """Fraction of variance unexplained (FVU), mean L0 and share of dead features on rows."""
    rows, residual, total, active = list(rows), 0.0, 0.0, 0.0
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    n = sum(map(len, rows))
    mean = torch.cat([chunk.mean(0, keepdim=True) * len(chunk) for chunk in rows]).sum(0) / n
    for chunk in rows:
        h = encode(sae, chunk)
        residual += (chunk - sae.decode(h.to(sae.dtype)).float()).square().sum().item()
        total += (chunk - mean).square().sum().item()
        active += (h > 0).sum().item()
        fired |= (h > 0).any(0).cpu()
    dead = 1 - fired.float().mean().item()
    return {"fvu": residual / total, "l0": active / n, "dead": dead, "rows": float(n)}


def activations(model, sequences: Iterable[list[int]], tokens: int) -> Iterator[torch.Tensor]:
    """Residual rows [tokens, d_model] of `sequences` after the last block of `model`, which is
    truncated (`models.load_truncated`), without position 0 and attention sinks."""
    last = len(model.layers) - 1
    return (rows[last] for rows in layer_activations(model, sequences, (last,), tokens))


@torch.inference_mode()
def layer_activations(model, sequences, layers, tokens: int) -> Iterator[dict[int, torch.Tensor]]:
    """Of each forward pass: block -> residual rows [tokens, d_model] after it. A pass has at most
    `tokens` padded tokens, of like length; a block's sinks are found against its median norm."""
    sequences = iter(sequences)
    while pool := list(itertools.islice(sequences, POOL)):
        passes = list(batches.by_length(list(map(len, pool)), tokens))
        random.Random(len(pool)).shuffle(passes)
        for chosen in passes:
            read = [pool[i] for i in chosen]
            residuals = models.query_residuals(model, None, read, layers)
            later = torch.cat([torch.arange(len(ids)) > 0 for ids in read])  # than position 0
            for layer, rows in residuals.items():
                norms = (rows := rows[later]).norm(dim=-1)
                residuals[layer] = rows[norms < SINK_FACTOR * norms.median()]
            yield residuals


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
        for rows in hidden.float().flatten(0, 1).split(EDITED_ROWS):
            h = encode(sae, rows)
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
            h = encode(sae, hidden.float().flatten(0, 1), ids).view(*hidden.shape[:2], -1)
            return added(hidden, h @ self.maps[str(layer)], sink_norm[layer])

        return {layer: partial(edit, layer) for layer in self.chosen}
