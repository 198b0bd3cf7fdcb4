"""The one door to the engines: each is loaded only when a profile asks for it."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import torch

from sts_utils import models
from sts_utils import train as training
from sts_utils.config import Profile, SftSettings
from sts_utils.examples import Example


def sft(
    profile: Profile,
    settings: SftSettings,
    examples: Sequence[Example],
    seed: int,
    out: Path,
    steps: int | None = None,
) -> pd.DataFrame:
    """Fine-tune the profile's model into `out`, here or over the processes of its launcher."""
    if profile.launcher:
        from sts_utils import fsdp

        told = {"model": profile.model, "revision": profile.revision, "seed": seed, "steps": steps}
        return fsdp.launch(profile.launcher, settings, examples, out, **told)
    return training.sft(profile.model, profile.revision, settings, examples, seed, out, steps)


def grpo(profile: Profile, examples: Sequence[Example], seed: int, out: Path) -> pd.DataFrame:
    """GRPO of the profile's model into `out`; vLLM samples where it is used."""
    from sts_utils.grpo import grpo

    told = profile.grpo, examples, seed, out, profile.sft.gradient_checkpointing
    if not uses_vllm(profile):
        return grpo(profile.model, profile.revision, *told)
    from sts_utils import vllm

    vllm.close()
    folder = str(vllm.checkpoint(profile.model, profile.revision))
    numbers = models.size(folder)
    weights = numbers * getattr(torch, profile.grpo.dtype).itemsize
    beside = 2 * weights  # their gradients, too
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        beside += training.masters_beside(numbers, free - weights)
    with vllm.sampler(weights, beside) as how:
        return grpo(folder, None, *told, how)


def training_gpus(profile: Profile) -> int:
    """GPUs that a step of Ray which starts SFT must hold."""
    if not profile.launcher or profile.executor != "ray":
        return 1
    from sts_utils import fsdp

    config = fsdp.launched(profile.launcher, profile.sft)
    return 0 if config.get("use_cpu") else config["num_processes"]


def uses_vllm(profile: Profile) -> bool:
    """Whether vLLM extracts and generates: asked for, or `auto` where it is, beside a GPU."""
    at_hand = torch.cuda.is_available() and find_spec("vllm") is not None
    return profile.engine == "vllm" or (profile.engine == "auto" and at_hand)


def feature_stats(profile: Profile, pairs, hooks, desc: str | None) -> list:
    """`extract.feature_stats` by vLLM."""
    from sts_utils import vllm

    folder = vllm.checkpoint(profile.model, profile.revision)
    return vllm.feature_stats(pairs, folder, hooks, profile.dtype, desc)


def generate(profile: Profile, folder: Path | None, stop: Sequence[str]) -> Callable:
    """Written answers by vLLM: of the profile's model, or of a fine-tuned one in `folder`."""
    from sts_utils import vllm

    where = folder or vllm.checkpoint(profile.model, profile.revision)
    settings = profile.evaluation
    return vllm.generate(
        where, settings.max_new_tokens, settings.dtype, special_tokens=True, stop=stop
    )


def close() -> None:
    """End vLLM's engine, which may be alive where there is a GPU, and free its memory."""
    if torch.cuda.is_available():
        from sts_utils import vllm

        vllm.close()
