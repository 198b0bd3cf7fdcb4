"""Can this machine run a profile, what would it compute, and what does it need of the hub?"""

import argparse
import contextlib
import importlib.util
import os
import shutil
from functools import cache

import pandas as pd
import psutil
import torch
import yaml
from huggingface_hub import HfApi, scan_cache_dir, snapshot_download, try_to_load_from_cache
from huggingface_hub.constants import CONFIG_NAME

from sts_utils import batches, config, corpora, models, plan, questions, saes, store, train
from sts_utils.config import Profile
from sts_utils.examples import by_domain

#: Bytes a weight of full fine-tuning (weights, gradients, AdamW's two moments, a float32 copy) and
#: to load it; a factor for activations and caches, and GB of a process beside all that.
TRAINING_BYTES, BYTES, HEADROOM, PROCESS = 20, {"bfloat16": 2, "float32": 4}, 1.15, 6
#: FLOP/s of a CPU core and of an A100, on average; hours that are too many; tokens that a written
#: answer and an option's text are assumed to have.
CORE, A100, HOURS, WRITTEN, OPTIONS = 1.7e11, 6e13, 72, 300, 40


def prepare(p: Profile) -> None:
    """Raise a one-line ValueError for a profile whose parts are missing or do not fit."""
    torch.set_num_threads(batches.cpu_threads())
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


@cache
def weights(p: Profile) -> int:
    """Weights of the profile's model: counted from its config, or where the hub client's cache has
    none, of data/models.yaml, so that nothing is downloaded."""
    known = yaml.safe_load((store.DATA / "models.yaml").read_text(encoding="utf-8"))
    cached = p.model in known and try_to_load_from_cache(p.model, CONFIG_NAME, revision=p.revision)
    return known[p.model] if cached is None else models.size(p.model, p.revision)


def flops(call: plan.Call) -> float:
    """About what a call computes, its share of a run's time: 2 a weight and token of a forward
    pass, 6 of a training step (8 with checkpointing); lengths are means (data/corpora.yaml)."""
    function, (p, *_) = call
    (query, solution), (asked, _) = corpora.entry(p.train).tokens, corpora.entry(p.domains).tokens
    e, g, length = p.evaluation, p.grpo, min(query + solution, p.sft.max_length)
    answer = min(WRITTEN, e.max_new_tokens) if e.mode == "generation" else OPTIONS
    many = sum(min(k, e.questions) for k in corpora.entry(p.domains).questions.values())
    training = 8 if p.sft.gradient_checkpointing else 6
    passes, tokens = {
        "train_features": (2, 2 * p.shift.queries * query + 2 * p.shift.sets * length),
        "domain_features": (2, 2 * p.sts.queries * asked + p.sts.demonstrations * length),
        "finetuned": (training, p.sft.epochs * p.sft.examples * length),
        "outcome": (training, p.sft.epochs * p.sft.examples * length),
        "evaluated": (training, p.sft.epochs * (p.mixture.examples + p.mixture.extra) * length),
        "tuned": (training, p.sft.epochs * p.selective.examples * length),
        "reinforced": (8, g.steps * g.prompts * g.generations * g.completion_tokens),
        "performance": (2, many * (answer + asked)),
        "zero_features": (2, 7 * len(p.ablation.counts) * p.ablation.questions * length),
        "peaks": (2, 6 * p.labels.samples * p.labels.tokens),
    }.get(function.__name__, (2, max(e.held_out, p.sts.queries) * length))
    return float(passes * weights(p) * tokens)


def estimate(p: Profile) -> pd.DataFrame:
    """A row a function that the plan calls: calls, FLOPs and hours of one A100."""
    rows = [(call[0].__name__, 1, flops(call)) for calls in plan.rounds(p) for call in calls]
    table = pd.DataFrame(rows, columns=["function", "calls", "flops"])
    table = table.groupby("function", as_index=False).sum()
    return table.assign(a100_hours=table.flops / A100 / 3600)


def workers(p: Profile) -> int:
    """Processes that compute side by side: one a GPU; else as many as there are cores and memory
    for (one thread each makes more of two cores than two threads)."""
    if p.executor == "local" or importlib.util.find_spec("ray") is None:
        return 1
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    each = weights(p) * TRAINING_BYTES * HEADROOM / 1e9 + PROCESS
    return max(1, min(int(psutil.virtual_memory().available / 1e9 / each), batches.cpu_threads()))


def problems(p: Profile) -> list[str]:
    """Why this machine can't run the profile: a line each, or none."""
    asked = [name for name in (p.engine, p.executor) if name in ("vllm", "ray")]
    missing = [name for name in asked if importlib.util.find_spec(name) is None]
    lines = [f"{name} is not installed" for name in missing]
    kept = len(p.seeds) + sum(o.seeds for o in p.others if not o.domains) + 8
    need = kept * weights(p) * BYTES[p.sft.dtype]  # models kept
    need -= sum(f.stat().st_size for f in store.RUNS.rglob("*") if f.is_file())  # that goes on
    place = next(folder for folder in (store.RUNS, *store.RUNS.parents) if folder.exists())
    if need > (free := shutil.disk_usage(place).free):
        sizes = f"about {need / 1e9:.2g} GB needed, {free / 1e9:.2g} GB free at {place}"
        lines.append(f"disk: {sizes}: set STS_OUT to a larger disk")
    return [*_memory(p), *lines, *_hub(p)]


def _memory(p: Profile) -> list[str]:
    """Main memory and time without a GPU; the GPUs', and main memory for what they have no room."""
    n, memory = weights(p) / 1e9, psutil.virtual_memory().total / 1e9
    need, count = n * TRAINING_BYTES * HEADROOM, torch.cuda.device_count()
    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi") and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
            return [f"CUDA: torch {torch.__version__} can't use this GPU: install a build that can"]
        hours = estimate(p).flops.sum() / (CORE * batches.cpu_threads()) / 3600
        size = f"fine-tuning takes {need:.0f} GB of {memory:.0f}, all about {hours:,.0f} hours"
        fits = need < memory and hours < HOURS
        return [] if fits else [f"no GPU: {size}: use a CUDA machine"]
    most = max(torch.cuda.get_device_properties(i).total_memory / 1e9 for i in range(count))
    share = train.processes(p.sft, count) if p.launcher else 1
    if share > 1:  # each reads float32 weights, then holds its shard
        each, beside = n * train.MASTER_BYTES / share * HEADROOM, share * n * BYTES["float32"]
    else:
        each, beside = n * 2 * BYTES[p.sft.dtype] * HEADROOM, n * train.MASTER_BYTES + PROCESS
    if most > each and (memory > beside or (share == 1 and most > need)):
        return []
    sizes = f"{each:.0f} GB on each of {share} GPUs and {beside:.0f} GB beside"
    return [f"memory: fine-tuning takes {sizes}, here are {most:.0f} and {memory:.0f}"]


def needs(p: Profile) -> list[tuple[str, str, str | None]]:
    """(kind, repository, revision) of all that the profile reads from the hub."""
    entries = [corpora.entry(name) for name in corpora_of(p)]
    found = [("dataset", e.hub["path"], e.hub.get("revision")) for e in entries if e.hub]
    if "/" in p.model and not os.path.isdir(p.model):
        found.append(("model", p.model, p.revision))
    public = [n for n in p.saes if not (saes.RANDOM.fullmatch(n) or saes.folder_of(n))]
    return list(dict.fromkeys(found + [("model", saes.repository(n), None) for n in public]))


def _hub(p: Profile) -> list[str]:
    """What is not here and can't be had from the hub, in its client's own words."""
    mirror, lines, here = os.environ.get("STS_MIRROR") or "/none", [], set()
    with contextlib.suppress(Exception):  # no cache yet
        here = {repository.repo_id for repository in scan_cache_dir().repos}
    for kind, name, _ in needs(p):
        if name in here or os.path.isdir(os.path.join(mirror, name)):
            continue
        try:
            HfApi().auth_check(name, repo_type=kind)
        except Exception as error:  # gated, missing, no answer: they have no base of their own
            said = (str(error).strip().splitlines() or [""])[0]
            lines.append(f"hub: {name}: {type(error).__name__}: {said}")
    return lines


def fetch(chosen: argparse.Namespace) -> int:
    """The command `fetch`: all of it into the hub client's cache, for HF_HUB_OFFLINE=1."""
    for profile in map(config.load, config.members(chosen.profile)):
        for kind, repository, revision in needs(profile):
            print(snapshot_download(repository, repo_type=kind, revision=revision), flush=True)
        for corpus in corpora_of(profile):
            corpora.load(corpus)  # as `datasets` prepares it
    return 0


def main(chosen: argparse.Namespace) -> int:
    """The command `check`: each profile's plan and its problems; 0 if there are none."""
    lines = []
    for name in config.members(chosen.profile):
        profile = config.load(name, chosen.seeds)
        table = estimate(profile)
        table.loc[len(table)] = ["total", *table.sum(numeric_only=True)]
        print(f"{profile.name}: {profile.model}, {len(profile.seeds)} seeds")
        print(table.to_string(index=False, float_format="{:.3g}".format), end="\n\n")
        lines += [f"can't run {profile.name}: {line}" for line in problems(profile)]
    print("\n".join(lines) or "This machine can run it.")
    return 1 if lines else 0
