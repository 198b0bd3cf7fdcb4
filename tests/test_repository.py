"""Imports point one way, lazy ones too, and the package stays small: what comes in is paid for.
What `make setup` installs is pinned once and held against hashes."""

import ast
import importlib.metadata
import sysconfig
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sts_utils.store import ROOT

PACKAGE = ROOT / "sts_utils"
LOCK = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
#: From the lowest; a module imports those of earlier lines, or of its own further left.
ORDER = "store batches stats config prompts corpora models saes generate features scores "
ORDER += "train fsdp grpo evaluate vllm cache questions run measured "
ORDER += "results notebooks experiments shipped prediction plan check cli __main__ __init__"
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


def test_what_the_package_asks_for_is_locked_each_file_by_its_hash():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = [*project["project"]["dependencies"], *project["dependency-groups"]["data"]]
    asked += [name for of in project["project"]["optional-dependencies"].values() for name in of]
    names = {package["name"] for package in LOCK}
    assert {canonicalize_name(Requirement(name).name) for name in asked} <= names
    for package in (package for package in LOCK if package["name"] != "sts-utils"):
        files = [*package.get("wheels", ()), *filter(None, [package.get("sdist")])]
        assert files and all(file["hash"].startswith("sha256:") for file in files), package["name"]


def test_what_is_installed_is_locked_and_nothing_of_cuda_is_beside_a_cpu_build():
    installed = importlib.metadata.distributions(path=[sysconfig.get_path("purelib")])
    found = {canonicalize_name(d.name): d.version for d in installed}
    versions = {}
    for package in LOCK:  # of one with another version a Python
        versions.setdefault(package["name"], set()).add(package.get("version"))
    own = {name: v.split("+")[0] for name, v in found.items() if name in versions}
    assert {name: v for name, v in own.items() if v not in versions[name]} == {}
    assert len(own) > 150
    if "+cpu" in found["torch"]:
        assert not [name for name in found if name.startswith(("nvidia", "cuda", "triton"))]
