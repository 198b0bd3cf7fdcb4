import copy
import re

import pytest

from sts_utils import corpora, prompts

LLAMA3 = (
    "{{ '<|begin_of_text|>' }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
    "+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ '<bos>' }}{% for m in messages %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(params=["own", "llama3", "gemma", "chatml"])
def templated(request, tokenizer):
    """The tokenizer with the chat format of each family of the paper's models."""
    if request.param == "own":
        return tokenizer
    other = copy.deepcopy(tokenizer)
    other.chat_template = {"llama3": LLAMA3, "gemma": GEMMA, "chatml": CHATML}[request.param]
    marks = re.findall(r"<[a-z_|]+>", other.chat_template)
    other.add_special_tokens({"additional_special_tokens": marks})
    return other


def test_query_tokens_are_the_same_ids_in_both_conditions(templated):
    shown = corpora.load("mmlu-cot", 0, 4)
    for query in [*corpora.load("mmlu-test", 0, 40), *corpora.load("gsm-symbolic", 0, 10)]:
        plain = prompts.chat_prompt(templated, query)
        icl = prompts.chat_prompt(templated, query, shown)
        assert plain.query == icl.query
        assert templated.decode(icl.query) == query.query.strip()
        assert icl.context[-3:] == plain.context[-3:]
        assert len(icl.context) > len(plain.context)
        text = templated.decode(icl.ids)
        assert all(e.solution in text and e.question in text for e in shown)


def test_context_is_shared_by_all_queries_behind_the_same_demonstrations(tokenizer):
    shown = corpora.load("gsm-symbolic", 0, 2)
    pairs = prompts.prompt_pairs(tokenizer, corpora.load("mmlu-test", 0, 10), [shown], 8192)
    assert len({icl.context for _, icl in pairs}) == 1
    assert len({plain.context for plain, _ in pairs}) == 1


def test_too_long_a_prompt_is_named(tokenizer):
    query, *shown = corpora.load("mmlu-test", 0, 5)
    with pytest.raises(
        ValueError, match=f"question {query.id} with its demonstrations is .* more than"
    ):
        prompts.prompt_pairs(tokenizer, [query], [shown], 100)


def test_fewer_examples_than_demonstrations():
    with pytest.raises(ValueError, match="5 demonstrations asked for, 3 at hand"):
        prompts.choose_demonstrations(corpora.load("mmlu-cot", 0, 3), 5, 1, 0)


def test_demonstrations_of_one_set_share_no_template():
    for chosen in prompts.choose_demonstrations(corpora.load("gsm-symbolic"), 5, 20, 0):
        assert len({e.group for e in chosen}) == 5


def test_decoded_marks_the_query(tokenizer):
    query = corpora.load("gsm-symbolic", 0, 1)[0]
    assert f"⟦{query.query}⟧" in prompts.decoded(tokenizer, prompts.chat_prompt(tokenizer, query))
