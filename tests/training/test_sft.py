import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from sts_utils import config, corpora, models
from sts_utils import train as sft


@pytest.fixture(scope="module")
def examples():
    return corpora.load("gsm-symbolic", 0, 6)


def test_the_loss_is_on_the_solution_alone(tokenizer, examples):
    for row, example in zip(sft.tokenize(tokenizer, examples, 1024), examples, strict=True):
        learnt = [
            token
            for token, label in zip(row["input_ids"], row["labels"], strict=True)
            if label != -100
        ]
        assert tokenizer.decode(learnt) == example.solution + "<|im_end|>"
        text = tokenizer.decode(row["input_ids"])
        assert (
            text.count("<|im_start|>") == 3 and example.query in text
        )  # system, user, assistant: one template


def test_long_sequences_lose_their_left(tokenizer, examples):
    full = sft.tokenize(tokenizer, examples[:1], 1024)[0]
    cut = sft.tokenize(tokenizer, examples[:1], 30)[0]
    assert cut["input_ids"] == full["input_ids"][-30:] and cut["labels"] == full["labels"][-30:]


def collated(tokenizer, examples, model):
    """The examples as one batch, where the model is."""
    rows = sft.collate(sft.tokenize(tokenizer, examples, 1024))
    return {key: of.to(model.device) for key, of in rows.items()}


def test_the_loss_is_transformers_own(tokenizer, examples, whole):
    batch = collated(tokenizer, examples, whole)
    with torch.no_grad():
        expected = whole(**batch).loss
        loss = sft.AnswerTrainer.compute_loss(None, whole, batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_loss_in_parts_is_the_whole_one(tokenizer, examples, whole, monkeypatch):
    """Answers whose logits are too many go through the head in parts: the same loss, gradients."""
    batch, found = collated(tokenizer, examples, whole), []
    for most in (sft.LOGITS, 40 * 49152):
        monkeypatch.setattr(sft, "LOGITS", most)
        whole.zero_grad()
        loss, tokens = sft.answers_loss(whole, **batch)
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in whole.parameters())])
    whole.zero_grad()
    assert tokens > 80
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_the_precision_of_training_is_for_training_alone(profile, tmp_path, monkeypatch):
    """TF32 set by an SFT must not stay for what the same process encodes after it."""
    told, real = [], sft.arguments

    def with_tf32(*args):
        torch.backends.fp32_precision = "tf32"  # as TrainingArguments does on a GPU
        told.append(torch.backends.cuda.matmul.fp32_precision)
        return real(*args)

    monkeypatch.setattr(sft, "arguments", with_tf32)
    before = torch.backends.fp32_precision
    sft.sft("tiny", None, profile.sft, corpora.load("gsm-symbolic", 0, 8), 0, tmp_path, 1)
    assert told == ["tf32"] and torch.backends.fp32_precision == before != "tf32"


def test_float32_copies_keep_updates_that_bfloat16_loses():
    plain = torch.nn.Linear(8, 8, dtype=torch.bfloat16)
    with torch.no_grad():
        plain.weight.fill_(1.0)
    optimizer = sft.master_adamw(plain, lr=1e-5)
    for _ in range(400):
        plain.weight.grad = torch.ones_like(plain.weight)
        plain.bias.grad = torch.zeros_like(plain.bias)
        optimizer.step()
    master = optimizer.param_groups[0]["params"][0]
    assert master.dtype == torch.float32 and master.mean().item() == pytest.approx(
        1 - 400e-5, abs=2e-4
    )
    assert torch.equal(plain.weight, master.bfloat16()) and plain.weight.float().mean().item() < 1.0
    rounded = torch.tensor(1.0, dtype=torch.bfloat16)
    for _ in range(400):
        rounded -= 1e-5
    assert rounded.item() == 1.0


def test_float32_training_is_plain_adamw():
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    optimizer = sft.master_adamw(ours, lr=0.01)
    groups = [
        {"params": [theirs.weight], "weight_decay": 0.01},
        {"params": [theirs.bias], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95))
    x = torch.randn(7, 5)
    for _ in range(5):
        for net, opt in ((ours, optimizer), (theirs, reference)):
            opt.zero_grad()
            net.zero_grad()
            net(x).square().sum().backward()
            opt.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-6)


def test_training_twice_gives_the_same_bits_and_learns(profile, tmp_path):
    settings = profile.sft.model_copy(update={"epochs": 4})
    told = "tiny", None, settings, corpora.load("gsm-symbolic", 0, 16), 3
    logs = [sft.sft(*told, tmp_path / name) for name in ("a", "b")]
    pd.testing.assert_frame_equal(*logs)
    weights = [models.load_model(str(tmp_path / name)).state_dict() for name in ("a", "b")]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert logs[0].loss.iloc[-1] < logs[0].loss.iloc[0] - 0.05


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_saved_as_they_were_trained(profile, tmp_path, dtype):
    settings = profile.sft.model_copy(update={"dtype": dtype})
    sft.sft("tiny", None, settings, corpora.load("gsm-symbolic", 0, 8), 0, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {getattr(torch, dtype)}


def test_every_gpu_seen_is_not_another_share_of_the_batch(profile, tmp_path):
    arguments = TrainingArguments(**sft.arguments(profile.sft, 0, None, str(tmp_path)))
    arguments._n_gpu = 4
    assert sft.on_one_gpu(arguments).train_batch_size == profile.sft.micro_batch


def test_only_what_is_trainable_is_updated():
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    net[0].requires_grad_(False)
    optimizer = sft.master_adamw(net, lr=0.1)
    before = [p.detach().clone() for p in net.parameters()]
    net(torch.randn(3, 4)).square().sum().backward()
    optimizer.step()
    assert [torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)] == [
        True,
        True,
        False,
        False,
    ]


def test_a_batch_is_shared_evenly_by_the_most_gpus():
    settings = config.load("llama3-8b").sft  # 256, one at a time
    shared = [sft.processes(settings, gpus) for gpus in (0, 1, 2, 3, 6, 7, 8)]
    assert shared == [0, 1, 2, 2, 4, 4, 8]
    assert sft.processes(settings.model_copy(update={"micro_batch": 200}), 4) == 0


def test_masters_go_to_main_memory_where_a_gpu_has_no_room():
    """16 bytes a weight: of 2 billion on an empty GPU of 80 GB, not of 8."""
    assert sft.masters_beside(2 * 10**9, 80 * 10**9) == 32 * 10**9
    assert sft.masters_beside(8 * 10**9, 80 * 10**9) == 0
