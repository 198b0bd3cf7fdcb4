"""What is kept is computed once, whole, and again when anything that it depends on is another."""

import json
import os
import platform
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from safetensors import SafetensorError

from sts_utils import cache, models, run, saes, store, train
from sts_utils.cache import cached

CALLS = []


@cached("seeds", "shift.queries")
def table(p, n):
    """Docstring."""
    CALLS.append(n)
    return pd.DataFrame({"n": [n]})


@cached("seeds")
def parts(p):
    CALLS.append("parts")
    return {name: {"x": np.full(2, i)} for i, name in enumerate(("a/1", "b"))}


@cached("seeds", folder=True)
def model(p, seed, out=None):
    CALLS.append("model")
    (out / "value").write_text(f"right {seed}")


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    CALLS.clear()
    cache._verified.clear()
    monkeypatch.setattr(store, "RUNS", tmp_path)


def test_computed_once_with_what_made_it_and_read_back(profile):
    for _ in range(2):
        assert table(profile, 3).n.tolist() == [3]
        assert parts(profile, part="b")["x"].tolist() == [1, 1]
        assert (model(profile, 0) / "value").read_text() == "right 0"
    assert CALLS == [3, "parts", "model"]
    made = json.loads((table.path(profile, 3) / "made.json").read_text())
    assert made["recipe"]["settings"]["shift.queries"] == 8 and made["recipe"]["arguments"] == ["3"]
    assert made["recipe"]["versions"]["torch"] and made["files"].keys() == {"table.parquet"}


def test_a_key_holds_settings_arguments_models_and_nothing_else(profile):
    other = profile.model_copy(update={"seeds": (7,)})
    shift = profile.model_copy(update={"shift": profile.shift.model_copy(update={"queries": 9})})
    unread = profile.model_copy(update={"top_n": 3})
    keys = {table.path(p, n) for p in (profile, other, shift) for n in (1, 2)}
    assert len(keys) == 6 and table.path(unread, 1) in keys
    named = {table.path(profile, m) for m in (None, (model, 0), (model, 1))}
    assert len(named | {table.path(other, (model, 0))}) == 4


def test_a_key_holds_the_code_that_it_reaches(profile, monkeypatch):
    """Absurd AdamW betas are another model's key, and another feature's and performance's."""

    def keys():
        for kept in (cache.code, cache._reached):
            kept.cache_clear()
        calls = {"sft": (run.finetuned, 0), "before": (run.performance,)}
        calls |= {"after": (run.performance, (run.finetuned, 0)), "dn": (run.train_features, 0)}
        return {name: f.path(profile, *args).name for name, (f, *args) in calls.items()}

    before = keys()
    monkeypatch.setattr(train, "BETAS", (0.0, 0.1))
    after = keys()
    assert {name for name in before if before[name] != after[name]} == {"sft", "after"}


def test_words_are_not_code():
    texts = [f'def f(x):\n    """{w}"""\n    return x  # {w!r}' for w in ("One.", "Other.\n")]
    one, other = (cache.without_docstrings(cache.ast.parse(text)) for text in texts)
    assert cache.ast.dump(one) == cache.ast.dump(other)


@pytest.mark.parametrize("harm", ["flip", "cut", "delete"])
def test_a_damaged_artifact_is_computed_again(profile, harm):
    path = model(profile, 0)
    cache._verified.clear()  # another process
    file = path / "value"
    data = file.read_bytes()
    if harm == "delete":
        file.unlink()
    else:
        flipped = bytes([data[0] ^ 1]) + data[1:]
        file.write_bytes(flipped if harm == "flip" else data[:-1])
    assert (model(profile, 0) / "value").read_bytes() == data and CALLS == ["model", "model"]


def test_a_model_or_an_sae_that_was_written_again_is_another(profile, tmp_path):
    folder, sae = tmp_path / "model", tmp_path / "sae"
    models.save(models.load_model("tiny"), models.load_tokenizer("tiny"), folder)
    saes.load("random-8x", 64).save_model(sae)
    own = profile.model_copy(update={"model": str(folder), "sae": str(sae)})
    keys = [run.train_features.path(own, 0)]
    for file in (folder / "config.json", sae / "cfg.json"):
        os.utime(file, (1, 1))
        keys.append(run.train_features.path(own, 0))
    assert len(set(keys)) == 3


def test_nothing_is_left_by_a_failure_and_a_full_disk_is_one_line():
    full = OSError(28, "No space left on device"), SafetensorError("I/O: No space (os error 28)")
    for error in (*full, RuntimeError("power cut")):
        said = "the disk is full: free some" if error in full else "power cut"
        raised = pytest.raises((ValueError, RuntimeError), match=said)
        with raised, store.atomic_folder(store.RUNS / "x") as out:
            (out / "half").write_text("half")
            raise error
        assert not list(store.RUNS.iterdir())


def test_the_second_writer_leaves_what_the_first_reads(tmp_path):
    folder = tmp_path / "made"
    with store.atomic_folder(folder) as second:
        with store.atomic_folder(folder) as first:
            (first / "value").write_text("first")
        (second / "value").write_text("second")
    assert (folder / "value").read_text() == "first" and len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_is_cleared_and_what_another_writes_is_not():
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    left, written = (store.RUNS / f".f.abc@{platform.node()}.{p}" for p in (ended.pid, os.getpid()))
    for scratch in (left, written):
        scratch.mkdir(parents=True)
    store.clear_abandoned()
    assert written.exists() and not left.exists()
