import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from sts_utils import data, finetune, samples, units


@pytest.fixture(scope="module")
def runs(profile):
    """The same SFT for one process and, through accelerate, for two with half the micro-batch."""
    sft = profile.sft.model_copy(update={"examples": 20, "epochs": 3, "dtype": "float32"})
    one = profile.model_copy(update={"sft": sft})
    shared = {"sft": sft.model_copy(update={"micro_batch": 2}), "launcher": "profiles/accelerate/cpu.yaml"}
    return one, profile.model_copy(update=shared)


def test_two_processes_train_as_one(runs, tmp_path):
    examples = data.load("gsm-symbolic", 0, 20)
    one, two = (finetune.sft(run, examples, 1, tmp_path / name) for run, name in zip(runs, "ab", strict=True))
    assert sorted(f.name for f in (tmp_path / "a").iterdir()) == sorted(f.name for f in (tmp_path / "b").iterdir())
    pd.testing.assert_frame_equal(one, two, check_exact=False, rtol=1e-3)
    assert two.loss.iloc[-1] < two.loss.iloc[0] - 0.03
    weights = [load_file(tmp_path / name / "model.safetensors") for name in "ab"]
    before = load_file(next(iter_model(runs[0])))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=2e-5)
        assert (value - before[name]).abs().max() > 1e-3  # trained by much more than they differ


def iter_model(profile):
    from sts_utils import models

    yield models.resolve(profile.model) / "model.safetensors"


def test_the_launcher_is_not_part_of_a_key(profile):
    launched = profile.model_copy(update={"launcher": "profiles/accelerate/fsdp.yaml"})
    assert units.finetuned(profile, 0).key == units.finetuned(launched, 0).key


@pytest.mark.parametrize(
    ("launcher", "micro_batch", "said"),
    [
        ("profiles/accelerate/none.yaml", 4, "is not a file: give an accelerate config"),
        ("profiles/accelerate/cpu.yaml", 8, "sft.batch is 8, not a multiple of 2 processes x sft.micro_batch 8"),
    ],
)
def test_what_cannot_be_launched_is_one_line(profile, tmp_path, launcher, micro_batch, said):
    sft = profile.sft.model_copy(update={"micro_batch": micro_batch})
    run = profile.model_copy(update={"sft": sft, "launcher": launcher})
    with pytest.raises(ValueError, match=said):
        finetune.sft(run, samples.training_examples(run, 0)[0][:8], 0, tmp_path)


def test_an_error_in_a_process_is_one_line(runs, tmp_path):
    broken = runs[1].model_copy(update={"layer": 0, "model": "tiny", "sft": runs[1].sft.model_copy(update={"lr": 1.0})})
    with pytest.raises(ValueError, match="SFT over 2 processes"):
        finetune.sft(broken, [], 0, tmp_path)
