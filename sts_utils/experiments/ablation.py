"""Fig 1b: mathematics while SAE features are zeroed in the fine-tuned model, and which features."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sts_utils import questions, run, scores, stats
from sts_utils.cache import cached
from sts_utils.config import AblationSettings, Profile
from sts_utils.features import FeatureStats
from sts_utils.interventions import edited, zeroed
from sts_utils.stats import Estimate

MATCHED = 0.8  # the least activity of the "active" features, of the shifted ones', for a control


@cached(*run.READ, "train", "shift", "ablation", "sft.max_length", "evaluation.dtype", *run.SOLVED)
def zero_features(p: Profile, seed: int, model: run.Model) -> pd.DataFrame:
    """Mathematics while features are zeroed in a fine-tuned model: columns of `run.solve`, features
    (as in `matched`), count and draw."""
    examples = questions.mathematics(p, p.ablation.questions)
    actual = FeatureStats.from_arrays(run.actual_features(p, seed, model, part=p.sae))
    hook = run.hook(p)  # before the whole model, which takes the place of the backbone it needs
    whole, frames = run.whole(p, model), []
    for (which, count, draw), ids in matched(actual, p.ablation)[0].items():
        edits = {hook.layer: zeroed(hook.sae, ids, hook.sink_norm)} if count else {}
        with edited(whole, edits):
            frame = run.solve(p, examples, whole)
        frames.append(frame.assign(features=which, count=count, draw=draw))
    return pd.concat(frames, ignore_index=True)


def matched(actual: FeatureStats, settings: AblationSettings) -> tuple[dict, dict[int, float]]:
    """((which, how many, draw) -> ids of features to zero, how many -> activity of the "active"
    over that of the shifted ones, mean over draws).

    Which: "none", "shifted" (by SFT, most first), "random", and "active", others drawn among the
    nearest to the shifted in mean activation, where these are active enough to be a control: the
    shifted ones may be the most active of all."""
    ranked, activity = scores.shifted_dims(actual, None).ids, actual.mean("h")
    by_activity = np.argsort(-activity, kind="stable")
    place, chosen, relative = np.argsort(by_activity), {("none", 0, 0): np.array([], int)}, {}
    for count in (c for c in settings.counts if c <= len(ranked)):
        shifted = chosen["shifted", count, 0] = ranked[:count]
        active = {}
        for draw in range(settings.draws):
            rng = np.random.default_rng((count, draw))
            chosen["random", count, draw] = rng.choice(len(ranked), count, replace=False)
            active["active", count, draw] = by_activity[_near(place[shifted], len(ranked), rng)]
        sums = [activity[ids].sum() for ids in active.values()]
        relative[count] = float(np.mean(sums) / activity[shifted].sum())
        chosen |= active if relative[count] >= MATCHED else {}
    return chosen, relative


def _near(places: np.ndarray, size: int, rng: np.random.Generator) -> list[int]:
    """For each place in the order of activity one near it, none twice and, if possible, none of
    the places themselves."""
    unpicked, free, picks = np.ones(size, bool), np.ones(size, bool), []
    free[places] = False
    for place in rng.permutation(places):
        at = np.flatnonzero(free if free.any() else unpicked)
        pick = int(rng.choice(at[np.argsort(abs(at - place), kind="stable")[:5]]))
        free[pick] = unpicked[pick] = False
        picks.append(pick)
    return picks


def changes(table: pd.DataFrame, column: str, templates: Mapping[str, str]) -> dict:
    """(which features, how many) -> Estimate of the mean change of a column of `zero_features`
    against none zeroed: paired by question, over draws of features."""
    intact = table[table.features == "none"].set_index("id")[column]
    groups, found = [templates.get(i, i) for i in intact.index], {}
    for choice, rows in table[table.features != "none"].groupby(["features", "count"]):
        after = rows.pivot(index="draw", columns="id", values=column)[intact.index]
        change = (after - intact).to_numpy()
        found[choice] = Estimate(float(change.mean()), stats.mean_draws(change, groups=groups))
    return found
