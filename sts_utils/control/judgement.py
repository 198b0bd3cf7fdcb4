"""What the positive control asks of a score: does it follow the skill, the words, or the topic?

Shapes: scores [T, S, D], changes [D] arrays [T, S, Q]; masks and what is known beforehand [T, D].
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from sts_utils import stats
from sts_utils import stats as correlation
from sts_utils.control import scores
from sts_utils.control.matrix import Matrix
from sts_utils.control.scores import OVERLAP, Score
from sts_utils.corpora import skills
from sts_utils.runs import samples
from sts_utils.stats import Estimate

#: What a domain shares with the training set; cells of another type of answer are not compared.
KINDS = ("own", "skill", "words", "neither")
#: What is measured: of skills, free of wording that all of a question's options share; of topics,
#: the only measure that 64 examples move.
ODDS, LIKELIHOOD = "gold_log_odds", "gold_loglik"
#: What the change's split-half reliability must reach for any claim, and what a score has to: set
#: before the judgement half was scored. The cost is of fine-tuning's.
RELIABLE = 0.8
GOALS = {"auc": 0.8, "r": 0.35, "cost": 0.1}
#: Draws of a permutation test.
DRAWS = 2000


# --- skills × surfaces -------------------------------------------------------------------------


def kinds(matrix: Matrix) -> np.ndarray:
    """[T, D] of KINDS, or "" where the types of the answers differ."""
    found = np.full((len(matrix.names), len(matrix.domains)), "", dtype=object)
    for t, name in enumerate(matrix.names):
        for d, domain in enumerate(matrix.domains):
            if skills.comparable(name, domain):
                (skill, surface), (other, words) = name.split(", "), domain.split(", ")
                shared = (skill == other, surface == words)
                found[t, d] = KINDS[[(1, 1), (1, 0), (0, 1), (0, 0)].index(shared)]
    return found


def gains(matrix: Matrix) -> tuple[pd.DataFrame, float]:
    """(mean change of each kind of cell with 95% over training sets and seeds, split-half
    reliability of the change over all cells that are compared)."""
    of, changes, rows = kinds(matrix), matrix.changes(ODDS), []
    mean = np.stack([change.mean(-1) for change in changes], -1)
    for kind in KINDS:
        values = np.array([mean[t][:, of[t] == kind].mean(-1) for t in range(len(of))])
        row = {"cells": kind} | interval("change", over_cells(values))
        rows.append(row | {"cells above 0": float((mean.mean(1)[of == kind] > 0).mean())})
    cells = [changes[d][t] for t, d in zip(*np.nonzero(of != ""), strict=True)]
    return pd.DataFrame(rows), correlation.split_half(cells)


def judge(matrix: Matrix, candidates: Sequence[Score]) -> pd.DataFrame:
    """A row a score, after one of the change itself: `auc` of the same skill above the same words;
    `r` with the change off the own cells, less what `given` and the training set say."""
    of, changes, known = kinds(matrix), matrix.changes(ODDS), given(matrix)
    change = np.stack([c.mean(-1) for c in changes], -1)
    tried = [(score.label, scores.values(matrix, score)) for score in candidates]
    rows = []
    for label, values in [("the change itself", change), *tried]:
        row = {"score": label} | interval("auc", over_cells(auc(values, of)))
        r, p = partial(values, changes, known, (of != "") & (of != "own"))
        rows.append(row | interval("r", r) | {"p": p})
    return pd.DataFrame(rows)


def auc(values: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """[T, S] how often a score puts a domain of the same skill above one of the same words."""
    found = np.empty(values.shape[:2])
    for t, s in np.ndindex(found.shape):
        same_skill, same_words = (values[t, s, kinds[t] == kind] for kind in ("skill", "words"))
        u = scipy_stats.mannwhitneyu(same_skill, same_words).statistic
        found[t, s] = u / (len(same_skill) * len(same_words))
    return found


def given(matrix: Matrix) -> np.ndarray:
    """[3, T, D] what a score must go beyond: overlap of words, same surface, length of answers."""
    overlap = scores.values(matrix, OVERLAP).mean(1)
    same = [[n.split(", ")[1] == d.split(", ")[1] for d in matrix.domains] for n in matrix.names]
    asked = samples.evaluation_questions(matrix.profile)
    length = [np.mean([len(e.answer) for e in asked[d]]) for d in matrix.domains]
    return np.stack([overlap, np.array(same, float), np.broadcast_to(length, overlap.shape)])


# --- topics ------------------------------------------------------------------------------------


def topics(matrix: Matrix, candidates: Sequence[Score]) -> pd.DataFrame:
    """A row a score: `first`, the share of training sets whose own domain it puts first (exact
    binomial interval); off the diagonal and without mathematics, set and domain means removed, `r`
    with the change, `above` that of the overlap of words (paired), and `beyond`: less the overlap.
    """
    changes, rows = matrix.changes(LIKELIHOOD), []
    own = [matrix.domains.index(name) for name in matrix.names]
    used = np.ones((len(matrix.names), len(matrix.domains)), dtype=bool)
    used[np.arange(len(own)), own] = False
    used[:, [d for d, name in enumerate(matrix.domains) if name == "math"]] = False
    overlap = scores.values(matrix, OVERLAP)
    none, known = np.empty((0, *used.shape)), overlap.mean(1)[None]
    of_overlap, _ = partial(overlap, changes, none, used, domains=True)
    for score in candidates:
        values = scores.values(matrix, score, LIKELIHOOD)
        first = values.mean(1).argmax(-1) == own
        row = {"score": score.label, "first": first.mean()}
        ci = scipy_stats.binomtest(round(first.sum()), len(first)).proportion_ci()
        row |= {"first_low": ci.low, "first_high": ci.high}
        r, p = partial(values, changes, none, used, domains=True)
        row |= interval("r", r) | {"p": p} | interval("above", r - of_overlap)
        r, p = partial(values, changes, known, used, domains=True)
        beyond = interval("beyond", r) | {"beyond_p": p}
        rows.append(row | (beyond if score != OVERLAP else {}))
    return pd.DataFrame(rows)


# --- score and change --------------------------------------------------------------------------


def partial(
    values: np.ndarray,
    changes: Sequence[np.ndarray],
    given: np.ndarray,
    used: np.ndarray,
    domains: bool = False,
) -> tuple[Estimate, float]:
    """(r, p): correlation of score and change over the cells `used` [T, D], both less what `given`
    [K, T, D], each training set's mean and, with `domains`, each domain's say of them.

    The draws are of training sets with replacement, the same for every score; p permutes the
    score's rows over training sets that ask the same domains (QAP), two-sided.
    """
    change, score = np.stack([of.mean((1, 2)) for of in changes], -1), values.mean(1)
    every, rng = np.arange(len(used)), np.random.default_rng(8)

    def r(rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """[K] of the training sets `rows`, with scores [K, T, D] of theirs."""
        t, d = np.nonzero(used[rows])
        known = [(t[:, None] == np.unique(t)).astype(float), *(g[rows][t, d] for g in given)]
        known += [(d[:, None] == np.unique(d)).astype(float)] if domains else []
        known = np.column_stack(known)
        both = np.column_stack([change[rows][t, d], *scores[:, t, d]])
        left = (both - known @ np.linalg.lstsq(known, both, rcond=None)[0]).T
        return correlation.pearson(left[1:], left[:1])

    drawn = [rng.choice(every, len(every)) for _ in range(stats.DRAWS // 4)]
    asked = np.stack([np.isfinite(of).any((1, 2)) for of in changes], -1)
    alike = np.unique(asked, axis=0, return_inverse=True)[1].ravel()
    permuted = np.stack([score[_within(alike, rng)] for _ in range(DRAWS)])
    observed, *others = r(every, np.concatenate([score[None], permuted]))
    p = (1 + (np.abs(others) >= abs(observed) - 1e-12).sum()) / (DRAWS + 1)
    draws = np.array([r(rows, score[rows][None])[0] for rows in drawn])
    return Estimate(float(observed), draws), float(p)


def _within(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[T] a permutation of what is in the same group."""
    order = np.empty(len(groups), dtype=int)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        order[members] = rng.permutation(members)
    return order


def over_cells(values: np.ndarray, draws: int = stats.DRAWS) -> Estimate:
    """Mean of [T, S] values, with draws over sets and seeds."""
    rng = np.random.default_rng(4)
    rows, columns = values.shape
    sets = rng.integers(rows, size=(draws, rows))[:, :, None]
    picked = values[sets, rng.integers(columns, size=(draws, 1, columns))]
    return Estimate(float(values.mean()), picked.mean((1, 2)))


def interval(name: str, estimate: Estimate) -> dict[str, float]:
    """An estimate as three cells of a row."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
