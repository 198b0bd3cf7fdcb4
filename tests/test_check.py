"""Whether a machine can run a profile, before anything is downloaded."""

from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from sts_utils import check, config, models


@pytest.fixture
def machine(monkeypatch):
    """A machine with GPUs of the sizes given (GB), and main memory; no mirror and no hub."""
    monkeypatch.delenv("STS_MIRROR", raising=False)
    monkeypatch.setattr(check, "scan_cache_dir", lambda: SimpleNamespace(repos=[]))
    no_network = RuntimeError("no network\nat all")
    monkeypatch.setattr(check.HfApi, "auth_check", Mock(side_effect=no_network))

    def have(*sizes, memory=256):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(sizes))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(sizes))
        sized = [SimpleNamespace(total_memory=int(size * 1e9)) for size in sizes]
        monkeypatch.setattr(torch.cuda, "get_device_properties", sized.__getitem__)
        has = SimpleNamespace(total=memory * 1e9, available=memory * 1e9)
        monkeypatch.setattr(check.psutil, "virtual_memory", lambda: has)
        monkeypatch.setattr(check.shutil, "which", lambda _: None)
        monkeypatch.setattr(check.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**13))
        return check._memory(config.load("llama3-8b"))

    return have


def test_the_default_runs_here_and_the_paper_s_models_do_not(machine, capsys):
    machine(memory=24)
    assert check.main(["check"]) == 0 and "can run it" in capsys.readouterr().out
    assert check.main(["check", "--profile", "paper"]) == 1
    said = capsys.readouterr().out
    assert said.count("no GPU: fine-tuning takes") == 3 and said.count("hub: ") > 3
    assert "no network" in said and "at all" not in said


def test_gpus_and_the_memory_beside_them(machine):
    assert not machine(*(80,) * 8, memory=2000) and not machine(141, memory=500)
    assert machine(*(80,) * 8, memory=100)  # eight processes read 32 GB of float32 weights each
    assert machine(24, memory=500)


def test_an_unusable_gpu_is_one_line(machine, monkeypatch):
    machine(memory=24)
    monkeypatch.setattr(check.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (line,) = check._memory(config.load("smol"))
    assert line.startswith("CUDA: torch")


def test_weights_of_the_table_are_those_of_the_configs_at_hand():
    for profile in map(config.load, ("tiny", "smol")):
        assert check.weights(profile) == models.size(profile.model)


def test_a_run_s_size_is_said_of_every_function_and_grows_with_it(profile, monkeypatch):
    monkeypatch.setattr(check, "flops_a_second", {"float32": 1e9, "bfloat16": 1e10}.get)

    def estimated(part: str, **of):
        own = getattr(profile, part).model_copy(update=of)
        return check.estimate(profile.model_copy(update={part: own})).set_index("function")

    table, thrice = estimated("sft", dtype="float32"), estimated("sft", epochs=3)
    assert {"finetuned", "performance", "train_features"} <= set(table.index)
    assert thrice.flops.finetuned > 2 * table.flops.finetuned
    assert thrice.flops.performance == table.flops.performance
    assert estimated("evaluation", asked=2).flops.performance < table.flops.performance
    coarse = estimated("sft", dtype="bfloat16")  # each part at the speed of its own precision
    assert table.seconds.finetuned > 2 * coarse.seconds.finetuned  # GRPO's baseline has GRPO's
    assert table.seconds.performance == coarse.seconds.performance
