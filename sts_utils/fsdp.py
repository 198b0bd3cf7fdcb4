"""One of the processes that `train.launch` spreads SFT over: `main` trains on its rows."""

import json
import sys
import types
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from sts_utils import generate, models, train
from sts_utils.config import SftSettings

BLANK = {"input_ids": [0, 0], "labels": [-100, -100]}  # a row of which nothing is learned


def main(job: Path) -> int:
    """One process of the launch: rank 0 saves model and log in `job`; an error is in error.txt."""
    given = json.loads((job / "job.json").read_text())
    settings, seed, processes = SftSettings(**given["settings"]), given["seed"], given["processes"]
    try:
        state = PartialState(cpu=models.device() == "cpu")
        if (n := state.num_processes) != processes:
            raise ValueError(f"accelerate started {n} processes, not {processes}")
        torch.manual_seed(seed)
        tokenizer = models.load_tokenizer(given["model"], given["revision"])
        whole = models.load_model(given["model"], "float32", given["revision"]).train()
        trainer = shared_trainer(whole, settings, given["rows"], seed, given["steps"])
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
    return SharedTrainer(whole, TrainingArguments(**how), generate.collate, rows)


class SharedTrainer(Trainer):
    """A Trainer where each process has a share of the batch; batches are those of one."""

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
