"""What the positive control asks of a score."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from sts_utils import models, stats, store
from sts_utils.config import Profile
from sts_utils.control import generic
from sts_utils.control import matrix as control
from sts_utils.control import scores as control_scores
from sts_utils.control.scores import Score
from sts_utils.method import shift
from sts_utils.runs import samples
from sts_utils.stats import Estimate


def centred(values: np.ndarray) -> np.ndarray:
    """Values [..., T, D] with row and column means removed: what is particular to a set and a domain."""
    return (
        values - values.mean(-1, keepdims=True) - values.mean(-2, keepdims=True) + values.mean((-2, -1), keepdims=True)
    )


def ranks(values: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """[T, S] rank (1 is the highest score) of domain `columns[t]` in values [T, S, D]; ties share their mean rank."""
    ranked = values.shape[-1] + 1 - scipy_stats.rankdata(values, axis=-1)
    return np.stack([row[:, column] for row, column in zip(ranked, columns, strict=True)])


def rank_of_training_domain(profile: Profile, score: Score, sets: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
    """[T', S] ranks, for the sets that are domains."""
    own, domains = control.diagonal(profile), list(samples.evaluation_questions(profile))
    kept = tuple(name for name in sets if name in own)
    return ranks(control_scores.matrix(profile, score, kept, tuple(seeds)), [domains.index(own[name]) for name in kept])


def first_share(found: np.ndarray) -> Estimate:
    """Share of [T, S] ranks that are 1, with draws over sets and seeds."""
    return over_cells((found == 1).astype(float))


def mean_rank(found: np.ndarray) -> Estimate:
    """Mean of [T, S] ranks, with draws over sets and seeds."""
    return over_cells(found)


def over_cells(values: np.ndarray, draws: int = stats.DRAWS) -> Estimate:
    """Mean of [T, S] values, with draws over sets and seeds."""
    rng = np.random.default_rng(4)
    rows, columns = values.shape
    picked = values[rng.integers(rows, size=(draws, rows))[:, :, None], rng.integers(columns, size=(draws, 1, columns))]
    return Estimate(float(values.mean()), picked.mean((1, 2)))


def chance(found: np.ndarray, domains: int, draws: int = 20_000) -> tuple[float, float]:
    """p of a mean rank as low, and of as many ranks of 1, as [T, S] ranks when each set's order is drawn at random.

    The seeds of one set are drawn together: they rank almost alike.
    """
    drawn = np.random.default_rng(5).integers(1, domains + 1, size=(draws, len(found)))
    low = (1 + (drawn.mean(1) <= found.mean()).sum()) / (draws + 1)
    many = (1 + ((drawn == 1).mean(1) >= (found == 1).mean()).sum()) / (draws + 1)
    return float(low), float(many)


def r_centred(values: np.ndarray, changes: Sequence[np.ndarray], draws: int = 1000) -> tuple[Estimate, float]:
    """(r, p): Pearson r of scores [T, S, D] and changes [D][T, S, Q] over all cells, row and column means removed.

    Means over seeds are compared. Draws are over training sets, seeds and questions; p is a permutation of the
    score's rows over training sets (two-sided). NaN for a score that is the same for every training set.
    """
    if same_for_all_sets(values):
        return Estimate(np.nan, np.array([np.nan])), np.nan
    changed = np.stack([c.mean(-1) for c in changes], -1)  # [T, S, D]
    flat = centred_cells(values.mean(1))
    observed = float(stats.pearson(flat, centred_cells(changed.mean(1))))
    rng = np.random.default_rng(6)
    rows, seeds = values.shape[:2]
    orders = np.stack([rng.permutation(rows) for _ in range(draws)])
    permuted = stats.pearson(centred_cells(values.mean(1)[orders]), centred_cells(changed.mean(1))[None])
    p = (1 + (np.abs(permuted) >= abs(observed)).sum()) / (draws + 1)
    drawn = []
    for _ in range(draws):
        t, s = rng.integers(rows, size=rows), rng.integers(seeds, size=seeds)
        mean = [c[:, :, rng.integers(c.shape[-1], size=c.shape[-1])].mean(-1) for c in changes]
        mean = np.stack(mean, -1)[t][:, s].mean(1)
        drawn.append(stats.pearson(centred_cells(values[t][:, s].mean(1)), centred_cells(mean)))
    return Estimate(observed, np.array(drawn)), float(p)


def same_for_all_sets(values: np.ndarray) -> bool:
    """Whether a score [T, S, D] does not depend on the training set, so that nothing is left of it when centred."""
    return np.ptp(values, axis=0).max() == 0


def centred_cells(values: np.ndarray) -> np.ndarray:
    """[..., T × D] cells of values [..., T, D], row and column means removed."""
    return centred(values).reshape(*values.shape[:-2], -1)


def r_within(values: np.ndarray, changes: Sequence[np.ndarray]) -> np.ndarray:
    """[T] r over domains within each set: scores [T, S, D] and changes [D][T, S, Q], each less its column's mean."""
    if same_for_all_sets(values):
        return np.full(len(values), np.nan)
    changed = np.stack([c.mean((1, 2)) for c in changes], -1)
    mean = values.mean(1)
    return stats.pearson(mean - mean.mean(0), changed - changed.mean(0))


def agreement(profile: Profile, which: str, n: int, sets: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
    """[T, S] overlap of D_N with the N features that SFT on the set moved most; for a contrastive D_N, moved more
    than SFT on the other sets did."""
    moved = {(t, s): shift.shift(control.actual_stats(profile, t, s)) for t in profile.control.sets for s in seeds}
    found = np.empty((len(sets), len(seeds)))
    for i, j in np.ndindex(found.shape):
        name, seed = sets[i], seeds[j]
        actual = moved[name, seed]
        if which not in ("paper", "without generic"):
            actual = actual - np.mean([moved[other, seed] for other in profile.control.sets if other != name], axis=0)
        top = np.argsort(-actual, kind="stable")[:n]
        found[i, j] = len(np.intersect1d(top, control_scores.dims(profile, name, seed, which, n).ids)) / n
    return found


def sign_test(
    values: np.ndarray, changes: Sequence[np.ndarray], beside: bool = True, draws: int = 1000
) -> dict[str, Estimate]:
    """How often the sign of a score [T, S, D] is that of the change [D][T, S, Q].

    `beside`: of both with row and column means removed, so beside other domains and sets. "accuracy", that of always
    saying the commoner sign ("majority"), their difference, and Pearson "r", over cells of the means over seeds;
    draws over training sets and questions.
    """
    rng = np.random.default_rng(7)

    def shares(score, change):
        score, change = (centred(v) if beside else v for v in (score, change))
        up = change > 0
        return ((score > 0) == up).mean(), max(up.mean(), 1 - up.mean()), stats.pearson(score.ravel(), change.ravel())

    mean = values.mean(1)
    seen = shares(mean, np.stack([c.mean((1, 2)) for c in changes], -1))
    drawn = []
    for _ in range(draws):
        t = rng.integers(len(mean), size=len(mean))
        change = [c[:, :, rng.integers(c.shape[-1], size=c.shape[-1])].mean((1, 2)) for c in changes]
        drawn.append(shares(mean[t], np.stack(change, -1)[t]))
    accuracy, majority, r = (
        Estimate(float(v), np.array(d)) for v, d in zip(seen, zip(*drawn, strict=True), strict=True)
    )
    return {"accuracy": accuracy, "majority": majority, "difference": accuracy - majority, "r": r}


def tests(
    profile: Profile, candidates: Sequence[Score], sets: Sequence[str], seeds: Sequence[int],
    measures: Sequence[str] = (), draws: int = 1000,
) -> pd.DataFrame:  # fmt: skip
    """A row a score: what is asked of it, on these sets and seeds."""
    domains = len(samples.evaluation_questions(profile))
    changed = {m: control.change_arrays(profile, m, sets=sets, seeds=seeds) for m in measures}
    rows = []
    for score in candidates:
        found = rank_of_training_domain(profile, score, sets, seeds)
        first, mean = first_share(found), mean_rank(found)
        p_mean, p_first = chance(found, domains)
        row = {
            "score": score.label, "name": score.name, "dims": score.dims, "n": score.n,
            "first": first.value, "first_low": first.low, "first_high": first.high, "first_p": p_first,
            "rank": mean.value, "rank_low": mean.low, "rank_high": mean.high, "rank_p": p_mean,
            "ranks": " ".join(f"{rank:g}" for rank in found.ravel()),
        }  # fmt: skip
        values = control_scores.matrix(profile, score, tuple(sets), tuple(seeds))
        for measure, change in changed.items():
            r, p = r_centred(values, change, draws)
            row |= {f"r_{measure}": r.value, f"r_{measure}_low": r.low, f"r_{measure}_high": r.high, f"p_{measure}": p}
            row[f"within_{measure}"] = float(r_within(values, change).mean())
        rows.append(row)
    return pd.DataFrame(rows)


def offered(
    profile: Profile, scores_: Mapping[str, Score], sets: Sequence[str], seeds: Sequence[int], where: str
) -> pd.DataFrame:
    """Share of rank 1 of each score, written to figures/<profile>/scores.csv for the reports of `predict`."""
    rows = []
    for name, score in scores_.items():
        found = rank_of_training_domain(profile, score, sets, seeds)
        share = first_share(found)
        statistic = (
            f"share of {found.size} training sets and seeds whose own domain of "
            f"{len(samples.evaluation_questions(profile))} comes first, {where}"
        )
        rows.append({"score": name, "statistic": statistic, "value": share.value, "low": share.low, "high": share.high})
    table = pd.DataFrame(rows)
    table.to_csv(store.FIGURES / profile.name / "scores.csv", index=False, float_format="%.4g")
    return table


#: What the score fixed on the design half had to reach, set before the work began: (at least or at most, goal).
GOALS = {
    "own domain first": ("at least", 0.9),
    "r, means removed": ("at least", 0.7),
    "cost over the probe run's": ("at most", 0.1),
}


def goals(judged: pd.Series, cost_ratio: float) -> pd.DataFrame:
    """GOALS beside what one score's row of `tests` reached, with its intervals, and the verdict."""
    r = f"r_{control_scores.LIKELIHOOD}"
    found = [
        judged[["first", "first_low", "first_high"]],
        judged[[r, f"{r}_low", f"{r}_high"]],
        (cost_ratio, None, None),
    ]
    rows = []
    for (what, (bound, goal)), (value, low, high) in zip(GOALS.items(), found, strict=True):
        reached = value >= goal if bound == "at least" else value <= goal
        verdict = "reached" if reached else "not reached"
        rows.append({"what": what, "goal": goal, "reached": value, "low": low, "high": high, "verdict": verdict})
    return pd.DataFrame(rows)


# --- dose, demonstrations, cost ----------------------------------------------------------------


def by_demonstrations(profile: Profile, candidates: Sequence[Score], sets: Sequence[str], seed: int) -> pd.DataFrame:
    """Mean rank of the training domain with fewer or more demonstrations before the training set's questions."""
    rows = []
    for count in generic.counts(profile):
        settings = profile.control.model_copy(update={"demonstrations": count})
        other = profile.model_copy(update={"control": settings})
        for candidate in candidates:
            found = rank_of_training_domain(other, candidate, sets, (seed,))
            rows.append({"demonstrations": count, "score": candidate.label, "mean rank": found.mean()})
    return pd.DataFrame(rows).pivot(index="score", columns="demonstrations", values="mean rank")


def by_dose(profile: Profile, candidates: Sequence[Score], measure: str = control_scores.LIKELIHOOD) -> pd.DataFrame:
    """r of score and change, means removed, against the share of the SFT steps, on `dose_sets` and the first seed."""
    sets, seeds, rows = profile.control.dose_sets, profile.control.seeds[:1], []
    for dose in sorted({1.0, *profile.control.doses}):
        steps = round(dose * control.full_steps(profile))
        changed = control.change_arrays(profile, measure, steps, sets=sets, seeds=seeds)
        for candidate in candidates:
            r, _ = r_centred(control_scores.matrix(profile, candidate, sets, seeds), changed)
            rows.append({"dose": dose, "score": candidate.label, "r": r.value, "low": r.low, "high": r.high})
    return pd.DataFrame(rows)


def cost(profile: Profile, name: str, seed: int) -> dict[str, float]:
    """Tokens × blocks of computation, of a score and of the probe run that it competes with.

    A backward pass counts as two forward ones. `score` is what one training set costs (its queries without, with
    its own and with contrasting demonstrations); `domains` what is computed once for all training sets.
    """

    def seen(pairs):
        contexts = {side.context for pair in pairs for side in pair}
        return sum(map(len, contexts)) + sum(2 * len(plain.query) for plain, _ in pairs)

    cut, depth = profile.layer + 1, models.depth(profile.model, profile.revision)
    tokenizer = samples.tokenizer(profile.model, profile.revision)
    examples = control.examples(profile, name, seed)
    length = np.mean([len(tokenizer(e.query + e.solution).input_ids) for e in examples])
    asked = [e for g in samples.evaluation_questions(profile).values() for e in g[: profile.control.probe_questions]]
    evaluated = sum(len(tokenizer(e.question + " ".join(e.options)).input_ids) for e in asked)
    return {
        "score": cut * (seen(control.pairs(profile, name, seed)) + seen(control.pairs(profile, name, seed, "others"))),
        "domains": cut * sum(
            seen(samples.domain_pairs(profile, d, seed)) for d in samples.evaluation_questions(profile)
        ),
        "probe": depth * (3 * control.probe_steps(profile) * profile.control.batch * length + evaluated),
    }  # fmt: skip
