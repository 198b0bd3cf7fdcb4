"""Can this machine run a profile, and what would it cost? Said before anything is downloaded or loaded."""

import argparse
import importlib.metadata
import importlib.util
import math
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sts_utils import config, models
from sts_utils.config import Profile
from sts_utils.method.extract import ROWS
from sts_utils.scale import fetch as hub
from sts_utils.store import CACHE, RUNS
from sts_utils.training import sft as finetune

#: Dense peak of an NVIDIA A100 80 GB, FLOP/s: bfloat16, and float32 as TF32 (its data sheet).
PEAK = {"bfloat16": 312e12, "float32": 156e12}
#: Share of the peak that is assumed: a forward or training pass, and decoding one token at a time in batches.
UTILISATION, DECODING = 0.4, 0.1
#: FLOP/s that a CPU core sustains (measured: 3.4e11 on two, SmolLM2 in bfloat16), and the hours that are too many.
CORE, HOURS = 1.7e11, 72.0
#: Bytes a weight: full fine-tuning (weights, gradients, AdamW's two moments and a float32 master), and to load it only.
TRAINING_BYTES, BYTES = 20, {"bfloat16": 2, "float32": 4}
#: Memory beside weights and optimizer: activations, caches, fragments.
HEADROOM = 1.15
#: Mean tokens of (query, solution); measured with SmolLM2's tokenizer on 300 examples, except where said.
LENGTHS = {
    "gsm-symbolic": (80, 103), "chain-sum": (28, 22), "code-io": (127, 106), "pubmedqa": (26, 166),
    "mts-dialog": (150, 0), "mmlu-test": (101, 0), "mmlu-cot": (99, 80), "gsm8k": (78, 101), "mmlu-pro": (193, 0),
    "mmlu": (101, 0), "math": (76, 232), "math-500": (76, 232),
    # estimates, from what is published about their sizes
    "limo": (110, 6500), "limo-or-gsm8k": (110, 6500), "mmlu-pro-cot": (193, 220), "verifiable-coding": (450, 300),
    "mens-mental-health": (60, 1500), "hh-rlhf": (250, 0),
}  # fmt: skip
#: Questions of each domain of a corpus (those of `mmlu` after mapping are not fewer than this).
QUESTIONS = {
    "mmlu-pro": (717, 789, 1132, 410, 844, 969, 818, 381, 1101, 1351, 924, 499, 1299, 798),
    "mmlu-test": (100, 149, 100, 200, 150, 49, 395, 200, 150, 250, 498, 250, 199, 100),
}
#: Examples of a training set, where that limits what a profile asks for.
EXAMPLES = {"limo": 817}
#: Tokens that a written answer and an option's text are assumed to have.
WRITTEN, OPTIONS = 300, 40
#: Models of a mixture study (mixtures.sizes), beside the training sets alone.
MIXTURES = 5
#: Features of a public SAE, as wide as the profiles' widest.
FEATURES = 131_072


class Shape(NamedTuple):
    """What the formula needs of a model. `embeddings`: weights of the embedding and the head."""

    parameters: int
    layers: int
    width: int
    vocabulary: int
    context: int
    embeddings: int


#: For models whose config can't be read yet, from their public config.json (checked by tests/test_shapes.py).
SHAPES = {
    "meta-llama/Meta-Llama-3-8B-Instruct": Shape(8_030_261_248, 32, 4096, 128_256, 8192, 2 * 128_256 * 4096),
    "Qwen/Qwen2.5-7B-Instruct": Shape(7_615_616_512, 28, 3584, 152_064, 32_768, 2 * 152_064 * 3584),
    "google/gemma-2-9b-it": Shape(9_241_705_984, 42, 3584, 256_000, 8192, 256_000 * 3584),
    "google/gemma-3-270m-it": Shape(268_098_176, 18, 640, 262_144, 32_768, 262_144 * 640),
    "smollm2-135m-instruct": Shape(134_515_008, 30, 576, 49_152, 8192, 49_152 * 576),
    "tiny": Shape(3_227_968, 2, 64, 49_152, 8192, 49_152 * 64),
}


@cache
def shape(profile: Profile) -> tuple[Shape, str]:
    """(the model's shape, where it is from): its config in a folder, the mirror or the hub's cache, or the table.

    Raises ValueError for a model that is in none of them.
    """
    name = profile.model
    folder = CACHE / "models" / name if name in (*models.PACKAGED, *models.RANDOM) else None
    try:
        where = folder or models.resolve(name)
        found = AutoConfig.from_pretrained(where, revision=profile.revision, local_files_only=True)
    except OSError:
        if name in SHAPES:
            return SHAPES[name], "from the table in check.py"
        raise ValueError(
            f"model {name!r}: its config is neither here nor in check.py's table, so nothing can be planned; "
            "put the model in $STS_MIRROR or give a local folder"
        ) from None
    text = found.get_text_config()
    with torch.device("meta"), models.quiet():
        model = AutoModelForCausalLM.from_config(found)
    tables = {id(m.weight): m.weight.numel() for m in (model.get_input_embeddings(), model.get_output_embeddings())}
    counted = Shape(
        sum(p.numel() for p in model.parameters()), text.num_hidden_layers, text.hidden_size, text.vocab_size,
        text.max_position_embeddings, sum(tables.values()),
    )  # fmt: skip
    return counted, "from its config"


def forward_flops(model: Shape, tokens: float, context: float, layers: int | None = None, heads: float = 0) -> float:
    """FLOPs of a forward pass of `tokens` tokens, each with `context` tokens before it on average.

    FLOPs = tokens × n/L × (2 × block weights + 4 × L × width × context) + 2 × width × vocabulary × heads, with the
    first n of L blocks, and `heads` the tokens whose logits are computed. A multiplication and an addition are two.
    """
    blocks = model.parameters - model.embeddings
    share = (layers or model.layers) / model.layers
    attention = 4 * model.layers * model.width * context
    return tokens * share * (2 * blocks + attention) + 2 * model.width * model.vocabulary * heads


def plan(profile: Profile) -> pd.DataFrame:
    """What a run computes, a row a stage: stage, units, tokens, flops, gpu_hours (of one A100 at UTILISATION).

    Training costs 3 forward passes, 4 with gradient checkpointing; a decoded token costs one at DECODING of the peak.
    Lengths are means (LENGTHS); SAEs (2 × width × features a token) and Fig 1b's edited passes are under a hundredth
    and left out.
    """
    rows = []
    if profile.runs_paper:
        rows += _base_plan(profile)
    if profile.runs_control:
        rows += _control_plan(profile)
    return pd.DataFrame(rows)


def _stage(name: str, units: int, tokens: float, flops: float, dtype: str, utilisation: float = UTILISATION) -> dict:
    hours = flops / (PEAK[dtype] * utilisation) / 3600
    return {"stage": name, "units": units, "tokens": int(tokens), "flops": flops, "gpu_hours": hours}


def _extract(
    profile: Profile, name: str, units: int, contexts: int, context: float, queries: int, length: float
) -> dict:
    """Contexts once each, their queries behind them, and the queries alone."""
    model, layers = shape(profile)[0], profile.layer + 1
    flops = forward_flops(model, contexts * context, context / 2, layers)
    flops += forward_flops(model, queries * length, context + length / 2, layers)
    flops += forward_flops(model, queries * length, length / 2, layers)
    return _stage(name, units, units * (contexts * context + 2 * queries * length), units * flops, profile.dtype)


def _train(profile: Profile, name: str, units: float, examples: int, lengths: tuple[float, float], epochs: int) -> dict:
    sft, (query, solution) = profile.sft, lengths
    length = min(query + solution, sft.max_length)
    tokens, answers = epochs * examples * length, epochs * examples * min(solution, length)
    passes = 4 if sft.gradient_checkpointing else 3
    flops = passes * forward_flops(shape(profile)[0], tokens, length / 2, heads=answers)
    return _stage(name, units, units * tokens, units * flops, sft.dtype)


def _options(profile: Profile, name: str, units: int, questions: float) -> dict:
    """Options scored by their likelihood."""
    query, _ = LENGTHS.get(profile.domains, (100, 0))
    flops = forward_flops(shape(profile)[0], questions * (query + OPTIONS), query, heads=questions * OPTIONS)
    return _stage(name, units, questions * (query + OPTIONS), flops, profile.evaluation.dtype)


def _base_plan(profile: Profile) -> list[dict]:
    """The paper's own experiments."""
    model, _ = shape(profile)
    both = query, solution = LENGTHS.get(profile.train, (100, 200))
    domain_query, _ = LENGTHS.get(profile.domains, (100, 0))
    shot = sum(LENGTHS.get(profile.demonstrations, (100, 100)))
    seeds, sizes = len(profile.seeds), QUESTIONS.get(profile.domains, (300,) * 14)
    s, e, sft, g = profile.shift, profile.evaluation, profile.sft, profile.grpo
    shown, domain_shown = s.demonstrations * (query + solution), profile.sts.demonstrations * shot
    rows = [
        _extract(profile, "features of the training set (D_N)", seeds, s.sets, shown, s.queries, query),
        _extract(profile, "features of the domains (STS)", seeds * len(sizes), 1, domain_shown, profile.sts.queries,
                 domain_query),
    ]  # fmt: skip
    pool = int((1 - s.held_out) * EXAMPLES.get(profile.train, 10**9))
    rows.append(_train(profile, "fine-tuning (SFT)", seeds, min(sft.examples, pool), both, sft.epochs))
    for corpus in profile.others:
        lengths = LENGTHS.get(corpus, (100, 200))
        rows.append(_train(profile, f"fine-tuning on {corpus}", 1, profile.others_examples, lengths, sft.epochs))
    mixed = min(profile.mixture.examples, pool) + profile.mixture.extra
    rows.append(_train(profile, "fine-tuning on mixtures", MIXTURES, mixed, both, sft.epochs))
    if profile.sweep.layers:
        chosen = len(profile.selective.dims) * (1 + profile.selective.draws)
        of = min(profile.selective.examples, pool)
        rows.append(_train(profile, "selective fine-tuning", chosen, of, both, sft.epochs))
    written = g.steps * g.prompts * g.generations * g.completion_tokens
    length = LENGTHS.get(g.train, (100, 0))[0] + g.completion_tokens
    decoding = forward_flops(model, written, length / 2, heads=written)
    rows.append(_stage("GRPO, completions", 1, written, decoding, g.dtype, DECODING))
    rows.append(_stage("GRPO, updates", 1, written, 3 * decoding, g.dtype))

    length = s.queries * query
    flops = 2 * forward_flops(model, length, query / 2, profile.layer + 1)
    rows.append(_stage("actual shift", seeds, seeds * 2 * length, seeds * flops, profile.dtype))

    asked = [sum(min(n, limit) for n in sizes) for limit in (e.questions, min(e.questions, e.asked or e.questions))]
    others = sum(min(n, profile.others_questions or e.questions) for n in sizes) * (len(profile.others) + 1)
    questions = asked[0] + seeds * asked[1] + others + 2 * MIXTURES * profile.mixture.questions
    units = 2 + seeds + len(profile.others) + MIXTURES
    if e.mode != "generation":
        return [*rows, _options(profile, "evaluation", units, questions)]
    prompt = e.shots * shot + domain_query
    flops = forward_flops(model, questions * prompt, prompt / 2)
    rows.append(_stage("evaluation, prompts", units, questions * prompt, flops, e.dtype))
    written = questions * min(WRITTEN, e.max_new_tokens)
    flops = forward_flops(model, written, prompt + WRITTEN / 2, heads=written)
    return [*rows, _stage("evaluation, answers", units, written, flops, e.dtype, DECODING)]


def _control_plan(profile: Profile) -> list[dict]:
    """The positive control: a cell is a training set and seed."""
    c, e = profile.control, profile.evaluation
    query, _ = LENGTHS.get(profile.domains, (100, 0))
    cells, domains = len(c.sets) * len(c.seeds), len(QUESTIONS.get(profile.domains, (300,) * 14))
    doses, lengths = sum(c.doses) * len(c.dose_sets), (query, OPTIONS)
    asked = domains * min(e.questions, c.asked or e.questions)
    questions = asked * (cells + len(c.doses) * len(c.dose_sets)) + domains * (e.questions + cells * c.probe_questions)
    shown = c.demonstrations * sum(lengths)
    return [
        _train(profile, "control, fine-tuning", round(cells * (1 + c.probe) + doses), c.examples, lengths, c.epochs),
        _extract(profile, "control, features of the sets", 3 * cells, c.contexts, shown, c.queries, query),
        _extract(profile, "control, features of the domains", len(c.seeds) * domains, 1,
                 profile.sts.demonstrations * sum(lengths), profile.sts.queries, query),
        _options(profile, "control, evaluation", 2 * cells + 1, questions),
    ]  # fmt: skip


def problems(profile: Profile) -> list[str]:
    """Why this machine can't run `profile`, a line each; none: it can."""
    model, _ = shape(profile)
    return [*_compute(profile, model), *_versions(profile), *_disk(profile, model), *_reach(profile)]


def _compute(profile: Profile, model: Shape) -> list[str]:
    """GPUs, or cores, and their memory."""
    training = model.parameters * TRAINING_BYTES * HEADROOM / 1e9
    memory = psutil.virtual_memory().total / 1e9
    widest = max(profile.dtype, profile.evaluation.dtype, key=BYTES.get)
    loading = model.parameters * BYTES[widest] * HEADROOM / 1e9
    need = f"fine-tuning {profile.model} takes about {training:.0f} GB ({TRAINING_BYTES} bytes a weight)"
    gpus = [torch.cuda.get_device_properties(i).total_memory / 1e9 for i in range(torch.cuda.device_count())]
    if gpus:
        if max(gpus) < loading:
            return [
                f"GPU memory: {profile.model} needs {loading:.0f} GB on one GPU, the largest has {max(gpus):.0f} GB"
            ]
        found = []
        if profile.launcher:
            used = sorted(gpus)[-finetune.processes(profile.sft, 1, len(gpus)) :]
            if sum(used) < training:
                listed = " + ".join(f"{g:.0f}" for g in used)
                found.append(f"GPU memory: {need}, the GPUs that share a batch have {listed} GB: use more GPUs")
            if memory < (read := len(used) * model.parameters * BYTES["float32"] / 1e9):
                found.append(
                    f"memory: {len(used)} processes read float32 weights of {profile.model}, {read:.0f} GB together, "
                    f"this machine has {memory:.0f} GB: set num_processes in the launcher"
                )
        alone = {"GRPO": profile.grpo.dtype} | ({} if profile.launcher else {"fine-tuning": profile.sft.dtype})
        for what, dtype in alone.items():  # in one process: optimizer in main memory where the GPU has no room
            held = model.parameters * 2 * BYTES[dtype] * HEADROOM / 1e9
            beside = model.parameters * finetune.MASTER_BYTES / 1e9
            if max(gpus) < min(training, held) or (max(gpus) < training and memory < beside):
                mend = "take a larger machine" if what == "GRPO" else "set launcher: profiles/accelerate/fsdp.yaml"
                found.append(
                    f"GPU memory: {what} of {profile.model} takes {held:.0f} GB on one GPU and {beside:.0f} GB there "
                    f"or in main memory, this machine has {max(gpus):.0f} and {memory:.0f} GB: {mend}"
                )
        return found
    found = []
    if training > memory:
        found.append(f"no GPU: {need}, this machine has {memory:.0f} GB of memory: use a CUDA machine")
    hours = plan(profile).flops.sum() / (CORE * config.cpu_threads()) / 3600
    if hours > HOURS:
        cores = config.cpu_threads()
        found.append(f"no GPU: about {hours:,.0f} hours on {cores} cores (limit {HOURS:.0f}): use a CUDA machine")
    return found


def _versions(profile: Profile) -> list[str]:
    """Installed libraries against constraints.txt, and those that the engine and executor need."""
    found = []
    pinned = Path(config.ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in pinned if line.count("==") == 1 and not line.startswith("#"))
    for package in ("torch", "transformers", "sae-lens", "trl", "lm-eval", "datasets"):
        try:
            version = importlib.metadata.version(package).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{package} is not installed: run `make setup`")
            continue
        if pins.get(package, version).split("+")[0].strip() != version:
            found.append(f"{package} is {version}, constraints.txt has {pins[package]}: run `make setup`")
    for setting, package in ((profile.engine == "vllm", "vllm"), (profile.executor == "ray", "ray")):
        if setting and importlib.util.find_spec(package) is None:
            key = "engine" if package == "vllm" else "executor"
            found.append(f"{key}: {package} is not installed: install it, or set {key} to its default")
    return found


def _disk(profile: Profile, model: Shape) -> list[str]:
    """Free disk against what is downloaded and the fine-tuned models that a run keeps."""
    trained = len(profile.seeds) + len(profile.others) + MIXTURES + 1
    need = model.parameters * BYTES[profile.sft.dtype] * trained
    missing = [n for n in hub.needs(profile) if not hub.at_hand(n)]
    need += sum(model.parameters * 2 if n.kind == "model" else 4e9 if n.kind == "sae" else 1e8 for n in missing)
    saes = sum(n.kind == "sae" for n in hub.needs(profile))
    rows = len(profile.seeds) * (14 * profile.sts.queries + min(ROWS, profile.shift.queries))
    need += saes * rows * FEATURES * 16  # four sums in float32
    place = next(folder for folder in (RUNS, *RUNS.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free > need:
        return []
    return [
        f"disk: about {need / 1e9:.0f} GB needed, {free / 1e9:.0f} GB free at {place}: set STS_OUT to a larger disk"
    ]


def _reach(profile: Profile, timeout: float = 4.0) -> list[str]:
    """Whether everything that is not here can be had from the hub, and access to gated repositories."""
    missing = [n for n in hub.needs(profile) if n.required and not hub.at_hand(n)]
    if not missing:
        return []
    if why := unreachable(timeout):
        names = ", ".join(dict.fromkeys(hub.repository(n) for n in missing))
        return [
            f"hub: {why}, and not here: {names}. Where there is access, run `python -m sts_utils fetch --profile "
            f"{profile.name} --folder F`, and here set STS_MIRROR=F"
        ]
    found = []
    for kind, name in dict.fromkeys(
        ("dataset" if n.kind == "dataset" else "model", hub.repository(n)) for n in missing
    ):
        if error := no_access(kind, name):
            found.append(f"hub: {name}: {error}")
    return found


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
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return ""


def add_parser(commands) -> None:
    """The command `check` for run.main: `check --profile paper`."""
    command = commands.add_parser("check", help="say whether this machine can run a profile, and what it costs")
    command.add_argument("--profile", default="smol", help="a name in profiles/, or a YAML file")
    command.add_argument("--seeds", default=None, help="like 0,1,2; the profile's own if left out")
    command.set_defaults(run=lambda chosen: main(config.load_all(chosen.profile, chosen.seeds)))


def main(profiles: Sequence[Profile]) -> int:
    """Print each profile's plan and its problems; 0 if this machine can run them all, 1 otherwise."""
    seen = []
    for profile in profiles:
        table = plan(profile)
        _, source = shape(profile)
        print(f"{profile.name}: {profile.model} ({source}), {len(profile.seeds)} seeds")
        print(_text(table))
        seen += [f"{profile.name}: {line}" for line in problems(profile)]
    print(
        f"GPU-hours: FLOPs / (peak of one A100: {PEAK['bfloat16'] / 1e12:.0f} TFLOP/s bfloat16, "
        f"{PEAK['float32'] / 1e12:.0f} float32 as TF32) / utilisation ({UTILISATION:.0%}, decoding {DECODING:.0%}); "
        "FLOPs as in check.forward_flops."
    )
    print("\n".join(f"can't run {line}" for line in seen) if seen else "This machine can run it.")
    return 1 if seen else 0


def _text(table: pd.DataFrame) -> str:
    """The plan as text, with its sum."""
    total = {"stage": "total", "units": "", "tokens": table.tokens.sum()}
    total |= {"flops": table.flops.sum(), "gpu_hours": table.gpu_hours.sum()}
    lines = [f"  {'stage':<40}{'units':>7}{'tokens':>12}{'FLOPs':>10}{'GPU-hours':>11}"]
    for row in [*table.to_dict("records"), total]:
        hours = "<0.01" if row["gpu_hours"] < 0.005 else f"{row['gpu_hours']:,.2f}"
        lines.append(
            f"  {row['stage']:<40}{row['units']:>7}{_short(row['tokens']):>12}{row['flops']:>10.1e}{hours:>11}"
        )
    return "\n".join(lines)


def _short(tokens: float) -> str:
    power = min(int(math.log10(max(tokens, 1)) // 3), 3)
    return f"{tokens / 1000**power:,.1f}{' kMG'[power]}".replace(" ", "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m sts_utils.scale.check", description=__doc__)
    add_parser(parser.add_subparsers(required=True))
    raise SystemExit((lambda chosen: chosen.run(chosen))(parser.parse_args()))
