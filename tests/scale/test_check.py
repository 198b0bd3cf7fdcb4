import argparse
import time

import pytest
import torch

from sts_utils import config, models
from sts_utils.scale import check
from sts_utils.scale.check import Shape

SMALL = Shape(parameters=1000, layers=4, width=8, vocabulary=10, context=64, embeddings=200)


@pytest.fixture
def offline(monkeypatch):
    """No mirror and no hub, wherever the tests run."""
    monkeypatch.delenv("STS_MIRROR", raising=False)
    monkeypatch.setattr(check.hub, "cached", lambda need: False)
    monkeypatch.setattr(check, "unreachable", lambda timeout: "the hub can't be reached (no network)")


@pytest.fixture
def laptop(monkeypatch, offline):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.fixture
def gpus(monkeypatch, offline):
    """A machine with GPUs of the sizes given (GB)."""

    def have(*sizes, memory=256):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(sizes))
        properties = [type("P", (), {"total_memory": int(size * 1e9)}) for size in sizes]
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: properties[i])
        monkeypatch.setattr(check.psutil, "virtual_memory", lambda: argparse.Namespace(total=memory * 1e9))

    return have


def test_forward_flops_is_the_stated_formula():
    # 4 blocks of 200 weights: 10 tokens × (2 × 800 + 4 × 4 × 8 × 5)
    assert check.forward_flops(SMALL, 10, 5) == 10 * (1600 + 640)
    assert check.forward_flops(SMALL, 10, 5, layers=2) == 10 * (1600 + 640) / 2
    assert check.forward_flops(SMALL, 0, 0, heads=3) == 2 * 8 * 10 * 3


@pytest.mark.parametrize("name", ["tiny", "smollm2-135m-instruct"])
def test_the_table_agrees_with_the_configs_at_hand(name):
    models.resolve(name)
    profile = config.load("tiny" if name == "tiny" else "smol")
    found, source = check.shape(profile)
    assert found == check.SHAPES[name] and source == "from its config"
    assert found.parameters == models.size(name)


def test_a_model_without_config_comes_from_the_table_and_says_so(offline):
    assert check.shape(config.load("llama3-8b")) == (
        check.SHAPES["meta-llama/Meta-Llama-3-8B-Instruct"], "from the table in check.py",
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"model 'org/other': its config is neither here nor in check\.py's table"):
        check.shape(config.load("llama3-8b").model_copy(update={"model": "org/other"}))


def test_the_plan_counts_tokens_and_units(laptop):
    profile = config.load("llama3-8b")
    table = check.plan(profile).set_index("stage")
    query, solution = check.LENGTHS["limo"]
    sft = table.loc["fine-tuning (SFT)"]
    assert (sft.units, sft.tokens) == (3, 3 * 10 * 653 * (query + solution))
    # about 4 passes × 2 × 7 B block weights a token, and attention on top
    assert 4 * 2 * 6.9e9 < sft.flops / sft.tokens < 4 * 2 * 9e9
    assert sft.gpu_hours == pytest.approx(sft.flops / (156e12 * 0.4) / 3600)
    answers = table.loc["evaluation, answers"]
    assert answers.gpu_hours == pytest.approx(answers.flops / (312e12 * 0.1) / 3600)
    asked = 12_032 * (1 + 3 + 3) + 2 * 5 * 500
    assert answers.tokens == asked * check.WRITTEN
    dn = table.loc["features of the training set (D_N)"]
    assert (dn.units, dn.tokens) == (3, 3 * (8 * 2 * (query + solution) + 2 * 200 * query))


def test_more_seeds_and_questions_cost_more(laptop):
    one, three = (check.plan(config.load("qwen2.5-7b", seeds)).set_index("stage") for seeds in ("0", "0,1,2"))
    assert three.loc["fine-tuning (SFT)"].flops == pytest.approx(3 * one.loc["fine-tuning (SFT)"].flops)
    options = check.plan(config.load("smol")).set_index("stage")
    assert "evaluation" in options.index and "evaluation, answers" not in options.index


def test_the_prediction_costs_a_hundredth_of_what_it_replaces(laptop):
    """Counted, for the paper's profiles: features of training set and domains over SFT and its evaluation."""
    for profile in config.load_all("paper"):
        flops = check.plan(profile).set_index("stage").flops
        predicted = flops["features of the training set (D_N)"] + flops["features of the domains (STS)"]
        assert predicted < 0.01 * (flops["fine-tuning (SFT)"] + flops["evaluation, prompts"])


@pytest.mark.parametrize("name", ["tiny", "smol"])
def test_a_laptop_runs_the_small_profiles(name, laptop, monkeypatch, capsys):
    monkeypatch.setattr(check.shutil, "disk_usage", lambda place: argparse.Namespace(free=100e9))
    monkeypatch.setattr(check, "unreachable", lambda timeout: pytest.fail("the hub was asked"))
    assert check.main([config.load(name)]) == 0
    assert capsys.readouterr().out.rstrip().endswith("This machine can run it.")


def test_a_laptop_does_not_run_the_paper_and_says_why(laptop, capsys, monkeypatch):
    for loader in ("load_model", "load_truncated", "load_tokenizer", "_from_pretrained"):
        monkeypatch.setattr(models, loader, lambda *_, **__: pytest.fail("something was loaded"))
    start = time.process_time()
    assert check.main(config.load_all("paper")) == 1
    assert time.process_time() - start < 10
    reasons = [line for line in capsys.readouterr().out.splitlines() if line.startswith("can't run")]
    for name in ("llama3-8b", "qwen2.5-7b", "gemma2-9b"):
        assert any(line.startswith(f"can't run {name}: no GPU: fine-tuning") for line in reasons)
        assert any(f"{name}: hub: the hub can't be reached" in line and "GAIR/LIMO" in line for line in reasons)


def test_gpu_memory_is_compared_with_the_need(gpus):
    profile = config.load("llama3-8b")
    model, _ = check.shape(profile)
    gpus(80, 80, 80, 80)
    assert check._compute(profile, model) == []
    gpus(80, 80)
    (line,) = check._compute(profile, model)
    assert line.startswith("GPU memory: fine-tuning")
    assert "the GPUs that share a batch have 80 + 80 GB: use more GPUs" in line
    assert check._compute(profile.model_copy(update={"launcher": None}), model) == []  # the optimizer in main memory
    gpus(80, 80, 80)  # a batch of 256 is shared by two of them
    (line,) = check._compute(profile, model)
    assert "have 80 + 80 GB" in line
    gpus(80, 80, 80, 80, memory=64)
    line, _ = check._compute(profile, model)
    assert "4 processes read float32 weights" in line and "128 GB together, this machine has 64 GB" in line
    grpo, alone = check._compute(profile.model_copy(update={"launcher": None}), model)
    assert alone.startswith("GPU memory: fine-tuning") and alone.endswith("set launcher: profiles/accelerate/fsdp.yaml")
    assert "GRPO of meta-llama" in grpo and "takes 37 GB on one GPU and 128 GB there or in main memory" in grpo
    gpus(*[12] * 20)
    (line,) = check._compute(profile, model)
    assert "needs 18 GB on one GPU, the largest has 12 GB" in line


def test_what_is_in_the_mirror_is_not_missed(offline, monkeypatch, tmp_path):
    profile = config.load("gemma3-270m")
    assert "google/gemma-3-270m-it" in check._reach(profile)[0]
    for need in check.hub.needs(profile):
        folder = tmp_path / need.name
        folder.mkdir(parents=True)
        (folder / ("cfg.json" if need.kind == "sae" else "config.json")).write_text("{}")
    monkeypatch.setenv("STS_MIRROR", str(tmp_path))
    assert check._reach(profile) == []


def test_gated_models_are_asked_for_once_each(offline, monkeypatch):
    monkeypatch.setattr(check, "unreachable", lambda timeout: "")
    asked = []

    def no_access(kind, name):
        asked.append(name)
        return "is gated: accept its licence" if "gemma-3" in name else ""

    monkeypatch.setattr(check, "no_access", no_access)
    assert check._reach(config.load("gemma3-270m")) == ["hub: google/gemma-3-270m-it: is gated: accept its licence"]
    assert sorted(asked) == ["google/gemma-3-270m-it", "google/gemma-scope-2-270m-it"]


def test_engine_executor_disk_and_versions(laptop, monkeypatch):
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda package: None)
    profile = config.load("tiny").model_copy(update={"engine": "vllm", "executor": "ray"})
    assert [line.split(":")[0] for line in check._versions(profile)] == ["engine", "executor"]
    monkeypatch.setattr(check.importlib.metadata, "version", lambda package: "0.0.1")
    assert any(line.startswith("torch is 0.0.1, constraints.txt has") for line in check._versions(profile))
    monkeypatch.setattr(check.shutil, "disk_usage", lambda place: argparse.Namespace(free=1e3))
    (line,) = check._disk(config.load("smol"), check.SHAPES["smollm2-135m-instruct"])
    assert line.startswith("disk: about") and "set STS_OUT" in line


def test_offline_by_setting_is_said_without_asking(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert check.unreachable(0.1) == "HF_HUB_OFFLINE is set"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 can't be reached" in check.unreachable(0.5)
