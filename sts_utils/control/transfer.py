"""Skill or words? What a training set "skill, surface" moves, and which scores order it so.

Shapes: scores and changes as in judgement.py; kinds [T, D] say what a domain shares with a set.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from sts_utils import correlation, stats
from sts_utils.control import judgement, scores
from sts_utils.control.matrix import Matrix
from sts_utils.control.scores import Score
from sts_utils.corpora.skills import SKILLS
from sts_utils.runs import samples
from sts_utils.stats import Estimate

#: What a domain shares with the training set; cells of another type of answer are not compared.
KINDS = ("own", "skill", "words", "neither")
#: Read at the query's tokens and behind them.
CANDIDATES = (
    *(Score("sts_icl"), Score("sts_act"), Score("sts_relative"), Score("cosine")),
    *(Score("sts_icl", "both"), Score("cosine", "both"), Score("residual similarity")),
)
PLAIN = ("token overlap", "probe run")
#: What the change's split-half reliability must reach, and draws of a permutation test.
RELIABLE, DRAWS = 0.8, 2000
#: What is measured: free of wording that all of a question's options share.
ODDS = "gold_log_odds"


def judge(read: Mapping[str, Matrix]) -> pd.DataFrame:
    """A row a score and place where it is read: `auc` of the same skill above the same words, and
    `r` with the change beyond `given`; first of what needs no features, and of the change itself.

    `read`: place ("query", "answer") -> the matrix as read there.
    """
    whole = next(iter(read.values()))
    of, changes, known = kinds(whole), whole.changes(ODDS), given(whole)
    change = np.stack([c.mean(-1) for c in changes], -1)
    tried = [("", name, scores.values(whole, Score(name))) for name in PLAIN]
    for place, matrix in read.items():
        tried += [(place, s.label, scores.values(matrix, s)) for s in CANDIDATES]
    rows = []
    for place, label, values in [("", "the change itself", change), *tried]:
        r, p = partial(values, changes, known, of)
        row = {"score": label, "read at": place}
        row |= judgement.interval("auc", judgement.over_cells(auc(values, of)))
        rows.append(row | judgement.interval("r", r) | {"p": p})
    return pd.DataFrame(rows)


def kinds(matrix: Matrix) -> np.ndarray:
    """[T, D] of KINDS, or "" where the types of the answers differ."""
    found = np.full((len(matrix.names), len(matrix.domains)), "", dtype=object)
    for t, name in enumerate(matrix.names):
        skill, surface = name.split(", ")
        for d, domain in enumerate(matrix.domains):
            other, words = domain.split(", ")
            if SKILLS[skill][0] == SKILLS[other][0]:
                shared = (skill == other, surface == words)
                found[t, d] = KINDS[[(1, 1), (1, 0), (0, 1), (0, 0)].index(shared)]
    return found


def auc(values: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """[T, S] how often a score puts a domain of the same skill above one of the same words."""
    found = np.empty(values.shape[:2])
    for t, s in np.ndindex(found.shape):
        same_skill, same_words = (values[t, s, kinds[t] == kind] for kind in ("skill", "words"))
        u = scipy_stats.mannwhitneyu(same_skill, same_words).statistic
        found[t, s] = u / (len(same_skill) * len(same_words))
    return found


def gains(changes: Sequence[np.ndarray], kinds: np.ndarray) -> pd.DataFrame:
    """Mean change of each kind of cell, with a 95% interval over training sets and seeds."""
    mean, rows = np.stack([of.mean(-1) for of in changes], -1), []
    for kind in KINDS:
        of = np.array([mean[t][:, kinds[t] == kind].mean(-1) for t in range(len(kinds))])
        e = judgement.over_cells(of)
        rows.append({"cells": kind, "change": e.value, "low": e.low, "high": e.high})
    return pd.DataFrame(rows)


def reliability(changes: Sequence[np.ndarray], kinds: np.ndarray) -> float:
    """Split-half reliability of the change over all compared cells of sets and domains."""
    cells = [changes[d][t] for t, d in zip(*np.nonzero(kinds != ""), strict=True)]
    return correlation.split_half(cells)


def partial(
    values: np.ndarray, changes: Sequence[np.ndarray], given: np.ndarray, kinds: np.ndarray
) -> tuple[Estimate, float]:
    """(r, p): correlation of score and change over compared cells but the own ones, both less what
    `given` [K, T, D] and each training set's mean say of them.

    The draws leave out training sets at random with replacement; p permutes the score's rows over
    training sets (QAP), two-sided.
    """
    change, score = np.stack([of.mean((1, 2)) for of in changes], -1), values.mean(1)
    used = (kinds != "") & (kinds != "own")

    def r(rows: np.ndarray, order: np.ndarray) -> float:
        """Of the training sets `rows`, with the scores of those that `order` names."""
        t, d = np.nonzero(used[rows])
        sets = (t[:, None] == np.unique(t)).astype(float)
        known = np.column_stack([sets, *(of[rows][t, d] for of in given)])
        both = np.column_stack([score[order][t, d], change[rows][t, d]])
        left = both - known @ np.linalg.lstsq(known, both, rcond=None)[0]
        return float(correlation.pearson(*left.T))

    rng, every = np.random.default_rng(8), np.arange(len(kinds))
    observed = r(every, every)
    permuted = [abs(r(every, rng.permutation(every))) for _ in range(DRAWS)]
    drawn = [rng.choice(every, len(every)) for _ in range(stats.DRAWS // 4)]
    p = (1 + (np.array(permuted) >= abs(observed)).sum()) / (DRAWS + 1)
    return Estimate(observed, np.array([r(rows, rows) for rows in drawn])), float(p)


def given(matrix: Matrix) -> np.ndarray:
    """[3, T, D] what a score must go beyond: overlap of words, same surface, length of answers."""
    overlap = scores.values(matrix, Score("token overlap")).mean(1)
    same = [[n.split(", ")[1] == d.split(", ")[1] for d in matrix.domains] for n in matrix.names]
    asked = samples.evaluation_questions(matrix.profile)
    length = [np.mean([len(e.answer) for e in asked[d]]) for d in matrix.domains]
    return np.stack([overlap, np.array(same, float), np.broadcast_to(length, overlap.shape)])
