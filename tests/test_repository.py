"""Imports point one way, lazy ones too, and the package stays small: what comes in is paid for.
What `make setup` installs is pinned once and held against hashes."""

import ast
import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sts_utils.store import ROOT

PACKAGE = ROOT / "sts_utils"
LOCKS = sorted((ROOT / "locks").glob("*.txt"))
ENTRY = re.compile(r"^(\S+)==(\S+)((?:.*\\\n)+.*\n)", re.MULTILINE)
#: From the lowest; a module imports those of earlier lines, or of its own further left.
ORDER = "store batches stats config examples corpora models saes generate prompts features scores "
ORDER += "train grpo interventions evaluate fsdp vllm cache questions run measured parallel "
ORDER += "results notebooks experiments prediction plan check cli __main__ __init__"
PAPER = ("prompts", "features", "scores")


def imported(path: Path) -> set[str]:
    """The modules of the package, at its top level, that a file imports wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sts_utils":
            rest = node.module.split(".")[1:]
            found |= {rest[0]} if rest else {alias.name for alias in node.names}
    return found


def test_imports_point_one_way():
    order = ORDER.split()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").parts[0]
        above = {other for other in imported(path) if order.index(other) > order.index(name)}
        assert name == "__init__" or not above, f"{path.name} imports what lies above it: {above}"


def test_the_package_has_at_most_6000_lines_and_no_long_module():
    files = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.j*")]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert sum(lines.values()) <= 6000
    assert max(lines.values()) <= 400
    assert sum(lines[PACKAGE / f"{name}.py"] for name in PAPER) <= 600


def locked(path) -> dict[str, tuple[str, int]]:
    """Package -> (version, how many hashes)."""
    entries = ENTRY.findall(path.read_text(encoding="utf-8"))
    return {canonicalize_name(n): (v, rest.count("--hash=sha256:")) for n, v, rest in entries}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_locked_package_has_a_hash_and_the_version_of_constraints(path):
    """And a machine without GPU gets nothing of CUDA."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    rows = [Requirement(line.split("#")[0]) for line in lines if line and line[0] != "#"]
    pins = {canonicalize_name(row.name): str(row.specifier).lstrip("=") for row in rows}
    found, lines = locked(path), path.read_text(encoding="utf-8").splitlines()
    assert len(found) == sum(not line.startswith(" ") for line in lines) > 0
    for name, (version, hashes) in found.items():
        assert hashes > 0, name
        assert path.stem not in ("base", "vllm-cpu") or not name.startswith(("nvidia", "cuda"))
        assert version == pins.get(name, version), name


def test_what_the_package_asks_for_is_locked_and_installed_as_it_is():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["dev"]
    base = locked(ROOT / "locks/base.txt")
    assert {canonicalize_name(Requirement(name).name) for name in asked} <= set(base)
    assert base["torch"][1] > 1  # PyPI's builds, and the one without CUDA
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    least = project["requires-python"].removeprefix(">=")
    assert f"--python-version {least} " in makefile
    for name in ("torch", "transformers", "sae-lens", "datasets", "numpy"):
        assert importlib.metadata.version(name).split("+")[0] == base[name][0]
