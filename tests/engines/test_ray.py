"""Rounds of calls over a real local Ray cluster of two workers."""

import os
import socket
import time
from pathlib import Path

import pytest
import ray_steps

from sts_utils import plan, store

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install -e '.[scale]')")
HERE = str(Path(__file__).parent)


@pytest.fixture(scope="module")
def workers():
    """A local cluster of two workers."""
    os.environ.update(plan.PATIENCE, PYTHONPATH=f"{store.ROOT}:{HERE}")
    ray.init("local", num_cpus=2, num_gpus=0, log_to_driver=False, include_dashboard=False)
    yield ray
    ray.shutdown()
    del os.environ["PYTHONPATH"]


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(workers, profile, tmp_path):
    folder = str(tmp_path)
    calls = [(ray_steps.killed_once, (profile, folder))]
    calls += [(ray_steps.counted, (profile, folder, name)) for name in "abc"]
    for _ in range(2):  # the second time everything is done
        plan.compute([calls], over_ray=True)
    assert [(tmp_path / name).read_text() for name in "abc"] == ["made\n"] * 3
    made = ray_steps.killed_once.path(profile, folder)
    assert (made / "pid").read_text() != (tmp_path / "first").read_text()


@pytest.mark.slow
def test_an_error_is_one_line_and_the_round_ends(workers, profile, tmp_path):
    first, here = [(ray_steps.wrong, (profile, 3))], (profile, str(tmp_path))
    first.append((ray_steps.counted, (*here, "d")))
    with pytest.raises(ValueError) as caught:
        plan.compute([first, [(ray_steps.counted, (*here, "e"))]], over_ray=True)
    said = "corpus 'x' is empty: choose another (1 of 2 steps failed; the others are stored)"
    assert str(caught.value) == f"wrong tiny 3: {said}"
    assert (tmp_path / "d").exists() and not (tmp_path / "e").exists()


@pytest.mark.slow
def test_a_worker_finds_what_this_process_finds(workers, tmp_path, monkeypatch):
    """The hub's cache lies where its variables say, which were set after the cluster's start."""
    names = "HF_HUB_CACHE", "STS_MIRROR"
    for name in names:
        monkeypatch.setenv(name, f"/of/{name}")
    plan.compute([[(ray_steps.seen, (str(tmp_path), *names))]], over_ray=True)
    assert (tmp_path / "seen").read_text() == "/of/HF_HUB_CACHE /of/STS_MIRROR"


def test_one_worker_computes_here_the_longest_first(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    made = []
    rounds = [[(made.append, (n,)) for n in (1, 3, 2)], [(made.append, (9,))]]
    plan.compute(rounds, weight=lambda call: call[1][0])
    assert made == [3, 2, 1, 9]


def test_a_dead_address_is_one_line_and_soon(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "127.0.0.1:99999"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        start = time.monotonic()
        with pytest.raises(ValueError, match=f"^RAY_ADDRESS='{address}': no cluster") as error:
            plan.compute([])
        assert time.monotonic() - start < 20 and "\n" not in str(error.value)


def test_a_step_for_more_gpus_than_any_node_has_is_one_line(monkeypatch):
    nodes = [{"Resources": {"GPU": 4.0}}, {"Resources": {"CPU": 8.0}}]
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(plan, "gpus", lambda call: 8)
    with pytest.raises(ValueError, match="a step wants 8 GPUs, a node has 4: lower num_processes"):
        plan.compute([[(print, ())]], over_ray=True)
