"""Fig 7, Table 11: selective fine-tuning, which trains only what chosen features decode to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from sts_utils import models, questions, run, scores, train
from sts_utils.cache import cached
from sts_utils.config import Profile
from sts_utils.features import FeatureStats
from sts_utils.interventions import SelectiveMaps, edited

READ = (*run.SHOWN, *run.HELD_OUT, *run.SOLVED, "definition", "sft")


def choices(p: Profile) -> list[tuple[str, int, int]]:
    """(which dims, how many, which random draw); none where no layers are named."""
    draws = [("estimated", 0), *(("random", draw) for draw in range(p.selective.draws))]
    sizes = p.selective.dims if p.sweep.layers else ()
    return [(which, n, draw) for n in sizes for which, draw in draws]


def chosen(ranked: np.ndarray, which: str, n: int, stream: Sequence[int] = ()) -> np.ndarray:
    """`n` features of an SAE: the first of `ranked`, all of its features by their shift, or random
    ones, of the generator's `stream`. Raises ValueError where it has fewer."""
    if n > len(ranked):
        raise ValueError(f"selective.dims holds {n}, but an SAE has {len(ranked)} features")
    drawn = np.random.default_rng(stream).choice(len(ranked), n, replace=False)
    return ranked[:n] if which == "estimated" else drawn


@cached(*READ, "selective.examples", "selective.lr", folder=True)
def tuned(p: Profile, seed: int, which: str, n: int, draw: int, *, out: Path) -> None:
    """Train maps at every layer: maps.safetensors, log.parquet; table.parquet as of `run.solve`."""
    layers, ids = [run.with_sae(p, name) for name in p.sweep.layers], {}
    for q in layers:
        features = FeatureStats.from_arrays(run.train_features(p, seed, part=q.sae))
        ranked = scores.shifted_dims(features, None, p.definition).ids
        ids[q.layer] = chosen(ranked, which, n, (q.layer, n, draw))
    sinks = {q.layer: run.hook(q).sink_norm for q in layers}
    run.release()  # the truncated models that read these: they and the whole one need not fit
    torch.manual_seed(seed)
    model = models.load_model(p.model, p.evaluation.dtype, p.revision)
    maps = SelectiveMaps({q.layer: (run.sae(q), ids[q.layer]) for q in layers}).to(model.device)
    model.requires_grad_(False).selective = maps
    examples = questions.training_examples(p, seed)[0][: p.selective.examples]
    asked = questions.mathematics(p, p.evaluation.held_out)
    how = (p.selective.lr, seed, f"{n} {which} dims")
    with edited(model, maps.edits(sinks)):
        log = train.train_answers(model.train(), questions.tokenizer(p), p.sft, examples, *how)
        table = run.solve(p, asked, model.eval())
    save_file(maps.state_dict(), out / "maps.safetensors")
    log.to_parquet(out / "log.parquet", index=False)
    table.to_parquet(out / "table.parquet", index=False)
