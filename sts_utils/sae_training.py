"""Sparse autoencoders trained with sae-lens on rows of a model's residual stream."""

import itertools
import random
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.mixing_buffer import mixing_buffer
from sae_lens.training.sae_trainer import SAETrainer
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from sts_utils import batches, models
from sts_utils.saes import SINK_FACTOR
from sts_utils.store import atomic_folder

#: Sequences that are sorted by length together.
POOL = 256
#: Rows of a training batch, and batches of the buffer that mixes them.
BATCH, MIXED = 1024, 64
#: Batches without firing after which a feature counts as dead in training.
DEAD_AFTER = 30


def activations(model, sequences: Iterable[list[int]], tokens: int) -> Iterator[torch.Tensor]:
    """Residual rows [tokens, d_model] of `sequences` without position 0 and attention sinks.

    `model` is truncated (`models.load_truncated`); its last block's output is read.
    """
    last = len(model.layers) - 1
    for rows in layer_activations(model, sequences, (last,), tokens):
        yield rows[last]


@torch.inference_mode()
def layer_activations(
    model, sequences: Iterable[list[int]], layers: Sequence[int], tokens: int
) -> Iterator[dict[int, torch.Tensor]]:
    """Block -> residual rows [tokens, d_model] after it, several blocks in one forward pass.

    Passes of at most `tokens` padded tokens; a pass's sinks are found against its own median norm,
    block by block.
    """
    for batch in _batches(sequences, tokens):
        ids = pad_sequence([torch.tensor(sequence) for sequence in batch], batch_first=True)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(s) for s in batch])[:, None]
        ids, mask = ids.to(model.device), mask.to(model.device)
        with models.reading(model, layers) as hidden:
            model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
        mask[:, 0] = False
        residuals = {}
        for layer in layers:
            rows = hidden[layer][mask].float()
            norms = rows.norm(dim=-1)
            residuals[layer] = rows[norms < SINK_FACTOR * norms.median()]
        yield residuals


def _batches(sequences: Iterable[list[int]], tokens: int) -> Iterator[list[list[int]]]:
    """Neighbouring sequences, near in length, at most `tokens` padded tokens a batch."""
    sequences = iter(sequences)
    while pool := list(itertools.islice(sequences, POOL)):
        cut = list(batches.by_length(list(map(len, pool)), tokens))
        random.Random(len(pool)).shuffle(cut)
        yield from ([pool[i] for i in chosen] for chosen in cut)


def collected(
    model, sequences: Iterable[list[int]], layers: Sequence[int], rows: int, tokens: int = 4096
) -> dict[int, list[torch.Tensor]]:
    """Block -> chunks of residual rows, bfloat16, of the first `rows` tokens of `sequences`."""
    chunks, n = {layer: [] for layer in layers}, 0
    with tqdm(total=rows, desc="residual rows", unit="row", leave=False) as bar:
        for residuals in layer_activations(model, sequences, layers, tokens):
            for layer in layers:
                chunks[layer].append(residuals[layer].bfloat16())
            bar.update(size := len(residuals[layers[0]]))
            n += size
            if n >= rows:
                break
    return chunks


def replayed(chunks: Sequence[torch.Tensor], seed: int = 0) -> Iterator[torch.Tensor]:
    """Stored chunks of rows over and over, float32, each round in another order.

    The model's forward pass costs more than the SAE's training step: each row serves repeatedly.
    """
    chunks, rng = list(chunks), random.Random(seed)
    while True:
        yield from (chunk.float() for chunk in chunks)
        rng.shuffle(chunks)


def train(
    rows: Iterator[torch.Tensor], shape: dict, n_tokens: int, metadata: dict, batch: int = BATCH
) -> TopKTrainingSAE:
    """A TopK SAE trained by sae-lens on `n_tokens` residual rows [tokens, d_in] of an iterator.

    `shape`: its d_in, d_sae and k; `metadata`: what sae-lens says of it. Adam with 5% warm-up and,
    over the second half, a linear decay to zero. A feature that has not fired for DEAD_AFTER
    batches is trained, by TopK's auxiliary loss, on what the others leave unexplained.
    """
    torch.manual_seed(0)
    config = TopKTrainingSAEConfig(
        **shape,
        dtype="float32",
        device="cpu",
        metadata=SAEMetadata(**metadata),
        normalize_activations="expected_average_only_in",
        decoder_init_norm=0.1,
    )
    sae, steps = TopKTrainingSAE(config), n_tokens // batch
    settings = SAETrainerConfig(
        total_training_samples=n_tokens,
        train_batch_size_samples=batch,
        n_batches_for_norm_estimate=16,
        lr=3e-3,
        lr_end=0.0,
        lr_warm_up_steps=steps // 20,
        lr_decay_steps=steps // 2,
        dead_feature_window=min(DEAD_AFTER, steps // 10),
        autocast=True,
    )
    return SAETrainer(settings, sae, mixing_buffer(MIXED * batch, batch, rows)).fit()


def save(sae: TopKTrainingSAE, folder: Path) -> None:
    """Write the inference SAE in sae-lens's own format, in bfloat16 (half the size)."""
    sae.fold_W_dec_norm()
    sae.cfg.dtype = "bfloat16"
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_folder(folder) as out:
        sae.to(torch.bfloat16).save_inference_model(out)
