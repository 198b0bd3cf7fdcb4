import sys
from pathlib import Path

import pytest

from sts_utils import config

sys.path.append(str(Path(__file__).parent))  # planted


@pytest.fixture(scope="session")
def small():
    """A control of four sets and two seeds, on the tiny model."""
    sets = ("business", "health", "law", "gsm-symbolic")
    size = {"examples": 12, "epochs": 1, "batch": 6, "queries": 4, "demonstrations": 2}
    more = {"contexts": 2, "seeds": (0, 1), "lr": 1e-3, "probe_questions": 2}
    settings = config.ControlSettings(sets=sets, **size, **more)
    return config.load("tiny").model_copy(update={"control": settings, "top_n": 20})
