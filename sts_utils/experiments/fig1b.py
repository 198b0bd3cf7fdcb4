"""Fig 1b: mathematics while features are zeroed in the fine-tuned model."""

from collections.abc import Iterator
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sts_utils import scores as shift
from sts_utils import stats, store
from sts_utils.config import Profile
from sts_utils.features import FeatureStats
from sts_utils.interventions import edited, zeroed
from sts_utils.results import CHANCE_COLOUR, PALETTE, SAE_COLOUR, Claim, Result
from sts_utils.runs import features, models, performance, recipes, samples
from sts_utils.runs.plan import Step
from sts_utils.runs.run import Run
from sts_utils.stats import Estimate

#: The least activity of the "active" features, of that of the shifted, for them to be a control.
MATCHED = 0.8


class Numbers(NamedTuple):
    """`lost`: (which features, how many) -> change of performance.mathematics against none
    zeroed, of the "active" ones only where MATCHED; `activity`: how many -> that of the "active"
    ones over that of the shifted."""

    lost: dict[tuple[str, int], Estimate]
    activity: dict[int, float]


def compute(run: Run) -> Numbers:
    """What zeroing costs, by kind and number of features (first seed)."""
    table, settings = zero_features(run.profile), run.profile.ablation
    column = performance.mathematics(run.profile).column
    intact = table[table.features == "none"].set_index("id")[column]
    chosen, activity = matched(run.actual[0], settings.counts, settings.draws)
    lost = {}
    for choice, group in table[table.features != "none"].groupby(["features", "count"]):
        if (*choice, 0) not in chosen:
            continue
        after = group.pivot(index="draw", columns="id", values=column)[intact.index]
        values = (after - intact).to_numpy()
        groups = [run.templates.get(i, i) for i in intact.index]
        lost[choice] = Estimate(float(values.mean()), stats.mean_draws(values, groups=groups))
    return Numbers(lost, activity)


def steps(profile: Profile) -> list[Step]:
    """One: the fine-tuned model with every choice of features zeroed."""
    return [Step("zeroing features", zero_features, (profile,), "05_evaluate", 2)]


def zero_features(profile: Profile) -> pd.DataFrame:
    """Mathematics while features are zeroed in the fine-tuned model: columns of performance.solve,
    features (as in `choices`), count, draw."""
    seed, settings = profile.seeds[0], profile.ablation
    model = models.finetune(profile, seed)
    examples = samples.mathematics(profile, settings.questions)

    def make() -> pd.DataFrame:
        actual, frames = features.extract_actual(profile, seed), []
        whole, hook = models.load_whole(profile, model), models.hook(profile)
        chosen, _ = matched(actual, settings.counts, settings.draws)
        for (which, count, draw), ids in chosen.items():
            edits = {hook.layer: zeroed(hook.sae, ids, hook.sink_norm)} if count else {}
            with edited(whole, edits):
                frame = performance.solve(profile, examples, whole=whole)
            frames.append(frame.assign(features=which, count=count, draw=draw))
        return pd.concat(frames, ignore_index=True)

    told = {"trained": model.key, "dtypes": (profile.dtype, profile.evaluation.dtype)}
    told |= performance.mathematics(profile).recipe
    recipe = recipes.of(profile, "ablation", "sae", "layer", "shift", "place", **told)
    return store.frame("ablation", recipe, make)


def matched(actual: FeatureStats, counts, draws: int) -> tuple[dict, dict[int, float]]:
    """`choices` without the "active" features where they are no control, and how active they are
    (`relative_activity`)."""
    chosen = choices(actual, counts, draws)
    activity = relative_activity(actual.mean("h"), chosen, draws)

    def kept(which: str, count: int) -> bool:
        return which != "active" or activity[count] >= MATCHED

    return {choice: ids for choice, ids in chosen.items() if kept(*choice[:2])}, activity


def choices(actual: FeatureStats, counts, draws: int) -> dict[tuple[str, int, int], np.ndarray]:
    """(which, count, draw) -> features to zero: "none", "shifted" (by SFT, most first), "random",
    and "active", others drawn among the nearest to the shifted in mean activation."""
    ranked = shift.shifted_dims(actual, None).ids
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


def _near(places: np.ndarray, size: int, rng) -> list[int]:
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


def relative_activity(activity: np.ndarray, chosen: dict, draws: int) -> dict[int, float]:
    """Count -> activity of the "active" features over that of the shifted ones, mean over draws.

    Below 1 where the shifted features are the most active ones of all.
    """
    ratios = {}
    for count in {count for _, count, _ in chosen if count}:
        alike = [activity[chosen["active", count, draw]].sum() for draw in range(draws)]
        ratios[count] = float(np.mean(alike) / activity[chosen["shifted", count, 0]].sum())
    return ratios


def fig1b(numbers: Numbers, run: Run) -> tuple[Figure, str]:
    """Mathematics while the k most shifted features are zeroed, against others."""
    lost, activity = numbers
    figure, axis = plt.subplots(figsize=(3.4, 2.6))
    looks = {
        "shifted": ("most shifted by SFT", SAE_COLOUR),
        "active": ("as active", PALETTE[2]),
        "random": ("random", CHANCE_COLOUR),
    }
    counts = sorted(activity)
    for which, (label, colour) in looks.items():
        of = {k: lost[which, k] for k in counts if (which, k) in lost}
        if not of:
            continue
        axis.plot(list(of), [e.value for e in of.values()], "o-", ms=4, color=colour, label=label)
        low, high = [e.low for e in of.values()], [e.high for e in of.values()]
        axis.fill_between(list(of), low, high, color=colour, alpha=0.25, lw=0)
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)
    axis.set(xscale="log", xlabel="features zeroed")
    how = performance.mathematics(run.profile)
    axis.set_ylabel(f"change of {how.name},\n{how.unit}")
    axis.set_xticks(counts, counts)
    axis.minorticks_off()
    figure.legend(frameon=False, loc="outside upper center", ncols=3, fontsize=8)
    k = min(counts, key=lambda count: abs(count - run.profile.top_n))
    said = ", ".join(f"{name} {lost[name, k]}" for name in ("shifted", "random"))
    return figure, (
        f"Fig 1b. {how.name.capitalize()} of {how.of} (fine-tuned model, first seed) "
        "with SAE features taken out of the residual stream, reconstruction error kept; bands: "
        f"95% intervals. {_control(activity)} With {k} zeroed: {said}. The paper: accuracy falls "
        "for shifted, stays for random features."
    )


def _control(activity: dict[int, float]) -> str:
    """What the caption says of features as active."""
    matched = [str(count) for count in sorted(activity) if activity[count] >= MATCHED]
    if matched:
        return f"Others as active ({MATCHED:.0%} or more): only at {', '.join(matched)}."
    most = max(activity.values())
    return f"The most active others reach {most:.0%} of the shifted ones' activity: not shown."


def claims(numbers: Numbers, run: Run) -> Iterator[Claim]:
    """Zeroing shifted features costs more than zeroing as many others."""
    how = performance.mathematics(run.profile)
    for which, others in (("random", "random ones"), ("active", "others as active")):
        claim = f"zeroing shifted features hurts mathematics more than {others}"
        for k in sorted(k for name, k in numbers.lost if name == which):
            statistic = f"{how.name} lost, shifted minus {which}, {k} zeroed"
            gap = numbers.lost[which, k] - numbers.lost["shifted", k]
            yield Claim("fig1b", claim, statistic, gap)


RESULTS = (Result(fig1b, "Fig 1b: mathematics while shifted or random features are zeroed"),)
