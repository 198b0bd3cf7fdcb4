"""Fig 1b: mathematics while SAE features are zeroed in the fine-tuned model, and which features."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sts_utils import questions, run, scores, stats
from sts_utils.cache import cached
from sts_utils.config import AblationSettings, Profile
from sts_utils.features import FeatureStats
from sts_utils.interventions import edited, zeroed
from sts_utils.stats import Estimate

#: The least activity of the "active" features, of that of the shifted, for them to be a control.
MATCHED = 0.8
#: (which features, how many, which draw) -> their ids.
Choices = dict[tuple[str, int, int], np.ndarray]


@cached(*run.READ, "train", "shift", "ablation", "sft.max_length", "evaluation.dtype", *run.SOLVED)
def zero_features(p: Profile, seed: int, model: run.Model) -> pd.DataFrame:
    """Mathematics while features are zeroed in a fine-tuned model: columns of `run.solve`, features
    (as in `choices`), count and draw."""
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


def matched(actual: FeatureStats, settings: AblationSettings) -> tuple[Choices, dict[int, float]]:
    """`choices` without the "active" features where they are no control, and how active they are
    (`relative_activity`)."""
    chosen = choices(actual, settings.counts, settings.draws)
    activity = relative_activity(actual.mean("h"), chosen)
    for which, count, draw in list(chosen):
        if which == "active" and activity[count] < MATCHED:
            del chosen[which, count, draw]
    return chosen, activity


def choices(actual: FeatureStats, counts: Sequence[int], draws: int) -> Choices:
    """Features to zero: "none", "shifted" (by SFT, most first), "random", and "active", others
    drawn among the nearest to the shifted in mean activation."""
    ranked = scores.shifted_dims(actual, None).ids
    by_activity = np.argsort(-actual.mean("h"), kind="stable")
    place = np.empty(len(by_activity), dtype=int)
    place[by_activity] = np.arange(len(by_activity))
    chosen = {("none", 0, 0): np.array([], dtype=int)}
    for count in (c for c in counts if c <= len(ranked)):
        chosen["shifted", count, 0] = ranked[:count]
        for draw in range(draws):
            rng = np.random.default_rng((count, draw))
            chosen["random", count, draw] = rng.choice(len(ranked), count, replace=False)
            near = _near(place[ranked[:count]], len(ranked), rng)
            chosen["active", count, draw] = by_activity[near]
    return chosen


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


def relative_activity(activity: np.ndarray, chosen: Choices) -> dict[int, float]:
    """Count -> activity of the "active" features over that of the shifted ones, mean over draws:
    below 1 where the shifted features are the most active ones of all."""
    ratios = {}
    for count in {count for _, count, _ in chosen if count}:
        alike = [activity[ids].sum() for key, ids in chosen.items() if key[:2] == ("active", count)]
        ratios[count] = float(np.mean(alike) / activity[chosen["shifted", count, 0]].sum())
    return ratios


def changes(
    table: pd.DataFrame, column: str, templates: Mapping[str, str]
) -> dict[tuple[str, int], Estimate]:
    """(which features, how many) -> mean change of a column of `zero_features` against none
    zeroed: paired by question, over draws of features."""
    intact = table[table.features == "none"].set_index("id")[column]
    groups = [templates.get(i, i) for i in intact.index]
    found = {}
    for choice, rows in table[table.features != "none"].groupby(["features", "count"]):
        after = rows.pivot(index="draw", columns="id", values=column)[intact.index]
        change = (after - intact).to_numpy()
        found[choice] = Estimate(float(change.mean()), stats.mean_draws(change, groups=groups))
    return found
