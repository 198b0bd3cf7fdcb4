"""Can this machine run a profile, what would it compute, and what does it need of the hub?"""

import argparse
import contextlib
import os
import shutil
from functools import cache
from importlib.util import find_spec

import pandas as pd
import psutil
import torch
import yaml
from huggingface_hub import HfApi, scan_cache_dir, snapshot_download, try_to_load_from_cache

from sts_utils import config, corpora, models, plan, questions, saes, store, train
from sts_utils.batches import A100, cpu_threads, flops_a_second
from sts_utils.config import Profile
from sts_utils.experiments.trainings import PROBE_EXAMPLES, PROBE_QUESTIONS
from sts_utils.prompts import by_domain

#: Bytes a weight of full fine-tuning (weights, gradients, AdamW's two moments, a float32 copy), a
#: factor for activations and caches, and GB of a process beside all that: with CUDA, and without.
TRAINING_BYTES, HEADROOM, PROCESS, CPU_PROCESS = 20, 1.15, 6, 2
#: Hours that are too many; tokens that a written answer and an option's text are assumed to have.
HOURS, WRITTEN, OPTIONS = 72, 300, 40


def prepare(p: Profile) -> None:
    """Raise a one-line ValueError for a profile whose parts are missing or do not fit."""
    torch.set_num_threads(cpu_threads())
    if p.sft.batch % p.sft.micro_batch:
        raise ValueError(f"sft.batch {p.sft.batch} is not made of whole micro-batches")
    width = models.check(p.model, p.layer, p.revision)
    for name in p.saes:
        models.check(p.model, saes.layer(name), p.revision)
    if p.top_n > (features := saes.load(p.sae, width, p.layer).cfg.d_sae):
        raise ValueError(f"top_n is {p.top_n}, but SAE {p.sae!r} has {features} features")
    for name in corpora_of(p):
        corpora.load(name)
    for q in {q.domains: q for q in (p, *questions.sets(p, elsewhere=True))}.values():
        shown = by_domain(corpora.load(q.demonstrations))
        for domain in questions.evaluation_questions(q):
            if (n := len(shown.get(domain, ()))) < p.sts.demonstrations:
                few = f"domain {domain!r} has {n} demonstrations in {q.demonstrations!r}"
                raise ValueError(f"{few}, sts.demonstrations asks for {p.sts.demonstrations}")


def corpora_of(p: Profile) -> list[str]:
    """The names of the corpora that a run reads, each once."""
    names = [p.train, p.grpo.train, p.labels.code, p.labels.dialogue, p.evaluation.mathematics]
    for one in (p, *p.others):
        names += [one.train.partition("/")[0], one.domains, one.demonstrations]
    return list(dict.fromkeys(filter(None, names)))


def needs(p: Profile) -> list[tuple[str, str, str | None]]:
    """(kind, repository, revision) of all that the profile reads from the hub."""
    entries = [corpora.entry(name) for name in corpora_of(p)]
    found = [("dataset", e.hub["path"], e.hub.get("revision")) for e in entries if e.hub]
    if "/" in p.model and not os.path.isdir(p.model):
        found.append(("model", p.model, p.revision))
    public = [n for n in p.saes if not (saes.MADE.fullmatch(n) or saes.folder_of(n))]
    return list(dict.fromkeys(found + [("model", saes.repository(n), None) for n in public]))


@cache
def weights(p: Profile) -> int:
    """Weights of the profile's model, by its config, or if it is not here by data/models.yaml."""
    known = yaml.safe_load((store.DATA / "models.yaml").read_text(encoding="utf-8"))
    cached = p.model in known and try_to_load_from_cache(p.model, "config.json", None, p.revision)
    return known[p.model] if cached is None else models.size(p.model, p.revision)


def cost(call: plan.Call) -> tuple[float, float]:
    """About (FLOPs, seconds here in its precision) of a call: 2 a weight and token of a forward
    pass, 6 of a training step (8 with checkpointing); lengths are means (data/corpora.yaml)."""
    function, (p, *rest) = call
    (query, solution), (asked, _) = corpora.entry(p.train).tokens, corpora.entry(p.domains).tokens
    e, g, length = p.evaluation, p.grpo, min(query + solution, p.sft.max_length)
    answer = min(WRITTEN, e.max_new_tokens) if e.mode == "generation" else OPTIONS
    limits = {"performance": (*rest, None, None)[1], "outcome": e.asked, "probe": PROBE_QUESTIONS}
    most = min(limits.get(function.__name__) or e.questions, e.questions)  # of a domain
    many = sum(min(k, most) for k in corpora.entry(p.domains).questions.values())
    asks = 2 * many * (answer + asked)
    learned = (8 if p.sft.gradient_checkpointing else 6) * p.sft.epochs * length  # of an example
    of, a_weight = {
        "train_features": (p, 4 * (p.shift.queries * query + p.shift.sets * length)),
        "domain_features": (p, 2 * (2 * p.sts.queries * asked + p.sts.demonstrations * length)),
        "finetuned": (p.sft, learned * p.sft.examples),
        "outcome": (p.sft, learned * p.sft.examples + asks),
        "probe": (p.sft, learned * PROBE_EXAMPLES + asks),
        "evaluated": (p.sft, learned * (p.mixture.examples + p.mixture.extra)),
        "tuned": (p.sft, learned * p.selective.examples),
        "reinforced": (g, 8 * g.steps * g.prompts * g.generations * g.completion_tokens),
        "performance": (e, asks),
    }.get(function.__name__, (p, 2 * max(e.held_out, p.sts.queries) * length))
    total = float(a_weight * weights(p))
    return total, total / flops_a_second(of.dtype)


def estimate(p: Profile) -> pd.DataFrame:
    """A row a function that the plan calls: calls, FLOPs, seconds here and hours of one A100."""
    rows = [(call[0].__name__, 1, *cost(call)) for calls in plan.rounds(p) for call in calls]
    table = pd.DataFrame(rows, columns=["function", "calls", "flops", "seconds"])
    table = table.groupby("function", as_index=False).sum()
    return table.assign(a100_hours=table.flops / A100 / 3600)


def workers(p: Profile) -> int:
    """Processes that compute side by side: one a GPU; else as many as there are cores and memory
    for (one thread each makes more of two cores than two threads)."""
    if p.executor == "local" or find_spec("ray") is None:
        return 1
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    each = weights(p) * TRAINING_BYTES * HEADROOM / 1e9 + CPU_PROCESS
    return max(1, min(int(psutil.virtual_memory().available / 1e9 / each), cpu_threads()))


def problems(p: Profile) -> list[str]:
    """Why this machine can't run the profile: a line each, or none; of the hub in its words."""
    missing = [n for n in ("vllm", "ray") if n in (p.engine, p.executor) and not find_spec(n)]
    lines = _memory(p) + [f"{name} is not installed" for name in missing]
    kept = len(p.seeds) + sum(o.seeds for o in p.others if not o.domains) + 8  # models
    need = kept * weights(p) * getattr(torch, p.sft.dtype).itemsize
    need -= sum(f.stat().st_size for f in store.RUNS.rglob("*") if f.is_file())  # that goes on
    place = next(folder for folder in (store.RUNS, *store.RUNS.parents) if folder.exists())
    if need > (free := shutil.disk_usage(place).free):
        sizes = f"about {need / 1e9:.2g} GB needed, {free / 1e9:.2g} GB free at {place}"
        lines.append(f"disk: {sizes}: set STS_OUT to a larger disk")
    mirror, here = os.environ.get("STS_MIRROR") or "/none", set()
    with contextlib.suppress(Exception):  # no cache yet
        here = {repository.repo_id for repository in scan_cache_dir().repos}
    for kind, name, _ in needs(p):
        if name not in here and not os.path.isdir(os.path.join(mirror, name)):
            try:
                HfApi().auth_check(name, repo_type=kind)
            except Exception as error:  # gated, missing, no answer: they have no base of their own
                said = str(error).strip().partition("\n")[0]
                lines.append(f"hub: {name}: {type(error).__name__}: {said}")
    return lines


def _memory(p: Profile) -> list[str]:
    """Main memory and time without a GPU; the GPUs', and main memory for what they have no room."""
    n, memory = weights(p) / 1e9, psutil.virtual_memory().total / 1e9
    need = n * TRAINING_BYTES * HEADROOM
    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi") and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
            return [f"CUDA: torch {torch.__version__} can't use this GPU: install a build that can"]
        hours = estimate(p).seconds.sum() / 3600
        size = f"fine-tuning takes {need:.0f} GB of {memory:.0f}, all about {hours:,.0f} hours"
        return [] if need < memory and hours < HOURS else [f"no GPU: {size}: use a CUDA machine"]
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    most = max(gpu.total_memory / 1e9 for gpu in gpus)
    share = train.processes(p.sft, len(gpus)) if p.launcher else 1
    if share > 1:  # each reads float32 weights, then holds its shard
        each, beside = n * train.MASTER_BYTES / share * HEADROOM, share * n * 4
    else:
        each = n * 2 * getattr(torch, p.sft.dtype).itemsize * HEADROOM
        beside = 0 if most > need else n * train.MASTER_BYTES + PROCESS
    sizes = f"{each:.0f} GB on each of {share} GPUs and {beside:.0f} GB beside"
    said = f"memory: fine-tuning takes {sizes}, here are {most:.0f} and {memory:.0f}"
    return [] if most > each and memory > beside else [said]


def parser(command: str) -> argparse.ArgumentParser:
    """The options of a command on profiles."""
    options = argparse.ArgumentParser(f"sts {command}")
    options.add_argument("--profile", default="smol", help="a name in profiles/, or a YAML file")
    options.add_argument("--seeds", help="like 0,1,2; the profile's own if left out")
    return options


def main(words: list[str]) -> int:
    """The commands `check` and `fetch`."""
    command, *options = words
    chosen = parser(command).parse_args(options)
    profiles = [config.load(name, chosen.seeds) for name in config.members(chosen.profile)]
    return fetch(profiles) if command == "fetch" else report(profiles)


def fetch(profiles: list[Profile]) -> int:
    """All that profiles read of the hub, into its client's cache, for HF_HUB_OFFLINE=1."""
    for profile in profiles:
        for kind, repository, revision in needs(profile):
            print(snapshot_download(repository, repo_type=kind, revision=revision), flush=True)
        for corpus in corpora_of(profile):
            corpora.load(corpus)  # as `datasets` prepares it
    return 0


def report(profiles: list[Profile]) -> int:
    """Print each profile's plan and its problems; 0 if there are none."""
    lines = []
    for profile in profiles:
        table = estimate(profile)
        table.loc[len(table)] = ["total", *table.sum(numeric_only=True)]
        print(f"{profile.name}: {profile.model}, {len(profile.seeds)} seeds")
        print(table.to_string(index=False, float_format="{:.3g}".format), end="\n\n")
        lines += [f"can't run {profile.name}: {line}" for line in problems(profile)]
    print("\n".join(lines) or "This machine can run it.")
    return 1 if lines else 0
