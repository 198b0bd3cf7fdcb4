"""Runs of the whole sequence of notebooks on `tiny`, as a user starts them, and their tables."""

import os
import subprocess
import sys
import time
from pathlib import Path

from sts_utils import store
from sts_utils.report import page

KINDS = {"figure": ("pdf", "png", "txt"), "table": ("csv", "md", "tex", "txt")}
PRODUCTS = [f"{result.name}.{kind}" for result in page.RESULTS for kind in KINDS[result.kind]]
PRODUCTS += ["claims.csv", "index.html", "REPRODUCTION.md"]


def command(out: Path, *arguments: str, **variables: str) -> subprocess.Popen:
    words = [sys.executable, "-m", "sts_utils", *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    told = os.environ | {"STS_OUT": str(out)} | variables
    return subprocess.Popen(words, env=told, cwd=store.ROOT, **streams)


def finished(process) -> tuple[str, str]:
    out, err = process.communicate(timeout=800)
    assert process.returncode == 0, err[-3000:]
    return out, err


def wait_for(pattern: str, runs: Path, process: subprocess.Popen) -> None:
    """Until `pattern` is in the store, which the process fills."""
    deadline = time.time() + 600
    while not list(runs.glob(pattern)):
        assert process.poll() is None, f"the run ended without {pattern}: {process.stderr.read()}"
        assert time.time() < deadline, f"no {pattern} in ten minutes"
        time.sleep(0.02)


def without_control(folder: Path, *stages: str) -> str:
    """`tiny` with the paper's own experiments alone, for the control is half of its steps, and with
    those notebooks alone that compute or draw what is compared."""
    profile = folder / "tiny.yaml"
    profile.write_text(f"{{base: tiny, control: {{parts: []}}, stages: [{', '.join(stages)}]}}")
    return str(profile)


def same_numbers(one: Path, other: Path, control: bool = True) -> None:
    """Every table and caption of two runs is the same, to the bit."""
    names = [n for n in PRODUCTS if control or not n.startswith("control_")]
    for name in (n for n in names if n.endswith((".csv", ".txt"))):
        expected = (one / "figures/tiny" / name).read_bytes()
        assert (other / "figures/tiny" / name).read_bytes() == expected, name
