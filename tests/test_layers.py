"""Imports point one way, lazy ones too, and the package stays small: what comes in is paid for."""

import ast
from pathlib import Path

from sts_utils.store import ROOT

PACKAGE = ROOT / "sts_utils"
#: From the lowest; a module imports those of earlier lines, or of its own further left.
ORDER = [
    "store",
    "batches",
    "stats",
    "config",
    "examples",
    "corpora",
    "models",
    "saes",
    "generate",
    "prompts",
    "features",
    "scores",
    "train",
    "grpo",
    "interventions",
    "evaluate",
    "fsdp",
    "vllm",
    "cache",
    "questions",
    "run",
    "measured",
    "parallel",
    "results",
    "notebooks",
    "experiments",
    "prediction",
    "plan",
    "check",
    "cli",
    "__main__",
    "__init__",
]
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
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").parts[0]
        above = {other for other in imported(path) if ORDER.index(other) > ORDER.index(name)}
        assert name == "__init__" or not above, f"{path.name} imports what lies above it: {above}"


def test_the_package_has_at_most_6000_lines_and_no_long_module():
    files = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.j*")]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert sum(lines.values()) <= 6000
    assert max(lines.values()) <= 400
    assert sum(lines[PACKAGE / f"{name}.py"] for name in PAPER) <= 600
