import os
import platform
import subprocess
import sys
import time

from sts_utils import batches


def test_a_batch_ends_before_what_does_not_fit():
    cut = batches.greedy([1, 2, 3, 9, 1], lambda batch, item: sum(batch) + item <= 5)
    assert list(cut) == [[1, 2], [3], [9], [1]]
    assert list(batches.by_length([9, 2, 3, 2], 6, 2)) == [[1, 3], [2], [0]]


def test_copies_of_a_cache_take_a_quarter_of_a_gpu(backbone, monkeypatch):
    config = backbone.config  # two layers, keys and values, float32
    token = 2 * 2 * config.num_key_value_heads * config.head_dim * 4
    monkeypatch.setattr(batches.torch.cuda, "is_available", lambda: False)
    assert batches.cached_tokens(backbone, 512) == 16 * 512
    monkeypatch.setattr(batches.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(batches, "free_memory", lambda: 4000 * token)
    assert batches.cached_tokens(backbone, 512) == 1000
    assert batches.cached_tokens(backbone, 2000) == 2000  # one batch of queries at least


def test_a_processor_without_units_for_bfloat16_computes_in_float32():
    """One that emulates it takes ten times as long; torch and oneDNN are told to be one."""
    code = "from sts_utils import batches, config\n"
    code += "p = config.load('smol'); print(batches.precision(), p.dtype, p.sft.dtype)"
    old = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=os.environ | old, capture_output=True, text=True, check=True)
    if platform.machine() == "x86_64":
        assert done.stdout.split() == ["float32"] * 3
    assert batches.precision("bfloat16") == "bfloat16"


def test_a_busy_machine_computes_in_the_same_dtype():
    """Each process decides for itself, and what it finds is part of every artifact's key."""
    idle = {batches.precision.__wrapped__() for _ in range(3)}
    words = [sys.executable, "-c", "while True: sum(range(10**6))"]
    busy = [subprocess.Popen(words) for _ in range(2 * batches.cpu_threads() + 1)]
    try:
        time.sleep(1)
        found = {batches.precision.__wrapped__() for _ in range(20)}
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert len(found) == 1 and found == idle
