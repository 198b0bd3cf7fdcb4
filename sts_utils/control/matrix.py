"""A matrix of training sets × seeds × domains: a part of the control, and what it changed."""

from functools import cached_property

import numpy as np
import pandas as pd

from sts_utils.config import Profile
from sts_utils.control import sets


class Matrix:
    """T training sets × S seeds × D domains of a part (sets.parts)."""

    def __init__(self, profile: Profile):
        self.profile = profile
        self.names, self.seeds = profile.control.part.sets, profile.control.part.seeds
        self.domains = sets.domains(profile)

    @cached_property
    def _changes(self) -> list[list[pd.DataFrame]]:
        return [[sets.change(self.profile, n, seed) for seed in self.seeds] for n in self.names]

    def changes(self, measure: str) -> list[np.ndarray]:
        """[D] arrays [T, S, Q]: the change of a measure by fine-tuning; NaN where not asked."""
        frames = [[dict(list(f.groupby("domain")[measure])) for f in row] for row in self._changes]
        found = []
        for domain in self.domains:
            rows = [np.array([of.get(domain, [np.nan]) for of in row]) for row in frames]
            shape = rows[0].shape[0], max(row.shape[1] for row in rows)
            found.append(np.stack([np.broadcast_to(row, shape) for row in rows]))
        return found
