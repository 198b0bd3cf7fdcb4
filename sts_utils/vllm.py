"""The vLLM engine: the sums of `extract.feature_stats`, and completions, faster than transformers.

One engine is alive at a time, and is kept for the next call; `close` ends it.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import psutil
import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from safetensors.torch import load as read_tensors
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from sts_utils import batches, models, store
from sts_utils import features as extract
from sts_utils.features import FeatureStats, Hook
from sts_utils.generate import stop_ids
from sts_utils.prompts import Prompt
from sts_utils.watch import watch

ENVIRONMENT = {
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # vllm_worker reads the first runner's batch
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # OMP_NUM_THREADS decides; no core is claimed
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # it compiles at start, which needs nvcc and ninja
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
#: What `feature_stats` needs of the engine: who reads the residual stream, and when.
READING = {
    "worker_extension_cls": "sts_utils.vllm_worker.ResidualReader",
    "scheduler_cls": "sts_utils.vllm_worker.QueryScheduler",
    "async_scheduling": False,
    "enforce_eager": True,
}
#: Bytes of vLLM's key-value cache on a CPU; on a GPU for encoded rows and what is not vLLM's own.
CPU_CACHE, ENCODING = 2 * 2**30, 8 * 10**9
#: Query tokens whose residual rows are kept on the device until their pair is complete.
QUERY_TOKENS = 8192

_alive: dict[tuple, tuple[int, object, subprocess.Popen]] = {}


# --- checkpoints -------------------------------------------------------------------------------


def checkpoint(name: str, revision: str | None = None) -> Path:
    """The folder of model `name`, fetched from the hub at `revision` if it is not here."""
    source = models.resolve(name)
    if isinstance(source, Path):
        return source
    return Path(snapshot_download(source, revision=revision, allow_patterns=list(models.FILES)))


def truncated_checkpoint(name: str, layer: int, revision: str | None = None) -> Path:
    """Blocks 0..`layer` of model `name` as a folder in the cache that vLLM and transformers load
    (written once)."""
    models.check(name, layer, revision)
    source = checkpoint(name, revision)
    weights = sorted(source.glob("*.safetensors"))
    if not weights:
        only = "vLLM's engine reads nothing else"
        raise ValueError(f"model folder {source} has no *.safetensors: {only}")
    content = store.content(source, models.FILES)
    folder = store.CACHE / "models" / f"{Path(name).name}-to-{layer}-{content}"
    if folder.exists():
        return folder

    def is_kept(tensor: str) -> bool:
        block = re.search(r"(?:^|\.)layers\.(\d+)\.", tensor)
        return not block or int(block[1]) <= layer  # embeddings, final norm and head stay

    with store.atomic_folder(folder) as out:
        models.cut_config(AutoConfig.from_pretrained(source), layer).save_pretrained(out)
        index = {}
        for file in weights:
            with safe_open(file, "pt") as tensors:
                kept = {n: tensors.get_tensor(n) for n in filter(is_kept, tensors.keys())}
            if kept:
                save_file(kept, out / file.name, metadata={"format": "pt"})
                index |= dict.fromkeys(kept, file.name)
        if len(weights) > 1:
            text = json.dumps({"metadata": {}, "weight_map": index})
            (out / "model.safetensors.index.json").write_text(text)
        for file in [*source.glob("*token*"), *source.glob("*.jinja")]:
            shutil.copy(file, out)
    return folder


# --- features ----------------------------------------------------------------------------------


def feature_stats(
    pairs: Sequence[tuple[Prompt, Prompt]],
    folder: Path | str,
    hooks: Sequence[Hook],
    *,
    dtype: str = "float32",
    tokens: int | None = None,
    desc: str | None = "extract",
) -> list[FeatureStats]:
    """`extract.feature_stats` computed by vLLM on the checkpoint `folder` (`truncated_checkpoint`).

    Demonstrations that queries share are computed once (prefix caching), the query's tokens always;
    features and sums are computed where the model runs and only sums come back. `tokens`: of one
    forward pass; longer prompts are split.

    Raises ValueError where the query tokens differ or features are not finite.
    """
    order = [i for members in extract.by_context(pairs).values() for i in members]
    extra = dict(READING)
    if tokens := tokens or (None if torch.cuda.is_available() else batches.batch_tokens()):
        extra |= {"max_num_batched_tokens": tokens, "max_num_seqs": min(tokens, 64)}
    saes = {id(hook.sae): hook.sae for hook in hooks}.values()
    ids, rows = [a.example_id for a, _ in pairs], min(extract.ROWS, len(pairs))
    sums = sum(32 * rows * (hook.sae.cfg.d_sae + hook.sae.cfg.d_in) for hook in hooks)  # 4 float64
    beside = sums + sum(p.nbytes for sae in saes for p in sae.parameters())
    llm = _engine(folder, dtype, beside, extra)
    told = [(hook.layer, str(_folder(hook.sae)), float(hook.sink_norm)) for hook in hooks]
    llm.collective_rpc("sts_install", args=(told, ids))

    def fits(batch: Sequence[int], i: int) -> bool:
        return sum(len(pairs[j][0].query) for j in [*batch, i]) <= QUERY_TOKENS

    with tqdm(total=len(pairs), desc=desc, unit="query", leave=False, disable=desc is None) as bar:
        for batch in batches.greedy(order, fits):
            _read(llm, batch, [pairs[i] for i in batch])
            bar.update(len(batch))
    sums = [read_tensors(llm.collective_rpc("sts_sums", args=(i,))[0]) for i in range(len(hooks))]
    return [extract.stacked(of, ids, hook.sae) for hook, of in zip(hooks, sums, strict=True)]


def _read(llm, indices: Sequence[int], pairs: Sequence[tuple[Prompt, Prompt]]) -> None:
    """Add the sums of one batch of pairs to the worker's."""
    from vllm import SamplingParams

    lengths = [len(a.query) for a, _ in pairs]
    llm.collective_rpc("sts_begin", args=(list(indices), lengths))
    prompts, settings = [], []
    for side in (0, 1):
        for number, prompt in enumerate(pair[side] for pair in pairs):
            start, stop = prompt.span
            asked = {"pair": number, "side": side, "start": start, "stop": stop}
            read = {"max_tokens": 1, "temperature": 0, "detokenize": False}
            settings.append(SamplingParams(**read, extra_args=asked))
            # nothing after the query is read
            prompts.append({"prompt_token_ids": list(prompt.ids[:stop])})
    llm.generate(prompts, settings, use_tqdm=False)
    if error := llm.collective_rpc("sts_add")[0]:
        raise ValueError(error)


# --- completions -------------------------------------------------------------------------------


def generate(
    folder: Path | str,
    new_tokens: int,
    dtype: str = "bfloat16",
    *,
    special_tokens: bool = False,
    stop: Sequence[str] = (),
) -> Callable[[Sequence[str]], list[tuple[str, int, bool]]]:
    """A function from texts to what the model writes behind them, as `generation.generate`."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    try:
        settings = GenerationConfig.from_pretrained(folder)
    except OSError:  # a model without generation_config.json
        settings = GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder))
    stops = stop_ids(SimpleNamespace(generation_config=settings), tokenizer)

    def answers(texts: Sequence[str]) -> list[tuple[str, int, bool]]:
        from vllm import SamplingParams

        llm = _engine(folder, dtype, 0, {"enforce_eager": not torch.cuda.is_available()})
        ends = {"stop_token_ids": stops, "stop": list(stop), "include_stop_str_in_output": True}
        greedy = SamplingParams(temperature=0, max_tokens=new_tokens, **ends)
        read = tokenizer(list(texts), add_special_tokens=special_tokens).input_ids
        written = llm.generate([{"prompt_token_ids": ids} for ids in read], greedy)
        outputs = [request.outputs[0] for request in written]
        tokens = [sum(token not in stops for token in o.token_ids) for o in outputs]
        ended = [o.finish_reason == "stop" for o in outputs]
        return list(zip([o.text for o in outputs], tokens, ended, strict=True))

    return answers


@contextlib.contextmanager
def sampler(weights: int, beside: int) -> Iterator[dict]:
    """What TRL is told to sample with a vLLM in this process: it holds the `weights` once more next
    to `beside` bytes of what trains them, both in bytes; nothing if the GPU has no room. Process
    group, variables, precision are put back."""
    variables, share, products = dict(os.environ), 0.1, torch.backends.cuda.matmul
    precision = products.fp32_precision
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        share = round(0.7 * (free - beside) / total, 2)  # the rest is for an update
        if share * total < weights:
            tqdm.write("GRPO: no room on the GPU for vLLM's weights: transformers samples")
            yield {}
            return
    told = ENVIRONMENT | {"VLLM_CPU_KVCACHE_SPACE": str(CPU_CACHE // 2**30)}
    told["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # else one, also for AdamW beside it
    alone = {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}  # whatever a cluster's is
    os.environ.update({k: os.environ.get(k, v) for k, v in told.items()} | alone)
    from vllm.distributed import cleanup_dist_env_and_memory
    from vllm.model_executor.layers import utils

    def plain(layer, remove_weight):
        layer.cpu_linear = torch.nn.functional.linear

    try:  # on a CPU vLLM packs weights, which TRL could not replace after each step
        with mock.patch.object(utils, "dispatch_cpu_unquantized_gemm", plain):
            how = {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": share}
            # a whole completion's ratio of probabilities multiplies the rounding of its tokens
            yield how | {"vllm_importance_sampling_mode": "token_truncate"}
    finally:
        cleanup_dist_env_and_memory()
        os.environ.clear()
        os.environ.update(variables)
        products.fp32_precision = precision  # set by its worker, else SFT's TF32 has no effect


# --- the engine --------------------------------------------------------------------------------


def _engine(folder: Path | str, dtype: str, beside: int, extra: dict):
    """The vLLM engine of a checkpoint folder: the one alive, or a new one in its place.

    On a GPU it leaves room for `beside` bytes of SAEs.
    """
    if find_spec("vllm") is None:
        mend = "run `make vllm`, or use ENGINE=transformers"
        raise ValueError(f"ENGINE=vllm: vLLM is not installed; {mend}")
    content = store.content(Path(folder), models.FILES)
    key = (str(folder), content, dtype, *sorted(extra.items()))
    if key not in _alive or beside > _alive[key][0]:
        close()
        os.environ.update({k: os.environ.get(k, v) for k, v in ENVIRONMENT.items()})
        from vllm import LLM

        plain = {"max_model_len": -1, "generation_config": "vllm", "disable_log_stats": True}
        plain |= _memory(beside) | extra
        ours = psutil.Process()
        before = ours.children(recursive=True)
        llm = LLM(str(folder), dtype=dtype, enable_prefix_caching=True, **plain)
        own = [p.pid for p in ours.children(recursive=True) if p not in before]
        # killed, we would leave vLLM's processes behind, which hold the GPU
        _alive[key] = beside, llm, watch("KILL", *own)
    return _alive[key][1]


def _memory(beside: int) -> dict:
    """What the engine may take of this machine's memory, as vLLM is told it."""
    if not torch.cuda.is_available():
        return {"kv_cache_memory_bytes": CPU_CACHE, "block_size": 32}
    free, total = torch.cuda.mem_get_info()
    taken = free - max(0.3 * free, beside + ENCODING)
    if taken <= 0:
        took = f"the SAEs take {beside / 1e9:.0f} GB, {free / 1e9:.0f} GB of GPU are free"
        raise ValueError(f"ENGINE=vllm: {took}")
    return {"gpu_memory_utilization": round(taken / total, 2)}


def close() -> None:
    """End the engine that is alive, if any, and free its device."""
    while _alive:
        _, (_, llm, watching) = _alive.popitem()
        watching.kill()
        watching.wait()
        with contextlib.suppress(Exception):
            llm.llm_engine.engine_core.shutdown()


@cache
def _folder(sae) -> Path:
    """The folder in the cache from which workers load `sae`: written once, for all processes."""
    bits = hashlib.sha256(store.digest(sae.cfg.to_dict()).encode())
    for weight in sae.parameters():
        bits.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())
    folder = store.CACHE / "models" / f"sae-{bits.hexdigest()[:12]}"
    if not folder.exists():
        with store.atomic_folder(folder) as out:
            sae.save_model(out)
    return folder
