"""What the positive control asks of a score: does it follow the skill or the words?

Of T training sets, S seeds and D domains: scores are arrays [T, S, D], changes by fine-tuning [D]
arrays [T, S, Q questions], kinds and masks [T, D]."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sts_utils import stats
from sts_utils.corpora import skills

#: What a domain shares with the training set; cells of another type of answer are not compared.
KINDS = ("own", "skill", "words", "neither")
DRAWS = 2000  # of a permutation test


def kinds(names: Sequence[str], domains: Sequence[str]) -> np.ndarray:
    """[T, D] of KINDS, or "" where the types of the answers differ."""
    found = np.full((len(names), len(domains)), "", dtype=object)
    for t, d in np.ndindex(found.shape):
        if skills.comparable(names[t], domains[d]):
            (skill, surface), (other, words) = names[t].split(", "), domains[d].split(", ")
            found[t, d] = KINDS[2 * (skill != other) + (surface != words)]
    return found


def gains(changes: Sequence[np.ndarray], kinds: np.ndarray) -> tuple[pd.DataFrame, float]:
    """(mean change of each kind of cell with 95% over training sets and seeds, split-half
    reliability of the change over all cells that are compared)."""
    mean, rows = np.stack([change.mean(-1) for change in changes], -1), []
    for kind in KINDS:
        values = np.array([mean[t][:, kinds[t] == kind].mean(-1) for t in range(len(kinds))])
        row = {"cells": kind} | interval("change", over_cells(values))
        rows.append(row | {"cells above 0": float((mean.mean(1)[kinds == kind] > 0).mean())})
    cells = [changes[d][t] for t, d in zip(*np.nonzero(kinds != ""), strict=True)]
    return pd.DataFrame(rows), stats.split_half(cells)


def judge(scores: Mapping, changes: Sequence, kinds: np.ndarray, known: np.ndarray) -> pd.DataFrame:
    """A row a score: `auc` of the same skill above the same words; `r` with the change off the own
    cells, less what `known` and the training set's mean say."""
    rows, change = [], np.stack([c.mean(-1) for c in changes], -1)
    for label, values in {"the change itself": change, **scores}.items():
        row = {"score": label} | interval("auc", over_cells(auc(values, kinds)))
        r, p = partial(values, changes, known, (kinds != "") & (kinds != "own"))
        rows.append(row | interval("r", r) | {"p": p})
    return pd.DataFrame(rows)


def auc(values: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """[T, S] how often a score puts a domain of the same skill above one of the same words."""
    found = np.empty(values.shape[:2])
    for t, s in np.ndindex(found.shape):
        skill, words = values[t, s, kinds[t] == "skill"][:, None], values[t, s, kinds[t] == "words"]
        found[t, s] = ((skill > words) + 0.5 * (skill == words)).mean()
    return found


def partial(
    values: np.ndarray, changes: Sequence[np.ndarray], known: np.ndarray, used: np.ndarray
) -> tuple[stats.Estimate, float]:
    """(r, p): correlation of score and change over the cells `used` [T, D], both less what `known`
    [K, T, D] and each training set's mean say of them. Draws are of training sets, the same for
    every score; p permutes a score's rows over sets that ask the same domains (QAP), two-sided."""
    change, score = np.stack([c.mean((1, 2)) for c in changes], -1), values.mean(1)
    every, rng = np.arange(len(used)), np.random.default_rng(8)

    def r(rows: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """[K] of the training sets `rows`, with scores [K, T, D] of theirs."""
        t, d = np.nonzero(used[rows])
        means = (t[:, None] == np.unique(t)).astype(float)
        explained = np.column_stack([means, *(k[rows][t, d] for k in known)])
        both = np.column_stack([change[rows][t, d], *scores[:, t, d]])
        left = (both - explained @ np.linalg.lstsq(explained, both, rcond=None)[0]).T
        return stats.pearson(left[1:], left[:1])

    drawn = [rng.choice(every, len(every)) for _ in range(stats.DRAWS // 4)]
    asked = np.stack([np.isfinite(c).any((1, 2)) for c in changes], -1)
    alike = np.unique(asked, axis=0, return_inverse=True)[1].ravel()
    permuted = np.stack([score[_within(alike, rng)] for _ in range(DRAWS)])
    observed, *others = r(every, np.concatenate([score[None], permuted]))
    p = (1 + (np.abs(others) >= abs(observed) - 1e-12).sum()) / (DRAWS + 1)
    draws = np.array([r(rows, score[rows][None])[0] for rows in drawn])
    return stats.Estimate(float(observed), draws), float(p)


def _within(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[T] a permutation of what is in the same group."""
    order = np.empty(len(groups), dtype=int)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        order[members] = rng.permutation(members)
    return order


def over_cells(values: np.ndarray) -> stats.Estimate:
    """Mean of [T, S] values, with draws over sets and seeds."""
    rng, (rows, columns) = np.random.default_rng(4), values.shape
    sets = rng.integers(rows, size=(stats.DRAWS, rows))[:, :, None]
    picked = values[sets, rng.integers(columns, size=(stats.DRAWS, 1, columns))]
    return stats.Estimate(float(values.mean()), picked.mean((1, 2)))


def interval(name: str, estimate: stats.Estimate) -> dict[str, float]:
    """An estimate as three cells of a row."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
