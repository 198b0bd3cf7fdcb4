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

from sts_utils import generate, models, train
from sts_utils.config import GrpoSettings
from sts_utils.examples import Example

#: Seconds for reading an answer, and for each comparison with the gold answer.
SECONDS = 5
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
    gold = parse(f"\\boxed{{{answer}}}", forms, parsing_timeout=seconds)
    # math-verify joins boxes that stand close together
    final = completion[max(completion.rfind("\\boxed"), 0) :]
    given = parse(final, forms, parsing_timeout=seconds)
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
    reference model, AdamW with float32 updates (train.master_adamw), constant learning rate. The
    weights are saved in the dtype that they were trained in. `sampling`: TRL's arguments for
    another engine, which samples all questions of a step at once. Columns of the log: step, reward,
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
    whole.generation_config.eos_token_id = stops = generate.stop_ids(whole, tokenizer)
    arguments = _arguments(settings, seed, out) | {"gradient_checkpointing": gradient_checkpointing}
    if sampling:
        prompts = tokenizer([generate.chat_text(tokenizer, e.query) for e in examples]).input_ids
        longest = max(map(len, prompts)) + settings.completion_tokens
        arguments |= sampling | {"steps_per_generation": settings.prompts}
        arguments |= {"generation_kwargs": {"stop_token_ids": stops}}
        # else it wants room for the model's longest context: 131,072 tokens of Llama 3.1
        arguments |= {"vllm_max_model_length": longest}
    turns = [[{"role": "user", "content": e.query}] for e in examples]
    rows = Dataset.from_dict({"prompt": turns, "answer": [e.answer for e in examples]})
    config, optimizer = GRPOConfig(**arguments), train.master_adamw(whole, settings.lr)
    more = {"processing_class": tokenizer, "optimizers": (optimizer, None)}
    trainer = AnswerGRPO(whole, rewards, train.on_one_gpu(config), rows, **more)
    columns = ("step", "reward", "reward_sd", "completions/mean_length")
    log = train.run(trainer, f"GRPO seed {seed}", columns)
    models.save(whole, tokenizer, out)
    return log


def _arguments(settings: GrpoSettings, seed: int, out: Path) -> dict:
    """GRPOConfig's arguments: one micro-batch is the completions of one question."""
    return train.plain_arguments(seed, str(out)) | dict(
        max_steps=settings.steps,
        per_device_train_batch_size=settings.generations,
        gradient_accumulation_steps=settings.prompts,
        steps_per_generation=max(n for n in range(1, TOGETHER + 1) if settings.prompts % n == 0),
        num_generations=settings.generations,
        max_completion_length=settings.completion_tokens,
        temperature=settings.temperature,
        loss_type="grpo",
        beta=0.0,
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
        parts, rows = [], batch_size or len(ids)
        for some, seen in zip(ids.split(rows), mask.split(rows), strict=True):
            scored = seen[:, -logits_to_keep:].bool()
            keep = torch.zeros_like(seen, dtype=torch.bool)
            keep[:, -logits_to_keep - 1 : -1] = scored
            states = models.final_states(model, some, seen, keep)
            targets = some[:, -logits_to_keep:][scored]
            logps = -train.losses_in_parts(model, states, targets, self.temperature)
            parts.append(torch.zeros(scored.shape, device=ids.device).masked_scatter(scored, logps))
        logps = torch.cat(parts)
        return logps, torch.zeros_like(logps), None  # entropies are only logged

    def _compute_loss(self, model, inputs):
        unequal = inputs["advantages"] != 0
        if not unequal.any():
            return torch.zeros((), device=unequal.device, requires_grad=True)
        rows = {k: v[unequal] if torch.is_tensor(v) and v.ndim else v for k, v in inputs.items()}
        return super()._compute_loss(model, rows) * unequal.float().mean()


def accuracy(
    model, tokenizer, examples: Sequence[Example], completion_tokens: int, batch: int = 32
) -> pd.DataFrame:
    """Reward of the model's greedy completion of each question; columns id, accuracy."""
    questions = [e.query for e in examples]
    written = generate.completions(
        model, tokenizer, questions, completion_tokens, batch=batch, desc="accuracy"
    )
    rewards = [reward(text, e.answer) for text, e in zip(written, examples, strict=True)]
    return pd.DataFrame({"id": [e.id for e in examples], "accuracy": rewards})
