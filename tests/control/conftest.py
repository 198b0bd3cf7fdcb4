import sys
from pathlib import Path

import pytest

from sts_utils import config
from sts_utils.control import sets, steps
from sts_utils.control.values import Control
from sts_utils.runs import plan

sys.path.append(str(Path(__file__).parent))  # planted


@pytest.fixture(scope="session")
def tiny():
    """The tiny profile, with two seeds in its part of topics."""
    profile = config.load("tiny")
    *halves, topics = profile.control.parts
    parts = (*halves, topics.model_copy(update={"seeds": (0, 1)}))
    settings = profile.control.model_copy(update={"parts": parts})
    return profile.model_copy(update={"control": settings})


@pytest.fixture(scope="session")
def small(tiny):
    """Its part of topics: three MMLU categories and two seeds."""
    return sets.parts(tiny)["topics"]


@pytest.fixture(scope="session")
def control(tiny):
    """The whole control, run on the tiny model."""
    plan.compute(tiny, steps.steps(tiny))
    return Control(tiny)
