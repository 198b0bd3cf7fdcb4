"""SFT over several processes: `launch` starts them with accelerate, each runs `main` on its share.

The processes get a plain file (job.json) and rank 0 leaves safetensors and the log; the result
agrees with `train.sft` in one process up to rounding, and has the same key in the store."""

import json
import subprocess
import sys
import tempfile
import types
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
import yaml
from accelerate import PartialState
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from sts_utils import models, store, train
from sts_utils.config import SftSettings
from sts_utils.generate import collate, tokenize

BLANK = {"input_ids": [0, 0], "labels": [-100, -100]}  # a row of which nothing is learned


def launch(launcher: str, settings, examples: Sequence, out: Path, **more) -> pd.DataFrame:
    """`train.sft` through `accelerate launch` by the config at `launcher`; `more`: model, revision,
    seed, steps. Raises ValueError, in one line, for what can't be launched or a failed process."""
    config = launched(launcher, settings)
    processes = config["num_processes"]
    if settings.batch % (processes * settings.micro_batch):
        share = f"{processes} processes x sft.micro_batch {settings.micro_batch}: lower micro_batch"
        raise ValueError(f"sft.batch is {settings.batch}, not a multiple of {share}")
    models.resolve(more["model"])  # converted once, not by every process
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as name:
        job = Path(name).absolute()
        read = models.load_tokenizer(more["model"], more["revision"])
        more |= {"rows": tokenize(read, examples, settings.max_length), "processes": processes}
        (job / "job.json").write_text(json.dumps(more | {"settings": settings.model_dump()}))
        words = [sys.executable, "-m", "accelerate.commands.launch", "--dynamo_backend", "no"]
        words += ["--config_file", config["path"], "--num_processes", str(processes)]
        words += ["--mixed_precision", "bf16" if settings.dtype == "bfloat16" else "no"]
        words += ["-m", "sts_utils.fsdp", str(job)]
        process = subprocess.Popen(words, start_new_session=True)
        with store.watch("TERM", -process.pid):  # they hold GPUs: they end with us, even killed
            code = process.wait()
        if code or not (job / "log.parquet").exists():
            error = job / "error.txt"
            why = error.read_text() if error.exists() else f"accelerate launch ended with {code}"
            raise ValueError(f"SFT over {processes} processes: {why}")
        for made in (job / "model").iterdir():
            made.replace(out / made.name)
        return pd.read_parquet(job / "log.parquet")


def launched(launcher: str, settings: SftSettings) -> dict:
    """An accelerate config (the project's folder is looked in too) with its `path`, and with
    `num_processes`: where it does not say, all GPUs that share a batch evenly."""
    places = (Path(launcher), store.ROOT / launcher)
    if not (path := next((place for place in places if place.is_file()), None)):
        raise ValueError(f"launcher {launcher!r} is not a file: give an accelerate config")
    config, gpus = yaml.safe_load(path.read_text(encoding="utf-8")), torch.cuda.device_count()
    if not (processes := config.get("num_processes") or train.processes(settings, gpus)):
        raise ValueError(f"launcher {launcher!r}: {gpus} GPUs share no batch: set num_processes")
    return config | {"path": str(path), "num_processes": processes}


def main(job: Path) -> int:
    """One process of the launch: rank 0 saves model and log in `job`; an error is in error.txt."""
    told = json.loads((job / "job.json").read_text())
    settings, seed, processes = SftSettings(**told["settings"]), told["seed"], told["processes"]
    try:
        state = PartialState(cpu=models.device() == "cpu")
        if (n := state.num_processes) != processes:
            raise ValueError(f"accelerate started {n} processes, not {processes}")
        torch.manual_seed(seed)
        tokenizer = models.load_tokenizer(told["model"], told["revision"])
        whole = models.load_model(told["model"], "float32", told["revision"]).train()
        trainer = shared_trainer(whole, settings, told["rows"], seed, told["steps"])
        log = train.run(trainer, f"SFT seed {seed}, {processes} processes")
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if state.is_main_process:
            whole = trainer.accelerator.unwrap_model(trainer.model_wrapped)
            whole.config.dtype = dtype = getattr(torch, settings.dtype)
            tied = whole.all_tied_weights_keys  # copies when gathered, which would be saved twice
            own = {k: w.to("cpu", dtype) for k, w in weights.items() if k not in tied}
            models.save(whole, tokenizer, job / "model", state_dict=own)
            log.to_parquet(job / "log.parquet", index=False)
    except (ValueError, torch.OutOfMemoryError) as error:
        (job / "error.txt").write_text(str(error).splitlines()[0])
        return 1
    state.destroy_process_group()
    return 0


def shared_trainer(whole, settings: SftSettings, rows: list[dict], seed: int, steps) -> Trainer:
    """The trainer of this process's share of the rows."""

    def answers_loss(model, input_ids, attention_mask, labels, **_) -> torch.Tensor:
        return train.answers_loss(model, input_ids, attention_mask, labels)[0]

    whole.forward = types.MethodType(answers_loss, whole)  # DDP and FSDP see the whole pass
    train.repeat_keys()
    models.train_on_rows_of(whole, max(len(row["input_ids"]) for row in rows))
    together = settings.micro_batch * PartialState().num_processes
    how = train.arguments(settings, seed, steps) | {"learning_rate": settings.lr}
    how |= {"gradient_accumulation_steps": settings.batch // together}
    how |= {"optim": "adamw_torch_fused", "weight_decay": train.WEIGHT_DECAY}
    how |= dict(zip(("adam_beta1", "adam_beta2"), train.BETAS, strict=True))
    how |= {"ddp_find_unused_parameters": False}
    # else gradients stay whole on every GPU while they accumulate
    how |= {"accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}}}
    rows = rows + [BLANK] * (-len(rows) % together)
    return SharedTrainer(whole, TrainingArguments(**how), collate, rows)


class SharedTrainer(train.AnswerTrainer):
    """AnswerTrainer where each process has a share of the batch; batches are those of one."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = model(**inputs)  # gradients are averaged over processes
        return loss * self.accelerator.num_processes / num_items_in_batch

    def _get_train_sampler(self, train_dataset=None):
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        rows = [row for row in self.train_dataset if row is not BLANK]
        sampler = Filled(batch * self.args.world_size, dataset=rows)
        sampler.size = len(self.train_dataset)
        return sampler


class Filled(LengthGroupedSampler):
    """One process's order, then blank rows up to `size`: accelerate would repeat the first ones."""

    def __iter__(self):
        yield from [*super().__iter__(), *range(len(self.lengths), self.size)]

    def __len__(self):
        return self.size


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
