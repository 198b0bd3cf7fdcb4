"""Training only what chosen features decode to (Fig 7, Table 11)."""

from functools import cache

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from sts_utils import models, stats, store
from sts_utils.config import Profile
from sts_utils.evaluation import options as evaluate
from sts_utils.runs import performance as performances
from sts_utils.runs import samples, units
from sts_utils.stats import Estimate
from sts_utils.training import sft as finetune
from sts_utils.training.interventions import SelectiveMaps, edited


@cache
def estimates(profile: Profile) -> dict[tuple[str, int], Estimate]:
    """(which dims, how many) -> change of the log-likelihood a token of held-out mathematics."""
    settings, before = profile.selective, performances.held_out_performance(profile).set_index("id").solution_loglik
    found = {}
    for n in settings.dims:
        for which, draws in (("estimated", 1), ("random", settings.draws)):
            frames = [trained(profile, which, n, draw).set_index("id").solution_loglik for draw in range(draws)]
            values = np.stack([(frame - before).sort_index().to_numpy() for frame in frames])
            found[which, n] = Estimate(float(values.mean()), stats.mean_draws(values))
    return found


def dims(profile: Profile, name: str, which: str, n: int, draw: int) -> np.ndarray:
    """The `n` features of SAE `name` to train: the estimated shifted dims, or random ones."""
    run = units.with_sae(profile, name)
    ranked = units.dims(run, profile.seeds[0], None)
    if n > len(ranked):
        raise ValueError(f"selective.dims holds {n}, but SAE {name!r} has {len(ranked)} features")
    if which == "estimated":
        return ranked.ids[:n]
    return np.random.default_rng((run.layer, n, draw)).choice(len(ranked), n, replace=False)


def trained(profile: Profile, which: str, n: int, draw: int) -> pd.DataFrame:
    """Train the maps, evaluate with them in place; columns id, solution_loglik."""
    settings, seed = profile.selective, profile.seeds[0]

    def make(out):
        tokenizer = samples.tokenizer(profile.model, profile.revision)
        torch.manual_seed(seed)
        model = models.load_model(profile.model, profile.sft.dtype, profile.revision).requires_grad_(False)
        runs = [units.with_sae(profile, name) for name in profile.sweep.layers]
        taps = {
            run.layer: (units.sae(run), dims(profile, run.sae, which, n, draw)) for run in runs
        }  # fmt: skip
        model.selective = maps = SelectiveMaps(taps).to(model.device)
        examples = samples.training_examples(profile, seed)[0][: settings.examples]
        held_out = samples.training_examples(profile, 0)[1][: profile.evaluation.held_out]
        with edited(model, maps.edits({run.layer: units.sink_norm(run) for run in runs})):
            desc = f"{n} {which} dims"
            log = finetune.train_answers(model.train(), tokenizer, profile.sft, examples, settings.lr, seed, desc)
            table = evaluate.solution_loglik(model.eval(), tokenizer, held_out, profile.sft.max_length)
        save_file(maps.state_dict(), out / "maps.safetensors")
        log.to_parquet(out / "log.parquet", index=False)
        table.to_parquet(out / "table.parquet", index=False)

    recipe = {
        "model": profile.model, "revision": profile.revision, "train": profile.train, "saes": profile.sweep.layers,
        "sft": profile.sft.model_dump(), "shift": profile.shift.model_dump(), "selective": settings.model_dump(),
        "seed": seed, "dtype": profile.dtype, "definition": profile.definition, "alignment": profile.alignment,
        "questions": profile.evaluation.held_out, "which": which, "n": n, "draw": draw,
    }  # fmt: skip
    return pd.read_parquet(store.folder("selective", recipe, make) / "table.parquet")
