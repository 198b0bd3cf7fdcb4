"""Shared by the tests: the tiny random model, and a folder of their own for what runs write."""

import os
import tempfile

os.environ["STS_OUT"] = tempfile.mkdtemp(prefix="sts-tests-")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch

from sts_utils import batches, config, models, saes
from sts_utils.features import FeatureStats
from sts_utils.runs import samples

torch.set_num_threads(batches.cpu_threads())


def pytest_collection_modifyitems(items):
    """The files that run the longest first, so that `-n` processes end together; what the first and
    the fourth compare with is made while the second process is at the second and third."""
    longest = ("test_run.py", "test_memory.py", "test_vllm.py", "test_side_by_side.py")
    longest += ("test_rehearsal.py", "test_accelerate.py")
    items.sort(key=lambda item: (*longest, item.path.name).index(item.path.name))


@pytest.fixture(scope="session")
def profile():
    return config.load("tiny")


@pytest.fixture(scope="session")
def tokenizer(profile):
    return samples.tokenizer(profile.model)


@pytest.fixture(scope="session")
def whole():
    return models.load_model("tiny")


@pytest.fixture(scope="session")
def backbone(profile):
    return models.load_truncated("tiny", 1)


@pytest.fixture(scope="session")
def sae():
    return saes.load("random-8x", 64).to(models.device())


@pytest.fixture
def random_stats():
    """FeatureStats of random numbers: 12 queries, 40 features, 16 raw dims."""

    def make(seed=0, queries=12, features=40, width=16):
        rng = np.random.default_rng(seed)
        shape, raw = (queries, features), (queries, width)
        n = rng.integers(5, 30, size=queries)
        h, dh = rng.gamma(1.0, size=shape), rng.normal(size=shape) * rng.gamma(1.0, size=features)
        r, dr = rng.normal(size=raw), rng.normal(size=raw)
        ids = tuple(f"q{i}" for i in range(queries))
        return FeatureStats(ids, np.arange(features), n, h, h**2, dh, dh**2, r, dr, dr**2)

    return make
