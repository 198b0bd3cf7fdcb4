"""Acting on chosen features alone. Fig 1b: mathematics while SAE features are zeroed in the
fine-tuned model. Fig 7, Table 11: selective fine-tuning trains only what features decode to."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from sts_utils import models, questions, run, scores, train
from sts_utils.cache import cached
from sts_utils.config import AblationSettings, Profile
from sts_utils.features import FeatureStats
from sts_utils.saes import SelectiveMaps, edited, zeroed
from sts_utils.stats import Jackknife

READ = (*run.SHOWN, *run.HELD_OUT, *run.SOLVED, "definition", "sft")


@cached(*run.READ, "train", "shift", "ablation", "sft.max_length", "evaluation.dtype", *run.SOLVED)
def zero_features(p: Profile, seed: int, model: run.Model) -> pd.DataFrame:
    """Columns of `run.solve` while features of a fine-tuned model, those `to_zero`, are zeroed."""
    examples = questions.mathematics(p, p.ablation.questions)
    actual = FeatureStats.from_arrays(run.actual_features(p, seed, model, part=p.sae))
    hook = run.hook(p)  # before the whole model, which takes the place of the backbone it needs
    whole, frames = run.whole(p, model), []
    for (which, count, draw), ids in to_zero(actual, p.ablation).items():
        edits = {hook.layer: zeroed(hook.sae, ids, hook.sink_norm)} if count else {}
        with edited(whole, edits):
            frame = run.solve(p, examples, whole)
        frames.append(frame.assign(features=which, count=count, draw=draw))
    return pd.concat(frames, ignore_index=True)


def to_zero(actual: FeatureStats, settings: AblationSettings) -> dict:
    """(which, how many, draw) -> ids of features to zero: "none", "shifted" (by SFT, most first),
    "random". (Others as active as the shifted ones can't be had: those are the most active.)"""
    ranked, found = scores.shifted_dims(actual, None).ids, {("none", 0, 0): np.array([], int)}
    for count in (c for c in settings.counts if c <= len(ranked)):
        found["shifted", count, 0] = ranked[:count]
        for draw in range(settings.draws):
            rng = np.random.default_rng((count, draw))
            found["random", count, draw] = rng.choice(len(ranked), count, replace=False)
    return found


def changes(table: pd.DataFrame, column: str, templates: Mapping[str, str]) -> dict:
    """(which features, how many) -> Jackknife of the mean change of a column of `zero_features`
    against none zeroed: paired by question, over draws of features."""
    intact = table[table.features == "none"].set_index("id")[column]
    groups, found = [templates.get(i, i) for i in intact.index], {}
    for choice, rows in table[table.features != "none"].groupby(["features", "count"]):
        after = rows.pivot(index="draw", columns="id", values=column)[intact.index]
        found[choice] = Jackknife.mean((after - intact).to_numpy(), groups)
    return found


def choices(p: Profile) -> list[tuple[str, int, int]]:
    """(which dims, how many, which random draw); none where no layers are named."""
    draws = [("estimated", 0), *(("random", draw) for draw in range(p.selective.draws))]
    sizes = p.selective.dims if p.sweep.layers else ()
    return [(which, n, draw) for n in sizes for which, draw in draws]


def to_train(ranked: np.ndarray, which: str, n: int, stream: Sequence[int] = ()) -> np.ndarray:
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
        ids[q.layer] = to_train(ranked, which, n, (q.layer, n, draw))
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
