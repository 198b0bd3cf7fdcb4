"""Steps over a real local Ray cluster of two workers."""

import multiprocessing
import os
import socket
import time
from pathlib import Path

import pytest
import ray_steps

from sts_utils import parallel as engine
from sts_utils import store
from sts_utils.runs.plan import Step, call_alone

ray = pytest.importorskip("ray", reason="Ray is not installed (pip install -e '.[scale]')")
HERE = str(Path(__file__).parent)


@pytest.fixture(scope="module")
def workers():
    """A local cluster of two workers."""
    os.environ.update(engine.PATIENCE, PYTHONPATH=HERE)
    ray.init("local", num_cpus=2, num_gpus=0, log_to_driver=False, include_dashboard=False)
    yield ray
    ray.shutdown()
    del os.environ["PYTHONPATH"]


def step(compute, profile, *args):
    return Step("a test's", compute, (profile, *args), "")


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(workers, tmp_path, profile):
    folder = str(tmp_path)
    steps = [step(ray_steps.killed_once, profile, folder)]
    steps += [step(ray_steps.counted, profile, folder, name) for name in "abc"]
    for _ in range(2):  # the second time everything is done
        engine.execute([steps], call_alone)
    assert [(tmp_path / name).read_text() for name in "abc"] == ["made\n"] * 3
    made = store.folder("killed-once", {}, lambda out: pytest.fail("it is not there"))
    assert (made / "pid").read_text() != (tmp_path / "first").read_text()


@pytest.mark.slow
def test_an_error_is_one_line_and_the_round_ends(workers, tmp_path, profile):
    steps = [step(ray_steps.wrong, profile), step(ray_steps.counted, profile, str(tmp_path), "d")]
    with pytest.raises(ValueError) as caught:
        engine.execute([steps], call_alone)
    said = "corpus 'x' is empty: choose another (1 of 2 steps failed; the others are stored)"
    assert str(caught.value) == f"wrong {profile.train} {profile.domains}: {said}"
    assert (tmp_path / "d").exists()


@pytest.mark.slow
def test_a_worker_finds_what_this_process_finds(workers, tmp_path, profile, monkeypatch):
    """The hub's cache lies where its variables say, which were set after the cluster's start."""
    names = "HF_HUB_CACHE", "STS_MIRROR"
    for name in names:
        monkeypatch.setenv(name, f"/of/{name}")
    engine.execute([[step(ray_steps.seen, profile, str(tmp_path), *names)]], call_alone)
    assert (tmp_path / "seen").read_text() == "/of/HF_HUB_CACHE /of/STS_MIRROR"


def _make(barrier, name):
    def make(out):
        (out / "value").write_text("x" * 100_000)
        barrier.wait(60)  # both are at the end of the same step

    assert (store.folder("together", {"name": name}, make) / "value").stat().st_size == 100_000


@pytest.mark.slow
def test_two_processes_may_compute_the_same_step():
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    both = [spawn.Process(target=_make, args=(barrier, "same")) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    made = [p.name for p in store.RUNS.glob("*together*")]
    assert made == [store.path("together", {"name": "same"}).name]


def test_a_dead_address_is_one_line_and_soon(monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "127.0.0.1:99999"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        start = time.monotonic()
        with pytest.raises(ValueError, match=f"^RAY_ADDRESS='{address}': nothing answers") as error:
            engine.execute([], call_alone)
        assert time.monotonic() - start < 20 and "\n" not in str(error.value)


def test_what_ray_refuses_is_one_line(monkeypatch):
    def refuse(*_, **__):
        raise ConnectionError("no\nmore")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ValueError, match=r"^RAY_ADDRESS='auto': no$"):
        engine.execute([], call_alone)


def test_a_step_for_more_gpus_than_any_node_has_is_one_line(profile):
    two = [{"Resources": {"GPU": 4.0}}, {"Resources": {"CPU": 8.0}}]
    large = step(ray_steps.counted, profile)._replace(gpus=8)
    engine._check_gpus([large._replace(gpus=4)], two)
    with pytest.raises(ValueError, match=r"wants 8 GPUs and no node has more than 4: set num_"):
        engine._check_gpus([large], two)
