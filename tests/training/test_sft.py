import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from sts_utils import config, corpora, generate, train


@pytest.fixture(scope="module")
def examples():
    return corpora.load("gsm-symbolic", 0, 6)


def test_the_loss_is_on_the_solution_alone(tokenizer, examples):
    rows = generate.tokenize(tokenizer, examples, 1024)
    for row, example in zip(rows, examples, strict=True):
        pairs = zip(row["input_ids"], row["labels"], strict=True)
        learnt = [token for token, label in pairs if label != -100]
        assert tokenizer.decode(learnt) == example.solution + "<|im_end|>"
        text = tokenizer.decode(row["input_ids"])  # system, user, assistant: one template
        assert text.count("<|im_start|>") == 3 and example.query in text
    (cut,) = generate.tokenize(tokenizer, examples[:1], 30)  # long ones lose their left
    assert cut == {key: values[-30:] for key, values in rows[0].items()}


def test_the_loss_is_transformers_own_also_in_parts(tokenizer, examples, whole, monkeypatch):
    """Answers whose logits are too many go through the head in parts: the same loss, gradients."""
    batch = generate.collate(generate.tokenize(tokenizer, examples, 1024))
    batch, found = {key: values.to(whole.device) for key, values in batch.items()}, []
    with torch.no_grad():
        expected = whole(**batch).loss.item()
        ours = train.batch_loss(whole, batch).item()
    assert ours == pytest.approx(expected)
    for most in (train.LOGITS, 40 * 49152):
        monkeypatch.setattr(train, "LOGITS", most)
        whole.zero_grad()
        loss, tokens = train.answers_loss(whole, **batch)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in whole.parameters())])
    whole.zero_grad()
    assert tokens > 80
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_two_micro_batches_are_one_batch(profile, examples, tmp_path):
    """A step does not depend on how its batch is cut, though answers differ in length."""
    logs, weights = [], []
    for size in (6, 3):
        settings = profile.sft.model_copy(update={"batch": 6, "micro_batch": size, "lr": 1e-3})
        logs.append(train.sft("tiny", None, settings, examples, 0, tmp_path / str(size), 2))
        weights.append(load_file(tmp_path / str(size) / "model.safetensors"))
    pd.testing.assert_frame_equal(*logs, rtol=1e-4)
    torch.testing.assert_close(*weights, rtol=0, atol=1e-4)


def test_the_precision_of_training_is_for_training_alone(profile, examples, tmp_path, monkeypatch):
    """TF32 set by an SFT must not stay for what the same process encodes after it."""

    def with_tf32(*_):
        torch.backends.fp32_precision = "tf32"  # as TrainingArguments does on a GPU
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "arguments", with_tf32)
    before = torch.backends.fp32_precision
    with pytest.raises(KeyboardInterrupt):
        train.sft("tiny", None, profile.sft, examples, 0, tmp_path, 1)
    assert torch.backends.fp32_precision == before != "tf32"


def test_float32_copies_keep_updates_that_bfloat16_loses():
    plain = torch.nn.Linear(8, 8, dtype=torch.bfloat16)
    plain.weight.data.fill_(1.0)
    optimizer = train.master_adamw(plain, 1e-5, "bfloat16")
    for _ in range(400):
        plain.weight.grad = torch.ones_like(plain.weight)
        optimizer.step()
    master = optimizer.param_groups[0]["params"][0]
    assert master.dtype == torch.float32
    assert master.mean().item() == pytest.approx(1 - 400e-5, abs=2e-4)
    assert torch.equal(plain.weight, master.bfloat16()) and plain.weight.float().mean().item() < 1.0
    assert torch.tensor(1.0, dtype=torch.bfloat16) - 1e-5 == 1.0  # without a copy


def test_a_small_step_is_seen_in_the_mean_of_rounded_weights():
    torch.manual_seed(0)
    optimizer = train.master_adamw(layer := torch.nn.Linear(512, 512), 1e-5, "bfloat16")
    start = layer.weight.float()
    layer.weight.grad = torch.ones_like(layer.weight)
    optimizer.step()
    assert torch.equal(layer.weight, optimizer.param_groups[0]["params"][0].bfloat16())
    assert (layer.weight.float() - start).mean().item() == pytest.approx(-1e-5, rel=0.1)
    assert ((start - 1e-5).bfloat16() - start).mean().item() > -3e-6  # of what was rounded before


def test_float32_training_is_plain_adamw_of_what_is_trainable():
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.Linear(5, 3)) for _ in "ab")
    theirs.load_state_dict(ours.state_dict())
    ours[0].requires_grad_(False)
    groups = [{"params": [theirs[1].weight], "weight_decay": 0.01}]
    groups += [{"params": [theirs[1].bias], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95))
    optimizer = train.master_adamw(ours, 0.01, "float32")
    x, start = torch.randn(7, 5), ours[0].weight.clone()
    for _ in range(5):
        for net, step in ((ours, optimizer.step), (theirs, reference.step)):
            net.zero_grad()
            net(x).square().sum().backward()
            step()
    torch.testing.assert_close(ours[1].state_dict(), theirs[1].state_dict(), rtol=1e-5, atol=1e-6)
    assert torch.equal(ours[0].weight, start)


@pytest.mark.parametrize(("dtype", "epochs"), [("float32", 4), ("bfloat16", 1)])
def test_training_twice_gives_the_same_bits_and_learns(profile, tmp_path, dtype, epochs):
    settings = profile.sft.model_copy(update={"epochs": epochs, "dtype": dtype})
    examples = corpora.load("gsm-symbolic", 0, 2 * epochs)
    logs = [train.sft("tiny", None, settings, examples, 3, tmp_path / name) for name in "ab"]
    pd.testing.assert_frame_equal(*logs)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert {weight.dtype for weight in one.values()} == {getattr(torch, dtype)}
    assert epochs == 1 or logs[0].loss.iloc[-1] < logs[0].loss.iloc[0] - 0.05


def test_gpus_share_a_batch_and_do_not_multiply_it(profile):
    arguments = TrainingArguments(**train.arguments(profile.sft, 0))
    arguments._n_gpu = 4
    assert train.on_one_gpu(arguments).train_batch_size == profile.sft.micro_batch
    settings = config.load("llama3-8b").sft  # 256, one at a time
    shared = [train.processes(settings, gpus) for gpus in (0, 1, 2, 3, 6, 7, 8)]
    assert shared == [0, 1, 2, 2, 4, 4, 8]
    assert train.processes(settings.model_copy(update={"micro_batch": 200}), 4) == 0
