"""Units over a Ray cluster: `plan` says what a run computes, in waves; `compute` leaves it all in the store.

A unit returns nothing: its result goes to the store, which all machines share (STS_OUT). A unit that is done only
reads its artifact, so a unit whose worker was killed is simply run again.
"""

import contextlib
import importlib
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tqdm import tqdm

from sts_utils.config import Profile
from sts_utils.engines import accelerate as sft_worker
from sts_utils.experiments import mixtures
from sts_utils.runs import samples, units

#: What a worker must see as this process does.
PASSED = ("STS_OUT", "STS_MIRROR", "HF_HUB_OFFLINE", "HF_HOME", "HF_TOKEN", "PYTHONPATH")
RETRIES = 3
#: Ray gives up on its own processes after 30 s, which a busy machine needs longer for.
PATIENCE = {
    "RAY_raylet_start_wait_time_s": "300", "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300", "RAY_USAGE_STATS_ENABLED": "0",
}  # fmt: skip


PLACES = {
    "units": "runs.units", "performances": "runs.performance", "control": "control.matrix", "executor": "engines.ray",
    **{n: f"experiments.{n}" for n in ("labels", "reinforcement", "selective", "ablation", "mixtures")},
}


class Unit(NamedTuple):
    """A call that can run anywhere; an argument that is a Unit is called first, where this one runs."""

    name: str
    function: str  # module:name
    args: tuple
    gpus: int = 1  # held while it runs, where there are any


def _unit(function: str, profile: Profile, *args, gpus: int = 1) -> Unit:
    told = [
        function.removeprefix("units:").removeprefix("performances:").replace(":", " "),
        profile.train,
        *(a.name if isinstance(a, Unit) else a for a in args),
    ]
    return Unit(" ".join(map(str, told)), f"sts_utils.{PLACES[function.partition(chr(58))[0]]}:{function.partition(chr(58))[2]}", (profile, *args), gpus)


def plan(profile: Profile, whole: bool = True) -> list[list[Unit]]:
    """Waves of independent units, each needing only earlier waves; no further experiments if not `whole`."""
    waves, domains = [[], [], [], [], []], list(samples.evaluation_questions(profile))
    gpus = sft_worker.gpus_here(profile) if profile.launcher else 1
    if base := profile.runs_paper:
        _base(profile, domains, waves, whole, gpus)
    if whole and profile.runs_control:
        waves[0] += [] if base else [_unit("performances:performance", profile)]
        seeds = sorted(set(profile.control.seeds) - set(profile.seeds if base else ()))
        waves[0] += [_unit("units:domain_stats", profile, domain, seed) for seed in seeds for domain in domains]
        cells = [([name], [seed]) for seed in profile.control.seeds for name in profile.control.sets]
        waves[1] += [_unit("control:compute", profile, *cell, gpus=gpus) for cell in cells]
    return [wave for wave in waves if wave]


def _base(profile: Profile, domains: list[str], waves: list[list[Unit]], whole: bool, gpus: int) -> None:
    """Every seed's run and, if `whole`, the further experiments (Figs 1b, 5 to 7), added to `waves`."""
    first, also = profile.seeds[0], [_unit("units:sweep", profile)] if whole else []
    for run in [profile] + [samples.trained_on(profile, name) for name in profile.others if whole]:
        for seed in run.seeds:
            tuned = _unit("units:finetuned", run, seed, gpus=gpus)
            waves[0] += [tuned, _unit("units:train_stats", run, seed, *(also if run is profile else []))]
            waves[1] += [_unit("performances:performance", run, tuned), _unit("units:actual_stats", run, seed)]
            waves[1] += [_unit("performances:held_out_performance", run, tuned)] if run is profile else []
    both = [(domain, seed) for seed in profile.seeds for domain in domains]
    waves[0] += [_unit(f"units:{what}", profile) for what in ("performance", "held_out_performance")]
    waves[0] += [_unit("units:domain_stats", profile, *of, *also) for of in both]
    if not whole:
        return
    verifiable, reinforced = samples.trained_on(profile, profile.grpo.train), _unit("reinforcement:trained", profile)
    waves[0] += [reinforced, _unit("units:train_stats", verifiable, first), _unit("labels:peaks_of", profile)]
    waves[1] += [_unit("performances:performance", verifiable, reinforced), _unit("reinforcement:accuracy", profile)]
    waves[1] += [_unit("units:actual_stats", verifiable, first, reinforced)]
    waves[1] += [_unit("units:domain_after", profile, *of) for of in both]
    draws = [("estimated", 0), *(("random", draw) for draw in range(profile.selective.draws))]
    dims = [(which, n, draw) for n in profile.selective.dims for which, draw in draws if profile.sweep.layers]
    waves[1] += [_unit("selective:trained", profile, *of) for of in dims]
    waves[2] += [_unit("ablation:logliks", profile), _unit("executor:mixture_answers", profile)]
    names = ("none", "all least", "half", "all most", "STS")
    waves[3] += [_unit("executor:mixture", profile, name, gpus=gpus) for name in names]
    waves[4] += [_unit("mixtures:changes", profile)]


def mixture_answers(profile: Profile) -> None:
    """The untouched model's answers to the questions of the two domains of the mixtures."""
    for domain in mixtures.affected(profile):
        mixtures.answered(profile, domain)


def mixture(profile: Profile, name: str) -> units.Trained:
    """The model trained on the mixture `name`."""
    return mixtures.mixed(profile, mixtures.sizes(profile)[name])


def call(unit: Unit) -> object:
    """What a unit's function returns; a fine-tuned model is trained now if it is missing."""
    module, _, function = unit.function.partition(":")
    args = [call(arg) if isinstance(arg, Unit) else arg for arg in unit.args]
    found = getattr(importlib.import_module(module), function)(*args)
    if isinstance(found, units.Trained):
        found.folder()
    return found


def run_unit(unit: Unit) -> None:
    """A Ray task: the unit, without its result. It leaves no vLLM process on its GPU."""
    try:
        call(unit)
    finally:
        units.release()


def compute(profile: Profile, whole: bool = True) -> None:
    """Every unit of the run, over the cluster if the profile's executor is Ray; else notebooks compute at need."""
    if profile.executor == "ray":
        execute(plan(profile, whole))


@contextlib.contextmanager
def cluster() -> Iterator:
    """Ray, connected to RAY_ADDRESS, to the cluster that this process uses already, or to a new local one."""
    try:
        import ray
    except ImportError:
        raise ValueError("executor: ray needs Ray: pip install -c constraints.txt -e '.[scale]'") from None
    if ray.is_initialized():
        yield ray
        return
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS", "local")
    try:
        ray.init(address, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(f"RAY_ADDRESS={address!r}: {str(error).splitlines()[0]}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def execute(waves: Sequence[Sequence[Unit]]) -> None:
    """Run the waves, one after another; a wave with a failed unit ends first, then raises one line."""
    with cluster() as ray, tqdm(total=sum(map(len, waves)), desc="units", unit="unit") as bar:
        passed = {"env_vars": {name: os.environ[name] for name in PASSED if name in os.environ}}
        has_gpus = ray.cluster_resources().get("GPU", 0) > 0
        fresh = {"max_calls": 1} if has_gpus else {}  # a worker that has used a GPU can't be given another
        task = ray.remote(max_retries=RETRIES, retry_exceptions=[OSError], runtime_env=passed, **fresh)(run_unit)
        for wave in waves:
            running = {task.options(num_gpus=unit.gpus if has_gpus else 0).remote(unit): unit for unit in wave}
            failed = []
            while running:
                (done,), _ = ray.wait(list(running))
                unit = running.pop(done)
                try:
                    ray.get(done)
                except ray.exceptions.RayError as error:
                    cause = getattr(error, "cause", None) or error
                    failed.append(f"{unit.name}: {(str(cause) or type(cause).__name__).splitlines()[0]}")
                bar.update()
            if failed:
                raise ValueError(f"{failed[0]} ({len(failed)} of {len(wave)} units failed; the others are stored)")
