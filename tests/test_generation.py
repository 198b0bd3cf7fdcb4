from types import SimpleNamespace

import pytest

from sts_utils import corpora
from sts_utils import generate as generation


@pytest.fixture(scope="module")
def questions():
    return [e.query for e in corpora.load("gsm-symbolic", 0, 5)]


def test_the_chat_templates_end_of_turn_stops(whole, tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert generation.stop_ids(whole, tokenizer) == [end]
    other = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[0]))
    assert generation.stop_ids(other, tokenizer) == [0, end]


def test_where_a_completion_ends(whole, tokenizer, monkeypatch):
    said, pad = "The answer is (A).", tokenizer.pad_token_id
    ids, asked = tokenizer([said, "Yes.\nQuestion:"], add_special_tokens=False).input_ids
    rows = [[*ids, pad, pad], ids, asked]
    monkeypatch.setattr(generation, "continued", lambda *_, **__: rows)
    ends = generation.generate(whole, tokenizer, "abc", 9, stop=["Question:"])
    yes = ("Yes.\nQuestion:", len(asked), True)
    assert ends == [(said, len(ids), True), (said, len(ids), False), yes]


def test_the_same_text_alone_and_in_a_batch(whole, tokenizer, questions):
    texts = [generation.chat_text(tokenizer, question) for question in questions]
    one, many = (generation.generate(whole, tokenizer, texts, 6, batch=b) for b in (1, 3))
    assert one == many
    assert generation.completions(whole, tokenizer, questions, 6) == [t.strip() for t, _, _ in one]
    assert generation.generate(whole, tokenizer, [], 6) == []


def test_a_seed_is_one_sample(whole, tokenizer, questions):
    how = [{"temperature": 1.0, "seed": seed} for seed in (1, 1, 2)]
    one, same, other = (generation.completions(whole, tokenizer, questions, 6, **h) for h in how)
    assert one == same != other
