"""Completions and where they end; batches of what fits, and the precision they are computed in."""

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

from sts_utils import batches, corpora, evaluate
from sts_utils import generate as generation

QUESTIONS = [e.query for e in corpora.load("gsm-symbolic", 0, 5)]


def test_the_chat_templates_end_of_turn_stops(whole, tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert generation.stop_ids(whole, tokenizer) == [end]
    other = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[0]))
    assert generation.stop_ids(other, tokenizer) == [0, end]


def test_where_a_completion_ends(whole, tokenizer, monkeypatch):
    said, pad = "The answer is (A).", tokenizer.pad_token_id
    ids, asked = tokenizer([said, "Yes.\nQuestion:"], add_special_tokens=False).input_ids
    rows = [[*ids, pad, pad], ids, asked]
    monkeypatch.setattr(generation, "continued", lambda *_, **__: rows)
    ends = generation.generate(whole, tokenizer, "abc", 9, stop=["Question:"])
    assert ends[:2] == [(said, len(ids), True), (said, len(ids), False)]
    assert ends[2:] == [("Yes.\nQuestion:", len(asked), True)]


def test_the_same_text_alone_and_in_a_batch(whole, tokenizer):
    texts = [generation.chat_text(tokenizer, question) for question in QUESTIONS]
    one, many = (generation.generate(whole, tokenizer, texts, 6, batch=b) for b in (1, 3))
    assert one == many
    assert generation.completions(whole, tokenizer, QUESTIONS, 6) == [t.strip() for t, _, _ in one]
    assert generation.generate(whole, tokenizer, [], 6) == []


def test_a_seed_is_one_sample(whole, tokenizer):
    how = [{"temperature": 1.0, "seed": seed} for seed in (1, 1, 2)]
    one, same, other = (generation.completions(whole, tokenizer, QUESTIONS, 6, **h) for h in how)
    assert one == same != other


def test_a_batch_ends_before_what_does_not_fit():
    cut = batches.greedy([1, 2, 3, 9, 1], lambda batch, item: sum(batch) + item <= 5)
    assert list(cut) == [[1, 2], [3], [9], [1]]
    assert list(batches.by_length([9, 2, 3, 2], 6, 2)) == [[1, 3], [2], [0]]
    lengths = [8192, 300, 8000, 40, *[100] * 9]  # of solutions: long ones are read few at once
    cut = list(batches.by_length(lengths, evaluate.TOKENS, evaluate.SEQUENCES))
    assert cut == [[3, *range(4, 11)], [11, 12, 1], [2, 0]]


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
