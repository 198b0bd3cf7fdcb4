"""SFT over several processes: `launch` starts them with accelerate, each runs `main` on a share of every batch.

The processes get plain files (profile.json, examples.parquet, job.json) and rank 0 leaves safetensors and the log;
the result agrees with `finetune.sft` in one process up to rounding, and has the same key in the store.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pyarrow
import pyarrow.parquet
import torch
import yaml
from accelerate import PartialState
from transformers import PrinterCallback, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from sts_utils import models, store
from sts_utils.config import Profile
from sts_utils.examples import Example
from sts_utils.training import sft as finetune


def settings(profile: Profile) -> dict:
    """The profile's accelerate config (the project's folder is looked in too), with its path and processes: if it does
    not say how many, all GPUs of this machine that share a batch evenly, on every machine."""
    launcher = profile.launcher
    path = next((p for p in (Path(launcher), store.ROOT / launcher) if p.is_file()), None)
    if path is None:
        raise ValueError(f"launcher {launcher!r} is not a file: give an accelerate config, like profiles/accelerate/*")
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    machines = found.get("num_machines", 1)
    processes = found.get("num_processes") or finetune.processes(profile.sft, machines, torch.cuda.device_count())
    if not processes:
        raise ValueError(
            f"launcher {launcher!r}: {torch.cuda.device_count()} CUDA GPUs here and none for sft.batch "
            f"{profile.sft.batch} of sft.micro_batch {profile.sft.micro_batch}: set num_processes there"
        )
    return found | {"path": str(path), "num_machines": machines, "num_processes": processes}


def launch(profile: Profile, examples: Sequence[Example], seed: int, out: Path, steps: int | None) -> pd.DataFrame:
    """`finetune.sft` through `accelerate launch` with the profile's launcher; the weights go to `out`."""
    chosen = settings(profile)
    share = chosen["num_processes"] * profile.sft.micro_batch
    if profile.sft.batch % share:
        raise ValueError(
            f"sft.batch is {profile.sft.batch}, not a multiple of {chosen['num_processes']} processes x "
            f"sft.micro_batch {profile.sft.micro_batch}: lower micro_batch"
        )
    models.resolve(profile.model, profile.revision)  # converted once, not by every process
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as name:  # in the store, which all machines share
        job = Path(name).absolute()
        (job / "profile.json").write_text(profile.model_dump_json())
        (job / "job.json").write_text(json.dumps({"seed": seed, "steps": steps, "processes": chosen["num_processes"]}))
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([asdict(e) for e in examples]), job / "examples.parquet")
        code = _run(_command(chosen, profile, job), chosen)
        if (job / "error.txt").exists():
            raise ValueError(f"SFT over {chosen['num_processes']} processes: {(job / 'error.txt').read_text()}")
        if code or not (job / "log.parquet").exists():
            raise ValueError(f"SFT over {chosen['num_processes']} processes: accelerate launch ended with code {code}")
        for made in (job / "model").iterdir():
            os.replace(made, out / made.name)
        return pd.read_parquet(job / "log.parquet")


def gpus_here(profile: Profile) -> int:
    """GPUs that the process that launches holds; none where machines are found through Ray, or on CPUs."""
    chosen = settings(profile)
    return 0 if chosen["num_machines"] > 1 or chosen.get("use_cpu") else chosen["num_processes"]


def _command(chosen: dict, profile: Profile, job: Path) -> list[str]:
    precision = "bf16" if profile.sft.dtype == "bfloat16" else "no"
    return [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", chosen["path"],
        "--num_processes", str(chosen["num_processes"]), "--mixed_precision", precision,
        "--dynamo_backend", "no", "-m", "sts_utils.engines.accelerate", str(job),
    ]  # fmt: skip


def _run(command: list[str], chosen: dict) -> int:
    """Exit code of the launch: on this machine or, through Ray, on as many as the launcher says."""
    machines = chosen["num_machines"]
    if machines == 1:
        return subprocess.run(command, check=False).returncode
    from sts_utils.engines import ray as executor

    with executor.cluster() as ray:
        held = {"CPU": 1} if chosen.get("use_cpu") else {"CPU": 1, "GPU": chosen["num_processes"] // machines}
        group = ray.util.placement_group([held] * machines, strategy="STRICT_SPREAD")
        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy

        def on(machine: int, function, *args):
            options = {"num_cpus": 1, "num_gpus": held.get("GPU", 0), "max_retries": 0}
            where = strategy(group, placement_group_bundle_index=machine)
            return ray.remote(function).options(scheduling_strategy=where, **options).remote(*args)

        try:
            address, port = ray.get(on(0, _free_address))
            joined = ["--num_machines", str(machines), "--main_process_ip", address, "--main_process_port", str(port)]
            head, tail = command[: command.index("--num_processes")], command[command.index("--num_processes") :]
            ranked = [[*head, *joined, "--machine_rank", str(m), *tail] for m in range(machines)]
            return max(map(abs, ray.get([on(m, _call, line) for m, line in enumerate(ranked)])))
        finally:
            ray.util.remove_placement_group(group)


def _free_address() -> tuple[str, int]:
    import ray

    with socket.socket() as probe:
        probe.bind(("", 0))
        return ray.util.get_node_ip_address(), probe.getsockname()[1]


def _call(command: list[str]) -> int:
    return subprocess.run(command, check=False).returncode


# --- in each process ---------------------------------------------------------------------------


def answers_loss(model, input_ids, attention_mask, labels, **_) -> torch.Tensor:
    """The sum of the loss over answer tokens: a `forward`, so that DDP and FSDP see the whole pass."""
    return finetune.answers_loss(model, input_ids, attention_mask, labels)[0]


class SharedTrainer(finetune.AnswerTrainer):
    """AnswerTrainer where each process has a share of the batch; the batches are those of one process."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = model(**inputs)
        return loss * self.accelerator.num_processes / num_items_in_batch  # gradients are averaged over processes

    def _get_train_sampler(self, train_dataset=None):
        rows = train_dataset if train_dataset is not None else self.train_dataset
        return LengthGroupedSampler(
            self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size, dataset=rows
        )


def train(profile: Profile, examples: list[Example], seed: int, steps: int | None, out: Path) -> pd.DataFrame | None:
    """Train with the other processes; rank 0 saves the model in `out` and returns the log."""
    sft, state = profile.sft, PartialState(cpu=models.device() == "cpu")
    torch.manual_seed(seed)
    tokenizer = models.load_tokenizer(profile.model, profile.revision)
    model = models.load_model(profile.model, "float32", profile.revision).train()
    model.forward = types.MethodType(answers_loss, model)
    desc = f"SFT seed {seed}, {state.num_processes} processes"
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            **finetune.arguments(profile, seed, steps, scratch) | {
                "gradient_accumulation_steps": sft.batch // sft.micro_batch // state.num_processes,
                "learning_rate": sft.lr, "weight_decay": finetune.WEIGHT_DECAY, "optim": "adamw_torch_fused",
                "adam_beta1": finetune.BETAS[0], "adam_beta2": finetune.BETAS[1],
                "ddp_find_unused_parameters": False,
            }
        )  # fmt: skip
        trainer = SharedTrainer(
            model, arguments, data_collator=finetune.collate,
            train_dataset=finetune.tokenize(tokenizer, examples, sft.max_length),
            callbacks=[finetune.Bar(desc)] if state.is_main_process else [],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not state.is_main_process:
        return None
    dtype = getattr(torch, sft.dtype)
    whole = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    whole.config.dtype = dtype
    tied = whole.all_tied_weights_keys  # gathered from shards they are copies, which would be saved twice
    with models.quiet():
        whole.save_pretrained(
            out, state_dict={name: tensor.to("cpu", dtype) for name, tensor in weights.items() if name not in tied}
        )
        tokenizer.save_pretrained(out)
    return finetune.tidy_log(trainer, seed)


def main(folder: str) -> int:
    """One process of the launch: reads its job, trains, rank 0 writes; an error becomes one line in error.txt."""
    job = Path(folder)
    try:
        profile = Profile.model_validate_json((job / "profile.json").read_text())
        rows = pyarrow.parquet.read_table(job / "examples.parquet").to_pylist()
        examples = [Example(**row | {"options": tuple(row["options"] or ())}) for row in rows]
        told = json.loads((job / "job.json").read_text())
        if (found := PartialState(cpu=models.device() == "cpu").num_processes) != told["processes"]:
            raise ValueError(f"accelerate started {found} processes, not {told['processes']}")
        log = train(profile, examples, told["seed"], told["steps"], job / "model")
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
