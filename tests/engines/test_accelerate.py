import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers.integrations import sdpa_attention

from sts_utils import corpora, fsdp, models, plan, run, store, train


@pytest.fixture(scope="module")
def settings(profile):
    """Of one process, and of two with less than half its micro-batch."""
    more = {"examples": 20, "epochs": 3, "dtype": "float32"}
    one = profile.sft.model_copy(update=more)
    return one, one.model_copy(update={"micro_batch": 2})


@pytest.fixture(scope="module")
def examples():
    """Two processes can't share 19 evenly."""
    return corpora.load("gsm-symbolic", 0, 19)


@pytest.fixture(scope="module")
def alone(settings, examples, tmp_path_factory):
    """Log and folder of the model that one process trains."""
    out = tmp_path_factory.mktemp("alone") / "model"
    return train.sft("tiny", None, settings[0], examples, 1, out), out


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    """The committed FSDP launcher, for two CPU processes."""
    # its sitecustomize shards over CPU processes as over GPUs
    monkeypatch.setenv("PYTHONPATH", f"{store.ROOT}:{store.ROOT / 'tests/rehearsal'}")
    monkeypatch.setenv("SHARDED", str(tmp_path / "sharded.txt"))
    monkeypatch.setenv("LOGITS", str(49152 * 160))  # less than some of their answers are long
    config = yaml.safe_load((store.ROOT / "profiles/accelerate/fsdp.yaml").read_text())
    config |= {"use_cpu": True, "num_processes": 2}
    (tmp_path / "fsdp.yaml").write_text(yaml.safe_dump(config))
    return str(tmp_path / "fsdp.yaml")


def launched(launcher, settings, examples, out, model="tiny"):
    told = {"model": model, "revision": None, "seed": 1, "steps": None}
    return train.launch(launcher, settings, examples, out, **told)


@pytest.mark.slow
def test_two_sharded_processes_train_as_one(settings, examples, alone, launcher, tmp_path):
    # as the paper's profiles do; a blank row is alone in a process then
    saving = settings[1].model_copy(update={"gradient_checkpointing": True, "micro_batch": 1})
    same_training(alone, launched(launcher, saving, examples, tmp_path / "b"), tmp_path / "b")
    assert (tmp_path / "sharded.txt").read_text().split() == ["sharded"] * 2


@pytest.mark.slow
def test_sharded_processes_may_have_other_lengths(settings, examples, launcher, tmp_path):
    """One has more tokens than go through the head at once, the other fewer: they exchange alike.
    Of a model whose head is not its embedding, as Llama's and Qwen's."""
    whole = models.load_model("tiny")
    whole.config.tie_word_embeddings = False
    whole.lm_head.weight = torch.nn.Parameter(whole.lm_head.weight.detach().clone())
    whole.all_tied_weights_keys = {}
    models.save(whole, models.load_tokenizer("tiny"), tmp_path / "untied")
    model, out = str(tmp_path / "untied"), tmp_path / "b"
    one = train.sft(model, None, settings[1], examples, 1, tmp_path / "a"), tmp_path / "a"
    same_training(one, launched(launcher, settings[1], examples, out, model), out)


@pytest.mark.slow
def test_two_sharded_processes_train_in_bfloat16(settings, examples, alone, launcher, tmp_path):
    half = settings[1].model_copy(update={"dtype": "bfloat16"})
    log = launched(launcher, half, examples, tmp_path / "b")
    np.testing.assert_allclose(log.loss, alone[0].loss, rtol=0.01)
    weights = load_file(tmp_path / "b/model.safetensors").values()
    assert {weight.dtype for weight in weights} == {torch.bfloat16}


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gpus_of_this_machine_train_as_one_process(settings, examples, dtype, tmp_path):
    """The committed launcher as it is; looser than on a CPU, since TF32 and shards round."""
    chosen = settings[1].model_copy(update={"dtype": dtype, "gradient_checkpointing": True})
    one = train.sft("tiny", None, chosen, examples, 1, tmp_path / "a")
    log = launched("profiles/accelerate/fsdp.yaml", chosen, examples, tmp_path / "b")
    np.testing.assert_allclose(log.loss, one.loss, rtol=0.02)
    a, b = (load_file(tmp_path / f / "model.safetensors") for f in "ab")
    before = load_file(models.resolve("tiny") / "model.safetensors")
    for name, value in a.items():
        moved = (value.float() - before[name].float()).norm()
        assert (b[name].float() - value.float()).norm() < 0.2 * moved, name


def test_gradients_are_shared_at_each_micro_batch(settings, whole, monkeypatch):
    """Else they stay whole on every GPU; and float32 keys are repeated, or no kernel is fused."""
    monkeypatch.setattr(sdpa_attention, "use_gqa_in_sdpa", lambda *_: True)
    monkeypatch.setattr(fsdp, "SharedTrainer", lambda _model, arguments, *_: arguments)
    monkeypatch.setattr(whole, "forward", whole.forward)
    arguments = fsdp.shared_trainer(whole, settings[1], [fsdp.BLANK], 1, None)
    kept = arguments.accelerator_config.gradient_accumulation_kwargs
    assert kept["sync_each_batch"] and arguments.gradient_accumulation_steps == 4
    assert not sdpa_attention.use_gqa_in_sdpa(None, None)


def same_training(alone, log, folder):
    """Losses and weights of `folder` are those that one process left, and training moved them."""
    assert sorted(f.name for f in alone[1].iterdir()) == sorted(f.name for f in folder.iterdir())
    pd.testing.assert_frame_equal(alone[0], log, check_exact=False, rtol=1e-3)
    assert log.loss.iloc[-1] < log.loss.iloc[0] - 0.03
    one, two = (load_file(f / "model.safetensors") for f in (alone[1], folder))
    assert sorted(one) == sorted(two)
    before = load_file(models.resolve("tiny") / "model.safetensors")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=2e-5)
        untrained = before.get(name, before["model.embed_tokens.weight"])  # an untied head
        assert (value - untrained).abs().max() > 1e-3  # trained by much more than they differ


def test_what_cannot_be_launched_is_one_line(profile, launcher, tmp_path):
    for where, micro_batch, said in (
        ("profiles/accelerate/none.yaml", 4, "is not a file: give an accelerate config"),
        (launcher, 8, "sft.batch is 8, not a multiple of 2 processes x sft.micro_batch 8"),
    ):
        settings = profile.sft.model_copy(update={"micro_batch": micro_batch})
        over = profile.model_copy(update={"launcher": where})
        with pytest.raises(ValueError, match=said):
            run.sft(over, settings, [], 0, tmp_path)


def test_gpus_of_the_process_that_launches(profile, launcher, tmp_path):
    over = profile.model_copy(update={"launcher": launcher, "executor": "ray"})
    assert plan.gpus((run.finetuned, (over, 0))) == 0
    (tmp_path / "two.yaml").write_text("{num_machines: 1, num_processes: 2}")
    over = over.model_copy(update={"launcher": str(tmp_path / "two.yaml")})
    assert plan.gpus((run.finetuned, (over, 0))) == 2
    assert plan.gpus((run.performance, (over,))) == 1


@pytest.mark.slow
def test_its_processes_end_with_a_killed_starter(settings, launcher, tmp_path):
    """Or they would train on, and hold their GPUs."""
    code = f"""
from pathlib import Path
from sts_utils import corpora, train
from sts_utils.config import SftSettings
settings = SftSettings(**{settings[1].model_dump() | {"epochs": 1000}!r})
told = {{"model": "tiny", "revision": None, "seed": 1, "steps": None}}
examples = corpora.load("gsm-symbolic", 0, 20)
train.launch({launcher!r}, settings, examples, Path({str(tmp_path)!r}) / "b", **told)
"""
    starter = psutil.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)

    def training():
        found = starter.children(recursive=True)
        return [p for p in found if "sts_utils.fsdp" in p.cmdline()]

    deadline = time.time() + 240
    while len(training()) < 3:  # accelerate's own and two that train
        assert starter.poll() is None and time.time() < deadline
        time.sleep(0.1)
    processes = starter.children(recursive=True)
    starter.kill()
    assert not psutil.wait_procs(processes, timeout=60)[1]


@pytest.mark.slow
def test_an_error_in_a_process_is_one_line(settings, launcher, tmp_path):
    with pytest.raises(ValueError, match="SFT over 2 processes"):
        launched(launcher, settings[1], [], tmp_path)
