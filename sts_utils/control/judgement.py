"""What the positive control asks of a score, of arrays of training sets × seeds × domains.

Shapes: scores [T, S, D], changes [D] arrays [T, S, Q], ranks [T, S].
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from sts_utils import correlation, stats
from sts_utils.control import scores
from sts_utils.control.matrix import Matrix
from sts_utils.control.scores import LIKELIHOOD, Score
from sts_utils.stats import Estimate

# --- the rank of the training set's own domain -------------------------------------------------


def centred(values: np.ndarray) -> np.ndarray:
    """[..., T, D] with row and column means removed: what is particular to a set and a domain."""
    rows, columns = values.mean(-1, keepdims=True), values.mean(-2, keepdims=True)
    return values - rows - columns + values.mean((-2, -1), keepdims=True)


def own_ranks(values: np.ndarray, own: Mapping[int, int]) -> np.ndarray:
    """[T', S] rank (1 is the highest score) of each set's own domain in values [T, S, D].

    `own`: row -> column, of the sets that are domains. Ties share their mean rank.
    """
    ranked = values.shape[-1] + 1 - scipy_stats.rankdata(values, axis=-1)
    return np.stack([ranked[row, :, column] for row, column in own.items()])


def ranks(matrix: Matrix, score: Score) -> np.ndarray:
    """[T', S] rank that a score gives each training set's own domain."""
    return own_ranks(scores.values(matrix, score), matrix.own)


def over_cells(values: np.ndarray, draws: int = stats.DRAWS) -> Estimate:
    """Mean of [T, S] values, with draws over sets and seeds."""
    rng = np.random.default_rng(4)
    rows, columns = values.shape
    sets = rng.integers(rows, size=(draws, rows))[:, :, None]
    picked = values[sets, rng.integers(columns, size=(draws, 1, columns))]
    return Estimate(float(values.mean()), picked.mean((1, 2)))


def first_share(ranked: np.ndarray) -> Estimate:
    """Share of [T, S] ranks that are 1, with draws over sets and seeds."""
    return over_cells((ranked == 1).astype(float))


def chance(ranked: np.ndarray, domains: int, draws: int = 20_000) -> tuple[float, float]:
    """p of a mean rank as low, and of as many ranks of 1, where each set's order is random.

    The seeds of one set are drawn together: they rank almost alike.
    """
    drawn = np.random.default_rng(5).integers(1, domains + 1, size=(draws, len(ranked)))
    low = (drawn.mean(1) <= ranked.mean()).sum()
    many = ((drawn == 1).mean(1) >= (ranked == 1).mean()).sum()
    return float((1 + low) / (draws + 1)), float((1 + many) / (draws + 1))


# --- score and change --------------------------------------------------------------------------


def r_centred(
    values: np.ndarray, changes: Sequence[np.ndarray], draws: int = 1000
) -> tuple[Estimate, float]:
    """(r, p): Pearson r of scores and changes over all cells, row and column means removed.

    Means over seeds are compared. Draws are over training sets, seeds and questions; p is a
    permutation of the score's rows over training sets (two-sided). NaN for a score that is the
    same for every training set.
    """
    if same_for_all_sets(values):
        return Estimate(np.nan, np.array([np.nan])), np.nan
    changed = _centred_cells(np.stack([c.mean(-1) for c in changes], -1).mean(1))
    mean = values.mean(1)
    observed = float(correlation.pearson(_centred_cells(mean), changed))
    rng = np.random.default_rng(6)
    rows, seeds = values.shape[:2]
    orders = np.stack([rng.permutation(rows) for _ in range(draws)])
    permuted = correlation.pearson(_centred_cells(mean[orders]), changed[None])
    p = (1 + (np.abs(permuted) >= abs(observed)).sum()) / (draws + 1)
    drawn = []
    for _ in range(draws):
        t, s = rng.integers(rows, size=rows), rng.integers(seeds, size=seeds)
        change = np.stack([_redrawn(c, rng).mean(-1) for c in changes], -1)
        of_score, of_change = values[t][:, s].mean(1), change[t][:, s].mean(1)
        drawn.append(correlation.pearson(_centred_cells(of_score), _centred_cells(of_change)))
    return Estimate(observed, np.array(drawn)), float(p)


def _redrawn(change: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[T, S, Q] with its questions drawn again."""
    return change[:, :, rng.integers(change.shape[-1], size=change.shape[-1])]


def _centred_cells(values: np.ndarray) -> np.ndarray:
    """[..., T × D] cells of values [..., T, D], row and column means removed."""
    return centred(values).reshape(*values.shape[:-2], -1)


def same_for_all_sets(values: np.ndarray) -> bool:
    """Whether scores do not depend on the training set: nothing is left of them when centred."""
    return np.ptp(values, axis=0).max() == 0


def r_within(values: np.ndarray, changes: Sequence[np.ndarray]) -> np.ndarray:
    """[T] r over domains within each set of scores and changes, each less its column's mean."""
    if same_for_all_sets(values):
        return np.full(len(values), np.nan)
    changed = np.stack([c.mean((1, 2)) for c in changes], -1)
    mean = values.mean(1)
    return correlation.pearson(mean - mean.mean(0), changed - changed.mean(0))


# --- all of it, for several scores -------------------------------------------------------------


def judge(
    matrix: Matrix, candidates: Sequence[Score], measures: Sequence[str] = (), draws: int = 1000
) -> pd.DataFrame:
    """A row a score: what is asked of it, on the sets and seeds of a matrix."""
    changes = {measure: matrix.changes(measure) for measure in measures}
    rows = []
    for score in candidates:
        values = scores.values(matrix, score)
        ranked = own_ranks(values, matrix.own)
        p_mean, p_first = chance(ranked, len(matrix.domains))
        row = {"score": score.label, "name": score.name, "dims": score.dims, "n": score.n}
        row |= interval("first", first_share(ranked)) | {"first_p": p_first}
        row |= interval("rank", over_cells(ranked)) | {"rank_p": p_mean}
        row["ranks"] = " ".join(f"{rank:g}" for rank in ranked.ravel())
        for measure, change in changes.items():
            r, p = r_centred(values, change, draws)
            row |= interval(f"r_{measure}", r) | {f"p_{measure}": p}
            row[f"within_{measure}"] = float(r_within(values, change).mean())
        rows.append(row)
    return pd.DataFrame(rows)


def interval(name: str, estimate: Estimate) -> dict[str, float]:
    """An estimate as three cells of a row."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


#: What the score fixed on the design half had to reach at least, set before the work began: column
#: of `judge` -> goal.
GOALS = {"first": 0.9, f"r_{LIKELIHOOD}": 0.7}


def goals(judged: pd.Series) -> pd.DataFrame:
    """GOALS beside what one score's row of `judge` reached, with intervals, and the verdict."""
    rows = []
    for what, goal in GOALS.items():
        value, low, high = judged[[what, f"{what}_low", f"{what}_high"]]
        row = {"what": what, "goal": goal, "reached": value, "low": low, "high": high}
        rows.append(row | {"verdict": "reached" if value >= goal else "not reached"})
    return pd.DataFrame(rows)
