"""A matrix of training sets × seeds × domains: its values, each read once and handed down."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import yaml

from sts_utils import store
from sts_utils.config import Profile
from sts_utils.control import sets
from sts_utils.method import shift
from sts_utils.method.extract import FeatureStats
from sts_utils.method.shift import ShiftedDims
from sts_utils.runs import features, samples

SPLIT = store.DATA / "control_split.yaml"
#: What is taken from the shift before features are ranked: nothing (the paper), or the shift under
#: length-matched demonstrations of other sets and under prose.
CONTRASTS = {"paper": (), "both": ("others", "generic")}


@dataclass(frozen=True, eq=False)
class Cell:
    """A training set and seed."""

    profile: Profile
    name: str
    seed: int

    @cached_property
    def shifted(self) -> dict[str, FeatureStats]:
        """Context (of sets.CONTEXTS) -> features without and with demonstrations from there."""
        return sets.extract_contexts(self.profile, self.name, self.seed)

    @cached_property
    def change(self) -> pd.DataFrame:
        """Performance after SFT − before, a row a question."""
        return sets.change(self.profile, self.name, self.seed)

    @cached_property
    def probe(self) -> pd.DataFrame:
        """The same by the probe run, on fewer questions."""
        return sets.probe(self.profile, self.name, self.seed)

    @cached_property
    def ranked(self) -> dict[str, ShiftedDims]:
        """Every feature in the order of its shift, by what is taken from it (of CONTRASTS)."""
        contrasts = {which: [self.shifted[c] for c in of] for which, of in CONTRASTS.items()}
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

    @property
    def own(self) -> dict[int, int]:
        """Row -> column of the domain that the training set is, for those that are one."""
        names = enumerate(self.names)
        return {t: self.domains.index(name) for t, name in names if name in self.domains}

    def part(self, names: Sequence[str], seeds: Sequence[int]) -> "Matrix":
        """The same for some of its training sets and seeds."""
        rows = [self.cells[self.names.index(name)] for name in names]
        cells = [[row[self.seeds.index(seed)] for seed in seeds] for row in rows]
        return Matrix(self.profile, tuple(names), tuple(seeds), cells, self.features, self.domains)

    def half(self, which: str) -> "Matrix | None":
        """The part for "design" or "judgement"; None for a run that does not hold all of it."""
        written = split()[which]
        held = {*written["sets"]} <= {*self.names} and {*written["seeds"]} <= {*self.seeds}
        return self.part(written["sets"], written["seeds"]) if held else None

    def changes(self, measure: str) -> list[np.ndarray]:
        """[D] arrays [T, S, Q]: the change of a measure by fine-tuning."""
        frames = [[cell.change for cell in row] for row in self.cells]
        return [
            np.array([[of[of.domain == d][measure].to_numpy() for of in row] for row in frames])
            for d in self.domains
        ]


def load(profile: Profile) -> Matrix:
    """The matrix of the profile's training sets and seeds."""
    names, seeds, read = profile.control.sets, profile.control.seeds, features.extract_domain
    domains = tuple(samples.evaluation_questions(profile))
    cells = [[Cell(profile, name, seed) for seed in seeds] for name in names]
    scored = {seed: [read(profile, domain, seed) for domain in domains] for seed in seeds}
    return Matrix(profile, names, seeds, cells, scored, domains)


def split() -> dict[str, dict[str, list]]:
    """Which sets and seeds were for design and which for judgement, written before looking."""
    return yaml.safe_load(SPLIT.read_text(encoding="utf-8"))
