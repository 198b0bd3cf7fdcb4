"""Group relative policy optimisation (GRPO): TRL's GRPOTrainer, with math-verify as the reward."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from trl import GRPOConfig, GRPOTrainer

from sts_utils import generate as generation
from sts_utils import models
from sts_utils import train as sft
from sts_utils.config import GrpoSettings
from sts_utils.examples import Example

#: Seconds for reading an answer, and for each comparison with the gold answer.
SECONDS = 5
#: What is kept of the Trainer's log.
COLUMNS = ("step", "reward", "reward_sd", "completions/mean_length")
#: Questions sampled together, at most: the key-value caches of all completions are held.
TOGETHER = 4

logging.getLogger("math_verify").setLevel(logging.ERROR)


def reward(completion: str, answer: str) -> float:
    """1.0 if math-verify finds the completion's final answer equal to `answer`, else 0.0.

    The final answer is the last boxed one; without any, the last number or formula. Junk earns 0.0.
    The time limits are signals, which only the main thread may set (a notebook's cells run there):
    in another thread there is no limit.
    """
    seconds = SECONDS if threading.current_thread() is threading.main_thread() else None
    forms = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    # math-verify joins boxes that stand close together
    final = completion[max(completion.rfind("\\boxed"), 0) :]
    texts = f"\\boxed{{{answer}}}", final
    gold, given = (parse(text, forms, parsing_timeout=seconds) for text in texts)
    return float(verify(gold, given, timeout_seconds=seconds))


def grpo(
    model: str,
    revision: str | None,
    settings: GrpoSettings,
    examples: Sequence[Example],
    seed: int,
    out: Path,
    gradient_checkpointing: bool = False,
    sampling: dict | None = None,
) -> pd.DataFrame:
    """Train the whole `model` on `examples` with GRPO, save it in `out`, return the training log.

    A step is `prompts` questions with `generations` sampled completions each and one update: no
    reference model, AdamW with float32 updates (sft.master_adamw), constant learning rate. The
    weights are saved in the dtype that they were trained in. `sampling`: what TRL is told to sample
    with another engine, all questions of a step at once. Columns of the log: step, reward,
    reward_sd (mean standard deviation within a question), length (tokens), seed. Raises ValueError
    where a step asks for more questions than there are.
    """
    if len(examples) < settings.prompts:
        raise ValueError(f"{settings.prompts} questions a step asked for, {len(examples)} at hand")

    def rewards(completions, answer, log_metric, **_) -> list[float]:
        texts = [turns[0]["content"] for turns in completions]
        values = [reward(text, gold) for text, gold in zip(texts, answer, strict=True)]
        groups = np.reshape(values, (-1, settings.generations))
        log_metric("reward_sd", groups.std(axis=1, ddof=1).mean())
        return values

    torch.manual_seed(seed)
    tokenizer = models.load_tokenizer(model, revision)
    whole = models.load_model(model, settings.dtype, revision).train()
    whole.generation_config.eos_token_id = stops = generation.stop_ids(whole, tokenizer)
    turns = [[{"role": "user", "content": e.query}] for e in examples]
    rows = Dataset.from_dict({"prompt": turns, "answer": [e.answer for e in examples]})
    told = _arguments(settings, seed, out) | {"gradient_checkpointing": gradient_checkpointing}
    if sampling:
        told |= {"steps_per_generation": settings.prompts, **sampling}
        told |= {"generation_kwargs": {"stop_token_ids": stops}}
        # else it wants room for the model's longest context: 131,072 tokens of Llama 3.1
        prompts = tokenizer([generation.chat_text(tokenizer, e.query) for e in examples]).input_ids
        told |= {"vllm_max_model_length": max(map(len, prompts)) + settings.completion_tokens}
    more = {"train_dataset": rows, "processing_class": tokenizer}
    more["optimizers"] = sft.master_adamw(whole, settings.lr), None
    trainer = AnswerGRPO(whole, rewards, sft.on_one_gpu(GRPOConfig(**told)), **more)
    log = sft.run(trainer, f"GRPO seed {seed}", COLUMNS)
    models.save(whole, tokenizer, out)
    return log


def _arguments(settings: GrpoSettings, seed: int, out: Path) -> dict:
    together = max(n for n in range(1, TOGETHER + 1) if settings.prompts % n == 0)
    return sft.plain_arguments(seed, str(out)) | dict(
        max_steps=settings.steps,
        num_iterations=1,
        per_device_train_batch_size=settings.generations,
        gradient_accumulation_steps=settings.prompts,
        steps_per_generation=together,
        num_generations=settings.generations,
        max_completion_length=settings.completion_tokens,
        temperature=settings.temperature,
        loss_type="grpo",
        beta=0.0,
        mask_truncated_completions=False,
        learning_rate=settings.lr,
        lr_scheduler_type="constant",
        bf16=False,
    )


class AnswerGRPO(GRPOTrainer):
    """TRL's GRPOTrainer without two costs that leave the gradient as it is: its head over the
    vocabulary on prompts, and completions whose group earned equal rewards (loss "grpo" without
    KL)."""

    def _get_per_token_logps_and_entropies(
        self, model, ids, mask, logits_to_keep, batch_size=None, **_
    ):
        some = batch_size or len(ids)
        parts = zip(ids.split(some), mask.split(some), strict=True)
        logps = torch.cat([self._logps(model, *part, logits_to_keep) for part in parts])
        return logps, torch.zeros_like(logps), None  # entropies are only logged

    def _logps(self, model, ids, mask, logits_to_keep: int) -> torch.Tensor:
        scored = mask[:, -logits_to_keep:].bool()
        keep = torch.zeros_like(mask, dtype=torch.bool)
        keep[:, -logits_to_keep - 1 : -1] = scored
        states = models.final_states(model, ids, mask, keep)
        targets = ids[:, -logits_to_keep:][scored]
        losses = sft.losses_in_parts(model, states, targets, self.temperature)
        return torch.zeros(scored.shape, device=ids.device).masked_scatter(scored, -losses)

    def _compute_loss(self, model, inputs):
        told = inputs["advantages"] != 0
        if not told.any():
            return torch.zeros((), device=told.device, requires_grad=True)
        rows = {k: v[told] if torch.is_tensor(v) and v.ndim else v for k, v in inputs.items()}
        return super()._compute_loss(model, rows) * told.float().mean()


def accuracy(
    model, tokenizer, examples: Sequence[Example], completion_tokens: int, batch: int = 32
) -> pd.DataFrame:
    """Reward of the model's greedy completion of each question; columns id, accuracy."""
    questions, how = [e.query for e in examples], {"batch": batch, "desc": "accuracy"}
    written = generation.completions(model, tokenizer, questions, completion_tokens, **how)
    rewards = [reward(text, e.answer) for text, e in zip(written, examples, strict=True)]
    return pd.DataFrame({"id": [e.id for e in examples], "accuracy": rewards})
