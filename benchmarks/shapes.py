"""What a GPU does at an 8B model's real shapes, with random weights: nothing is downloaded.

`PYTHONPATH=tests python benchmarks/shapes.py --blocks 8` prints a line a measurement (JSON): the
speed of extraction over a bare model and its peak memory, by transformers and by vLLM (over its
bare prefill), of scoring options, of writing, and of SFT at 8,192 tokens and of GRPO with so many
of the model's blocks. `--only vllm grpo` chooses. Some minutes, and 16 GB of disk.
"""

import argparse
import gc
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import psutil
import torch
from bare import Bare
from rehearsal import families
from sae_lens import StandardSAE
from sae_lens.saes.standard_sae import StandardSAEConfig
from speed import long_pairs, seconds
from transformers import AutoModelForCausalLM, GenerationConfig

from sts_utils import config, corpora, models, run, vllm
from sts_utils import evaluate as options
from sts_utils import features as extract
from sts_utils import generate as generation
from sts_utils import train as sft
from sts_utils.config import Profile
from sts_utils.features import Hook

FAMILY = "llama3-8b"
PARTS = ["extraction", "vllm", "evaluation", "sft", "grpo"]
#: Tokens of a context.
LENGTHS = 300, 1000, 2000, 6000


def say(**measured) -> None:
    print(json.dumps(measured), flush=True)


def peak() -> float:
    """GB that the GPU held at most since the last call."""
    most = torch.cuda.max_memory_allocated() / 1e9
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return round(most, 1)


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
    for number, lengths in ((1, LENGTHS), (8, (1000, 6000))):
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


def by_vllm(profile: Profile) -> None:
    """The same by vLLM, over its own prefill of as many tokens in rows as long; and its writing."""
    from vllm import LLM, SamplingParams

    folder = vllm.checkpoint(profile.model)
    of, ours = {n: long_pairs(profile, n, sets=8, queries=256) for n in LENGTHS}, {}
    read = hooks(profile, 1)
    for length, pairs in of.items():

        def stats(pairs=pairs) -> None:
            vllm.feature_stats(pairs, folder, read, dtype=profile.dtype, desc=None)

        stats()
        ours[length] = extract.tokens_read(pairs) / seconds(stats)
    vllm.close()
    bare = LLM(str(folder), dtype=profile.dtype, enforce_eager=True, enable_prefix_caching=False)
    one = SamplingParams(max_tokens=1, temperature=0, detokenize=False)
    for length, pairs in of.items():
        width = round(np.mean([icl.span[1] for _, icl in pairs]))
        rows = np.full((extract.tokens_read(pairs) // width, width), 1000).tolist()
        asked = [{"prompt_token_ids": row} for row in rows]
        bare.generate(asked[:8], one, use_tqdm=False)
        took = seconds(lambda asked=asked: bare.generate(asked, one, use_tqdm=False))
        theirs = len(rows) * width / took
        say(engine="vllm", context=length, ours=round(ours[length]), bare=round(theirs))
        say(ratio=round(ours[length] / theirs, 2))
    bare.llm_engine.engine_core.shutdown()
    texts = [e.query for e in corpora.load("mmlu-test")[:256]]
    write = vllm.generate(profile.model, 128)
    write(texts[:8])
    start = time.perf_counter()
    written = sum(tokens for _, tokens, _ in write(texts))
    say(engine="vllm", tokens_written_a_second=round(written / (time.perf_counter() - start)))
    vllm.close()


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


def reinforcement(folder: str, out: Path) -> None:
    """Two steps of GRPO as the profile for one GPU has it, sampled by vLLM where it is; rewards by
    chance, which random weights would not earn."""
    profile = config.load("llama3-8b-one-gpu")
    settings = profile.grpo.model_copy(update={"steps": 2})
    profile = profile.model_copy(update={"model": folder, "revision": None, "grpo": settings})
    pool = corpora.load("gsm-symbolic")[:64]
    with mock.patch("sts_utils.grpo.reward", lambda text, _: len(text) % 2):
        took = seconds(lambda: run.grpo(profile, pool, 0, out))
    say(seconds_of_two_grpo_steps_and_saving=round(took), peak=peak())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=8, help="of the model that is fine-tuned")
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--folder", type=Path, help="where the models are kept; a temporary one")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.folder or Path(scratch)
        whole, few = folder / "whole", folder / "few"
        for model, blocks in ((whole, None), (few, chosen.blocks)):
            if not model.exists():
                make(model, blocks)
        random = {"model": str(whole), "revision": None, "train": "gsm-symbolic"}
        profile = config.load(FAMILY).model_copy(update=random)
        does = {
            "extraction": lambda: extraction(profile),
            "vllm": lambda: by_vllm(profile),
            "evaluation": lambda: evaluation(str(whole)),
            "sft": lambda: training(str(few), folder),
            "grpo": lambda: reinforcement(str(few), folder / "grpo"),
        }
        for part in chosen.only:
            start = time.perf_counter()
            does[part]()
            say(part=part, took=round(time.perf_counter() - start))


if __name__ == "__main__":
    main()
