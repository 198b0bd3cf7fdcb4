"""Steps over a Ray cluster: rounds of calls, each of which leaves its result in the store."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence

from tqdm import tqdm

from sts_utils import batches

#: How the names of variables begin that a worker must see as this process does.
PASSED = ("STS_", "HF_", "HUGGINGFACE_", "XDG_CACHE_HOME", "PYTHONPATH")
RETRIES = 3
#: How long a cluster's head may take to answer.
SECONDS = 10
#: How often the bar's clock moves where a step takes minutes, in seconds.
TICK = 10
#: Ray gives up on its own processes after 30 s, which a busy machine needs longer for.
PATIENCE = {
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@contextlib.contextmanager
def cluster(workers: int | None) -> Iterator:
    """Ray, connected to RAY_ADDRESS, to the cluster in use already, or to a new local one, of so
    many processes (a core each, if none is said)."""
    try:
        import ray
    except ImportError:
        mend = "pip install -c constraints.txt -e '.[scale]'"
        raise ValueError(f"executor: ray needs Ray: {mend}") from None
    if ray.is_initialized():
        yield ray
        return
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS", "local")
    _check_answers(address)
    try:
        size = {"num_cpus": workers} if address == "local" else {}
        ray.init(address, log_to_driver=False, logging_level="ERROR", **size)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"RAY_ADDRESS={address!r}: {str(error).splitlines()[0]}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise ValueError, in one line, where nothing listens at host:port; Ray itself tries on for
    minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), SECONDS).close()
        except (OSError, OverflowError) as error:
            said = f"RAY_ADDRESS={address!r}: nothing answers there ({error})"
            mend = "start the cluster with `ray start --head`, or unset RAY_ADDRESS for a local one"
            raise ValueError(f"{said}: {mend}") from None


def _check_gpus(steps: Sequence, nodes: Sequence[dict]) -> None:
    """Raise ValueError for a step with more GPUs than any node has, which would wait for ever."""
    most = max(node["Resources"].get("GPU", 0) for node in nodes)
    for step in (step for step in steps if step.gpus > most):
        has = f"{step.name} wants {step.gpus} GPUs and no node has more than {most:.0f}"
        raise ValueError(f"{has}: set num_processes in the profile's launcher")


def execute(
    rounds: Sequence[Sequence],
    call: Callable,
    workers: int | None = None,
    weight: Callable[..., float] = lambda _: 1.0,
) -> None:
    """`call(step)` on some machine for every step (with a name and gpus), round by round.

    `workers`: processes of a local cluster, which share this machine's cores. `weight(step)`: its
    share of the time, for the bar.

    A round with a failed step ends first, then raises one line.
    """
    every = [step for steps in rounds for step in steps]
    shown = {"bar_format": "{l_bar}{bar}| [{elapsed}<{remaining}{postfix}]", "smoothing": 0}
    bar, count = tqdm(total=sum(map(weight, every)), desc="steps", **shown), 0
    with cluster(workers) as ray, bar:
        seen = {"STS_OUT": "", "STS_MIRROR": ""}  # not the node's own, if there is none here
        seen |= {name: v for name, v in os.environ.items() if name.startswith(PASSED)}
        has, here = ray.cluster_resources(), os.environ.get("RAY_ADDRESS", "local") == "local"
        cores = batches.cpu_threads() if here else has["CPU"]
        has_gpus = has.get("GPU", 0) > 0
        at_once = has["GPU"] if has_gpus else (workers if here else None) or has["CPU"]
        seen["OMP_NUM_THREADS"] = str(max(1, int(cores // at_once)))  # Ray's own is one
        options = {"max_retries": RETRIES, "retry_exceptions": [OSError]}
        options |= {"runtime_env": {"env_vars": seen}}
        # a worker that has used a GPU can't be given another
        options |= {"max_calls": 1} if has_gpus else {}
        if has_gpus:
            _check_gpus(every, ray.nodes())
        task = ray.remote(**options)(call)
        for steps in rounds:
            running = {}
            for step in steps:
                running[task.options(num_gpus=step.gpus if has_gpus else 0).remote(step)] = step
            failed = []
            while running:
                ended, _ = ray.wait(list(running), timeout=TICK)
                for done in ended:
                    step = running.pop(done)
                    try:
                        ray.get(done)
                    except ray.exceptions.RayError as error:
                        cause = getattr(error, "cause", None) or error
                        line = (str(cause) or type(cause).__name__).splitlines()[0]
                        failed.append(f"{step.name}: {line}")
                    count += 1
                    bar.set_postfix_str(f"{count}/{len(every)}", refresh=False)
                    bar.update(min(weight(step), bar.total - bar.n))
                bar.refresh()
            if failed:
                n = f"{len(failed)} of {len(steps)} steps failed"
                raise ValueError(f"{failed[0]} ({n}; the others are stored)")
