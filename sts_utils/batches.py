"""How much is computed at once: from the machine, and in runs of neighbours that fit together."""

import os
import time
import timeit
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from importlib.util import find_spec

import psutil
import torch

#: FLOP/s of an A100 on average, and of a core's work beside products (attention, norms): by what
#: fine-tuning, asking and reading took on an EPYC and on a Xeon with AMX.
A100, BESIDE = 6e13, 2e11


def greedy(items: Iterable, fits: Callable[[list, object], bool]) -> Iterator[list]:
    """`items` in runs of neighbours: a batch ends before the item that does not fit to it."""
    batch = []
    for item in items:
        if batch and not fits(batch, item):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def by_length(lengths: Sequence[int], tokens: int, most: float = torch.inf) -> Iterator[list[int]]:
    """Indices, shortest first: `most` of so many padded `tokens` at once, or a longer one alone."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return greedy(order, lambda b, i: len(b) < most and (len(b) + 1) * lengths[i] <= tokens)


def cpu_threads() -> int:
    """Threads for torch: OMP_NUM_THREADS (as Ray sets it), or the cores this process may use."""
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def engine(asked: str) -> str:
    """Who reads and writes: `asked`, or for "auto" vLLM where it is, beside a GPU."""
    at_hand = torch.cuda.is_available() and find_spec("vllm") is not None
    return asked if asked != "auto" else "vllm" if at_hand else "transformers"


@cache
def precision(asked: str = "auto") -> str:
    """`asked`, or for "auto" the dtype in which this machine computes faster: a CPU without units
    for bfloat16 emulates it, ten times slower. One thread's own time and a margin decide."""
    if asked != "auto" or torch.cuda.is_available():
        return "bfloat16" if asked == "auto" else asked
    return "bfloat16" if _seconds("float32") > 1.3 * _seconds("bfloat16") else "float32"


@cache
def _seconds(dtype: str) -> float:
    """Of one CPU thread, its own time for a product of 256 × 512 and 512 × 1024."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a, b = (torch.ones(n, 512, dtype=getattr(torch, dtype)) for n in (256, 1024))
    timer = timeit.Timer(partial(torch.nn.functional.linear, a, b), timer=time.thread_time)
    seconds = min(timer.repeat(repeat=7, number=1))
    torch.set_num_threads(threads)
    return seconds


def flops_a_second(dtype: str) -> float:
    """About what a model computes: A100; or of cores, products and BESIDE one after the other."""
    if torch.cuda.is_available():
        return A100
    return cpu_threads() / (_seconds(dtype) / (2 * 256 * 512 * 1024) + 1 / BESIDE)


def batch_tokens() -> int:
    """Tokens of one forward pass. On a CPU small batches win: less padding, fewer copies of the
    context's cache (512 tokens on two cores took 0.6 of the time that 4096 did)."""
    if torch.cuda.is_available():
        return int(min(65536, free_memory() / 2**20))
    return int(min(256 * torch.get_num_threads(), psutil.virtual_memory().available / 2**20))


def free_memory() -> int:
    """Bytes of the GPU that this process can still take: free, or kept unused by its allocator."""
    free, _ = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def cached_tokens(model, tokens: int) -> int:
    """Tokens of a context's copied caches: a quarter of a GPU's free memory, or 16 × `tokens`."""
    if not torch.cuda.is_available():
        return 16 * tokens
    config = model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    numbers = 2 * len(model.layers) * config.num_key_value_heads * width
    return max(tokens, free_memory() // (4 * numbers * model.dtype.itemsize))
