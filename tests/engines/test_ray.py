import multiprocessing
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sts_utils import config, store
from sts_utils.engines import ray as executor
from sts_utils.engines.ray import Unit
from sts_utils.runs import performance as performances
from sts_utils.runs import units

HERE = str(Path(__file__).parent)


@pytest.fixture(scope="module")
def small(profile):
    """The tiny profile, smaller: one seed, three features' worth of everything."""
    sft = profile.sft.model_copy(update={"examples": 8})
    more = {"sft": sft, "seeds": (0,), "others": (), "sweep": config.SweepSettings(), "domains": profile.domains}
    evaluation = profile.evaluation.model_copy(update={"questions": 2, "held_out": 2})
    return profile.model_copy(update=more | {"evaluation": evaluation, "executor": "ray"})


@pytest.fixture(scope="module")
def workers():
    """A local cluster of two workers."""
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install -e '.[scale]')")
    os.environ.update(executor.PATIENCE, PYTHONPATH=HERE)
    ray.init("local", num_cpus=2, num_gpus=0, log_to_driver=False, include_dashboard=False)
    yield ray
    ray.shutdown()
    del os.environ["PYTHONPATH"]


def test_each_wave_needs_only_earlier_ones(profile):
    waves = executor.plan(profile)
    names = [[unit.name for unit in wave] for wave in waves]
    assert sum(name.startswith("finetuned") for name in names[0]) == 3  # two seeds, one other training set
    assert "train_stats gsm-symbolic 0 sweep gsm-symbolic" in names[0]
    assert all(f"actual_stats gsm-symbolic {seed}" in names[1] for seed in profile.seeds)
    assert sum(name.startswith("domain_stats") for name in names[0]) == 28
    assert names[-1] == ["mixtures changes gsm-symbolic"]
    flat = [name for wave in names for name in wave]
    assert len(flat) == len(set(flat))


def test_figures_alone_need_the_base_run_alone(profile):
    flat = [unit.function.split(":")[1] for wave in executor.plan(profile, whole=False) for unit in wave]
    assert set(flat) == {
        "finetuned", "train_stats", "domain_stats", "performance", "held_out_performance", "actual_stats"
    }  # fmt: skip


def test_local_computes_nothing_ahead(profile):
    before = set(store.RUNS.glob("*"))
    executor.compute(profile)
    assert set(store.RUNS.glob("*")) == before


def test_a_killed_worker_loses_nothing(workers, tmp_path):
    folder = str(tmp_path)
    units_ = [Unit("killed", "ray_units:killed_once", (None, folder))]
    units_ += [Unit(name, "ray_units:counted", (None, folder, name)) for name in "abc"]
    for _ in range(2):  # the second time everything is done
        executor.execute([units_])
    assert [(tmp_path / name).read_text() for name in "abc"] == ["made\n"] * 3
    made = store.folder("killed-once", {}, lambda out: pytest.fail("it is not there"))
    assert (made / "pid").read_text() != (tmp_path / "first").read_text()


def test_an_error_is_one_line_and_the_wave_ends(workers, tmp_path):
    wave = [Unit("bad", "ray_units:wrong", (None,)), Unit("d", "ray_units:counted", (None, str(tmp_path), "d"))]
    with pytest.raises(ValueError) as caught:
        executor.execute([wave])
    assert str(caught.value) == "bad: corpus 'x' is empty: choose another (1 of 2 units failed; the others are stored)"
    assert (tmp_path / "d").exists()


def test_ray_and_local_leave_the_same(workers, small, monkeypatch):
    domain = "biology"
    tuned = executor._unit("units:finetuned", small, 0)
    waves = [
        [tuned, executor._unit("units:train_stats", small, 0), executor._unit("units:domain_stats", small, domain, 0)],
        [
            executor._unit("units:actual_stats", small, 0),
            executor._unit("performances:held_out_performance", small, tuned),
        ],
    ]
    executor.execute(waves)
    found = sorted(p.name for p in store.RUNS.glob("*") if not p.name.startswith(("killed", "counted")))
    by_ray = units.train_stats(small, 0), units.domain_stats(small, domain, 0), units.actual_stats(small, 0)
    held_out = performances.held_out_performance(small, units.finetuned(small, 0))
    assert found == sorted(p.name for p in store.RUNS.glob("*") if not p.name.startswith(("killed", "counted")))
    monkeypatch.setattr(store, "RUNS", store.RUNS / "local")
    here = units.train_stats(small, 0), units.domain_stats(small, domain, 0), units.actual_stats(small, 0)
    for one, other in zip(by_ray, here, strict=True):
        for name, value in one.arrays().items():
            np.testing.assert_allclose(other.arrays()[name], value, rtol=1e-4, atol=1e-5)
    again = performances.held_out_performance(small, units.finetuned(small, 0))
    pd.testing.assert_frame_equal(again, held_out, check_exact=False, rtol=1e-4)


def _make(barrier, name):
    def make(out):
        (out / "value").write_text("x" * 100_000)
        barrier.wait(60)  # both are at the end of the same unit

    assert (store.folder("together", {"name": name}, make) / "value").stat().st_size == 100_000


def test_two_processes_may_compute_the_same_unit():
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    both = [spawn.Process(target=_make, args=(barrier, "same")) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    assert [p.name for p in store.RUNS.glob("*together*")] == [store.path("together", {"name": "same"}).name]


def test_no_cluster_at_the_address_is_one_line(monkeypatch):
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install -e '.[scale]')")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no\nmore")))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ValueError, match=r"^RAY_ADDRESS='10.0.0.1:6379': no$"):
        executor.execute([])
