"""A matrix of training sets × seeds × domains: its values, each read once and handed down."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from sts_utils.config import Profile
from sts_utils.control import readings, sets
from sts_utils.method import shift
from sts_utils.method.extract import FeatureStats
from sts_utils.method.shift import ShiftedDims
from sts_utils.runs import features


@dataclass(frozen=True, eq=False)
class Cell:
    """A training set and seed, with features read at one place (readings.PLACES)."""

    profile: Profile
    name: str
    seed: int
    place: str = "query"

    @cached_property
    def shifted(self) -> FeatureStats:
        """Features of its questions without and with demonstrations."""
        return readings.extract_shift(readings.at(self.profile, self.place), self.name, self.seed)

    @cached_property
    def change(self) -> pd.DataFrame:
        """Performance after SFT − before, a row a question."""
        return sets.change(self.profile, self.name, self.seed)

    def dims(self, n: int) -> ShiftedDims:
        """D_N of the training set."""
        return shift.shifted_dims(self.shifted, n)


@dataclass(frozen=True, eq=False)
class Matrix:
    """T training sets × S seeds × D domains: `cells` [T][S], and the domains' features [D] by seed.

    `names` and `seeds` are those of the rows; `domains` those of the columns.
    """

    profile: Profile
    names: tuple[str, ...]
    seeds: tuple[int, ...]
    cells: list[list[Cell]]
    features: dict[int, list[FeatureStats]]
    domains: tuple[str, ...]

    @cached_property
    def elsewhere(self) -> "Matrix":
        """The same with features read where the answer is about to be written."""
        cells = [[replace(cell, place="answer") for cell in row] for row in self.cells]
        read = readings.at(self.profile, "answer")
        scored = {seed: _features(read, self.domains, seed) for seed in self.seeds}
        return replace(self, cells=cells, features=scored)

    def changes(self, measure: str) -> list[np.ndarray]:
        """[D] arrays [T, S, Q]: the change of a measure by fine-tuning; NaN where not asked."""
        frames = [[dict(list(c.change.groupby("domain")[measure])) for c in r] for r in self.cells]
        found = []
        for domain in self.domains:
            rows = [np.array([of.get(domain, [np.nan]) for of in row]) for row in frames]
            shape = rows[0].shape[0], max(row.shape[1] for row in rows)
            found.append(np.stack([np.broadcast_to(row, shape) for row in rows]))
        return found


def _features(profile: Profile, domains: tuple[str, ...], seed: int) -> list[FeatureStats]:
    return [features.extract_domain(profile, domain, seed) for domain in domains]


def load(profile: Profile) -> Matrix:
    """The matrix of a part (sets.parts): its training sets and seeds."""
    part, domains = profile.control.part, sets.domains(profile)
    cells = [[Cell(profile, name, seed) for seed in part.seeds] for name in part.sets]
    scored = {seed: _features(profile, domains, seed) for seed in part.seeds}
    return Matrix(profile, part.sets, part.seeds, cells, scored, domains)
