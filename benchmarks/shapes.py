"""What a GPU does at an 8B model's real shapes, with random weights: nothing is downloaded.

`PYTHONPATH=tests python benchmarks/shapes.py --blocks 8` prints a line a measurement (JSON): the
speed of extraction over a bare model and its peak memory, of scoring options, of writing, and of
SFT at 8,192 tokens with so many of the model's blocks. Some minutes, and 16 GB of disk.
"""

import argparse
import gc
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch
from bare import Bare
from rehearsal import families
from sae_lens import StandardSAE
from sae_lens.saes.standard_sae import StandardSAEConfig
from speed import long_pairs, seconds
from transformers import AutoModelForCausalLM, GenerationConfig

from sts_utils import config, corpora, generation, models
from sts_utils.config import Profile
from sts_utils.evaluation import options
from sts_utils.method import extract
from sts_utils.method.extract import Hook
from sts_utils.training import sft

FAMILY = "llama3-8b"


def say(**told) -> None:
    print(json.dumps(told), flush=True)


def peak() -> float:
    """GB that the GPU held at most since the last call."""
    held = torch.cuda.max_memory_allocated() / 1e9
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return round(held, 1)


def make(folder: Path, blocks: int | None = None) -> None:
    """The family's public config with random weights in bfloat16, and a tokenizer of its kind."""
    made, dims = families.PUBLIC[FAMILY]
    tokenizer = families.tokenizer(FAMILY, 4096)
    ends = tokenizer.convert_tokens_to_ids(families.ENDS[FAMILY])
    ids = {"eos_token_id": ends, "bos_token_id": tokenizer.bos_token_id}
    dims = dims | ids | ({"num_hidden_layers": blocks} if blocks else {})
    with torch.device(models.device()):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(made(**dims), dtype=torch.bfloat16)
    model.generation_config = GenerationConfig(**ids)
    models.save(model, tokenizer, folder)


def hooks(profile: Profile, number: int, features: int = 65_536) -> list[Hook]:
    """One SAE of random weights, read after so many blocks."""
    width = models.check(profile.model, profile.layer)
    shape = {"d_in": width, "d_sae": features, "dtype": "float32", "device": models.device()}
    torch.manual_seed(0)
    sae = StandardSAE(StandardSAEConfig(**shape)).eval().requires_grad_(False)
    sae.W_enc.data.normal_(0, width**-0.5)
    return [Hook(profile.layer - i, sae, np.inf) for i in range(number)]


def extraction(profile: Profile, rounds: int = 2) -> None:
    """Tokens a second, ours over a bare model's, which reads rows as long as the prompts."""
    model = models.load_truncated(profile.model, profile.layer, profile.dtype)
    bare = Bare(profile.model, profile.layer, profile.dtype)
    bare.seconds(8192, 512)
    for number, lengths in ((1, (300, 1000, 2000, 6000)), (8, (1000, 6000))):
        read = hooks(profile, number)
        for length in lengths:
            pairs = long_pairs(profile, length, sets=8, queries=256)
            tokens = extract.tokens_read(pairs)
            width = round(np.mean([icl.span[1] for _, icl in pairs]))

            def ours(pairs=pairs, read=read) -> None:
                extract.feature_stats(pairs, model, read, desc=None)

            ours()
            peak()
            times = [(bare.seconds(tokens, width), seconds(ours)) for _ in range(rounds)]
            theirs, mine = (tokens / min(of) for of in zip(*times, strict=True))
            say(context=length, saes=number, tokens=tokens, ours=round(mine), bare=round(theirs))
            say(ratio=round(mine / theirs, 2), peak=peak())


def evaluation(folder: str) -> None:
    """Options scored and answers written by transformers."""
    tokenizer, whole = models.load_tokenizer(folder), models.load_model(folder, "bfloat16")
    asked = corpora.load("mmlu-test")[:64]
    say(loaded=peak())
    took = seconds(lambda: options.option_likelihoods(whole, tokenizer, asked))
    say(questions_a_second=round(64 / took, 1), peak=peak())
    texts, how = [e.query for e in asked], {"batch": 64}
    took = seconds(lambda: generation.completions(whole, tokenizer, texts, 128, **how))
    say(tokens_written_a_second=round(64 * 128 / took), peak=peak())


def training(folder: str, out: Path) -> None:
    """SFT as the profile for one GPU does it: three steps of two rows."""
    settings = config.load("llama3-8b-one-gpu").sft.model_copy(update={"batch": 2})
    pool = corpora.load("gsm-symbolic")[:600]
    text = "\n".join(f"{e.query} {e.solution}" for e in pool)
    long = [replace(e, solution=text[i:]) for i, e in enumerate(pool[:8])]
    took = seconds(lambda: sft.sft(folder, None, settings, long, 0, out, steps=3))
    main_memory = round(psutil.Process().memory_info().rss / 1e9, 1)
    say(seconds_of_three_steps_and_saving=round(took), peak=peak(), main_memory=main_memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=8, help="of the model that is fine-tuned")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        whole, few = Path(scratch) / "whole", Path(scratch) / "few"
        make(whole)
        told = {"model": str(whole), "revision": None, "train": "gsm-symbolic"}
        extraction(config.load(FAMILY).model_copy(update=told))
        evaluation(str(whole))
        make(few, chosen.blocks)
        training(str(few), Path(scratch))


if __name__ == "__main__":
    main()
