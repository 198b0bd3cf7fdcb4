import numpy as np
import pandas as pd
import pytest
import torch

from sts_utils import batches, corpora, evaluate, generate
from sts_utils.examples import by_domain


@torch.inference_mode()
def option_logliks(whole, tokenizer, example):
    """Brute force: one plain forward pass an option, float64 log-softmax."""
    texts = (generate.chat_text(tokenizer, example.question), *example.options)
    head, *tails = tokenizer(list(texts), add_special_tokens=False).input_ids
    values = []
    for tail in tails:
        logits = whole(torch.tensor([head + tail], device=whole.device)).logits[0]
        logits = logits.double().log_softmax(-1)[len(head) - 1 :]
        values.append(sum(logits[i, token].item() for i, token in enumerate(tail)))
    return np.array(values), [len(tail) for tail in tails]


def test_likelihoods_equal_one_pass_an_option(whole, tokenizer):
    questions = [e for group in by_domain(corpora.load("mmlu-test")).values() for e in group[:1]]
    table = evaluate.option_likelihoods(whole, tokenizer, questions, tokens=2000)
    assert table.id.is_unique and len(table) == len(questions)
    for example in questions:
        row = table.set_index("id").loc[example.id]
        loglik, lengths = option_logliks(whole, tokenizer, example)
        gold = example.options.index(example.answer)
        odds = np.exp(loglik - loglik.max())
        others = np.delete(odds, gold).sum()
        assert row.domain == example.domain
        assert row.gold_probability == pytest.approx(odds[gold] / odds.sum(), abs=2e-4)
        assert row.gold_loglik == pytest.approx(loglik[gold] / lengths[gold], abs=1e-4)
        assert row.gold_log_odds == pytest.approx(np.log(odds[gold] / others), abs=2e-3)
        per_character = loglik / [len(option) for option in example.options]
        if np.diff(np.sort(per_character)[-2:])[0] > 1e-5:
            assert row.accuracy == float(per_character.argmax() == gold)
    other = evaluate.option_likelihoods(whole, tokenizer, questions, tokens=200)
    np.testing.assert_allclose(table.gold_probability, other.gold_probability, atol=1e-4)


def test_long_solutions_are_read_few_at_once():
    lengths = [8192, 300, 8000, 40, *[100] * 9]
    cut = list(batches.by_length(lengths, evaluate.TOKENS, evaluate.SEQUENCES))
    assert sorted(i for batch in cut for i in batch) == list(range(len(lengths)))
    for batch in cut:
        assert len(batch) <= evaluate.SEQUENCES
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= evaluate.TOKENS
    assert cut[-1] == [2, 0]


def test_solution_loglik_is_minus_the_loss(whole, tokenizer, monkeypatch):
    examples = corpora.load("gsm-symbolic", 0, 6)
    table = evaluate.solution_loglik(whole, tokenizer, examples, 1024)
    rows = generate.tokenize(tokenizer, examples, 1024)
    logliks = table.set_index("id").solution_loglik[[e.id for e in examples]]
    for value, row in zip(logliks, rows, strict=True):
        batch = {k: v.to(whole.device) for k, v in generate.collate([row]).items()}
        with torch.no_grad():
            assert value == pytest.approx(-whole(**batch).loss.item(), rel=1e-4)
    monkeypatch.setattr(evaluate, "ROWS", 7)  # of logits at once
    parts = evaluate.solution_loglik(whole, tokenizer, examples, 1024)
    pd.testing.assert_frame_equal(parts, table, rtol=1e-5)
