import os
import subprocess
import sys
from importlib.util import find_spec
from unittest.mock import Mock

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from sts_utils import batches, config, corpora, grpo, models, prompts, run, saes, vllm
from sts_utils import features as extract
from sts_utils import generate as generation
from sts_utils import train as sft
from sts_utils.config import GrpoSettings

if find_spec("vllm") is None:
    pytest.skip("vLLM is not installed (make vllm)", allow_module_level=True)

pytestmark = pytest.mark.slow
MODEL, LAYER = "smollm2-135m-instruct", 20
SAE = "data/saes/smollm2-135m-instruct/layer20-8x-k32"


@pytest.fixture(scope="module", autouse=True)
def short_passes():
    """Most prompts below are longer than one forward pass, so their prefill is split, and no two
    batches hold the same prompts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "batch_tokens", lambda: 96)
        patch.setattr(vllm, "ROWS_TOKENS", 1500)
        yield
    vllm.close()


@pytest.fixture(scope="module")
def pairs():
    """Queries behind two contexts in turn; then the first ones again, and a pair of one prompt."""
    tokenizer = models.load_tokenizer(MODEL)
    shown = [corpora.load("gsm-symbolic", 1, 2), corpora.load("gsm-symbolic", 2, 1)]
    found = prompts.prompt_pairs(tokenizer, corpora.load("mmlu-test", 0, 12), shown, 8192)
    return [*found, *found[:3], (found[3][0], found[3][0])]


@pytest.fixture(scope="module")
def hooks():
    read = (LAYER, SAE), (7, "random-2x-layer7")
    return [extract.Hook(layer, saes.load(name, 576, layer), 2500.0) for layer, name in read]


@pytest.fixture(scope="module")
def backbone():
    return models.load_truncated(MODEL, LAYER)


@pytest.fixture(scope="module")
def folder():
    return vllm.checkpoint(MODEL)


def test_both_engines_read_the_same_features(pairs, hooks, folder, backbone):
    ours = vllm.feature_stats(pairs, folder, hooks)
    theirs = extract.feature_stats(pairs, backbone, hooks)
    for a, b in zip(ours, theirs, strict=True):
        assert a.ids == b.ids == tuple(p.example_id for p, _ in pairs)
        np.testing.assert_array_equal(a.n, b.n)
        for field in ("h", "h2", "dh2", "r", "dr2"):
            x, y = getattr(a, field).sum(0), getattr(b, field).sum(0)
            assert np.linalg.norm(x - y) < 0.01 * np.linalg.norm(y), field
    a, b = ours[0].dh2.sum(0), theirs[0].dh2.sum(0)
    top = np.argsort(-b)[:100]
    missed = np.setdiff1d(top, np.argsort(-a)[:100])
    assert np.all(b[missed] < b[top[-1]] * 1.01), "only ties may change places"
    assert ours[0].h[-1].max() > 0  # one prompt in both conditions shifts nothing
    np.testing.assert_allclose(ours[0].dh2[-1], 0, atol=1e-3)


def test_generation_is_that_of_transformers():
    torch.set_num_threads(batches.cpu_threads())
    tokenizer = models.load_tokenizer(MODEL)
    questions = ["What is the capital of France?", "What is 7 plus 5?"]
    expected = generation.completions(models.load_model(MODEL), tokenizer, questions, 24)
    answers = vllm.generate(models.resolve(MODEL), 24, "float32")
    found = answers([generation.chat_text(tokenizer, q) for q in questions])
    assert [text.strip() for text, _, _ in found] == expected
    for _, tokens, finished in found:
        assert finished == (tokens < 24)
    assert found[0][2], "the answer about France ends by itself"
    stopping = vllm.generate(models.resolve(MODEL), 24, "float32", stop=["capital"])
    ((text, tokens, finished),) = stopping([generation.chat_text(tokenizer, questions[0])])
    assert text.endswith("capital") and finished and tokens < found[0][1]


def test_its_process_ends_with_a_killed_one():
    """Or it would hold its GPU for ever."""
    code = f"""
import time
from sts_utils import models
from sts_utils import vllm
vllm.generate(models.resolve({MODEL!r}), 4)(["A"])
print("written", flush=True)
time.sleep(600)
"""
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert "written\n" in iter(starter.stdout.readline, "")
    processes = psutil.Process(starter.pid).children(recursive=True)
    assert any("EngineCore" in " ".join(process.cmdline()) for process in processes)
    starter.kill()
    assert not psutil.wait_procs(processes, timeout=60)[1]


def test_without_room_for_the_weights_once_more_transformers_samples(monkeypatch, capsys):
    """8B weights and gradients in bfloat16 leave 15 of 48 GB, of which vLLM may take 10."""
    before = dict(os.environ)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (47 * 10**9, 48 * 10**9))
    with vllm.sampler(16 * 10**9, 32 * 10**9) as how:
        assert how == {} and dict(os.environ) == before
    assert "transformers samples" in capsys.readouterr().out


def test_grpo_samples_by_vllm_from_the_weights_of_each_step(tmp_path, monkeypatch):
    """What vLLM said of a token's probability is what the trained weights say; nothing is left."""
    trains, configured = Mock(wraps=sft.run), Mock(wraps=grpo.GRPOConfig)
    monkeypatch.setattr(sft, "run", trains)
    monkeypatch.setattr(grpo, "GRPOConfig", configured)
    monkeypatch.setattr(grpo, "reward", lambda text, answer: float(sum(map(ord, text)) % 2))
    settings = {"steps": 2, "prompts": 2, "generations": 2, "completion_tokens": 24, "lr": 1e-3}
    profile = config.load("smol").model_copy(update={"grpo": GrpoSettings(**settings)})
    profile = profile.model_copy(update={"engine": "vllm"})
    before, precision = dict(os.environ), torch.backends.cuda.matmul.fp32_precision
    run.grpo(profile, corpora.load("gsm-symbolic", 0, 6), 0, tmp_path)
    log = pd.read_parquet(tmp_path / "log.parquet")
    assert dict(os.environ) == before and not torch.distributed.is_initialized()
    assert torch.backends.cuda.matmul.fp32_precision == precision
    assert list(log.step) == [1, 2] and (log.length > 1).all()
    assert configured.call_args.kwargs["vllm_max_model_length"] < 400  # the model's own is 8192
    logged = trains.call_args.args[0].state.log_history
    steps = [logs for logs in logged if "sampling/sampling_logp_difference/mean" in logs]
    assert len(steps) == 2
    for logs in steps:  # bfloat16 on both sides: some hundredths
        assert logs["sampling/sampling_logp_difference/mean"] < 0.1
    old, new = (models.load_model(str(where)).state_dict() for where in (MODEL, tmp_path))
    assert max((new[key] - old[key]).abs().max().item() for key in old) > 1e-5
