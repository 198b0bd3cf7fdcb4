import os
import platform
import subprocess
import sys

import pandas as pd
import pytest
from safetensors import SafetensorError

from sts_utils import store


def test_computed_once_and_read_back():
    calls = []

    def compute():
        calls.append(1)
        return pd.DataFrame({"a": [1.5, 2.5]})

    for _ in range(2):
        pd.testing.assert_frame_equal(
            store.frame("once", {"x": 1}, compute), pd.DataFrame({"a": [1.5, 2.5]})
        )
    assert len(calls) == 1
    store.frame("once", {"x": 2}, compute)
    assert len(calls) == 2


def test_a_damaged_artifact_is_rebuilt(caplog):
    path = store.folder("damaged", {}, lambda out: (out / "value").write_text("right"))
    for harm in (lambda f: f.write_text("wrong"), lambda f: f.unlink(), lambda f: f.write_text("")):
        harm(path / "value")
        again = store.folder("damaged", {}, lambda out: (out / "value").write_text("right"))
        assert again == path and (path / "value").read_text() == "right"
    assert caplog.text.count("is damaged: computing it again") == 3


def test_nothing_is_left_by_a_failure():
    def fail(out):
        (out / "half").write_text("half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        store.folder("failing", {}, fail)
    assert not list(store.RUNS.glob("*failing*"))


def test_what_a_killed_process_left_is_cleared_and_what_another_writes_is_not():
    words = [sys.executable, "-c", "pass"]
    ended = subprocess.Popen(words)
    ended.wait()
    name = f".trained-1.abc@{platform.node()}"
    for place in (store.RUNS, store.CACHE, store.CACHE / "models"):
        left, written = (place / f"{name}.{pid}" for pid in (ended.pid, os.getpid()))
        for scratch in (left, written):
            scratch.mkdir(parents=True)
        store.clear_abandoned()
        assert written.exists() and not left.exists()
        written.rmdir()


def test_an_artifact_says_what_made_it():
    import json

    path = store.folder("made", {"seed": 3}, lambda out: (out / "value").write_text("x"))
    made = json.loads((path / "made.json").read_text())
    assert made["recipe"]["seed"] == 3 and made["recipe"]["versions"]["torch"]
    assert made["files"] == {"value": store.file_hash(path / "value")}


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left (os error 28)"),
    ],
)
def test_a_full_disk_is_one_line(error):
    def fill(out):
        raise error

    with pytest.raises(ValueError, match="the disk is full: free some space below"):
        store.folder("full", {}, fill)


def test_what_was_read_is_hashed_once_until_it_is_touched(monkeypatch):
    made, real, read = store.folder("hashed", {}, _one_file), store.file_hash, []
    monkeypatch.setattr(store, "file_hash", lambda path: read.append(path) or real(path))
    for _ in range(3):
        store.folder("hashed", {}, _one_file)
    assert read == [made / "value"]
    data = (made / "value").read_bytes()
    (made / "value").write_bytes(bytes([data[0] ^ 1]) + data[1:])  # of the same size
    assert (store.folder("hashed", {}, _one_file) / "value").read_bytes() == data


def test_a_large_artifact_is_hashed_once_for_all_processes(monkeypatch):
    made, real, read = store.folder("large", {}, _one_file), store.file_hash, []
    monkeypatch.setattr(store, "file_hash", lambda path: read.append(path) or real(path))
    for large, hashed in ((0, 1), (0, 1), (2**30, 2)):  # the last is small: each process hashes it
        monkeypatch.setattr(store, "LARGE", large)
        store._matches.cache_clear()  # another process
        store.folder("large", {}, _one_file)
        assert len(read) == hashed
    monkeypatch.setattr(store, "LARGE", 0)
    (made / "verified.json").write_text("[[")  # torn: another process is writing it
    assert store.folder("large", {}, lambda _: pytest.fail("it is there")) == made
    (made / "value").write_bytes(b"Something")
    assert (store.folder("large", {}, _one_file) / "value").read_bytes() == b"something"


def _one_file(out):
    (out / "value").write_bytes(b"something")


def test_the_second_writer_leaves_what_the_first_reads(tmp_path):
    """A cache folder has no hashes; another process may be loading it."""
    folder = tmp_path / "model"
    with store.atomic_folder(folder) as second:
        with store.atomic_folder(folder) as first:
            (first / "weights").write_text("first")
        read = (folder / "weights").stat().st_ino
        (second / "weights").write_text("second")
    assert (folder / "weights").stat().st_ino == read
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_relative_folder_is_the_same_for_a_process_started_elsewhere(tmp_path):
    code = (
        "import os, subprocess, sys\nfrom sts_utils import store\nprint(store.RUNS, flush=True)\n"
    )
    child = "from sts_utils import store; print(store.RUNS)"
    code += f"subprocess.run([sys.executable, '-c', {child!r}], cwd='/', check=True)"
    environment = os.environ | {"STS_OUT": "other", "PYTHONPATH": str(store.ROOT)}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [str(tmp_path / "other" / "runs")] * 2, done.stderr
