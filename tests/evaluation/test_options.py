"""Performance: the likelihood of options and solutions, and answers that are written."""

from dataclasses import replace
from functools import partial
from importlib.metadata import distribution

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import functions_of
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from sts_utils import corpora, evaluate, generate
from sts_utils.config import EvaluationSettings
from sts_utils.prompts import Example, by_domain

GENERATION = EvaluationSettings(mode="generation", measure="accuracy", shots=2, max_new_tokens=8)
CHAIN = "Let's think step by step. It is 4. The answer is (B)."
SHOT = Example("2+2?", CHAIN, "4", "math", "s", options=("3", "4"))
QUERY = Example("1+1?", "", "2", "math", "q", options=("2", "3", "5"))


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


def test_each_branch_of_both_rules():
    for text, official, strict in (
        ("So the answer is (C).", "C", "C"),
        ("the answer is (A). No: the answer is (B).", "A", "A"),  # the first counts
        ("The answer is Galileo", "G", "G"),  # no word boundary in either rule
        ("The answer is (K)", None, ""),  # no such letter, and K does not stand for one
        ("the answer is (c)", None, ""),  # capitals only
        ("Answer: D", "D", ""),
        ("answer:\n\n  E", "E", ""),
        ("Answer: A or Answer: B\nAnswer: C", "B", ""),  # the last on the first line that has one
        ("Answer: (D)", "D", ""),  # not by step 2, which takes no bracket, but by step 3
        ("Neither A nor B.\nSo I choose F\nfor sure", "F", ""),  # the last that stands alone
        ("It is B, I think", "I", ""),  # the official rule takes the pronoun for option I
        ("No idea at all", None, ""),
        ("", None, ""),
        ("BAD CAFE", None, ""),  # letters inside words do not stand alone
    ):
        letter, found = evaluate.answer(text, 10, "official", "q1")
        if official is None:
            assert not found and letter in evaluate.LETTERS
        else:
            assert (letter, found) == (official, True), text
        assert evaluate.answer(text, 10, "strict", "q1") == (strict, bool(strict)), text


def test_a_guess_is_seeded_by_the_question_and_lies_among_its_options():
    guesses = [evaluate.answer("", 4, key=f"q{i}")[0] for i in range(400)]
    assert guesses == [evaluate.answer("what?", 4, key=f"q{i}")[0] for i in range(400)]
    counts = pd.Series(guesses).value_counts()
    assert set(counts.index) == set("ABCD") and counts.min() > 70


def test_the_strict_rule_the_stop_and_the_prompt_are_lm_evals(tokenizer):
    """Of its own task, which builds the prompt from the same two rows."""
    folder = distribution("lm-eval").locate_file("lm_eval/tasks/mmlu_pro")
    config, other = (load_yaml(folder / f"mmlu_pro_{n}.yaml") for n in ("math", "computer_science"))
    pattern = config["filter_list"][0]["filter"][0]["regex_pattern"]
    assert pattern.replace("ABCDEFGHIJ", "A-J") == evaluate.PATTERNS[0]
    assert config["generation_kwargs"]["until"] == [evaluate.STOP]
    assert other["description"] == evaluate.DESCRIPTION.format(domain="computer science")
    rows = [{"question": e.question, "options": list(e.options)} for e in (SHOT, QUERY)]
    for row, e in zip(rows, (SHOT, QUERY), strict=True):
        row |= {"answer": "B", "category": "math", "cot_content": f"A: {e.solution}"}
    dataset = {"validation": rows[:1], "test": rows[1:]}
    dataset = {split: datasets.Dataset.from_list(rows) for split, rows in dataset.items()}
    task = ConfigurableTask(config=config | {"custom_dataset": lambda **_: dataset})
    expected = task.fewshot_context(task.eval_docs[0], num_fewshot=1)
    assert evaluate.prompt(tokenizer, QUERY, [SHOT], 8192) == expected
    assert expected.endswith("\nA. 2\nB. 3\nC. 5\nAnswer: Let's think step by step.")


def test_accuracy_reads_scores_and_says_what_was_found(tokenizer):
    texts = [("The answer is (A). Question: another? The answer is (B)", 9, True)]
    texts += [("The answer is (B)", 4, True), ("Let me compute the determinant of", 8, False)]
    examples = [replace(QUERY, id=name) for name in ("q", "q2", "q3")]
    more = {"math": [SHOT, SHOT]}, GENERATION, 8192
    table = evaluate.written_accuracy(lambda prompts: texts, tokenizer, examples, *more)
    guess = evaluate.answer("", 3, key="q3")[0] == "A"
    assert table.accuracy.tolist() == [1.0, 0.0, float(guess)]
    assert table.answered.tolist() == [True, True, False]
    assert table.cut_off.tolist() == [False, False, True] and table.tokens.tolist() == [9, 4, 8]
    assert table.gold_probability.isna().all() and table.gold_loglik.isna().all()
    more = {"math": [SHOT]}, GENERATION.model_copy(update={"rule": "strict", "shots": 1}), 8192
    table = evaluate.written_accuracy(lambda prompts: texts, tokenizer, examples, *more)
    assert table.accuracy.tolist() == [1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="lacks evaluation"):
        evaluate.written_accuracy(None, tokenizer, examples, {"math": [SHOT]}, GENERATION, 8192)


def test_shots_are_dropped_until_the_prompt_fits(tokenizer):
    texts = [evaluate.prompt(tokenizer, QUERY, [SHOT] * n, 8192) for n in range(4)]
    sizes = [len(tokenizer(text).input_ids) for text in texts]
    fitting = partial(evaluate.prompt, tokenizer, QUERY, [SHOT] * 3)
    assert fitting(sizes[3]) == texts[3] and fitting(sizes[2] - 1) == texts[1]
    with pytest.raises(ValueError, match="question q over 12 tokens"):
        fitting(12)


def test_what_a_real_model_writes_is_read(whole, tokenizer):
    shots, examples = by_domain(corpora.load("mmlu-cot")), corpora.load("mmlu-test", 0, 3)
    how = {"new_tokens": 8, "special": True, "stop": [evaluate.STOP]}
    write = partial(generate.generate, whole, tokenizer, **how)
    table = evaluate.written_accuracy(write, tokenizer, examples, shots, GENERATION, context=8192)
    assert table.cut_off.all() and (table.tokens == 8).all()  # a random model never stops by itself
    assert set(table.id) == {e.id for e in examples}


def test_the_report_tells_truncation_from_lost_knowledge():
    answers_report = functions_of("05_evaluate").answers_report
    names = ["domain", "id", "accuracy", "answered", "cut_off", "tokens"]
    before = [("law", "a", 1, True, False, 100), ("law", "b", 1, True, False, 200)]
    before += [("law", "c", 0, True, False, 300), ("art", "d", 1, False, True, 10)]
    after = [("law", "b", 0, False, True, 900), ("law", "a", 1, True, False, 300)]
    after += [("law", "c", 0, True, False, 300), ("art", "d", 0, True, False, 30)]
    before, after = (pd.DataFrame(rows, columns=names) for rows in (before, after))
    report = answers_report(before, after).set_index("domain")
    law = report.loc["law"]
    assert (law.questions, law.answered_both) == (3, 2)
    assert law.change == pytest.approx(-1 / 3) and law.change_answered == 0
    assert (law.no_answer_before, law.no_answer_after) == pytest.approx((0, 1 / 3))
    assert (law.cut_off_before, law.cut_off_after) == pytest.approx((0, 1 / 3))
    assert (law.tokens_before, law.tokens_after) == (200, 500)
    assert report.loc["art"].answered_both == 0 and np.isnan(report.loc["art"].change_answered)
    with pytest.raises(ValueError, match="3 questions before, 4 after, 3 in both"):
        answers_report(before[:3], after)
