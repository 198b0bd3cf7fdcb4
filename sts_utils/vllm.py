"""The vLLM engine: written answers, samples for GRPO, and rows of the residual stream.
One engine is alive at a time and is kept for the next call; `close` ends it. vLLM runs in a process
of its own, which loads this module for `ResidualReader`; while GRPO trains, TRL runs it in ours."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import psutil
import torch
import transformers
from huggingface_hub import snapshot_download
from safetensors import torch as safetensors
from tqdm import tqdm

from sts_utils import batches, features, models, store
from sts_utils.generate import stop_ids

os.environ |= {  # where nothing else is set
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # ResidualReader reads the first runner's batch
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # OMP_NUM_THREADS decides; no core is claimed
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # it compiles at start, which needs nvcc and ninja
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
} | dict(os.environ)

ENCODING = 8 * 10**9  #: Bytes of a GPU left, at least, to encoding rows and what isn't vLLM's own.
ROWS_TOKENS = 16384  #: Whose residual rows are held together, or those of one longer prompt.
_alive: dict[str, tuple] = {}  # what was asked for -> the engine, and who ends it with us


def checkpoint(name: str, revision: str | None = None) -> Path:
    """The folder of model `name`, fetched from the hub at `revision` if it is not here."""
    if isinstance(source := models.resolve(name), str):
        source = snapshot_download(source, revision=revision, allow_patterns=list(models.FILES))
    return Path(source)


class ResidualReader:
    """What vLLM's worker can do beside its own: keep the rows that blocks leave of every prompt."""

    def sts_read(self, layers: Sequence[int]) -> None:
        """Keep the rows after these blocks from now on, and those of no other."""
        for handle in getattr(self, "sts_handles", ()):
            handle.remove()
        self.sts_kept, blocks = {}, self.model_runner.get_model().model.layers
        hooks = {layer: partial(self._sts_keep, layer) for layer in layers}
        self.sts_handles = [blocks[i].register_forward_hook(hook) for i, hook in hooks.items()]

    def _sts_keep(self, layer: int, _block, _inputs, output) -> None:
        """A step's rows lie behind one another; a long prompt goes through in several steps."""
        hidden = output[0] + output[1] if isinstance(output, tuple) else output
        runner, batch = self.model_runner, self.model_runner.input_batch
        ends = runner.query_start_loc.np
        for i, name in enumerate(batch.req_ids):
            number = runner.requests[name].sampling_params.extra_args["prompt"]
            if batch.num_computed_tokens_cpu[i] == 0:  # the first step, or the first once more
                self.sts_kept[number, layer] = []
            self.sts_kept[number, layer].append(hidden[ends[i] : ends[i + 1]].clone())

    def sts_rows(self) -> bytes:
        """The rows kept since the last call, "prompt.layer" each, as safetensors."""
        kept, self.sts_kept = self.sts_kept, {}
        return safetensors.save({f"{i}.{layer}": torch.cat(of) for (i, layer), of in kept.items()})


def residual_rows(folder, prompts, layers, dtype="float32", room: int = 0) -> Iterator[dict]:
    """Of each prompt (ids) in turn: block -> its residual rows [tokens, d_model], float32, on the
    CPU, none of them of a prefix cache. `room`: bytes of the GPU that are left to the caller."""
    from vllm import SamplingParams

    reading = {"worker_extension_cls": f"{__name__}.{ResidualReader.__name__}"}
    reading |= {"enable_prefix_caching": False, "async_scheduling": False, "enforce_eager": True}
    if not torch.cuda.is_available():  # of one forward pass; longer prompts are split
        tokens = batches.batch_tokens()
        reading |= {"max_num_batched_tokens": tokens, "max_num_seqs": min(tokens, 64)}
    llm, lengths = _engine(folder, dtype, room, **reading), list(map(len, prompts))
    llm.collective_rpc("sts_read", args=(list(layers),))
    how = partial(SamplingParams, max_tokens=1, temperature=0, detokenize=False)
    order = range(len(lengths))
    runs = batches.greedy(order, lambda b, i: sum(lengths[j] for j in [*b, i]) <= ROWS_TOKENS)
    for batch in runs:
        asked = [{"prompt_token_ids": list(prompts[i])} for i in batch]
        llm.generate(asked, [how(extra_args={"prompt": i}) for i in batch], use_tqdm=False)
        kept = safetensors.load(llm.collective_rpc("sts_rows")[0])
        for i in batch:
            rows = {layer: kept.pop(f"{i}.{layer}").float() for layer in layers}
            assert all(len(of) == lengths[i] for of in rows.values()), "vLLM skipped tokens"
            yield rows


@torch.inference_mode()
def feature_stats(pairs, folder, hooks, dtype="float32", desc=None) -> list[features.FeatureStats]:
    """`features.feature_stats` of the model in `folder`, its rows read by vLLM; summed where the
    SAEs are. Raises ValueError where the query tokens differ or features are not finite."""
    features.by_context(pairs)  # refuses pairs that differ
    ids, layers = [a.example_id for a, _ in pairs], sorted({hook.layer for hook in hooks})
    widths = sum(hook.sae.cfg.d_sae + hook.sae.cfg.d_in for hook in hooks)
    read = [prompt.ids[: prompt.span[1]] for pair in pairs for prompt in pair]  # no further
    rows = residual_rows(folder, read, layers, dtype, 32 * features.ROWS * widths)  # float64 sums
    sums = [{} for _ in hooks]
    bar = tqdm(pairs, desc=desc, unit="query", leave=False, disable=desc is None)
    for i, pair in enumerate(bar):
        found = [(prompt.span[0], next(rows)) for prompt in pair]
        for hook, into in zip(hooks, sums, strict=True):
            sides = [of[hook.layer][start:].to(hook.sae.device) for start, of in found]
            features.add_sums(into, [i], [len(pair[0].query)], sides, hook, None, ids)
    return [features.stacked(of, ids, hook.sae) for hook, of in zip(hooks, sums, strict=True)]


def generate(folder, new_tokens: int, dtype="bfloat16", *, special=False, stop=()):
    """A function from texts to what the model writes behind them, as `generate.generate`."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    try:
        settings = transformers.GenerationConfig.from_pretrained(folder)
    except OSError:  # a model without generation_config.json
        config = transformers.AutoConfig.from_pretrained(folder)
        settings = transformers.GenerationConfig.from_model_config(config)
    stops = stop_ids(SimpleNamespace(generation_config=settings), tokenizer)

    def answers(texts: Sequence[str]) -> list[tuple[str, int, bool]]:
        from vllm import SamplingParams

        llm = _engine(folder, dtype, enforce_eager=not torch.cuda.is_available())
        ends = {"stop_token_ids": stops, "stop": list(stop), "include_stop_str_in_output": True}
        greedy = SamplingParams(temperature=0, max_tokens=new_tokens, **ends)
        read = tokenizer(list(texts), add_special_tokens=special).input_ids
        written = llm.generate([{"prompt_token_ids": ids} for ids in read], greedy)
        outputs = [request.outputs[0] for request in written]
        tokens = [sum(token not in stops for token in o.token_ids) for o in outputs]
        ended = [o.finish_reason == "stop" for o in outputs]
        return list(zip([o.text for o in outputs], tokens, ended, strict=True))

    return answers


@contextlib.contextmanager
def sampler(weights: int, beside: int) -> Iterator[dict]:
    """What TRL is told to sample with a vLLM in this process: it holds the `weights` once more next
    to `beside` bytes of what trains them, both in bytes; nothing if the GPU has no room. What vLLM
    and TRL change of this process is put back: variables, process group, precision."""
    share = 0.1
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        share = round(0.7 * (free - beside) / total, 2)  # the rest is for an update
        if share * total < weights:
            tqdm.write("GRPO: no room on the GPU for vLLM's weights: transformers samples")
            yield {}
            return
    variables, precision = dict(os.environ), torch.backends.cuda.matmul.fp32_precision
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))  # else vLLM's is one
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}  # whatever a cluster's is
    from vllm.distributed import cleanup_dist_env_and_memory
    from vllm.model_executor.layers import utils

    # on a CPU vLLM packs weights and lets go of those that TRL replaces after each step, and none
    # of its settings keeps them; this process alone, engines that write and read have their own
    plain = {"cpu_linear": torch.nn.functional.linear}
    utils.dispatch_cpu_unquantized_gemm = lambda layer, remove_weight: vars(layer).update(plain)
    try:
        how = {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": share}
        # a whole completion's ratio of probabilities multiplies the rounding of its tokens
        yield how | {"vllm_importance_sampling_mode": "token_truncate"}
    finally:
        cleanup_dist_env_and_memory()
        os.environ.clear()
        os.environ.update(variables)
        torch.backends.cuda.matmul.fp32_precision = precision  # else SFT's TF32 has no effect


def _engine(folder: Path | str, dtype: str, room: int = 0, **how):
    """The vLLM engine of a model's folder: the one alive, or a new one in its place. Of a GPU
    it leaves 0.3 free, or ENCODING and so many bytes of `room`."""
    if find_spec("vllm") is None:
        raise ValueError("ENGINE=vllm: it is not installed: `make vllm`, or ENGINE=transformers")
    files = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in Path(folder).iterdir()]
    key = repr((str(folder), sorted(files), dtype, room, how))
    if key not in _alive:
        close()
        from vllm import LLM

        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            taken = free - max(0.3 * free, room + ENCODING)
            how["gpu_memory_utilization"] = round(taken / total, 2)
        how |= {"max_model_len": -1, "generation_config": "vllm", "disable_log_stats": True}
        before = psutil.Process().children(recursive=True)
        llm = LLM(str(folder), dtype=dtype, **how)
        started = psutil.Process().children(recursive=True)
        # killed, we would leave vLLM's processes behind, which hold the GPU
        _alive[key] = llm, store.watch("KILL", *(p.pid for p in started if p not in before))
    return _alive[key][0]


def close() -> None:
    """End the engine that is alive, if any, and free its device."""
    while _alive:
        _, (llm, watching) = _alive.popitem()
        with watching, contextlib.suppress(Exception):
            llm.llm_engine.engine_core.shutdown()
