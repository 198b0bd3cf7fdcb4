import numpy as np
import pandas as pd
import pytest
import torch

from sts_utils import batches, corpora
from sts_utils import evaluate as options
from sts_utils import generate as generation
from sts_utils.examples import by_domain


@pytest.fixture(scope="module")
def examples():
    return corpora.load("gsm-symbolic", 0, 6)


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
        logits = (
            whole(torch.tensor([head + tail], device=whole.device))
            .logits[0]
            .double()
            .log_softmax(-1)
        )
        values.append(sum(logits[len(head) - 1 + i, token].item() for i, token in enumerate(tail)))
        lengths.append(len(tail))
    return np.array(values), lengths


def test_likelihoods_equal_one_pass_an_option(whole, tokenizer, questions):
    table = options.option_likelihoods(whole, tokenizer, questions, tokens=2000).set_index("id")
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


def test_likelihoods_do_not_depend_on_the_batch(whole, tokenizer, questions):
    one, other = (
        options.option_likelihoods(whole, tokenizer, questions, tokens=t) for t in (200, 5000)
    )
    np.testing.assert_allclose(one.gold_probability, other.gold_probability, atol=1e-4)


def test_long_solutions_are_read_few_at_once():
    lengths = [8192, 300, 8000, 40, *[100] * 9]
    cut = list(batches.by_length(lengths, options.TOKENS, options.SEQUENCES))
    assert sorted(i for batch in cut for i in batch) == list(range(len(lengths)))
    for batch in cut:
        assert len(batch) <= options.SEQUENCES
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= options.TOKENS
    assert cut[-1] == [2, 0]


def test_rows_of_logits_in_parts_are_the_same(whole, tokenizer, examples, monkeypatch):
    expected = options.solution_loglik(whole, tokenizer, examples, 1024)
    monkeypatch.setattr(options, "ROWS", 7)
    parts = options.solution_loglik(whole, tokenizer, examples, 1024)
    pd.testing.assert_frame_equal(parts, expected, rtol=1e-5)


def test_solution_loglik_is_minus_the_loss(whole, tokenizer, examples):
    table = options.solution_loglik(whole, tokenizer, examples, 1024).set_index("id")
    for row, example in zip(generation.tokenize(tokenizer, examples, 1024), examples, strict=True):
        with torch.no_grad():
            batch = {k: v.to(whole.device) for k, v in generation.collate([row]).items()}
            loss = whole(**batch).loss.item()
        assert table.solution_loglik[example.id] == pytest.approx(-loss, rel=1e-4)


def test_no_text_can_be_generated_by_the_options_model(whole, tokenizer):
    with pytest.raises(ValueError, match="scores options only"):
        options.OptionsLM(whole, tokenizer).generate_until([])
