"""Shared by the tests of whole runs: one run of `tiny` for every process of pytest."""

import os

import pytest
from filelock import FileLock
from tiny_runs import command, finished


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory):
    """One uninterrupted run, and where it wrote."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all processes
    out, said = folder / "reproduced", folder / "reproduced.txt"
    with FileLock(folder / "reproduced.lock"):
        if not said.exists():
            said.write_text(finished(command(out, "reproduce", "--profile", "tiny"))[0])
    return out, said.read_text()
