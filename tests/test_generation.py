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


def test_where_a_completion_ends(tokenizer):
    ids = tokenizer("The answer is (A).", add_special_tokens=False).input_ids
    pad, stop, answer = tokenizer.pad_token_id, ["Question:"], generation._answer
    said = "The answer is (A).", len(ids)
    assert answer(tokenizer, [*ids, pad, pad], {pad}, stop) == (*said, True)
    assert answer(tokenizer, ids, {pad}, stop) == (*said, False)
    asked = tokenizer("Yes.\nQuestion:", add_special_tokens=False).input_ids
    assert answer(tokenizer, asked, {pad}, stop)[2]


def test_the_same_text_alone_and_in_a_batch(whole, tokenizer, questions):
    texts = [generation.chat_text(tokenizer, question) for question in questions]
    one, many = (generation.generate(whole, tokenizer, texts, 6, batch=b) for b in (1, 3))
    assert one == many
    assert generation.completions(whole, tokenizer, questions, 6) == [t.strip() for t, _, _ in one]
    assert generation.generate(whole, tokenizer, [], 6) == []


def test_a_seed_is_one_sample(whole, tokenizer, questions):
    def sampled(seed):
        how = {"temperature": 1.0, "seed": seed}
        return generation.completions(whole, tokenizer, questions, 6, **how)

    assert sampled(1) == sampled(1) != sampled(2)


def test_token_ids_are_continued_as_the_model_alone_does(whole, tokenizer, questions):
    prompts = tokenizer(questions).input_ids
    greedy = {"do_sample": False, "max_new_tokens": 6}
    rows = generation.continued(whole, tokenizer, prompts, 2, "continued", **greedy)
    alone = generation.continued(whole, tokenizer, prompts, 1, "continued", **greedy)
    assert rows == alone and {len(row) for row in rows} == {6}
