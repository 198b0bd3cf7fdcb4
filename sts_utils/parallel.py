"""Calls in rounds, here or over Ray: each leaves its result in the store."""

import contextlib
import ctypes
import gc
import os
import socket
from collections.abc import Callable

from tqdm import tqdm

from sts_utils import batches

Call = tuple[Callable, tuple]  # a function and its arguments
PASSED = ("STS_", "HF_", "HUGGINGFACE_", "XDG_CACHE_HOME", "PYTHONPATH")  # variables, to workers
#: Ray gives up on its own processes after 30 s, which a busy machine needs longer for.
PATIENCE = {"RAY_raylet_start_wait_time_s": "300", "RAY_agent_register_timeout_ms": "300000"}
PATIENCE |= {"RAY_worker_register_timeout_seconds": "300", "RAY_USAGE_STATS_ENABLED": "0"}


def compute(
    rounds, workers=1, *, over_ray=False, gpus=lambda _: 1, weight=lambda _: 1, release=gc.collect
) -> None:
    """Make the Calls of each round, those of most `weight(call)` (share of the time) first; a round
    begins when the one before it has ended. Here, one after the other, with one worker, no
    RAY_ADDRESS and not `over_ray`. Else over the cluster in use, at RAY_ADDRESS, or a new one of
    `workers` processes: a call holds `gpus(call)`, if there are any, and is followed by
    `release()`; a round with failed calls ends first, then raises a ValueError of one line."""
    rounds = [sorted(calls, key=weight, reverse=True) for calls in rounds]
    every = [call for calls in rounds for call in calls]
    if workers == 1 and not over_ray and "RAY_ADDRESS" not in os.environ:
        for function, arguments in tqdm(every, desc="steps", unit="step", leave=False):
            function(*arguments)
        return
    import ray

    shown = {"bar_format": "{l_bar}{bar}| [{elapsed}<{remaining}{postfix}]", "smoothing": 0}
    bar = tqdm(total=sum(map(weight, every)), desc="steps", **shown)
    with contextlib.nullcontext() if ray.is_initialized() else _connect(ray, workers), bar:
        most = max(node["Resources"].get("GPU", 0) for node in ray.nodes())
        if 0 < most < (n := max(map(gpus, every), default=0)):  # it would wait for ever
            raise ValueError(f"a step wants {n} GPUs, a node has {most:.0f}: lower num_processes")
        task = ray.remote(**_options(ray.cluster_resources()))(_alone)
        for calls in rounds:
            running, failed = {}, []
            for call in calls:
                sent = task.options(num_gpus=gpus(call) if most else 0).remote(*call, release)
                running[sent] = call
            while running:
                for done in ray.wait(list(running), timeout=10)[0]:
                    call = running.pop(done)
                    try:
                        ray.get(done)
                    except ray.exceptions.RayError as error:
                        name = " ".join(str(getattr(a, "name", a)) for a in call[1])
                        cause = getattr(error, "cause", None) or error
                        why = (str(cause) or repr(cause)).splitlines()[0]
                        failed.append(f"{call[0].__name__} {name}: {why}")
                    bar.update(min(weight(call), bar.total - bar.n))
                bar.set_postfix_str(f"{len(calls) - len(running)}/{len(calls)} of this round")
            if failed:
                n = f"{len(failed)} of {len(calls)} steps failed"
                raise ValueError(f"{failed[0]} ({n}; the others are stored)")


def _alone(function: Callable, arguments: tuple, release: Callable[[], None]) -> None:
    """A call in a process of the cluster: without its result, its memory given back."""
    if not gc.get_freeze_count():  # what is imported lives on: `release` needn't walk it (0.2 s)
        gc.freeze()
    try:
        function(*arguments)
    finally:
        release()
        with contextlib.suppress(AttributeError, OSError):  # glibc's own: it keeps what is freed
            ctypes.CDLL(None).malloc_trim(0)


def _options(has: dict) -> dict:
    """What Ray is told of every call: retries, the variables it sees, its share of the cores."""
    cores = has["CPU"] if "RAY_ADDRESS" in os.environ else batches.cpu_threads()
    seen = {"STS_OUT": "", "STS_MIRROR": ""}  # not the node's own, if there is none here
    seen |= {name: v for name, v in os.environ.items() if name.startswith(PASSED)}
    seen["OMP_NUM_THREADS"] = str(max(1, int(cores // (has.get("GPU") or has["CPU"]))))
    options = {"max_retries": 3, "retry_exceptions": [OSError], "runtime_env": {"env_vars": seen}}
    return options | ({"max_calls": 1} if has.get("GPU") else {})  # a process has one GPU for good


def _connect(ray, workers: int):
    """What ray.init gives: the cluster, until it is left; or a ValueError of one line."""
    os.environ.update(PATIENCE | dict(os.environ))
    address = os.environ.get("RAY_ADDRESS", "local")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdigit():  # Ray itself tries for minutes
            socket.create_connection((host, int(port)), 10).close()
        size = {"num_cpus": workers} if address == "local" else {}
        return ray.init(address, log_to_driver=False, logging_level="ERROR", **size)
    except Exception as error:  # of a node that a busy machine does not start: without a base
        why = str(error).splitlines()[0]
        raise ValueError(f"RAY_ADDRESS={address!r}: no cluster answers there: {why}") from None
