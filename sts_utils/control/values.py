"""The positive control of a profile: its matrix, the halves, and what its results share."""

from functools import cached_property

import pandas as pd

from sts_utils.config import Profile
from sts_utils.control import judgement, matrix, scores, sets
from sts_utils.control.matrix import Matrix
from sts_utils.control.scores import FIXED, MEASURES

#: Where a run that does not hold a half of the sets is judged.
SMALL = "on all sets of this small run (none of them is a fresh judgement)"


class Control:
    """The positive control of a profile: its matrix, the halves, and what results share."""

    def __init__(self, profile: Profile):
        self.profile = profile
        self.matrix = matrix.load(profile)
        self.paper = icl, act = scores.paper_scores(profile)
        self.main = [icl, act, FIXED]
        self.candidates = scores.candidates(profile)

    @property
    def skills(self) -> bool:
        """Whether training sets and domains are skills on surfaces (corpora/skills.py)."""
        return all(", " in name for name in self.matrix.names)

    @cached_property
    def places(self) -> dict[str, Matrix]:
        """Place ("query", "answer") -> the matrix with features read there."""
        behind = self.profile.model_copy(update={"place": "answer"})
        return {"query": self.matrix, "answer": matrix.load(behind)}

    @property
    def setting(self) -> str:
        """What every caption of the control states."""
        p, c = self.profile, self.profile.control
        return (
            f"Model {p.model}, SAE {p.sae}; {len(c.sets)} training sets of {c.examples} examples "
            f"each, {sets.full_steps(c)} steps of {c.batch} at learning rate {c.lr:g}, "
            f"{len(c.seeds)} seed(s); at most {p.evaluation.questions} questions a domain, none of "
            f"them trained on; STS from {p.sts.queries} questions a domain, D_N from "
            f"{min(c.queries, c.examples // 2)} questions under {c.demonstrations} demonstrations. "
            "This experiment is ours, not the paper's."
        )

    def half(self, which: str) -> tuple[Matrix, str]:
        """(matrix, where) of the "design" or "judgement" half; everything in a small run."""
        half = self.matrix.half(which)
        return (half, f"on the {which} half") if half else (self.matrix, SMALL)

    @cached_property
    def judged(self) -> pd.DataFrame:
        """The candidates on the judgement half."""
        return judgement.judge(self.half("judgement")[0], self.candidates, MEASURES)
