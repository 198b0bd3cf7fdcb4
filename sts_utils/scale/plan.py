"""Everything that a run computes, in one list: the notebooks, Ray and `make check` read it."""

from sts_utils.config import Profile
from sts_utils.control import steps as control
from sts_utils.experiments import EXPERIMENTS
from sts_utils.runs import plan
from sts_utils.runs.plan import Step, compute

__all__ = ["Step", "compute", "everything"]


def everything(profile: Profile, whole: bool = True) -> list[Step]:
    """The base run's steps and, if `whole`, those of every experiment and of the control.

    No data is read and no model loaded: it is a list of calls, each computed once.
    """
    steps = []
    if profile.runs_paper:
        steps += plan.base(profile, whole)
        for experiment in EXPERIMENTS if whole else ():
            steps += experiment.steps(profile) if hasattr(experiment, "steps") else []
    if whole and profile.runs_control:
        steps += control.steps(profile)
    return list({(step.compute, step.args): step for step in steps}.values())
