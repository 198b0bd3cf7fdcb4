"""SFT over several processes: `launch` starts them with accelerate, each runs `main` on its share.

The processes get a plain file (job.json) and rank 0 leaves safetensors and the log; the result
agrees with `sft.sft` in one process up to rounding, and has the same key in the store.
"""

import inspect
import json
import os
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
import yaml
from accelerate import PartialState
from transformers import TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from sts_utils import generate as generation
from sts_utils import models, store
from sts_utils import train as sft
from sts_utils.config import SftSettings
from sts_utils.examples import Example
from sts_utils.watch import watch

#: A row of which nothing is learned.
BLANK = {"input_ids": [0, 0], "labels": [-100, -100]}


def launch(launcher: str, *training) -> pd.DataFrame:
    """`sft.sft(*training)` through `accelerate launch`; `launcher` is the path of an accelerate
    config. Raises ValueError, in one line, for what can't be launched and for a failed process."""
    told = inspect.signature(sft.sft).bind(*training).arguments
    settings, examples, out = (told.pop(name) for name in ("settings", "examples", "out"))
    chosen = _config(launcher, settings)
    processes, micro_batch = chosen["num_processes"], settings.micro_batch
    if settings.batch % (processes * micro_batch):
        share = f"{processes} processes x sft.micro_batch {micro_batch}: lower micro_batch"
        raise ValueError(f"sft.batch is {settings.batch}, not a multiple of {share}")
    models.resolve(told["model"])  # converted once, not by every process
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as name:
        job = Path(name).absolute()
        told |= {"settings": settings.model_dump(), "examples": [asdict(e) for e in examples]}
        (job / "job.json").write_text(json.dumps(told | {"processes": processes}))
        start = [sys.executable, "-m", "accelerate.commands.launch", "--dynamo_backend", "no"]
        start += ["--config_file", chosen["path"], "--num_processes", str(processes)]
        start += ["--mixed_precision", chosen["mixed_precision"]]
        start += ["-m", "sts_utils.fsdp", str(job)]
        code = _run(start)
        failed, log = f"SFT over {processes} processes", job / "log.parquet"
        if (error := job / "error.txt").exists():
            raise ValueError(f"{failed}: {error.read_text()}")
        if code or not log.exists():
            raise ValueError(f"{failed}: accelerate launch ended with code {code}")
        for made in (job / "model").iterdir():
            os.replace(made, out / made.name)
        return pd.read_parquet(log)


def _run(words: Sequence[str]) -> int:
    """The exit code of a command that ends with us, its processes with it: they hold GPUs."""
    process = subprocess.Popen(words, start_new_session=True)
    watching = watch("TERM", -process.pid)
    try:
        return process.wait()
    finally:
        watching.kill()
        watching.wait()
        if process.poll() is None:  # we were interrupted
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def gpus_here(launcher: str, settings: SftSettings) -> int:
    """GPUs that the process that launches holds; none on CPUs."""
    chosen = _config(launcher, settings)
    return 0 if chosen.get("use_cpu") else chosen["num_processes"]


def _config(launcher: str, settings: SftSettings) -> dict:
    """The accelerate config (the project's folder is looked in too), with its path, its precision
    and its processes: where it does not say, all GPUs that share a batch evenly."""
    places = (Path(launcher), store.ROOT / launcher)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        mend = "give an accelerate config, like profiles/accelerate/*"
        raise ValueError(f"launcher {launcher!r} is not a file: {mend}")
    config, gpus = yaml.safe_load(path.read_text(encoding="utf-8")), torch.cuda.device_count()
    processes = config.get("num_processes") or sft.processes(settings, gpus)
    if not processes:
        raise ValueError(
            f"launcher {launcher!r}: {gpus} CUDA GPUs here and none for sft.batch "
            f"{settings.batch} of sft.micro_batch {settings.micro_batch}: set num_processes there"
        )
    precision = "bf16" if settings.dtype == "bfloat16" else "no"
    return config | {"path": str(path), "mixed_precision": precision, "num_processes": processes}


# --- in each process ---------------------------------------------------------------------------


def train(
    told: dict, settings: SftSettings, examples: Sequence[Example], out: Path
) -> pd.DataFrame | None:
    """Train with the other processes; rank 0 saves the model in `out` and returns the log.

    `told`: model, revision, seed, perhaps steps, and how many processes there must be.
    """
    state = PartialState(cpu=models.device() == "cpu")
    if (n := state.num_processes) != told["processes"]:
        raise ValueError(f"accelerate started {n} processes, not {told['processes']}")
    seed, name, revision = told["seed"], told["model"], told["revision"]
    torch.manual_seed(seed)
    tokenizer = models.load_tokenizer(name, revision)
    whole = models.load_model(name, "float32", revision).train()
    whole.forward = types.MethodType(answers_loss, whole)
    sft.repeat_keys()
    rows = generation.tokenize(tokenizer, examples, settings.max_length)
    models.train_on_rows_of(whole, max(len(row["input_ids"]) for row in rows))
    accumulated = settings.batch // settings.micro_batch // state.num_processes
    with tempfile.TemporaryDirectory() as scratch:
        arguments = sft.arguments(settings, seed, told.get("steps"), scratch) | dict(
            gradient_accumulation_steps=accumulated,
            learning_rate=settings.lr,
            weight_decay=sft.WEIGHT_DECAY,
            optim="adamw_torch_fused",
            adam_beta1=sft.BETAS[0],
            adam_beta2=sft.BETAS[1],
            ddp_find_unused_parameters=False,
            # without it gradients stay whole on every GPU while they accumulate
            accelerator_config={"gradient_accumulation_kwargs": {"sync_each_batch": True}},
        )
        spare = -len(rows) % (settings.micro_batch * state.num_processes)
        rows += [BLANK] * spare
        trainer = SharedTrainer(whole, TrainingArguments(**arguments), generation.collate, rows)
        log = sft.run(trainer, f"SFT seed {seed}, {state.num_processes} processes")
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not state.is_main_process:
        return None
    dtype = getattr(torch, settings.dtype)
    whole = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    whole.config.dtype = dtype
    # gathered from shards, tied weights are copies, which would be saved twice
    own = {name: w for name, w in weights.items() if name not in whole.all_tied_weights_keys}
    own = {name: weight.to("cpu", dtype) for name, weight in own.items()}
    models.save(whole, tokenizer, out, state_dict=own)
    return log


def answers_loss(model, input_ids, attention_mask, labels, **_) -> torch.Tensor:
    """The sum of the loss over answers: a `forward`, so that DDP and FSDP see the whole pass."""
    return sft.answers_loss(model, input_ids, attention_mask, labels)[0]


class SharedTrainer(sft.AnswerTrainer):
    """AnswerTrainer where each process has a share of the batch; batches are those of one."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = model(**inputs)  # gradients are averaged over processes
        return loss * self.accelerator.num_processes / num_items_in_batch

    def _get_train_sampler(self, train_dataset=None):
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        rows = [row for row in self.train_dataset if row is not BLANK]
        return Filled(len(self.train_dataset), batch * self.args.world_size, dataset=rows)


class Filled(LengthGroupedSampler):
    """The rows in one process's order, then blank ones up to `size`: accelerate would fill the last
    batch with rows of the first, which count twice then."""

    def __init__(self, size: int, *args, **more):
        super().__init__(*args, **more)
        self.size = size

    def __iter__(self):
        yield from super().__iter__()
        yield from range(len(self.lengths), self.size)

    def __len__(self):
        return self.size


def main(folder: str) -> int:
    """One process of the launch: reads its job and trains, rank 0 writes; an error becomes one line
    in error.txt."""
    job = Path(folder)
    try:
        told = json.loads((job / "job.json").read_text())
        settings, rows = SftSettings(**told.pop("settings")), told.pop("examples")
        examples = [Example(**row | {"options": tuple(row["options"])}) for row in rows]
        log = train(told, settings, examples, job / "model")
        if log is not None:
            log.to_parquet(job / "log.parquet", index=False)
    except (ValueError, torch.OutOfMemoryError) as error:
        (job / "error.txt").write_text(str(error).splitlines()[0])
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1])
    if torch.distributed.is_initialized() and not code:
        torch.distributed.destroy_process_group()
    sys.exit(code)
