"""All that a run computes: rounds of (function, arguments), each call made once, here or over Ray.
A call needs only what calls of earlier rounds left in the store, and leaves its result there."""

import contextlib
import ctypes
import gc
import os
import socket
from collections.abc import Callable

from tqdm import tqdm

from sts_utils import batches, corpora, questions, run, train
from sts_utils.config import Profile
from sts_utils.experiments import labels, selective, trainings

Call = tuple[Callable, tuple]  # a function and its arguments
PASSED = ("STS_", "HF_", "HUGGINGFACE_", "XDG_CACHE_HOME", "PYTHONPATH")  # variables, to workers
#: Ray gives up on its own processes after 30 s, which a busy machine needs longer for.
PATIENCE = {"RAY_raylet_start_wait_time_s": "300", "RAY_agent_register_timeout_ms": "300000"}
PATIENCE |= {"RAY_worker_register_timeout_seconds": "300", "RAY_USAGE_STATS_ENABLED": "0"}


def gpus(call: Call) -> int:
    """GPUs that a call holds, where there are any: of a fine-tuning all of its launcher's."""
    function, (p, *_) = call
    if function not in (run.finetuned, trainings.evaluated, trainings.outcome) or not p.launcher:
        return 1
    launched = train.launched(p.launcher, p.sft)
    return 0 if launched.get("use_cpu") else launched["num_processes"]


def rounds(p: Profile) -> list[list[Call]]:
    """The paper's experiments: what the untouched model gives, and the plain fine-tunings; what
    these changed, and trainings that need scores; what is left of these."""
    asked = {name[:2] for name in p.stages} or {f"{number:02}" for number in range(1, 17)}
    seed, like, plain = p.seeds[0], trainings.supervised(p), questions.as_asked(p)
    others = questions.sets(p) if asked & {"08", "17"} else []
    runs = [*([p] if asked - {"16", "17"} else []), *others, *([like] if "12" in asked else [])]
    tuned = [(q, s, (run.finetuned, s)) for q in runs for s in q.seeds]
    rl = [(trainings.reinforced, s) for s in like.seeds if "12" in asked]
    tuned += [(like, s, model) for s, model in zip(like.seeds, rl, strict=False)]
    domains = [(p, d, s) for s in p.seeds for d in corpora.domains(p.domains)]

    before: list[Call] = [(run.train_features, (q, s)) for q in runs for s in q.seeds]
    before += [(run.domain_features, of) for of in domains if asked - {"16"}]
    if "06" in asked:
        before += [(run.domain_features, (plain, d, s)) for _, d, s in domains if s == seed]
    before += [(labels.peaks, (p,))] if asked & {"02", "14"} else []
    before += [(labels.density, (p,))] if asked & {"02", "03", "06"} else []
    before += [(run.mathematics, (p,))] if asked & {"11", "13"} else []
    tuning = selective.choices(p) if "13" in asked else []
    after: list[Call] = [(selective.tuned, (p, seed, *choice)) for choice in tuning]
    if not asked - {"01", "02", "03", "13", "14"}:
        return [before, after]
    before += [(function, (q, s)) for q, s, (function, _) in tuned]
    before += [(run.performance, (p,))] if asked - {"16"} else []
    before += [(run.held_out_loss, (q,)) for q in runs if q is not like]
    after += [(run.performance, (q, m, q.evaluation.asked)) for q, _, m in tuned]
    after += [(run.held_out_loss, (q, m)) for q, _, m in tuned if q is not like]
    last: list[Call] = []
    if asked & {"07", "08", "12"}:
        after += [(run.actual_features, (q, s, model)) for q, s, model in tuned]
    if "07" in asked:
        before += [(run.prose_features, (p, s)) for s in p.seeds]
        last.append((selective.zero_features, (p, seed, (run.finetuned, seed))))
    if "10" in asked:
        after += [(run.domain_after, (q, d, s, (run.finetuned, s))) for q, d, s in domains]
    if "11" in asked:
        after += [(trainings.evaluated, (p, name)) for name in (None, *trainings.NAMES[:-1])]
        last.append((trainings.evaluated, (p, trainings.NAMES[-1])))  # where it is the half: there
    if "17" in asked:
        before += [(trainings.gradients, (q, seed)) for q in others]
        before += [(trainings.gradients, (others[0], seed, d)) for d in corpora.domains(p.domains)]
        after += [(trainings.probe, (q, seed)) for q in others]
    elsewhere = questions.sets(p, elsewhere=True) if "16" in asked else []
    for q in {q.domains: q for q in reversed(elsewhere)}.values():
        names, behind = corpora.domains(q.domains), trainings.at_answer(q)
        before += [(run.performance, (q,))]
        before += [(trainings.answer_features, (behind, seed, d)) for d in names]
        before += [(trainings.gradients, (q, seed, d)) for d in names]
        both = [(at, d, s) for at in (q, behind) for d in names for s in q.seeds]
        before += [(run.domain_features, of) for of in both]
    for cell in ((q, s) for q in elsewhere for s in q.seeds):
        behind = trainings.at_answer(cell[0]), cell[1]
        after += [(trainings.outcome, cell), (trainings.probe, cell), (trainings.gradients, cell)]
        after += [(run.train_features, cell), (run.train_features, behind)]
        after.append((trainings.answer_features, behind))
    if "12" in asked:
        before.append((trainings.accuracy, (like, None)))
        after.append((trainings.accuracy, (like, rl[0])))
    return [before, after, last]


def compute(planned, workers=1, *, over_ray=False, weight=lambda _: 1) -> None:
    """Make the Calls of each round, those of most `weight(call)` (share of the time) first; a round
    begins when the one before it has ended. Here, one after the other, with one worker, no
    RAY_ADDRESS and not `over_ray`. Else over the cluster in use, at RAY_ADDRESS, or a new one of
    `workers` processes: a call holds its `gpus`, if there are any, and gives back its memory; a
    round with failed calls ends first, then raises a ValueError of one line."""
    planned = [sorted(calls, key=weight, reverse=True) for calls in planned]
    every = [call for calls in planned for call in calls]
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
        for calls in planned:
            running, failed = {}, []
            for call in calls:
                sent = task.options(num_gpus=gpus(call) if most else 0).remote(*call)
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


def _alone(function: Callable, arguments: tuple) -> None:
    """A call in a process of the cluster: without its result, its memory given back."""
    if not gc.get_freeze_count():  # what is imported lives on: `release` needn't walk it (0.2 s)
        gc.freeze()
    try:
        function(*arguments)
    finally:
        run.release()
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
