import argparse
import time

import pytest
import torch
from rehearsal.families import PUBLIC

from sts_utils import config, corpora, models
from sts_utils.report import run as report
from sts_utils.runs.plan import Step
from sts_utils.scale import check, cost, plan
from sts_utils.scale.cost import Shape

SMALL = Shape(parameters=1000, layers=4, width=8, vocabulary=10, embeddings=200)


def no_network(*_, **__):
    raise RuntimeError("no network\nat all")


def refuse(*_, **__):
    pytest.fail("the hub was asked")


def run(profile):
    """`make check`'s exit code."""
    return check.run(argparse.Namespace(profile=profile, seeds=None))


@pytest.fixture
def offline(monkeypatch):
    """No mirror and no hub, wherever the tests run."""
    monkeypatch.delenv("STS_MIRROR", raising=False)
    monkeypatch.setattr(check.fetch, "cached", lambda need: False)
    monkeypatch.setattr(check.HfApi, "auth_check", no_network)


@pytest.fixture
def laptop(monkeypatch, offline):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def gpus(monkeypatch, offline):
    """A machine with GPUs of the sizes given (GB)."""

    def have(*sizes, memory=256):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(sizes))
        properties = [type("P", (), {"total_memory": int(size * 1e9)}) for size in sizes]
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: properties[i])
        monkeypatch.setattr(
            check.psutil, "virtual_memory", lambda: argparse.Namespace(total=memory * 1e9)
        )

    return have


def test_forward_flops_is_the_stated_formula():
    # 4 blocks of 200 weights: 10 tokens × (2 × 800 + 4 × 4 × 8 × 5)
    assert cost.forward_flops(SMALL, 10, 5) == 10 * (1600 + 640)
    assert cost.forward_flops(SMALL, 10, 5, layers=2) == 10 * (1600 + 640) / 2
    assert cost.forward_flops(SMALL, 0, 0, heads=3) == 2 * 8 * 10 * 3


@pytest.mark.parametrize("name", ["tiny", "smollm2-135m-instruct"])
def test_the_table_agrees_with_the_configs_at_hand(name, monkeypatch):
    known = cost.listed()[name]
    monkeypatch.setattr(cost, "listed", lambda: {})
    assert cost.shape.__wrapped__(name) == known
    assert known.parameters == models.size(name)


def test_a_model_without_config_comes_from_the_table(offline):
    llama = "meta-llama/Meta-Llama-3-8B-Instruct"
    assert cost.shape(llama) == cost.listed()[llama]
    line = r"model 'org/other': its config is neither here nor in data/models\.yaml"
    with pytest.raises(ValueError, match=line):
        cost.shape("org/other")


def rows(name, seeds=None, whole=True):
    """The plan of a profile by kind."""
    return cost.table(config.load(name, seeds), whole).set_index("kind")


def test_the_plan_counts_tokens_and_steps(laptop):
    table, (query, solution) = rows("llama3-8b"), cost.lengths("limo")
    sft = table.loc["fine-tuning (SFT)"]
    assert (sft.steps, sft.tokens) == (3, 3 * 10 * 653 * (query + solution))
    # about 4 passes × 2 × 7 B block weights a token, and attention on top
    assert 4 * 2 * 6.9e9 < sft.flops / sft.tokens < 4 * 2 * 9e9
    assert sft.gpu_hours == pytest.approx(sft.flops / (156e12 * 0.4) / 3600)
    asked = 12_032 * (1 + 3 + 2 + 2)  # untouched, three seeds, two further sets, Fig 6's two
    prompt = 5 * sum(cost.lengths("mmlu-pro-cot")) + cost.lengths("mmlu-pro")[0]
    assert table.loc["evaluation"].tokens == asked * (prompt + cost.WRITTEN)
    dims = rows("llama3-8b", whole=False).loc["features of the training set (D_N)"]
    read = 8 * 2 * (query + solution) + 2 * 200 * query
    assert (dims.steps, dims.tokens) == (3, 3 * read)


def test_writing_an_answer_costs_more_hours_than_reading_it():
    profile = config.load("llama3-8b")
    written = cost.write(profile, 1, 100, 50)
    assert written.gpu_hours == pytest.approx(written.flops / (312e12 * 0.1) / 3600)


def test_more_seeds_and_questions_cost_more(laptop):
    one, three = (rows("qwen2.5-7b", seeds).loc["fine-tuning (SFT)"] for seeds in ("0", "0,1,2"))
    assert three.flops == pytest.approx(3 * one.flops) and three.models == 3 * one.models
    smol = config.load("smol")
    asked = smol.evaluation.questions // 4
    few = smol.evaluation.model_copy(update={"questions": asked})
    fewer = smol.model_copy(update={"evaluation": few})
    assert cost.table(fewer).flops.sum() < cost.table(smol).flops.sum()


def test_every_step_of_every_profile_has_a_cost(laptop, monkeypatch):
    for loader in ("load_model", "load_truncated", "load_tokenizer", "_from_pretrained"):
        monkeypatch.setattr(models, loader, lambda *_, **__: pytest.fail("something was loaded"))
    monkeypatch.setattr(corpora, "_read", lambda name: pytest.fail("data were read"))
    kinds = set()
    for name in config.names():
        profile = config.load(name)
        for step in plan.everything(profile):
            own = cost.cost(step)
            assert min(own) >= 0 and own.tokens and own.flops and own.gpu_hours, step.kind
            kinds.add(step.kind.partition(" on ")[0])
        table = cost.table(profile)
        assert table.steps.sum() == len(plan.everything(profile))
    assert {"evaluation", "fine-tuning (SFT)", "control, training sets"} <= kinds


def test_a_kind_without_a_cost_is_named():
    step = Step("divination", cost.table, (config.load("tiny"),), "06_plot")
    with pytest.raises(
        ValueError, match=r"scale/cost\.py has no cost of 'divination', like 'table"
    ):
        cost.cost(step)


def test_the_prediction_costs_a_hundredth_of_what_it_replaces(laptop):
    """Counted: features of training set and domains over SFT and its evaluation."""
    for name in config.members("paper"):
        flops = rows(name, whole=False).flops
        parts = ("features of the training set (D_N)", "features of the domains (STS)")
        replaced = flops["fine-tuning (SFT)"] + flops["evaluation"]
        assert flops[list(parts)].sum() < 0.01 * replaced


@pytest.mark.parametrize("name", ["tiny", "smol"])
def test_a_laptop_runs_the_small_profiles(name, laptop, monkeypatch, capsys):
    monkeypatch.setattr(check.shutil, "disk_usage", lambda place: argparse.Namespace(free=100e9))
    monkeypatch.setattr(
        check.HfApi, "auth_check", lambda *_, **__: pytest.fail("the hub was asked")
    )
    assert run(name) == 0
    assert capsys.readouterr().out.rstrip().endswith("This machine can run it.")


def test_a_gpu_that_torch_can_t_use_is_one_line(laptop, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)  # as NVML says beside an old driver
    monkeypatch.setattr(check.shutil, "which", lambda name: f"/usr/bin/{name}")
    for built, why in (("13.0", "CUDA 13.0: CUDA 13 needs driver 580"), (None, "without CUDA")):
        monkeypatch.setattr(torch.version, "cuda", built)
        (line, *_) = check.problems(config.load("tiny"), cost.table(config.load("tiny")))
        assert line.startswith("CUDA: torch ") and why in line and "\n" not in line
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hidden: the CPU is wanted
    assert check._unusable() == []


@pytest.mark.parametrize(
    "available, cores, expected", [(4, 8, 1), (16, 8, 1), (20, 8, 2), (64, 4, 4)]
)
def test_as_many_processes_as_there_is_memory_and_cores(
    available, cores, expected, laptop, monkeypatch
):
    free = argparse.Namespace(available=available * 1e9)
    monkeypatch.setattr(check.psutil, "virtual_memory", lambda: free)
    monkeypatch.setattr(check.batches, "cpu_threads", lambda: cores)
    assert check.workers(config.load("smol")) == expected


def test_a_process_a_gpu(gpus):
    gpus(80, 80, 80)
    assert check.workers(config.load("llama3-8b")) == 3


def test_a_laptop_does_not_run_the_paper_and_says_why(laptop, capsys, monkeypatch):
    for loader in ("load_model", "load_truncated", "load_tokenizer", "_from_pretrained"):
        monkeypatch.setattr(models, loader, lambda *_, **__: pytest.fail("something was loaded"))
    start = time.process_time()
    assert run("paper") == 1
    assert time.process_time() - start < 10
    reasons = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("can't run")
    ]
    for name in ("llama3-8b", "qwen2.5-7b", "gemma2-9b"):
        assert any(line.startswith(f"can't run {name}: no GPU: fine-tuning") for line in reasons)
        (offline,) = [line for line in reasons if f"{name}: hub: can't be reached" in line]
        assert "(RuntimeError: no network)" in offline and "GAIR/LIMO" in offline


def test_gpu_memory_is_compared_with_the_need(gpus):
    profile = config.load("llama3-8b")
    alone, model = profile.model_copy(update={"launcher": None}), cost.shape(profile.model)
    gpus(80, 80, 80, 80)
    assert check._gpus(profile, model) == []
    gpus(80, 80)
    (line,) = check._gpus(profile, model)
    assert line.startswith("GPU memory: fine-tuning")
    # 16 bytes of each of 8.03 billion weights over two, and what a pass holds
    assert "takes 94 GB on each of 2 that share a batch, the smallest has 80: use more" in line
    one = alone.model_copy(update={"executor": "local"})
    assert check._gpus(one, model) == []  # the optimizer is in main memory
    assert "308 GB there or in main memory" in check._gpus(alone, model)[0]  # of two seeds' at once
    gpus(80, 80, 80)  # a batch of 256 is shared by two of them
    (line,) = check._gpus(profile, model)
    assert "on each of 2 that share a batch" in line
    gpus(80, 80, 80, 80, memory=64)
    line, _ = check._gpus(profile, model)
    assert (
        "4 processes read float32 weights" in line
        and "152 GB together, this machine has 64 GB" in line
    )
    grpo, tuning = check._gpus(one, model)
    assert tuning.startswith("GPU memory: fine-tuning")
    assert tuning.endswith("set launcher: profiles/accelerate/fsdp.yaml")
    assert "GRPO of meta-llama" in grpo
    assert "takes 45 GB on one GPU and 154 GB there or in main memory" in grpo
    gpus(*[12] * 20)
    (line,) = check._gpus(profile, model)
    assert "with its SAEs needs 23 GB on one GPU, the largest has 12 GB" in line
    gemma = config.load("gemma2-9b")
    gpus(*[48] * 8)  # eight SAEs at once: 30 GB beside 21 of the model
    (line,) = check._gpus(gemma, cost.shape(gemma.model))
    assert "with its SAEs needs 51 GB" in line


@pytest.mark.parametrize(
    "name, count, size, memory, said",
    [
        ("llama3-8b", 8, 80, 320, None),
        ("qwen2.5-7b", 8, 80, 320, None),
        ("gemma2-9b", 8, 80, 350, None),
        ("gemma2-9b", 8, 80, 320, "8 processes read float32 weights"),
        ("llama3-8b", 1, 80, 320, "as profile llama3-8b-one-gpu"),
        ("llama3-8b", 1, 141, 320, "as profile llama3-8b-one-gpu"),
        ("llama3-8b-one-gpu", 1, 80, 190, None),
        ("llama3-8b-one-gpu", 1, 141, 190, None),
        ("llama3-8b-one-gpu", 1, 80, 130, "154 GB there or in main memory"),
        ("llama3-8b-one-gpu", 8, 80, 190, None),  # one after the other
    ],
)
def test_the_paper_s_profiles_on_the_machines_of_the_page(name, count, size, memory, said, gpus):
    """docs/scale.md's table: which machine holds which."""
    gpus(*[size] * count, memory=memory)
    profile = config.load(name)
    lines = check._gpus(profile, cost.shape(profile.model))
    assert lines == [] if said is None else any(said in line for line in lines), lines


def test_reproduce_stops_on_what_check_finds(laptop, monkeypatch, capsys):
    """Before anything is prepared, so before anything is downloaded."""
    monkeypatch.setattr(report, "reproduce", lambda *_: pytest.fail("it went on"))
    assert report.main(["reproduce", "--profile", "llama3-8b"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: can't run llama3-8b: no GPU: fine-tuning")


def test_what_is_in_the_mirror_is_not_missed(offline, monkeypatch, tmp_path):
    profile = config.load("gemma3-270m")
    assert "google/gemma-3-270m-it" in check._reach(profile)[0]
    for need in check.fetch.needs(profile):
        folder = tmp_path / need.name
        folder.mkdir(parents=True)
        (folder / ("cfg.json" if need.kind == "sae" else "config.json")).write_text("{}")
    monkeypatch.setenv("STS_MIRROR", str(tmp_path))
    assert check._reach(profile) == []


def test_gated_models_are_asked_for_once_each(offline, monkeypatch):
    asked = []

    def auth_check(self, name, repo_type):
        asked.append(name)
        answer = argparse.Namespace(headers={}, request=None)
        if "gemma-3" in name:
            raise check.GatedRepoError("Access is restricted", response=answer)
        raise check.HfHubHTTPError("Rate limited\nwait", response=answer)

    monkeypatch.setattr(check.HfApi, "auth_check", auth_check)
    assert check._reach(config.load("gemma3-270m")) == [
        "hub: google/gemma-3-270m-it is gated: accept its licence on the hub and run "
        "`hf auth login`",
        "hub: google/gemma-scope-2-270m-it: HfHubHTTPError: Rate limited",
    ]
    assert sorted(asked) == ["google/gemma-3-270m-it", "google/gemma-scope-2-270m-it"]


def test_engine_executor_disk_and_versions(laptop, monkeypatch):
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda package: None)
    profile = config.load("tiny").model_copy(update={"engine": "vllm", "executor": "ray"})
    found = check.problems(profile, cost.table(profile))  # what `reproduce` stops on
    assert [line.split(":")[0] for line in found][:2] == ["engine", "executor"]
    monkeypatch.setattr(check.importlib.metadata, "version", lambda package: "0.0.1")
    told = "torch is 0.0.1, constraints.txt has"
    assert any(line.startswith(told) for line in check.versions())
    monkeypatch.setattr(check.shutil, "disk_usage", lambda place: argparse.Namespace(free=1e3))
    smol, shape = config.load("smol"), cost.listed()["smollm2-135m-instruct"]
    (line,) = check._disk(smol, shape, cost.table(smol))
    assert line.startswith("disk: about") and "set STS_OUT" in line


def test_what_vllm_loads_is_counted_once(laptop, monkeypatch):
    """Gemma's eight SAEs and its first blocks, whatever the number of processes."""
    monkeypatch.setattr(check.shutil, "disk_usage", lambda place: argparse.Namespace(free=1e3))
    profile, shape = config.load("gemma2-9b"), cost.listed()["google/gemma-2-9b-it"]
    needed = []
    for engine in ("transformers", "vllm"):
        own = profile.model_copy(update={"engine": engine})
        (line,) = check._disk(own, shape, cost.table(own))
        needed.append(float(line.removeprefix("disk: about ").split()[0]))
    saes = 8 * 131_072 * 3584 * 8 / 1e9
    assert needed[1] - needed[0] == pytest.approx(saes + 18.5, abs=10)  # both to two digits


def test_offline_by_setting_is_said(monkeypatch):
    """HF_HUB_OFFLINE is set in the tests: the hub's client refuses to ask."""
    monkeypatch.setattr(check.fetch, "cached", lambda need: False)
    monkeypatch.delenv("STS_MIRROR", raising=False)
    (line,) = check._reach(config.load("gemma3-270m"))
    assert "offline mode is enabled" in line and "set STS_MIRROR=F" in line


def test_a_model_in_the_mirror_is_counted_and_keeps_what_the_table_knows(tmp_path, monkeypatch):
    name, (made, dims) = "meta-llama/Meta-Llama-3-8B-Instruct", PUBLIC["llama3-8b"]
    monkeypatch.setenv("STS_MIRROR", str(tmp_path))
    config_of = made(**dims)
    config_of.save_pretrained(tmp_path / name)
    assert cost.shape.__wrapped__(name) == cost.listed()[name]
    config_of.num_hidden_layers = 2
    config_of.save_pretrained(tmp_path / name)
    small = cost.shape.__wrapped__(name)
    assert small.layers == 2 and small.parameters < 2e9 and not small.working
