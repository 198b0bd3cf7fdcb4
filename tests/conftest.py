"""Shared by the tests: the tiny random model, a run of `tiny`, and a folder of their own."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

for _name in [name for name in os.environ if name.startswith("STS_") and name != "STS_MIRROR"]:
    del os.environ[_name]  # the caller's own
os.environ["STS_OUT"] = tempfile.mkdtemp(prefix="sts-tests-")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from filelock import FileLock

from sts_utils import batches, config, corpora, models, questions, saes, store
from sts_utils.features import FeatureStats
from sts_utils.measured import Run

torch.set_num_threads(batches.cpu_threads())
#: The files that run the longest first, so that `-n` processes end together.
LONGEST = [f"test_{n}.py" for n in ("pipeline", "faults", "rehearsal", "vllm", "accelerate")]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: (*LONGEST, item.path.name).index(item.path.name))


@pytest.fixture(scope="session")
def profile():
    return config.load("tiny")


@pytest.fixture(scope="session")
def tokenizer(profile):
    return questions.tokenizer(profile)


@pytest.fixture(scope="session")
def whole():
    return models.load_model("tiny")


@pytest.fixture(scope="session")
def backbone(profile):
    return models.load_truncated("tiny", 1)


@pytest.fixture(scope="session")
def sae():
    return saes.load("random-8x", 64).to(models.device())


def command(out, *arguments: str, **variables: str) -> subprocess.Popen:
    """`python -m sts_utils …` in a process of its own that writes into `out`."""
    words = [sys.executable, "-m", "sts_utils", *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"STS_OUT": str(out)} | variables
    return subprocess.Popen(words, env=environment, cwd=store.ROOT, **streams)


def finished(process: subprocess.Popen) -> str:
    """What a process said that must end well."""
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err[-3000:]
    return out


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory):
    """One uninterrupted run of `tiny` for every process of pytest: where it wrote, what it said."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all processes
    out, said = folder / "reproduced", folder / "reproduced.txt"
    with FileLock(folder / "reproduced.lock"):
        if not said.exists():
            said.write_text(finished(command(out, "reproduce", "--profile", "tiny")))
            shutil.copytree(out / "figures/tiny", kept(), dirs_exist_ok=True)
    return out, said.read_text()


def kept() -> Path:
    """Where `make test` leaves that run's tables to `make test-all`: by the code that made them."""
    parts = ("sts_utils/**/*.py", "notebooks/*.py", "profiles/*.yaml", "data/*.yaml", "uv.lock")
    files = sorted(file for part in parts for file in store.ROOT.glob(part))
    return store.ROOT / f".pytest_cache/tiny-{store.digest(list(map(store.file_hash, files)))}"


@pytest.fixture(scope="session")
def tables(request):
    if not kept().exists():
        request.getfixturevalue("reproduced")
    return kept()


def functions_of(name: str, **defined) -> SimpleNamespace:
    """Imports, functions and upper-case constants of a notebook, which may use the `defined`."""
    tree = ast.parse((store.ROOT / f"notebooks/{name}.py").read_text(encoding="utf-8"))
    kinds = ast.Import | ast.ImportFrom | ast.FunctionDef
    constant = re.compile(r"[A-Z][A-Z_, ]* \|?= ")
    tree.body = [n for n in tree.body if isinstance(n, kinds) or constant.match(ast.unparse(n))]
    exec(compile(tree, name, "exec"), defined)
    return SimpleNamespace(**defined)


@pytest.fixture(scope="session")
def notebook_functions():
    return functions_of


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


@pytest.fixture
def run(profile, random_stats):
    """`tiny` at N = 8 with random statistics of 40 features in place of all that is computed."""
    run = Run(profile.model_copy(update={"top_n": 8}))
    run.domain_names = corpora.domains(profile.domains)
    run.train = [random_stats(seed) for seed in (0, 1)]
    run.actual = [random_stats(50 + seed) for seed in (0, 1)]
    places = list(enumerate(run.domain_names))
    run.domains = [{d: random_stats(100 + 20 * s + i) for i, d in places} for s in (0, 1)]
    rngs = [np.random.default_rng(d) for d in range(len(run.domain_names))]
    run.change_arrays = [r.normal(0.05 * (d % 14), 0.3, (2, 25)) for d, r in enumerate(rngs)]
    return run
