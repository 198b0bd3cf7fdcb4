"""`tiny` with its steps over Ray: over nodes, of which one is lost, and side by side here."""

import os
import subprocess
import sys

import pytest
from tiny_runs import command, finished, same_numbers, wait_for, without_control

from sts_utils import config, store
from sts_utils.scale import check, plan

slow = pytest.mark.slow

#: What `reproduce` does with `executor: ray` before its notebooks.
EVERY_STEP = """
from sts_utils import config
from sts_utils.scale import plan
profile = config.load("tiny")
plan.compute(profile, plan.everything(profile))
"""


@slow
def test_every_step_by_ray_ends_in_the_local_run_s_tables(reproduced, tmp_path):
    """`make reproduce EXECUTOR=ray` over two nodes, of which one is killed amid; then, where all is
    in the store, every step of the whole plan, the control's too."""
    pytest.importorskip("ray", reason="Ray is not installed (pip install -e '.[scale]')")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        lost = cluster.add_node(num_cpus=1)
        drawn = without_control(tmp_path, "06_plot")
        over = {"STS_EXECUTOR": "ray", "RAY_ADDRESS": cluster.address}
        process = command(tmp_path, "reproduce", "--profile", drawn, **over)
        wait_for("trained-*", tmp_path / "runs", process)
        cluster.remove_node(lost, allow_graceful=False)
        finished(process)
        told = os.environ | over | {"STS_OUT": str(reproduced[0])}
        words = [sys.executable, "-c", EVERY_STEP]
        done = subprocess.run(words, env=told, cwd=store.ROOT, capture_output=True, text=True)
    finally:
        cluster.shutdown()
    listed = len(plan.everything(config.load("tiny")))
    assert done.returncode == 0 and f"{listed}/{listed}" in done.stderr, done.stderr[-3000:]
    same_numbers(reproduced[0], tmp_path, control=False)


@slow
def test_where_there_is_room_steps_run_side_by_side(reproduced, tmp_path, monkeypatch):
    """`executor: auto`, as every profile but `tiny` has it."""
    pytest.importorskip("ray", reason="Ray is not installed (pip install -e '.[scale]')")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    profile = tmp_path / "tiny.yaml"
    profile.write_text("{base: tiny, executor: auto}")
    words = "reproduce", "--profile", str(profile), "--figures", "table6"
    room = check.workers(config.load(str(profile))) > 1
    if not room:  # little memory is free: as the run that it is compared with, on one thread
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for computed in (True, False):  # nothing is started where all is there
        said, _ = finished(command(tmp_path, *words))
        assert ("side by side" in said) == (room and computed)
    made = [(out / "figures/tiny/table6.csv").read_bytes() for out in (tmp_path, reproduced[0])]
    assert made[0] == made[1]
