"""Sparse autoencoders by name: load, encode, judge. The SAEs are sae-lens's own."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from sae_lens import SAE, JumpReLUSAE, StandardSAE
from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from sts_utils.store import ROOT

#: Names of random SAEs, for tests: "random-8x", "random-4x-k16", "random-4x-layer1".
RANDOM = re.compile(r"random-(?P<expansion>\d+)x(-k(?P<k>\d+))?(-layer(?P<layer>\d+))?")
#: A row whose norm exceeds this multiple of the median is an attention sink.
SINK_FACTOR = 10.0
#: An SAE of the model leaves less of the variance unexplained, and is within this factor of its L0.
WRONG_FVU, WRONG_L0 = 0.9, 5.0


def load(name: str, d_in: int | None = None, layer: int | None = None) -> SAE:
    """The SAE `name`, float32: a folder (relative to the project), "release/sae_id" of sae-lens, or
    "random-8x" or "random-4x-layer1", a seeded random one of any width for tests.

    Raises ValueError, in one line, if it is not there or does not fit a residual stream of width
    `d_in` after block `layer`.
    """
    if random_one := RANDOM.fullmatch(name):
        sae = _random(random_one, d_in)
    elif folder := folder_of(name):
        sae = SAE.load_from_disk(folder, dtype="float32")
    else:
        release, _, sae_id = name.partition("/")
        try:
            sae = SAE.from_pretrained(release, sae_id)
        except Exception as error:  # unknown release, unknown id, no hub: one line for all
            why = str(error).split("\n")[0]
            said = f"SAE {name!r} is no folder and sae-lens can't load it"
            raise ValueError(f"{said}: {why}") from None
    reads, hook = sae.cfg.d_in, sae.cfg.metadata.hook_name
    if d_in is not None and reads != d_in:
        raise ValueError(f"SAE {name!r} reads width {reads}, the model's residual stream is {d_in}")
    if layer is not None and hook and hook != hook_point(layer):
        here = hook_point(layer)
        raise ValueError(f"SAE {name!r} was trained at {hook}, the profile reads {here}")
    for weight in sae.parameters():  # some loaders leave views, which safetensors refuses to write
        weight.data = weight.data.contiguous()
    return sae.eval().requires_grad_(False)


def _random(name: re.Match, d_in: int) -> SAE:
    """A seeded TopK SAE of random weights."""
    metadata = SAEMetadata(hook_name=hook_point(int(name["layer"] or 0)))
    shape = {"d_in": d_in, "d_sae": int(name["expansion"]) * d_in, "k": int(name["k"] or 8)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sae = TopKSAE(TopKSAEConfig(**shape, dtype="float32", device="cpu", metadata=metadata))
        sae.W_enc.data.normal_()
    return sae


def folder_of(name: str) -> Path | None:
    """Where the SAE `name` lies: a folder of the project, any other, or one of ``$STS_MIRROR``."""
    mirror = os.environ.get("STS_MIRROR")
    places = [ROOT / name, Path(name), *([Path(mirror) / name] if mirror else [])]
    return next((place for place in places if (place / "cfg.json").exists()), None)


def layer(name: str) -> int:
    """The block whose residual stream the SAE `name` reads, from its metadata."""
    if random_one := RANDOM.fullmatch(name):
        return int(random_one["layer"] or 0)
    hook = _hook_name(name)
    if not (block := re.fullmatch(r"blocks\.(\d+)\.hook_resid_post", hook)):
        reads = f"SAE {name!r} reads {hook or 'no known place'}"
        raise ValueError(f"{reads}: choose one on the residual stream after a block")
    return int(block[1])


def _hook_name(name: str) -> str:
    """Where an SAE reads, from its config alone: the weights of a public SAE are gigabytes."""
    folder, (release, _, sae_id) = folder_of(name), name.partition("/")
    if folder:
        cfg = json.loads((folder / "cfg.json").read_text())
        return cfg.get("metadata", cfg).get("hook_name") or ""  # sae-lens < 6: at the top
    if release not in get_pretrained_saes_directory():
        return load(name).cfg.metadata.hook_name or ""
    try:
        cfg = load_sae_config_from_huggingface(release, sae_id)
    except Exception as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"SAE {name!r}: sae-lens can't read its config: {why}") from None
    return cfg["metadata"].get("hook_name") or ""


def hook_point(layer: int) -> str:
    """TransformerLens's name of the residual stream after block `layer`."""
    return f"blocks.{layer}.hook_resid_post"


def encode(sae: SAE, rows: torch.Tensor, features=None) -> torch.Tensor:
    """SAE features [tokens, F] of residual rows [tokens, d_model], in the SAE's dtype; or only the
    columns `features`, without computing others where a feature does not depend on them."""
    rows = rows.to(sae.dtype)
    if features is None or not isinstance(sae, StandardSAE | JumpReLUSAE):
        h = sae.encode(rows)
        return h if features is None else h[:, features]
    chosen = torch.as_tensor(features, device=rows.device)
    pre = sae.process_sae_in(rows) @ sae.W_enc[:, chosen] + sae.b_enc[chosen]
    h = sae.activation_fn(pre)
    return h * (pre > sae.threshold[chosen]) if isinstance(sae, JumpReLUSAE) else h


def check(sae: SAE, name: str, rows: Sequence[torch.Tensor]) -> None:
    """Raise ValueError, in one line, for an SAE that is not of the model whose residual `rows` it
    reads: it explains nothing of them, or fires far more or less than its name says."""
    found, k = quality(sae, rows), getattr(sae.cfg, "k", None)
    stated = re.search(r"l0_(\d+)", name)
    l0 = k or (int(stated[1]) if stated else None)
    if found["fvu"] >= WRONG_FVU or (l0 and not 1 / WRONG_L0 <= found["l0"] / l0 <= WRONG_L0):
        listed = f", its L0 is stated as {l0:g}" if l0 else ""
        raise ValueError(
            f"SAE {name!r} is not of this model: of {found['rows']:.0f} rows it leaves "
            f"{found['fvu']:.0%} of the variance unexplained, with {found['l0']:.0f} features a "
            f"row{listed}: check model, layer and sae"
        )


@torch.inference_mode()
def quality(sae: SAE, rows: Iterable[torch.Tensor]) -> dict[str, float]:
    """Fraction of variance unexplained (FVU), mean L0 and share of dead features on rows."""
    residual = total = active = 0.0
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    rows = list(rows)
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
