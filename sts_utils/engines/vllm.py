"""The vLLM engine: the same sums as `extract.feature_stats`, and completions, where transformers is too slow.

One engine is alive at a time, and is kept for the next call; `close` ends it.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from safetensors.numpy import load as read_arrays
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from sts_utils import models, store
from sts_utils.generation import stop_ids
from sts_utils.method import extract
from sts_utils.method.extract import FeatureStats
from sts_utils.method.prompts import Prompt

_ENVIRONMENT = {
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the tap reads the first runner's batch
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # OMP_NUM_THREADS decides, and no core is claimed from others
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_CPU_CACHE = 2 * 2**30
"""Bytes of vLLM's key-value cache on a CPU."""
ENCODING = 8 * 10**9
"""Bytes on a GPU for encoded rows and what else is not vLLM's own."""
_BATCH_TOKENS = 8192
"""Query tokens whose residual rows are kept on the device until their pair is complete."""

_alive: dict[tuple, tuple[int, object]] = {}
_folders: list[tempfile.TemporaryDirectory] = []


def installed() -> bool:
    """Whether vLLM is in this environment."""
    return find_spec("vllm") is not None


def checkpoint(name: str, revision: str | None = None) -> Path:
    """The folder of model `name`, fetched from the hub at `revision` if it is not here."""
    source = models.resolve(name, revision)
    if isinstance(source, Path):
        return source
    return Path(snapshot_download(source, revision=revision, allow_patterns=list(models.FILES)))


def truncated_checkpoint(name: str, layer: int, revision: str | None = None) -> Path:
    """Blocks 0..`layer` of model `name` as a folder in the cache that vLLM and transformers load (written once)."""
    models.check(name, layer, revision)
    source = checkpoint(name, revision)
    weights = sorted(source.glob("*.safetensors"))
    if not weights:
        raise ValueError(f"model folder {source} has no *.safetensors: vLLM's engine reads nothing else")
    made_of = [str(source), [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in weights]]
    folder = store.CACHE / "models" / f"{Path(name).name}-to-{layer}-{store.digest(made_of)}"
    if folder.exists():
        return folder
    with store.atomic_folder(folder) as out:
        config = AutoConfig.from_pretrained(source)
        text = config.get_text_config()
        text.num_hidden_layers = layer + 1
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[: layer + 1]
        config.save_pretrained(out)
        index = {}
        for file in weights:
            with safe_open(file, "pt") as tensors:
                kept = {k: tensors.get_tensor(k) for k in tensors.keys() if _block(k) <= layer}  # noqa: SIM118
            if kept:
                save_file(kept, out / file.name, metadata={"format": "pt"})
                index |= dict.fromkeys(kept, file.name)
        if len(weights) > 1:
            (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
        for file in [*source.glob("*token*"), *source.glob("*.jinja")]:
            shutil.copy(file, out)
    return folder


def _block(tensor: str) -> int:
    """The block that a weight belongs to; -1 for embeddings, final norm and head."""
    found = re.search(r"(?:^|\.)layers\.(\d+)\.", tensor)
    return int(found[1]) if found else -1


def feature_stats(
    pairs: Sequence[tuple[Prompt, Prompt]], model_folder: Path | str, taps: Sequence[extract.Tap], *,
    dtype: str = "float32", tokens: int | None = None, desc: str | None = "extract",
) -> list[FeatureStats]:  # fmt: skip
    """`extract.feature_stats` computed by vLLM on the checkpoint `model_folder` (`truncated_checkpoint`).

    Demonstrations that queries share are computed once (prefix caching), the query's tokens always;
    features and sums are computed where the model runs and only sums come back. `tokens`: of one
    forward pass; longer prompts are split.

    Raises ValueError where the query tokens differ or features are not finite.
    """
    for a, b in pairs:
        if a.query != b.query:
            raise ValueError(f"question {a.example_id}: query tokens differ between the conditions")
    extra = {
        "worker_extension_cls": "sts_utils.engines.vllm_worker.Tap", "scheduler_cls": "sts_utils.engines.vllm_worker.QueryScheduler",
        "async_scheduling": False, "enforce_eager": True,
    }  # fmt: skip
    if tokens := tokens or (None if torch.cuda.is_available() else extract.batch_tokens()):
        extra |= {"max_num_batched_tokens": tokens, "max_num_seqs": min(tokens, 64)}
    size = sum(sum(p.nbytes for p in sae.parameters()) for sae in {id(tap.sae): tap.sae for tap in taps}.values())
    llm = _engine(model_folder, dtype, size, **extra)
    llm.collective_rpc("sts_install", args=([(tap.layer, _folder(tap.sae), float(tap.sink_norm)) for tap in taps],))
    sums = [{} for _ in taps]
    with tqdm(total=len(pairs), desc=desc, unit="query", leave=False, disable=desc is None) as bar:
        for batch in _batches(pairs):
            for found, stacked in zip(sums, _batch_sums(llm, pairs, batch), strict=True):
                for row, index in enumerate(batch):
                    extract.pool(found, {index: {name: values[row] for name, values in stacked.items()}})
            bar.update(len(batch))
    ids = [a.example_id for a, _ in pairs]
    return [extract.stacked(found, ids, tap.sae) for tap, found in zip(taps, sums, strict=True)]


def _batches(pairs: Sequence[tuple[Prompt, Prompt]]) -> Iterator[list[int]]:
    """Indices of pairs, those of one context together, at most _BATCH_TOKENS query tokens a batch."""
    groups = defaultdict(list)
    for index, (a, b) in enumerate(pairs):
        groups[a.context, b.context].append(index)
    batch, size = [], 0
    for index in (i for members in groups.values() for i in members):
        if batch and size + len(pairs[index][0].query) > _BATCH_TOKENS:
            yield batch
            batch, size = [], 0
        batch.append(index)
        size += len(pairs[index][0].query)
    yield batch


def _batch_sums(llm, pairs: Sequence[tuple[Prompt, Prompt]], batch: Sequence[int]) -> list[dict]:
    """Each tap's sums of one batch of pairs: field -> array, a row a pair."""
    from vllm import SamplingParams

    ids, lengths = [pairs[i][0].example_id for i in batch], [len(pairs[i][0].query) for i in batch]
    llm.collective_rpc("sts_begin", args=(ids, lengths))
    prompts, settings = [], []
    for side in (0, 1):
        for number, index in enumerate(batch):
            prompt = pairs[index][side]
            start, stop = prompt.span
            prompts.append({"prompt_token_ids": list(prompt.ids[:stop])})  # nothing after the query is read
            asked = {"pair": number, "side": side, "start": start, "stop": stop}
            settings.append(SamplingParams(max_tokens=1, temperature=0, detokenize=False, extra_args=asked))
    llm.generate(prompts, settings, use_tqdm=False)
    found = llm.collective_rpc("sts_collect")[0]
    if isinstance(found, str):
        raise ValueError(found)
    return [read_arrays(sums) for sums in found]


def generate(
    model_folder: Path | str, max_new_tokens: int, dtype: str = "bfloat16", *, special_tokens: bool = False,
    stop: Sequence[str] = (),
) -> Callable[[Sequence[str]], list[tuple[str, int, bool]]]:  # fmt: skip
    """A function from prompts to the model's greedy answers: (text, its tokens, whether it ended by itself).

    Prompts are whole chat texts (`generation.chat_text`), or plain ones that want the tokenizer's `special_tokens`
    before them; an answer ends at a text of `stop` too, which is kept. Tokens leave out the one that ends the answer.
    """
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    try:
        settings = GenerationConfig.from_pretrained(model_folder)
    except OSError:  # a model without generation_config.json
        settings = GenerationConfig.from_model_config(AutoConfig.from_pretrained(model_folder))
    stops = stop_ids(SimpleNamespace(generation_config=settings), tokenizer)

    def answers(prompts: Sequence[str]) -> list[tuple[str, int, bool]]:
        from vllm import SamplingParams

        llm = _engine(model_folder, dtype, 0, enforce_eager=not torch.cuda.is_available())
        read = tokenizer(list(prompts), add_special_tokens=special_tokens).input_ids
        greedy = SamplingParams(
            temperature=0, max_tokens=max_new_tokens, stop_token_ids=stops, stop=list(stop),
            include_stop_str_in_output=True,
        )  # fmt: skip
        outputs = [answer.outputs[0] for answer in llm.generate([{"prompt_token_ids": ids} for ids in read], greedy)]
        return [(o.text, sum(token not in stops for token in o.token_ids), o.finish_reason == "stop") for o in outputs]

    return answers


def _engine(folder: Path | str, dtype: str, beside: int, **extra):
    """The vLLM engine of a checkpoint folder: the one alive, or a new one in its place; on a GPU it leaves room for
    `beside` bytes of SAEs."""
    if not installed():
        raise ValueError("ENGINE=vllm: vLLM is not installed; run `make vllm`, or use ENGINE=transformers")
    key = (str(folder), dtype, *sorted(extra.items()))
    if key not in _alive or beside > _alive[key][0]:
        close()
        os.environ.update({k: os.environ.get(k, v) for k, v in _ENVIRONMENT.items()})
        from vllm import LLM

        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            taken = free - max(0.3 * free, beside + ENCODING)
            if taken <= 0:
                raise ValueError(
                    f"ENGINE=vllm: the SAEs take {beside / 1e9:.0f} GB, {free / 1e9:.0f} GB of GPU are free"
                )
            extra["gpu_memory_utilization"] = round(taken / total, 2)
        else:
            extra |= {"kv_cache_memory_bytes": _CPU_CACHE, "block_size": 32}
        llm = LLM(
            model=str(folder), dtype=dtype, enable_prefix_caching=True, max_model_len=-1, generation_config="vllm",
            disable_log_stats=True, **extra,
        )  # fmt: skip
        _alive[key] = beside, llm
    return _alive[key][1]


def close() -> None:
    """End the engine that is alive, if any, and free its device."""
    while _alive:
        _, (_, llm) = _alive.popitem()
        with contextlib.suppress(Exception):
            llm.llm_engine.engine_core.shutdown()


@cache
def _folder(sae) -> str:
    """A folder, removed at exit, from which a worker loads `sae`."""
    store.CACHE.mkdir(parents=True, exist_ok=True)
    made = tempfile.TemporaryDirectory(prefix="sts-sae-", dir=store.CACHE)  # gigabytes: not in /tmp
    _folders.append(made)
    sae.save_model(made.name)
    return made.name
