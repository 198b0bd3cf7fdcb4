"""Supervised fine-tuning (SFT): transformers' Trainer with the paper's optimizer and schedule."""

import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
import transformers
import yaml
from torch.utils.checkpoint import checkpoint

from sts_utils import generate, models, store
from sts_utils.config import SftSettings

BETAS, WEIGHT_DECAY, CLIP, WARMUP = (0.9, 0.95), 0.01, 1.0, 0.1  #: The paper's optimizer.
MASTER_BYTES = 16  #: A weight, beside the model's own: float32 gradient, copy, AdamW's moments.
QUICK_BATCH = 4  #: Of a probe: many small steps show sooner where training leads than few large.
#: Tokens of a pass on a CPU, at most (or one row), and float32 logits held at once.
CPU_TOKENS, LOGITS = 512, 2**28


def sft(model, revision, settings, examples, seed: int, out: Path, steps=None) -> pd.DataFrame:
    """Fine-tune the whole `model` on `examples` in this process by the paper's protocol (loss on
    answers alone, AdamW, cosine schedule with 10% warm-up), save it in `out` in the dtype that it
    was trained in; the log: step, loss, lr, seed. `steps` stand in for the settings' epochs."""
    torch.manual_seed(seed)
    tokenizer = models.load_tokenizer(model, revision)
    whole = models.load_model(model, "float32", revision).train()
    how = settings, examples, settings.lr, seed, f"SFT seed {seed}", steps
    log = train_answers(whole, tokenizer, *how)
    models.save(whole, tokenizer, out)
    return log


def train_answers(model, tokenizer, settings, examples, lr, seed, desc, steps=None, warmup=WARMUP):
    """Train what is trainable in `model` on the answers of `examples` (in place), at the learning
    rate `lr` instead of the settings', after a `warmup` of so much of the run; a log as `sft`'s."""
    rows = generate.tokenize(tokenizer, examples, settings.max_length)
    longest = max(len(row["input_ids"]) for row in rows)
    models.train_on_rows_of(model, longest)
    if models.device() == "cpu":  # 4 GB of a 135M model for 6.7 with 2,048 tokens, as fast
        most = min(settings.micro_batch, max(1, CPU_TOKENS // longest))
        size = max(n for n in range(1, most + 1) if settings.micro_batch % n == 0)
        settings = settings.model_copy(update={"micro_batch": size})
    elif settings.dtype == "float32":
        repeat_keys()
    precision = torch.backends.fp32_precision  # TF32, which SFT sets, is for SFT alone
    try:
        args = arguments(settings, seed, steps, warmup)
        args = on_one_gpu(transformers.TrainingArguments(**args))
        how = {"optimizers": (master_adamw(model, lr, settings.dtype), None)}
        trainer = transformers.Trainer(model, args, generate.collate, rows, **how)
        trainer.compute_loss = batch_loss  # no subclass: to import its base takes seconds
        return run(trainer, desc)
    finally:
        torch.backends.fp32_precision = precision


def repeat_keys() -> None:
    """From now on a process gives attention as many key heads as query heads: with fewer, float32
    has no fused kernel on a GPU, and plain products hold tokens² numbers a head."""
    transformers.integrations.sdpa_attention.use_gqa_in_sdpa = lambda *_: False


def arguments(settings: SftSettings, seed: int, steps=None, warmup=WARMUP) -> dict:
    """TrainingArguments of one process: the paper's schedule, `steps` or the settings' epochs."""
    how = {"lr_scheduler_type": "cosine", "warmup_steps": warmup, "max_steps": steps or -1}
    how |= {"num_train_epochs": settings.epochs, "train_sampling_strategy": "group_by_length"}
    how |= {"gradient_checkpointing": settings.gradient_checkpointing}
    how |= {"gradient_accumulation_steps": settings.batch // settings.micro_batch}
    how |= {"per_device_train_batch_size": settings.micro_batch}
    how |= {"tf32": transformers.utils.is_torch_tf32_available() or None}  # 8 times as fast
    return plain_arguments(seed) | how


def plain_arguments(seed: int) -> dict:
    """TrainingArguments of SFT and GRPO alike: clipping, and nothing saved or reported."""
    quiet = {"save_strategy": "no", "disable_tqdm": True, "log_level": "error", "report_to": []}
    data = {"remove_unused_columns": False, "dataloader_pin_memory": False, "logging_steps": 1}
    where = {"output_dir": tempfile.gettempdir(), "use_cpu": models.device() == "cpu"}
    return quiet | data | where | {"seed": seed, "data_seed": seed, "max_grad_norm": CLIP}


def on_one_gpu(arguments):
    """The arguments without nn.DataParallel over every GPU, which would multiply the batch."""
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def processes(settings: SftSettings, gpus: int) -> int:
    """Processes that share a batch evenly: as many `gpus` as do, or 0."""
    even = [n for n in range(1, gpus + 1) if settings.batch % (n * settings.micro_batch) == 0]
    return max(even, default=0)


def launch(launcher: str, settings, examples: Sequence, out: Path, **more) -> pd.DataFrame:
    """`sft` over several processes, equal up to rounding: `accelerate launch` by the config at
    `launcher`; `more`: model, revision, seed, steps. Raises ValueError, in one line, for what can't
    be launched or a failed process."""
    config = launched(launcher, settings)
    n = config["num_processes"]
    if settings.batch % (n * settings.micro_batch):
        share = f"{n} processes x sft.micro_batch {settings.micro_batch}: lower micro_batch"
        raise ValueError(f"sft.batch is {settings.batch}, not a multiple of {share}")
    models.resolve(more["model"])  # converted once, not by every process
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as name:
        job = Path(name).absolute()
        read = models.load_tokenizer(more["model"], more["revision"])
        more |= {"rows": generate.tokenize(read, examples, settings.max_length), "processes": n}
        (job / "job.json").write_text(json.dumps(more | {"settings": settings.model_dump()}))
        words = [sys.executable, "-m", "accelerate.commands.launch", "--dynamo_backend", "no"]
        words += ["--config_file", config["path"], "--num_processes", str(n)]
        words += ["--mixed_precision", "bf16" if settings.dtype == "bfloat16" else "no"]
        words += ["-m", "sts_utils.fsdp", str(job)]
        process = subprocess.Popen(words, start_new_session=True)
        with store.watch("TERM", -process.pid):  # they hold GPUs: they end with us, even killed
            code = process.wait()
        if code or not (job / "log.parquet").exists():
            error = job / "error.txt"
            why = error.read_text() if error.exists() else f"accelerate launch ended with {code}"
            raise ValueError(f"SFT over {n} processes: {why}")
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
    if not (n := config.get("num_processes") or processes(settings, gpus)):
        raise ValueError(f"launcher {launcher!r}: {gpus} GPUs share no batch: set num_processes")
    return config | {"path": str(path), "num_processes": n}


def run(trainer, desc: str, columns=("step", "loss", "learning_rate")) -> pd.DataFrame:
    """Train, with a bar called `desc` that shows the second of `columns`; the trainer's log."""

    class Bar(transformers.ProgressCallback):  # one number of the log, not a printed row a step
        def on_log(self, args, state, control, logs=None, **_):
            self.training_bar.set_description(desc)
            self.training_bar.set_postfix({columns[1]: (logs or {}).get(columns[1])})

    trainer.remove_callback(transformers.PrinterCallback)
    if trainer.is_world_process_zero():
        trainer.add_callback(Bar)
    trainer.train()
    log = pd.DataFrame([row for row in trainer.state.log_history if columns[1] in row])
    names = {"learning_rate": "lr", "completions/mean_length": "length"}
    return log[list(columns)].rename(columns=names).assign(seed=trainer.args.seed)


def batch_loss(model, inputs, return_outputs=False, num_items_in_batch=None) -> torch.Tensor:
    """Trainer.compute_loss with the head and its loss on answer tokens only."""
    loss, tokens = answers_loss(model, **inputs)
    return loss / (num_items_in_batch if num_items_in_batch is not None else tokens)


def answers_loss(model, input_ids, attention_mask, labels) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum of the loss over answer tokens, how many they are) of a batch [rows, tokens]. More than
    LOGITS numbers go through the head in parts, computed again in the backward pass: the logits of
    8,192 tokens over 256,000 words and what is made of them would be 30 GB."""
    learnt = labels[:, 1:] != -100
    keep = torch.nn.functional.pad(learnt, (0, 1))  # a state predicts the token after it
    states = models.final_states(model, input_ids, attention_mask, keep)
    targets = labels[:, 1:][learnt]

    def losses(states, targets):
        logits = models.vocabulary_logits(model, states)
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    most = max(1, LOGITS // model.config.get_text_config().vocab_size)
    if len(targets) <= most:
        return losses(states, targets).sum(), learnt.sum()
    parts = zip(states.split(most), targets.split(most), strict=True)
    each = [checkpoint(losses, *part, use_reentrant=False) for part in parts]
    return torch.cat(each).sum(), learnt.sum()


def master_adamw(model, lr: float, dtype: str) -> torch.optim.AdamW:
    """AdamW over a float32 model's trainable weights, from which the model is rounded to `dtype`,
    at once and after each step: bfloat16 weights of their own lose updates below their last bit."""
    weights = [p for p in model.parameters() if p.requires_grad]
    device, numbers = weights[0].device, sum(w.numel() for w in weights)
    if device.type == "cuda" and not masters_beside(numbers, torch.cuda.mem_get_info(device)[0]):
        size, device = f"{MASTER_BYTES * numbers / 1e9:.0f} GB", torch.device("cpu")
        logging.getLogger(__name__).warning("AdamW's %s go to main memory: slower", size)
    masters = [w.detach().to(device, torch.float32) for w in weights]  # of float32 no copy
    for weight in model.parameters() if next(model.parameters()).dtype == torch.float32 else ():
        weight.data = weight.data.to(getattr(torch, dtype))  # buffers stay as exact as they are
    groups = [{"params": [m], "weight_decay": WEIGHT_DECAY * (m.ndim > 1)} for m in masters]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=BETAS, fused=True)

    def take_gradients(*_):
        for master, weight in zip(masters, weights, strict=True):
            master.grad = None if weight.grad is None else weight.grad.to(device, torch.float32)

    def give_weights(*_):
        for master, weight in zip(masters, weights, strict=True):
            weight.data.copy_(master)
            master.grad = None  # a sixth of the memory, else held until the next step

    optimizer.register_step_pre_hook(take_gradients)
    optimizer.register_step_post_hook(give_weights)
    return optimizer


def masters_beside(numbers: int, free: int) -> int:
    """Bytes that AdamW and its copy of so many weights take of a GPU's `free` bytes: none where
    they go to main memory, since too little would be left for gradients and activations."""
    return need if (need := MASTER_BYTES * numbers) < 0.7 * free else 0
