"""A matrix of training sets × seeds × domains: its values, each read once and handed down."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from sts_utils.config import Profile
from sts_utils.control import sets
from sts_utils.method import shift
from sts_utils.method.extract import FeatureStats
from sts_utils.method.shift import ShiftedDims
from sts_utils.runs import features, samples

#: What is taken from the shift before features are ranked: nothing (the paper), or the shift under
#: length-matched demonstrations of other sets and under prose.
CONTRASTS = {"paper": (), "both": ("others", "generic")}


@dataclass(frozen=True, eq=False)
class Cell:
    """A training set and seed, with features read at one place (sets.PLACES)."""

    profile: Profile
    name: str
    seed: int
    place: str = "query"

    @cached_property
    def shifted(self) -> dict[str, FeatureStats]:
        """Context (of sets.CONTEXTS; behind the query "own" alone) -> features without and with
        demonstrations from there."""
        if self.place == "query":
            return sets.extract_contexts(self.profile, self.name, self.seed)
        return {"own": sets.extract_shift(sets.at(self.profile, self.place), self.name, self.seed)}

    @cached_property
    def change(self) -> pd.DataFrame:
        """Performance after SFT − before, a row a question."""
        return sets.change(self.profile, self.name, self.seed)

    @cached_property
    def ranked(self) -> dict[str, ShiftedDims]:
        """Every feature in the order of its shift, by what is taken from it (of CONTRASTS)."""
        at_hand = {which: of for which, of in CONTRASTS.items() if {*of} <= {*self.shifted}}
        contrasts = {which: [self.shifted[c] for c in of] for which, of in at_hand.items()}
        own = self.shifted["own"]
        return {k: shift.shifted_dims(own, None, contrast=of) for k, of in contrasts.items()}

    def dims(self, which: str, n: int) -> ShiftedDims:
        """D_N under one of CONTRASTS. Raises ValueError for n larger than the SAE."""
        if n > (size := len(self.shifted["own"].features)):
            raise ValueError(f"N is {n}, but the SAE has {size} features: choose fewer")
        return self.ranked[which][:n]

    def signed(self, which: str) -> np.ndarray:
        """[F] mean signed shift, less the contrast's."""
        moved, contrast = self.shifted["own"].mean("dh"), CONTRASTS[which]
        for context in contrast:
            moved = moved - self.shifted[context].mean("dh") / len(contrast)
        return moved


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
        read = sets.at(self.profile, "answer")
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
    part, domains = profile.control.part, tuple(samples.evaluation_questions(profile))
    cells = [[Cell(profile, name, seed) for seed in part.seeds] for name in part.sets]
    scored = {seed: _features(profile, domains, seed) for seed in part.seeds}
    return Matrix(profile, part.sets, part.seeds, cells, scored, domains)
