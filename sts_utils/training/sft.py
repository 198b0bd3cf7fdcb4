"""Supervised fine-tuning (SFT) with transformers' Trainer and the paper's optimizer and schedule."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import is_torch_tf32_available

from sts_utils import generation, models
from sts_utils.config import Profile, SftSettings
from sts_utils.examples import Example

log = logging.getLogger(__name__)

#: Bytes a weight beside the model's own: float32 gradient, copy and AdamW's two moments.
MASTER_BYTES = 16
#: The paper's optimizer (the paper's protocol).
BETAS, WEIGHT_DECAY, CLIP, WARMUP = (0.9, 0.95), 0.01, 1.0, 0.1


def tokenize(tokenizer, examples: Sequence[Example], max_length: int) -> list[dict[str, list[int]]]:
    """Chat prompts with their solutions; the loss is on the solution and its end of turn alone.

    Longer sequences lose tokens on the left, as in the paper.
    """
    rows = []
    for example in examples:
        prompt = generation.chat_text(tokenizer, example.query)
        turns = [{"role": "user", "content": example.query}, {"role": "assistant", "content": example.solution}]
        whole = tokenizer.apply_chat_template(turns, tokenize=False)
        answer = whole.removeprefix(prompt).rstrip("\n")
        if len(answer) == len(whole):  # a template that writes the prompt otherwise than the dialogue
            raise ValueError(f"the chat template of {tokenizer.name_or_path} does not extend its own prompt")
        head = tokenizer(prompt, add_special_tokens=False).input_ids
        tail = tokenizer(answer, add_special_tokens=False).input_ids
        ids, labels = head + tail, [-100] * len(head) + tail
        rows.append({"input_ids": ids[-max_length:], "labels": labels[-max_length:]})
    return rows


def answer_states(model, input_ids, attention_mask, keep) -> torch.Tensor:
    """Final hidden states [kept tokens, d_model] where `keep` [batch, tokens] is true."""
    return model.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state[keep]


def answer_logits(model, input_ids, attention_mask, keep) -> torch.Tensor:
    """Logits [kept tokens, vocabulary], float32, only where `keep` [batch, tokens] is true.

    The head over the vocabulary is half the cost of a small model; answers are half the tokens.
    """
    return models.vocabulary_logits(model, answer_states(model, input_ids, attention_mask, keep))


def answers_loss(model, input_ids, attention_mask, labels) -> tuple[torch.Tensor, torch.Tensor]:
    """(sum of the loss over answer tokens, how many they are)."""
    keep = torch.zeros_like(labels, dtype=torch.bool)
    keep[:, :-1] = labels[:, 1:] != -100
    logits = answer_logits(model, input_ids, attention_mask, keep)
    wanted = labels[:, 1:][labels[:, 1:] != -100]
    return torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"), keep.sum()


def collate(rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Rows of ids and labels, padded on the right."""
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), -100)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        n = len(row["input_ids"])
        ids[i, :n], labels[i, :n], mask[i, :n] = (
            torch.tensor(row["input_ids"]), torch.tensor(row["labels"]), 1,
        )  # fmt: skip
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


class AnswerTrainer(Trainer):
    """transformers' Trainer with the head and its loss on answer tokens only."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, tokens = answers_loss(model, inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        return loss / (num_items_in_batch if num_items_in_batch is not None else tokens)


class Bar(TrainerCallback):
    """A progress bar with the loss; the Trainer's own prints a table a step."""

    def __init__(self, desc: str):
        self.desc = desc

    def on_train_begin(self, args, state, control, **_):
        self.bar = tqdm(total=state.max_steps, desc=self.desc, unit="step", leave=False)

    def on_log(self, args, state, control, logs=None, **_):
        self.bar.update(state.global_step - self.bar.n)
        self.bar.set_postfix(loss=f"{logs.get('loss', float('nan')):.3f}")

    def on_train_end(self, args, state, control, **_):
        self.bar.close()


def master_adamw(model, lr: float) -> torch.optim.AdamW:
    """AdamW over a float32 copy of the trainable weights; each step writes it back to the model's dtype.

    Plain bfloat16 weights lose small updates to rounding (a learning rate of 1e-5 moves a weight by
    less than its last bit); the copy keeps them. It lies where the model does, or in main memory
    where a GPU has no room for it.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    where = _place_of_masters(weights)
    masters = [w.detach().to(where, torch.float32, copy=True) for w in weights]
    groups = [
        {"params": [m for m in masters if m.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [m for m in masters if m.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=BETAS, fused=True)

    def take_gradients(*_):
        for master, weight in zip(masters, weights, strict=True):
            master.grad = None if weight.grad is None else weight.grad.to(where, torch.float32)

    def give_weights(*_):
        for master, weight in zip(masters, weights, strict=True):
            weight.data.copy_(master)

    optimizer.register_step_pre_hook(take_gradients)
    optimizer.register_step_post_hook(give_weights)
    return optimizer


def _place_of_masters(weights: Sequence[torch.Tensor]) -> torch.device:
    device = weights[0].device
    if device.type != "cuda":
        return device
    need, (free, _) = MASTER_BYTES * sum(w.numel() for w in weights), torch.cuda.mem_get_info(device)
    if need < 0.7 * free:  # the rest is for the model's gradients and activations
        return device
    log.warning("AdamW's %.0f GB go to main memory, the GPU has %.0f GB free: slower", need / 1e9, free / 1e9)
    return torch.device("cpu")


def processes(sft: SftSettings, machines: int, gpus: int) -> int:
    """Processes that share a batch evenly: on each of `machines` as many of its `gpus` as do; 0 where none does."""
    shared = [n for n in range(1, gpus + 1) if sft.batch % (machines * n * sft.micro_batch) == 0]
    return machines * max(shared, default=0)


def on_one_gpu(arguments: TrainingArguments) -> TrainingArguments:
    """The arguments without nn.DataParallel, which the Trainer puts over every GPU it sees and which multiplies the
    batch by their number; several GPUs are for the profile's `launcher`."""
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def sft(profile: Profile, examples: Sequence[Example], seed: int, out: Path, steps: int | None = None) -> pd.DataFrame:
    """Fine-tune the profile's whole model on `examples`, save it in `out`, return the training log.

    Loss on answers only, full fine-tuning, AdamW with float32 updates, cosine schedule with 10%
    warm-up (the paper's protocol). The weights are saved in the dtype that they were trained in. `steps`
    stands in for the profile's epochs. Columns of the log: step, loss, lr, seed. With the profile's `launcher`
    it runs over several processes (sft_worker.py).
    """
    if profile.launcher:
        from sts_utils.engines import accelerate as sft_worker

        return sft_worker.launch(profile, examples, seed, out, steps)
    torch.manual_seed(seed)
    tokenizer = models.load_tokenizer(profile.model, profile.revision)
    model = models.load_model(profile.model, profile.sft.dtype, profile.revision).train()
    log = train_answers(model, tokenizer, profile, examples, profile.sft.lr, seed, f"SFT seed {seed}", steps)
    with models.quiet():
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    return log


def train_answers(
    model,
    tokenizer,
    profile: Profile,
    examples: Sequence[Example],
    lr: float,
    seed: int,
    desc: str,
    steps: int | None = None,
) -> pd.DataFrame:
    """Train what is trainable in `model` on the answers of `examples` (in place); the log as `sft` returns it."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer = AnswerTrainer(
            model, on_one_gpu(TrainingArguments(**arguments(profile, seed, steps, scratch))), data_collator=collate,
            optimizers=(master_adamw(model, lr), None), callbacks=[Bar(desc)],
            train_dataset=tokenize(tokenizer, examples, profile.sft.max_length),
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return tidy_log(trainer, seed)


def arguments(profile: Profile, seed: int, steps: int | None, scratch: str) -> dict:
    """TrainingArguments of one process: the paper's schedule, and nothing saved or reported by the Trainer."""
    settings = profile.sft
    return dict(
        output_dir=scratch, seed=seed, data_seed=seed, num_train_epochs=settings.epochs, max_steps=steps or -1,
        per_device_train_batch_size=settings.micro_batch,
        gradient_accumulation_steps=settings.batch // settings.micro_batch,
        lr_scheduler_type="cosine", warmup_steps=WARMUP, max_grad_norm=CLIP,
        train_sampling_strategy="group_by_length", logging_steps=1, save_strategy="no", report_to=[],
        disable_tqdm=True, log_level="error",
        remove_unused_columns=False, use_cpu=models.device() == "cpu", dataloader_pin_memory=False,
        gradient_checkpointing=settings.gradient_checkpointing,
        tf32=is_torch_tf32_available() or None,  # of float32 weights: eight times as fast, finer than bfloat16
    )  # fmt: skip


def tidy_log(trainer: Trainer, seed: int) -> pd.DataFrame:
    """The Trainer's log: step, loss, lr, seed."""
    log = pd.DataFrame([row for row in trainer.state.log_history if "loss" in row])
    return log[["step", "loss", "learning_rate"]].rename(columns={"learning_rate": "lr"}).assign(seed=seed)
