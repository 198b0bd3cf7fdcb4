"""Can this machine run a profile, and what would it cost? Said before anything is downloaded."""

import importlib.metadata
import importlib.util
import math
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence

import pandas as pd
import psutil
import torch

from sts_utils import config
from sts_utils.config import Profile
from sts_utils.method.extract import ROWS
from sts_utils.scale import cost, fetch
from sts_utils.scale.cost import Shape
from sts_utils.store import ROOT, RUNS
from sts_utils.training import sft

#: FLOP/s that a CPU core sustains (measured: 3.4e11 on two, SmolLM2 in bfloat16), and the hours
#: that are too many.
CORE, HOURS = 1.7e11, 72.0
#: Bytes a weight: full fine-tuning (weights, gradients, AdamW's two moments and a float32 master).
TRAINING_BYTES = 20
#: Bytes a weight to load it only.
BYTES = {"bfloat16": 2, "float32": 4}
#: Memory beside weights and optimizer: activations, caches, fragments.
HEADROOM = 1.15
#: Features of a public SAE, as wide as the profiles' widest.
FEATURES = 131_072
LAUNCHER = "set launcher: profiles/accelerate/fsdp.yaml"


def problems(profile: Profile) -> list[str]:
    """Why this machine can't run `profile`, a line each; none: it can."""
    model, _ = cost.shape(profile)
    plan = cost.table(profile)
    on_cpu = [] if torch.cuda.device_count() else _cpu(profile, model, plan)
    on_gpus = _gpus(profile, model) if torch.cuda.device_count() else []
    return [*on_cpu, *on_gpus, *_versions(profile), *_disk(profile, model, plan), *_reach(profile)]


def _memory() -> float:
    return psutil.virtual_memory().total / 1e9


def _training(profile: Profile, model: Shape) -> tuple[float, str]:
    """GB that full fine-tuning takes, and the same in words."""
    need = model.parameters * TRAINING_BYTES * HEADROOM / 1e9
    size = f"about {need:.0f} GB ({TRAINING_BYTES} bytes a weight)"
    return need, f"fine-tuning {profile.model} takes {size}"


def _cpu(profile: Profile, model: Shape, plan: pd.DataFrame) -> list[str]:
    """Memory and time without a GPU."""
    (need, told), memory, cores = _training(profile, model), _memory(), config.cpu_threads()
    hours, lines = plan.flops.sum() / (CORE * cores) / 3600, []
    if need > memory:
        has = f"this machine has {memory:.0f} GB of memory"
        lines.append(f"no GPU: {told}, {has}: use a CUDA machine")
    if hours > HOURS:
        told = f"about {hours:,.0f} hours on {cores} cores (limit {HOURS:.0f})"
        lines.append(f"no GPU: {told}: use a CUDA machine")
    return lines


def _gpus(profile: Profile, model: Shape) -> list[str]:
    """The GPUs' memory, and main memory beside it."""
    count, (need, told), memory = torch.cuda.device_count(), _training(profile, model), _memory()
    gpus = [torch.cuda.get_device_properties(i).total_memory / 1e9 for i in range(count)]
    widest = max(profile.dtype, profile.evaluation.dtype, key=BYTES.get)
    loading = model.parameters * BYTES[widest] * HEADROOM / 1e9
    if (most := max(gpus)) < loading:
        size = f"{loading:.0f} GB on one GPU, the largest has {most:.0f} GB"
        return [f"GPU memory: {profile.model} needs {size}"]
    lines, alone = [], {"GRPO": profile.grpo.dtype}  # alone: in one process
    if profile.launcher:
        used = sorted(gpus)[-sft.processes(profile.sft, 1, count) :]
        if sum(used) < need:
            has = " + ".join(f"{gpu:.0f}" for gpu in used)
            has = f"the GPUs that share a batch have {has} GB"
            lines.append(f"GPU memory: {told}, {has}: use more GPUs")
        if memory < (read := len(used) * model.parameters * BYTES["float32"] / 1e9):
            lines.append(
                f"memory: {len(used)} processes read float32 weights of {profile.model}, "
                f"{read:.0f} GB together, this machine has {memory:.0f} GB: "
                "set num_processes in the launcher"
            )
    else:
        alone["fine-tuning"] = profile.sft.dtype
    beside = model.parameters * sft.MASTER_BYTES / 1e9  # the optimizer, if the GPU has no room
    for what, dtype in alone.items():
        held = model.parameters * 2 * BYTES[dtype] * HEADROOM / 1e9
        if most < min(need, held) or (most < need and memory < beside):
            mend = "take a larger machine" if what == "GRPO" else LAUNCHER
            lines.append(
                f"GPU memory: {what} of {profile.model} takes {held:.0f} GB on one GPU and "
                f"{beside:.0f} GB there or in main memory, this machine has {most:.0f} and "
                f"{memory:.0f} GB: {mend}"
            )
    return lines


def _versions(profile: Profile) -> list[str]:
    """Installed libraries against constraints.txt, and those that engine and executor need."""
    lines, pinned = [], (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in pinned if line.count("==") == 1 and line[0] != "#")
    for package in ("torch", "transformers", "sae-lens", "trl", "lm-eval", "datasets"):
        try:
            version = importlib.metadata.version(package).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{package} is not installed: run `make setup`")
            continue
        if (pin := pins.get(package, version)).split("+")[0].strip() != version:
            lines.append(f"{package} is {version}, constraints.txt has {pin}: run `make setup`")
    for key, package in (("engine", "vllm"), ("executor", "ray")):
        if getattr(profile, key) == package and importlib.util.find_spec(package) is None:
            mend = f"install it, or set {key} to its default"
            lines.append(f"{key}: {package} is not installed: {mend}")
    return lines


def _disk(profile: Profile, model: Shape, plan: pd.DataFrame) -> list[str]:
    """Free disk against what is downloaded and the fine-tuned models that a run keeps."""
    needs = fetch.needs(profile)
    downloads = {"model": model.parameters * 2, "sae": 4e9, "dataset": 1e8}
    need = model.parameters * BYTES[profile.sft.dtype] * plan.models.sum()
    need += sum(downloads[n.kind] for n in needs if not fetch.at_hand(n))
    rows = len(profile.seeds) * (14 * profile.sts.queries + min(ROWS, profile.shift.queries))
    saes = sum(n.kind == "sae" for n in needs)
    need += saes * rows * FEATURES * 16  # four sums in float32
    place = next(folder for folder in (RUNS, *RUNS.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    told = f"about {need / 1e9:.0f} GB needed, {free / 1e9:.0f} GB free at {place}"
    return [] if free > need else [f"disk: {told}: set STS_OUT to a larger disk"]


def _reach(profile: Profile, timeout: float = 4.0) -> list[str]:
    """Whether what is not here can be had from the hub, and access to gated repositories."""
    missing = [n for n in fetch.needs(profile) if n.required and not fetch.at_hand(n)]
    listed = dict.fromkeys((n.repo_type, fetch.repository(n)) for n in missing)
    if listed and (why := unreachable(timeout)):
        names = ", ".join(name for _, name in listed)
        command = f"python -m sts_utils fetch --profile {profile.name} --folder F"
        mend = f"Where there is access, run `{command}`, and here set STS_MIRROR=F"
        return [f"hub: {why}, and not here: {names}. {mend}"]
    errors = {name: no_access(kind, name) for kind, name in listed}
    return [f"hub: {name}: {error}" for name, error in errors.items() if error]


def unreachable(timeout: float) -> str:
    """Why the hub can't be asked; "" where it can (any answer counts)."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return "HF_HUB_OFFLINE is set"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(f"{endpoint}/robots.txt", timeout=timeout).close()
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        return f"{endpoint} can't be reached ({getattr(error, 'reason', error)})"
    return ""


def no_access(kind: str, name: str) -> str:
    """Why a hub repository may not be read; "" where it may."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError

    try:
        HfApi().auth_check(name, repo_type=kind)
    except GatedRepoError:
        return "is gated: accept its licence on the hub and run `hf auth login`"
    except Exception as error:  # missing, private, rate limits: the hub's own words
        first, *_ = str(error).strip().split("\n")
        return f"{type(error).__name__}: {first}"
    return ""


def add_parser(commands) -> None:
    """The command `check`: `check --profile paper`."""
    told = "say whether this machine can run a profile, and what it costs"
    command = commands.add_parser("check", help=told)
    command.add_argument("--profile", default="smol", help="a name in profiles/, or a YAML file")
    command.add_argument("--seeds", help="like 0,1,2; the profile's own if left out")
    command.set_defaults(run=lambda chosen: main(config.load_all(chosen.profile, chosen.seeds)))


def main(profiles: Sequence[Profile]) -> int:
    """Print each profile's plan and its problems; 0 if this machine can run them all, else 1."""
    lines = []
    for profile in profiles:
        _, source = cost.shape(profile)
        print(f"{profile.name}: {profile.model} ({source}), {len(profile.seeds)} seeds")
        print(as_text(cost.table(profile)))
        lines += [f"{profile.name}: {line}" for line in problems(profile)]
    half, single = (f"{cost.PEAK[dtype] / 1e12:.0f}" for dtype in ("bfloat16", "float32"))
    print(
        f"GPU-hours: FLOPs / (peak of one A100: {half} TFLOP/s bfloat16, {single} float32 as TF32) "
        f"/ utilisation ({cost.UTILISATION:.0%}, decoding {cost.DECODING:.0%}); "
        "FLOPs as in cost.forward_flops."
    )
    print("\n".join(f"can't run {line}" for line in lines) or "This machine can run it.")
    return 1 if lines else 0


def as_text(plan: pd.DataFrame) -> str:
    """The plan with its sum."""
    summed = plan[["tokens", "flops", "gpu_hours"]].sum().to_dict()
    lines = [f"  {'kind':<40}{'steps':>7}{'tokens':>12}{'FLOPs':>10}{'GPU-hours':>11}"]
    for row in [*plan.to_dict("records"), {"kind": "total", "steps": "", **summed}]:
        hours = "<0.01" if row["gpu_hours"] < 0.005 else f"{row['gpu_hours']:,.2f}"
        power = min(int(math.log10(max(row["tokens"], 1)) // 3), 3)
        tokens = f"{row['tokens'] / 1000**power:,.1f}{' kMG'[power]}".replace(" ", "")
        cells = f"{tokens:>12}{row['flops']:>10.1e}{hours:>11}"
        lines.append(f"  {row['kind']:<40}{row['steps']:>7}{cells}")
    return "\n".join(lines)
