"""Group relative policy optimisation (GRPO): TRL's GRPOTrainer, with math-verify as the reward."""

import logging
import threading

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from trl import GRPOConfig, GRPOTrainer

from sts_utils import generate, models, train
from sts_utils.prompts import chat

#: Seconds for reading an answer, and for each comparison with the gold one; questions sampled
#: together, at most: the key-value caches of all completions are held.
SECONDS, TOGETHER = 5, 4
logging.getLogger("math_verify").setLevel(logging.ERROR)


def reward(completion: str, answer: str) -> float:
    """1.0 if math-verify finds the completion's final answer equal to `answer`, else 0.0: the last
    boxed one; without any, the last number or formula. Time limits are signals, which only the main
    thread may set: in another there is none."""
    seconds = SECONDS if threading.current_thread() is threading.main_thread() else None
    forms = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    gold = parse(f"\\boxed{{{answer}}}", forms, parsing_timeout=seconds)
    final = completion[max(completion.rfind("\\boxed"), 0) :]  # close boxes would be joined
    given = parse(final, forms, parsing_timeout=seconds)
    return float(verify(gold, given, timeout_seconds=seconds))


def grpo(model, revision, settings, examples, seed, out, recompute=False, sampling=None):
    """Train the whole `model` on `examples` with GRPO, save it in `out` in the dtype that it was
    trained in; the log: step, reward, reward_sd (mean standard deviation within a question), length
    (tokens), seed. Raises ValueError where a step asks for more questions than there are.
    A step is `prompts` questions with `generations` sampled completions each and one update: no
    reference model, AdamW with float32 updates, constant learning rate. `recompute` activations;
    `sampling`: TRL's arguments of another engine, which samples a step's questions all at once."""
    if len(examples) < settings.prompts:
        raise ValueError(f"{settings.prompts} questions a step asked for, {len(examples)} at hand")

    def rewards(completions, answer, log_metric, **_) -> list[float]:
        values = [reward(c[0]["content"], a) for c, a in zip(completions, answer, strict=True)]
        groups = np.reshape(values, (-1, settings.generations))
        log_metric("reward_sd", groups.std(axis=1, ddof=1).mean())
        return values

    torch.manual_seed(seed)
    tokenizer = models.load_tokenizer(model, revision)
    whole = models.load_model(model, "float32", revision).train()
    whole.generation_config.eos_token_id = stops = generate.stop_ids(whole, tokenizer)
    together = max(n for n in range(1, TOGETHER + 1) if settings.prompts % n == 0)
    how = train.plain_arguments(seed) | {"gradient_checkpointing": recompute}
    how |= {"lr_scheduler_type": "constant", "learning_rate": settings.lr, "bf16": False}
    how |= {"loss_type": "grpo", "beta": 0.0, "temperature": settings.temperature}
    how |= {"max_steps": settings.steps, "max_completion_length": settings.completion_tokens}
    how |= {"gradient_accumulation_steps": settings.prompts, "steps_per_generation": together}
    how |= dict.fromkeys(("num_generations", "per_device_train_batch_size"), settings.generations)
    if sampling:
        prompts = tokenizer([generate.chat_text(tokenizer, e.query) for e in examples]).input_ids
        longest = max(map(len, prompts)) + settings.completion_tokens
        # else it wants room for the model's longest context: 131,072 tokens of Llama 3.1
        how |= sampling | {"vllm_max_model_length": longest}
        how |= {"steps_per_generation": settings.prompts}
        how |= {"generation_kwargs": {"stop_token_ids": stops}}
    rows = Dataset.from_list([{"prompt": chat(e.query), "answer": e.answer} for e in examples])
    optimizer = train.master_adamw(whole, settings.lr, settings.dtype)
    more = {"processing_class": tokenizer, "optimizers": (optimizer, None)}
    trainer = GRPOTrainer(whole, rewards, train.on_one_gpu(GRPOConfig(**how)), rows, **more)
    columns = ("step", "reward", "reward_sd", "completions/mean_length")
    log = train.run(trainer, f"GRPO seed {seed}", columns)
    models.save(whole, tokenizer, out)
    return log


def accuracy(model, tokenizer, examples, completion_tokens: int, batch: int = 32) -> pd.DataFrame:
    """Reward of the model's greedy completion of each question; columns id, accuracy."""
    asked = [e.query for e in examples]
    written = generate.completions(model, tokenizer, asked, completion_tokens, batch=batch)
    rewards = [reward(text, e.answer) for text, e in zip(written, examples, strict=True)]
    return pd.DataFrame({"id": [e.id for e in examples], "accuracy": rewards})
