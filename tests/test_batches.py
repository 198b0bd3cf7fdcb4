import os
import platform
import subprocess
import sys

from sts_utils import batches


def test_a_batch_ends_before_what_does_not_fit():
    cut = batches.greedy([1, 2, 3, 9, 1], lambda batch, item: sum(batch) + item <= 5)
    assert list(cut) == [[1, 2], [3], [9], [1]]
    assert list(batches.by_length([9, 2, 3, 2], 6, 2)) == [[1, 3], [2], [0]]


def test_copies_of_a_cache_take_a_quarter_of_a_gpu(backbone, monkeypatch):
    token = 2 * 2 * 4 * 16 * 4  # two layers, keys and values of four heads, float32
    monkeypatch.setattr(batches.torch.cuda, "is_available", lambda: False)
    assert batches.cached_tokens(backbone, 512) == 16 * 512
    monkeypatch.setattr(batches.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(batches, "free_memory", lambda: 4000 * token)
    assert batches.cached_tokens(backbone, 512) == 1000
    assert batches.cached_tokens(backbone, 2000) == 2000  # one batch of queries at least


def test_a_processor_without_units_for_bfloat16_computes_in_float32():
    """One that emulates it takes ten times as long; torch and oneDNN are told to be one."""
    code = "from sts_utils import batches; print(batches.precision())"
    old = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "CUDA_VISIBLE_DEVICES": ""}
    words, environment = [sys.executable, "-c", code], os.environ | old
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert platform.machine() != "x86_64" or done.stdout.split() == ["float32"]
    assert batches.precision("bfloat16") == "bfloat16"
    assert len({batches.precision.__wrapped__() for _ in range(9)}) == 1  # it is in every key
