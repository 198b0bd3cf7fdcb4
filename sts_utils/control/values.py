"""The positive control of a profile: its parts' matrices, and what its results share."""

from functools import cached_property

import pandas as pd

from sts_utils.config import Profile
from sts_utils.control import judgement, scores, sets
from sts_utils.control.matrix import Matrix
from sts_utils.control.scores import Score


class Control:
    """The positive control of a profile: its parts, and what results share."""

    def __init__(self, profile: Profile):
        self.profile = profile
        self.parts: dict[str, Matrix] = {k: Matrix(p) for k, p in sets.parts(profile).items()}
        self.candidates: list[Score] = scores.candidates(profile)

    @property
    def setting(self) -> str:
        """What every caption of the control states."""
        p, c = self.profile, self.profile.control
        told = "; ".join(
            f"{name}: {len(m.names)} sets, {sets.full_steps(m.profile.control)} steps, "
            f"{len(m.seeds)} seed(s), {m.profile.control.part.questions} questions a domain at most"
            for name, m in self.parts.items()
        )
        return (
            f"Model {p.model}, SAE {p.sae}. {told}; batches of {c.batch} at learning rate "
            f"{c.lr:g}, no question both trained on and asked. This experiment is ours, not the "
            "paper's."
        )

    @cached_property
    def judged(self) -> dict[str, pd.DataFrame]:
        """Half of the skills ("design", "judgement") -> every candidate on it."""
        return {h: judgement.judge(self.parts[h], self.candidates) for h in ("design", "judgement")}
