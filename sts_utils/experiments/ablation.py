"""Mathematics while features are zeroed in the fine-tuned model (Fig 1b)."""

from functools import cache

import numpy as np
import pandas as pd

from sts_utils import stats, store
from sts_utils.config import Profile
from sts_utils.evaluation import options as evaluate
from sts_utils.method import shift
from sts_utils.runs import samples, units
from sts_utils.stats import Estimate
from sts_utils.training.interventions import edited, zeroed


def logliks(profile: Profile) -> pd.DataFrame:
    """Log-likelihood of held-out mathematics solutions while features are zeroed in the fine-tuned model.

    Columns: id, solution_loglik, features ("none", "shifted", "random", "active"), count, draw. `shifted`
    are the features that SFT moved most; `active` are others, the nearest to those in activity.
    """
    seed, settings = profile.seeds[0], profile.ablation
    model = units.finetuned(profile, seed)
    examples = samples.training_examples(profile, 0)[1][: settings.questions]

    def compute():
        actual = units.actual_stats(profile, seed)
        whole, tokenizer = units.performing(profile, model), samples.tokenizer(profile.model, profile.revision)
        sae, limit = units.sae(profile), units.sink_norm(profile)
        frames = []
        for (name, count, draw), features in ablated(actual, settings.counts, settings.draws).items():
            with edited(whole, {profile.layer: zeroed(sae, features, limit)} if count else {}):
                frame = evaluate.solution_loglik(whole, tokenizer, examples, profile.sft.max_length)
            frames.append(frame.assign(features=name, count=count, draw=draw))
        return pd.concat(frames, ignore_index=True)

    recipe = {
        **settings.model_dump(), "sae": profile.sae, "layer": profile.layer, "trained": model.key,
        "shift": profile.shift.model_dump(), "dtypes": (profile.dtype, profile.evaluation.dtype),
    }  # fmt: skip
    return store.frame("ablation", recipe, compute)


def ablated(actual, counts, draws: int) -> dict[tuple[str, int, int], np.ndarray]:
    """(which, count, draw) -> features to zero; "active" are drawn among the next of like mean activation."""
    ranked = shift.shifted_dims(actual, None).ids
    activity = np.argsort(-actual.mean("h"), kind="stable")
    place = np.empty(len(activity), dtype=int)
    place[activity] = np.arange(len(activity))
    chosen = {("none", 0, 0): np.array([], dtype=int)}
    for count in (c for c in counts if c <= len(ranked)):
        chosen["shifted", count, 0] = ranked[:count]
        for draw in range(draws):
            rng = np.random.default_rng((count, draw))
            chosen["random", count, draw] = rng.choice(len(ranked), count, replace=False)
            chosen["active", count, draw] = _like(place[ranked[:count]], activity, rng)
    return chosen


def relative_activity(profile: Profile) -> dict[int, float]:
    """Count -> activity of the features of `ablated` called "active" over that of the shifted ones, mean over draws.

    Below 1 where the shifted features are the most active ones of all.
    """
    actual = units.actual_stats(profile, profile.seeds[0])
    activity, settings, found = actual.mean("h"), profile.ablation, {}
    chosen = ablated(actual, settings.counts, settings.draws)
    for count in {count for _, count, _ in chosen if count}:
        alike = [activity[chosen["active", count, draw]].sum() for draw in range(settings.draws)]
        found[count] = float(np.mean(alike) / activity[chosen["shifted", count, 0]].sum())
    return found


def _like(places: np.ndarray, activity: np.ndarray, rng) -> np.ndarray:
    """For each place in the order of activity a feature near it, none twice and none at those places if possible."""
    taken, found = set(places.tolist()), []
    for place in rng.permutation(places):
        free = [p for p in range(len(activity)) if p not in taken] or list(set(places.tolist()) - set(found))
        taken.add(pick := int(rng.choice(sorted(free, key=lambda p: abs(p - place))[:5])))
        found.append(pick)
    return activity[found]


@cache
def estimates(profile: Profile) -> dict[tuple[str, int], Estimate]:
    """(which, count) -> change of the mean log-likelihood a token against nothing zeroed."""
    table = logliks(profile)
    intact = table[table.features == "none"].set_index("id").solution_loglik
    found = {}
    for (name, count), group in table[table.features != "none"].groupby(["features", "count"]):
        change = group.pivot(index="draw", columns="id", values="solution_loglik")[intact.index] - intact
        values = change.to_numpy()
        found[name, count] = Estimate(float(values.mean()), stats.mean_draws(values))
    return found
