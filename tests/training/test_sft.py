import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from sts_utils import config, corpora, models
from sts_utils.evaluation import options as evaluate
from sts_utils.examples import by_domain
from sts_utils.training import sft as finetune


@pytest.fixture(scope="module")
def examples():
    return corpora.load("gsm-symbolic", 0, 6)


def test_the_loss_is_on_the_solution_alone(tokenizer, examples):
    for row, example in zip(finetune.tokenize(tokenizer, examples, 1024), examples, strict=True):
        learnt = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
        assert tokenizer.decode(learnt) == example.solution + "<|im_end|>"
        text = tokenizer.decode(row["input_ids"])
        assert text.count("<|im_start|>") == 3 and example.query in text  # system, user, assistant: one template


def test_long_sequences_lose_their_left(tokenizer, examples):
    full = finetune.tokenize(tokenizer, examples[:1], 1024)[0]
    cut = finetune.tokenize(tokenizer, examples[:1], 30)[0]
    assert cut["input_ids"] == full["input_ids"][-30:] and cut["labels"] == full["labels"][-30:]


def test_the_loss_is_transformers_own(tokenizer, examples, whole):
    batch = finetune.collate(finetune.tokenize(tokenizer, examples, 1024))
    with torch.no_grad():
        expected = whole(**batch).loss
        loss = finetune.AnswerTrainer.compute_loss(None, whole, batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_float32_copies_keep_updates_that_bfloat16_loses():
    plain = torch.nn.Linear(8, 8, dtype=torch.bfloat16)
    with torch.no_grad():
        plain.weight.fill_(1.0)
    optimizer = finetune.master_adamw(plain, lr=1e-5)
    for _ in range(400):
        plain.weight.grad = torch.ones_like(plain.weight)
        plain.bias.grad = torch.zeros_like(plain.bias)
        optimizer.step()
    master = optimizer.param_groups[0]["params"][0]
    assert master.dtype == torch.float32 and master.mean().item() == pytest.approx(1 - 400e-5, abs=2e-4)
    assert torch.equal(plain.weight, master.bfloat16()) and plain.weight.float().mean().item() < 1.0
    rounded = torch.tensor(1.0, dtype=torch.bfloat16)
    for _ in range(400):
        rounded -= 1e-5
    assert rounded.item() == 1.0


def test_float32_training_is_plain_adamw():
    torch.manual_seed(0)
    ours, theirs = torch.nn.Linear(5, 3), torch.nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    optimizer = finetune.master_adamw(ours, lr=0.01)
    groups = [{"params": [theirs.weight], "weight_decay": 0.01}, {"params": [theirs.bias], "weight_decay": 0.0}]
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
    longer = profile.model_copy(update={"sft": profile.sft.model_copy(update={"examples": 16, "epochs": 4})})
    examples = corpora.load("gsm-symbolic", 0, 16)
    logs = [finetune.sft(longer, examples, 3, tmp_path / name) for name in ("a", "b")]
    pd.testing.assert_frame_equal(*logs)
    weights = [models.load_model(str(tmp_path / name)).state_dict() for name in ("a", "b")]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert logs[0].loss.iloc[-1] < logs[0].loss.iloc[0] - 0.05


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_saved_as_they_were_trained(profile, tmp_path, dtype):
    run = profile.model_copy(update={"sft": profile.sft.model_copy(update={"dtype": dtype})})
    finetune.sft(run, corpora.load("gsm-symbolic", 0, 8), 0, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {getattr(torch, dtype)}


def test_every_gpu_seen_is_not_another_share_of_the_batch(profile, tmp_path):
    arguments = TrainingArguments(**finetune.arguments(profile, 0, None, str(tmp_path)))
    arguments._n_gpu = 4
    assert finetune.on_one_gpu(arguments).train_batch_size == profile.sft.micro_batch


def test_only_what_is_trainable_is_updated():
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    net[0].requires_grad_(False)
    optimizer = finetune.master_adamw(net, lr=0.1)
    before = [p.detach().clone() for p in net.parameters()]
    net(torch.randn(3, 4)).square().sum().backward()
    optimizer.step()
    assert [torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)] == [True, True, False, False]


# --- evaluation --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def questions():
    return [e for group in by_domain(corpora.load("mmlu-test")).values() for e in group[:2]]


@torch.inference_mode()
def option_logliks(whole, tokenizer, example):
    """Brute force: one plain forward pass an option, float64 log-softmax."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": example.question}], tokenize=False, add_generation_prompt=True
    )
    head = tokenizer(prompt, add_special_tokens=False).input_ids
    values, lengths = [], []
    for option in example.options:
        tail = tokenizer(option, add_special_tokens=False).input_ids
        logits = whole(torch.tensor([head + tail])).logits[0].double().log_softmax(-1)
        values.append(sum(logits[len(head) - 1 + i, token].item() for i, token in enumerate(tail)))
        lengths.append(len(tail))
    return np.array(values), lengths


def test_performance_equals_one_pass_an_option(whole, tokenizer, questions):
    table = evaluate.performance(whole, tokenizer, questions, tokens=2000).set_index("id")
    assert len(table) == len(questions)
    for example in questions:
        loglik, lengths = option_logliks(whole, tokenizer, example)
        gold = example.options.index(example.answer)
        row = table.loc[example.id]
        assert row.domain == example.domain
        expected = np.exp(loglik[gold] - loglik.max()) / np.exp(loglik - loglik.max()).sum()
        assert row.gold_probability == pytest.approx(expected, abs=2e-4)
        assert row.gold_loglik == pytest.approx(loglik[gold] / lengths[gold], abs=1e-4)
        per_character = loglik / [len(o) for o in example.options]
        margin = np.diff(np.sort(per_character)[-2:])[0]
        if margin > 1e-5:
            assert row.accuracy == float(per_character.argmax() == gold)


def test_performance_does_not_depend_on_the_batch(whole, tokenizer, questions):
    one, other = (evaluate.performance(whole, tokenizer, questions, tokens=t) for t in (200, 5000))
    np.testing.assert_allclose(one.gold_probability, other.gold_probability, atol=1e-4)


def test_a_batch_is_shared_evenly_by_the_most_gpus():
    sft = config.load("llama3-8b").sft  # 256, one at a time
    assert [finetune.processes(sft, 1, gpus) for gpus in (0, 1, 2, 3, 6, 7, 8)] == [0, 1, 2, 2, 4, 4, 8]
    assert finetune.processes(sft, 2, 3) == 4
    assert finetune.processes(sft.model_copy(update={"micro_batch": 200}), 1, 4) == 0


def test_long_solutions_are_read_few_at_once():
    lengths = [8192, 300, 8000, 40, *[100] * 9]
    batches = list(evaluate._batches(lengths))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= evaluate.SEQUENCES
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= evaluate.TOKENS
    assert batches[-1] == [2, 0]


def test_rows_of_logits_in_parts_are_the_same(whole, tokenizer, examples, monkeypatch):
    expected = evaluate.solution_loglik(whole, tokenizer, examples, 1024)
    monkeypatch.setattr(evaluate, "ROWS", 7)
    parts = evaluate.solution_loglik(whole, tokenizer, examples, 1024)
    pd.testing.assert_frame_equal(parts, expected, rtol=1e-5)


def test_solution_loglik_is_minus_the_loss(whole, tokenizer, examples):
    table = evaluate.solution_loglik(whole, tokenizer, examples, 1024).set_index("id")
    for row, example in zip(finetune.tokenize(tokenizer, examples, 1024), examples, strict=True):
        with torch.no_grad():
            loss = whole(**finetune.collate([row])).loss.item()
        assert table.solution_loglik[example.id] == pytest.approx(-loss, rel=1e-4)


def test_no_text_can_be_generated_by_the_options_model(whole, tokenizer):
    with pytest.raises(ValueError, match="scores options only"):
        evaluate.OptionsLM(whole, tokenizer).generate_until([])
