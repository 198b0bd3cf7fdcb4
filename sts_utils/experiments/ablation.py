"""Fig 1b: mathematics while SAE features are zeroed in the fine-tuned model, and which features."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sts_utils import questions, run, scores
from sts_utils.cache import cached
from sts_utils.config import AblationSettings, Profile
from sts_utils.features import FeatureStats
from sts_utils.interventions import edited, zeroed
from sts_utils.stats import Jackknife


@cached(*run.READ, "train", "shift", "ablation", "sft.max_length", "evaluation.dtype", *run.SOLVED)
def zero_features(p: Profile, seed: int, model: run.Model) -> pd.DataFrame:
    """Columns of `run.solve` while features of a fine-tuned model, those `chosen`, are zeroed."""
    examples = questions.mathematics(p, p.ablation.questions)
    actual = FeatureStats.from_arrays(run.actual_features(p, seed, model, part=p.sae))
    hook = run.hook(p)  # before the whole model, which takes the place of the backbone it needs
    whole, frames = run.whole(p, model), []
    for (which, count, draw), ids in chosen(actual, p.ablation).items():
        edits = {hook.layer: zeroed(hook.sae, ids, hook.sink_norm)} if count else {}
        with edited(whole, edits):
            frame = run.solve(p, examples, whole)
        frames.append(frame.assign(features=which, count=count, draw=draw))
    return pd.concat(frames, ignore_index=True)


def chosen(actual: FeatureStats, settings: AblationSettings) -> dict:
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
