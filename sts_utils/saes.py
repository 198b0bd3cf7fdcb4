"""Sparse autoencoders by name: load, encode, train and judge them. The SAEs are sae-lens's own."""

import itertools
import json
import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from sae_lens import SAE
from sae_lens.config import SAETrainerConfig
from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.mixing_buffer import mixing_buffer
from sae_lens.training.sae_trainer import SAETrainer
from tqdm import tqdm

from sts_utils.store import ROOT, atomic_folder

#: Names of random SAEs, for tests: "random-8x", "random-4x-k16", "random-4x-layer1".
RANDOM = re.compile(r"random-(?P<expansion>\d+)x(-k(?P<k>\d+))?(-layer(?P<layer>\d+))?")

#: A row whose norm exceeds this multiple of the median is an attention sink.
SINK_FACTOR = 10.0


def activations(model, sequences: Iterable[list[int]], batch_tokens: int) -> Iterator[torch.Tensor]:
    """Residual rows [tokens, d_model] of `sequences` without position 0 and attention sinks.

    `model` is truncated (`models.load_truncated`); its last block's output is read.
    """
    last = len(model.layers) - 1
    for rows in layer_activations(model, sequences, (last,), batch_tokens):
        yield rows[last]


@torch.inference_mode()
def layer_activations(
    model, sequences: Iterable[list[int]], layers: Sequence[int], batch_tokens: int
) -> Iterator[dict[int, torch.Tensor]]:
    """Block -> residual rows [tokens, d_model] after it, several blocks in one forward pass.

    Sequences are taken in the order given, batches padded on the right; a batch's sinks are found
    against its own median norm, block by block.
    """
    for batch in _batches(sequences, batch_tokens):
        width = max(map(len, batch))
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros(len(batch), width, dtype=torch.long)
        for row, sequence in enumerate(batch):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        hidden = model(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False,
            output_hidden_states=True,
        ).hidden_states  # fmt: skip
        mask[:, 0] = 0
        found = {}
        for layer in layers:
            rows = hidden[layer + 1][mask.bool().to(model.device)].float()
            norms = rows.norm(dim=-1)
            found[layer] = rows[norms < SINK_FACTOR * norms.median()]
        yield found


def _batches(sequences, batch_tokens):
    """Runs of neighbouring sequences, near in length, of at most `batch_tokens` padded tokens."""
    pool = iter(sequences)
    while chunk := list(itertools.islice(pool, 256)):
        chunk.sort(key=len)
        batches, batch = [], []
        for sequence in chunk:
            if batch and len(sequence) * (len(batch) + 1) > batch_tokens:
                batches.append(batch)
                batch = []
            batch.append(sequence)
        batches.append(batch)
        random.Random(len(chunk)).shuffle(batches)
        yield from batches


def replayed(rows: Sequence[torch.Tensor], seed: int = 0) -> Iterator[torch.Tensor]:
    """Stored chunks of rows over and over, float32, each round in another order.

    The model's forward pass costs more than the SAE's training step, so each row serves more than once.
    """
    chunks, rng = list(rows), random.Random(seed)
    while True:
        yield from (chunk.float() for chunk in chunks)
        rng.shuffle(chunks)


def collected(
    model, sequences: Iterable[list[int]], layers: Sequence[int], n_tokens: int, batch_tokens: int = 4096
) -> dict[int, list[torch.Tensor]]:
    """Block -> chunks of residual rows, bfloat16, of the first `n_tokens` tokens or so of `sequences`."""
    found, n = {layer: [] for layer in layers}, 0
    with tqdm(total=n_tokens, desc="residual rows", unit="row", leave=False) as bar:
        for rows in layer_activations(model, sequences, layers, batch_tokens):
            for layer in layers:
                found[layer].append(rows[layer].bfloat16())
            bar.update(len(rows[layers[0]]))
            n += len(rows[layers[0]])
            if n >= n_tokens:
                break
    return found


def train(
    rows: Iterator[torch.Tensor], d_in: int, n_tokens: int, metadata: dict, *, expansion: int = 8,
    k: int = 32, lr: float = 3e-3, batch: int = 1024, seed: int = 0,
) -> TopKTrainingSAE:  # fmt: skip
    """A TopK SAE trained by sae-lens on `n_tokens` residual rows [tokens, d_in] of an iterator."""
    torch.manual_seed(seed)
    cfg = TopKTrainingSAEConfig(
        d_in=d_in, d_sae=expansion * d_in, k=k, dtype="float32", device="cpu", decoder_init_norm=0.1,
        normalize_activations="expected_average_only_in", metadata=SAEMetadata(**metadata),
    )  # fmt: skip
    steps = n_tokens // batch
    trainer_cfg = SAETrainerConfig(
        total_training_samples=n_tokens, train_batch_size_samples=batch, lr=lr, lr_end=0.0,
        lr_warm_up_steps=steps // 20, lr_decay_steps=steps // 2, autocast=True,
        dead_feature_window=min(200, steps // 10), n_batches_for_norm_estimate=16,
    )  # fmt: skip
    stream = mixing_buffer(64 * batch, batch, rows)
    return SAETrainer(trainer_cfg, TopKTrainingSAE(cfg), stream).fit()


def revive(
    sae: SAE, rows: Iterator[torch.Tensor], n_tokens: int, *, lr: float = 1e-3, batch: int = 1024, window: int = 100
) -> TopKTrainingSAE:
    """A second, short training phase of a loaded TopK SAE that brings silent features back.

    A feature that has not fired for `window` batches is trained, by TopK's auxiliary loss, to reconstruct what
    the others leave over. Rows are scaled to norm √d_in as in `train`, and the scale folded in afterwards.
    """
    chunk = next(rows)
    scale = sae.cfg.d_in**0.5 / chunk.norm(dim=-1).mean().item()
    cfg = TopKTrainingSAEConfig(
        d_in=sae.cfg.d_in, d_sae=sae.cfg.d_sae, k=sae.cfg.k, dtype="float32", device="cpu", metadata=sae.cfg.metadata
    )
    training = TopKTrainingSAE(cfg)
    with torch.no_grad():
        for name, factor in (("W_enc", 1 / scale), ("b_enc", 1.0), ("W_dec", scale), ("b_dec", scale)):
            getattr(training, name).copy_(getattr(sae, name).float() * factor)
    steps = n_tokens // batch
    trainer_cfg = SAETrainerConfig(
        total_training_samples=n_tokens, train_batch_size_samples=batch, lr=lr, lr_end=0.0, autocast=True,
        lr_warm_up_steps=steps // 20, lr_decay_steps=steps // 2, dead_feature_window=window,
    )  # fmt: skip
    stream = mixing_buffer(64 * batch, batch, (rows_ * scale for rows_ in rows))
    SAETrainer(trainer_cfg, training, stream).fit()
    training.fold_activation_norm_scaling_factor(scale)
    return training


def save(sae: TopKTrainingSAE, folder: Path) -> None:
    """Write the inference SAE in sae-lens's own format, in bfloat16 (half the size)."""
    sae.fold_W_dec_norm()
    sae.cfg.dtype = "bfloat16"
    with atomic_folder(folder) as out:
        sae.to(torch.bfloat16).save_inference_model(out)


@torch.inference_mode()
def quality(sae, rows: Iterable[torch.Tensor]) -> dict[str, float]:
    """Fraction of variance unexplained (FVU), mean L0 and share of dead features on held-out rows."""
    residual = total = active = n = 0.0
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool)
    rows = list(rows)
    mean = torch.cat([chunk.mean(0, keepdim=True) * len(chunk) for chunk in rows]).sum(0) / sum(map(len, rows))
    for chunk in rows:
        h = encode(sae, chunk)
        residual += (chunk - sae.decode(h.to(sae.dtype)).float()).square().sum().item()
        total += (chunk - mean).square().sum().item()
        active += (h > 0).sum().item()
        fired |= (h > 0).any(0).cpu()
        n += len(chunk)
    return {"fvu": residual / total, "l0": active / n, "dead": 1 - fired.float().mean().item(), "rows": n}


@torch.inference_mode()
def residual_norms(model, sequences: Iterable[list[int]]) -> torch.Tensor:
    """Residual norm of every token, sinks too."""
    norms = []
    for sequence in sequences:
        hidden = model(input_ids=torch.tensor([sequence], device=model.device), use_cache=False).last_hidden_state
        norms.append(hidden[0].float().norm(dim=-1).cpu())
    return torch.cat(norms)


@torch.inference_mode()
def firing_frequency(sae, rows: Iterable[torch.Tensor]) -> torch.Tensor:
    """[F] share of rows on which each feature fires."""
    counts = [((encode(sae, chunk) > 0).sum(0).cpu(), len(chunk)) for chunk in rows]
    return sum(fired for fired, _ in counts).float() / sum(n for _, n in counts)


@torch.inference_mode()
def loss_recovered(model, sae, layer: int, sequences: Iterable[list[int]]) -> dict[str, float]:
    """Share of the language-model loss that the SAE's reconstruction keeps, against mean-ablation.

    Cross-entropy a token (nats) with the residual stream after `layer` as it is (`loss`), replaced by
    its reconstruction (`loss_sae`) and by its mean over the text (`loss_mean`); sinks stay as they are.
    loss_recovered = (loss_mean − loss_sae) / (loss_mean − loss).
    """
    sequences = list(sequences)
    seen = []

    def total(replace) -> float:
        def hook(_module, _inputs, output):
            hidden = output[0] if isinstance(output, tuple) else output
            norms = hidden.float().norm(dim=-1)
            keep = norms < SINK_FACTOR * norms.median()
            hidden[keep] = replace(hidden[keep].float()).to(hidden.dtype)

        handle = model.model.layers[layer].register_forward_hook(hook)
        try:
            losses = []
            for sequence in sequences:
                ids = torch.tensor([sequence], device=model.device)
                logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
                losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item())
        finally:
            handle.remove()
        return sum(losses) / sum(len(sequence) - 1 for sequence in sequences)

    def remember(rows):
        seen.append(rows.mean(0))
        return rows

    loss = total(remember)
    mean = torch.stack(seen).mean(0)
    loss_sae = total(lambda rows: sae.decode(encode(sae, rows).to(sae.dtype)).float())
    loss_mean = total(lambda rows: mean.expand_as(rows))
    recovered = (loss_mean - loss_sae) / (loss_mean - loss)
    return {"loss": loss, "loss_sae": loss_sae, "loss_mean": loss_mean, "loss_recovered": recovered}


def encode(sae, rows: torch.Tensor, features=None) -> torch.Tensor:
    """SAE features [tokens, F] of residual rows [tokens, d_model], in the SAE's dtype; or only the
    columns `features`."""
    h = sae.encode(rows.to(sae.dtype))
    return h if features is None else h[:, features]


def load(name: str, d_in: int | None = None, layer: int | None = None) -> SAE:
    """The SAE `name`, float32: a folder (relative to the project), "release/sae_id" of sae-lens, or
    "random-8x" or "random-4x-layer1", a seeded random one of any width for tests.

    Raises ValueError, in one line, if it is not there or does not fit a residual stream of width
    `d_in` after block `layer`.
    """
    folder = folder_of(name)
    if random_one := RANDOM.fullmatch(name):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            metadata = SAEMetadata(hook_name=hook_point(int(random_one["layer"] or 0)))
            d_sae, k = int(random_one["expansion"]) * d_in, int(random_one["k"] or 8)
            cfg = TopKSAEConfig(d_in=d_in, d_sae=d_sae, k=k, dtype="float32", device="cpu", metadata=metadata)
            sae = TopKSAE(cfg)
            sae.W_enc.data.normal_()
    elif folder:
        sae = SAE.load_from_disk(folder, dtype="float32")
    else:
        release, _, sae_id = name.partition("/")
        try:
            sae = SAE.from_pretrained(release, sae_id)
        except Exception as error:  # unknown release, unknown id, no hub: one line for all
            why = str(error).split("\n")[0]
            raise ValueError(f"SAE {name!r} is no folder and sae-lens can't load it: {why}") from None
    if d_in is not None and sae.cfg.d_in != d_in:
        raise ValueError(f"SAE {name!r} reads width {sae.cfg.d_in}, the model's residual stream is {d_in}")
    hook = sae.cfg.metadata.hook_name
    if layer is not None and hook and hook != hook_point(layer):
        raise ValueError(f"SAE {name!r} was trained at {hook}, the profile reads {hook_point(layer)}")
    return sae.eval().requires_grad_(False)


def folder_of(name: str) -> Path | None:
    """Where the SAE `name` lies in sae-lens's format: a folder of the project, any other, or one of ``$STS_MIRROR``."""
    mirror = os.environ.get("STS_MIRROR")
    places = [ROOT / name, Path(name), *([Path(mirror) / name] if mirror else [])]
    return next((place for place in places if (place / "cfg.json").exists()), None)


def layer(name: str) -> int:
    """The block whose residual stream the SAE `name` reads, from its metadata."""
    if random_one := RANDOM.fullmatch(name):
        return int(random_one["layer"] or 0)
    folder, (release, _, sae_id) = folder_of(name), name.partition("/")
    if folder:  # from the config alone: the weights of a public SAE are gigabytes
        cfg = json.loads((folder / "cfg.json").read_text())  # before sae-lens 6 the name was at the top
        hook = cfg.get("metadata", cfg).get("hook_name") or ""
    elif release in get_pretrained_saes_directory():
        try:
            hook = load_sae_config_from_huggingface(release, sae_id)["metadata"].get("hook_name") or ""
        except Exception as error:
            raise ValueError(f"SAE {name!r}: sae-lens can't read its config: {str(error).splitlines()[0]}") from None
    else:
        hook = load(name).cfg.metadata.hook_name or ""
    found = re.fullmatch(r"blocks\.(\d+)\.hook_resid_post", hook)
    if not found:
        raise ValueError(
            f"SAE {name!r} reads {hook or 'no known place'}: choose one on the residual stream after a block"
        )
    return int(found.group(1))


def hook_point(layer: int) -> str:
    """TransformerLens's name of the residual stream after block `layer`."""
    return f"blocks.{layer}.hook_resid_post"
