"""Whatever goes wrong, a run resumes and ends in the same tables, to the bit."""

import contextlib
import re
import subprocess
import time
import warnings
from pathlib import Path

import psutil
import pytest
from conftest import command, finished

STAGES = "[05_evaluate, 07_moved, 06_plot]"


def wait_for(pattern: str, runs: Path, process: subprocess.Popen) -> None:
    """Until `pattern` is in the store, which the process fills."""
    deadline = time.time() + 600
    while not list(runs.glob(pattern)):
        assert process.poll() is None, f"the run ended without {pattern}: {process.stderr.read()}"
        assert time.time() < deadline, f"no {pattern} in ten minutes"
        time.sleep(0.02)


def kill(process: subprocess.Popen) -> None:
    parent = psutil.Process(process.pid)
    for one in [*parent.children(recursive=True), parent]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.communicate()
    assert process.returncode == -9


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own that is soon full, where one may be mounted."""
    words = ["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(tmp_path)]
    mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0
    yield tmp_path
    if mounted:
        subprocess.run(["umount", "-l", str(tmp_path)], check=False)


def end_without_room(pattern: str, folder: Path, process: subprocess.Popen) -> None:
    """The disk of `folder` is full once `pattern` is in the store: the run says so and ends."""
    wait_for(pattern, folder / "runs", process)
    if not folder.is_mount():
        warnings.warn("no disk may be mounted here: a full one is not tried", stacklevel=1)
        return finished(process)
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(2**20)):
            pass
    _, said = process.communicate(timeout=800)
    assert process.returncode and "Traceback" not in said, said[-3000:]
    line = said.strip().splitlines()[-1]
    assert re.match("error: .*the disk is full: free some space below", line), said[-3000:]
    ballast.unlink()


def harm(runs: Path) -> int:
    """Flip a byte of every other file of the store, cut one off the rest; how many files."""
    files = [file for file in sorted(runs.glob("*-*/**/*")) if file.is_file()]
    for number, file in enumerate(files):
        data = file.read_bytes()
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        file.write_bytes(flipped if number % 2 else data[:-1])
    return len(files)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_full_disk_a_kill_flipped_bytes_and_two_runs_at_once(tables, small_disk):
    profile = small_disk / "tiny.yaml"
    profile.write_text(f"{{base: tiny, others: [], stages: {STAGES}}}")
    runs, told = small_disk / "runs", (small_disk, "reproduce", "--profile", str(profile))
    end_without_room("domain_features-*", small_disk, command(*told))
    process = command(*told)
    wait_for("finetuned-*", runs, process)
    kill(process)
    assert harm(runs) > 20
    process = command(*told)
    wait_for("performance-*", runs, process)
    kill(process)
    for process in [command(*told), command(*told)]:
        finished(process)
    for name in ("table6", "tables2_4", "table6_points", "reliability"):
        made = small_disk / f"figures/tiny/{name}.csv"
        assert made.read_bytes() == (tables / f"{name}.csv").read_bytes(), name
    assert not list(runs.glob(".*"))  # nothing half-written
