"""Prompts with demonstrations, and chat templates as families have them: the query's span is right,
or one line says why not. The templates are ours, each with what its family does otherwise than the
paper's three (tests/test_shapes.py)."""

import copy
from dataclasses import replace

import pytest

from sts_utils import corpora, models, prompts
from sts_utils import generate as generation

TEMPLATES = {
    # roles by name, nothing cut (Qwen, SmolLM2, Yi)
    "chatml": "{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    # no role names, answers end in </s> (Llama 2, Mistral)
    "inst": "{{ '<s>' }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + '</s>' }}{% endif %}{% endfor %}",
    # plain words for roles (Vicuna)
    "words": "{% for m in messages %}{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m.content + '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}",
    # the assistant's header belongs to the user's turn (Phi-3)
    "header": "{{ '<s>' }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '<|user|>\n' + m.content + '<|end|>\n<|assistant|>\n' }}"
    "{% else %}{{ m.content + '<|end|>\n' }}{% endif %}{% endfor %}",
    # an end of text after each turn (Zephyr)
    "ended": "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '</s>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    # refuses a system's turn and turns out of order, trims (Gemma)
    "strict": "{{ '<bos>' }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('alternate') }}{% endif %}"
    "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    # a system's turn of its own (Qwen2.5, Llama 3.1's date)
    "system": "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    # empty thoughts before the last answer alone (Qwen3)
    "thoughts": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content.split('</think>')[-1] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    # a prompt opens thoughts that a dialogue leaves out (R1)
    "opened": "{{ '<s>' }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '<|User|>' + m.content }}"
    "{% else %}{{ '<|Assistant|>' + m.content.split('</think>')[-1] + '</s>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}",
    # the last question alone (templates of one turn)
    "last": "{{ '<s>Q: ' + messages[-1].content + '\nA: ' }}",
    # what was asked stands behind what was answered
    "reordered": "{% for m in messages | reverse %}"
    "{{ '<|' + m.role + '|>' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
    # cuts what the user wrote
    "cut": "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content[:4] + '\n' }}{% endfor %}",
}
#: Template -> what prompts with worked examples raise, and what training on answers raises.
LOST, OWN = "drops the worked example", "does not extend its own prompt"
REFUSED = {"last": LOST, "reordered": LOST, "cut": "drops the user's text"}
UNTRAINED = dict.fromkeys(("opened", "last", "reordered", "cut"), OWN)


@pytest.fixture(params=TEMPLATES)
def name(request):
    return request.param


@pytest.fixture
def templated(name, tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = TEMPLATES[name]
    return other


def test_the_query_s_span_is_right_or_one_line_says_why_not(name, templated):
    shown = corpora.load("gsm-symbolic", 0, 2)
    for query in [*corpora.load("mmlu-test", 0, 12), *corpora.load("gsm-symbolic", 3, 4)]:
        if name in REFUSED:
            with pytest.raises(ValueError, match=REFUSED[name]) as error:
                prompts.chat_prompt(templated, query, shown)
            assert "\n" not in str(error.value)
            continue
        plain = prompts.chat_prompt(templated, query)
        icl = prompts.chat_prompt(templated, query, shown)
        # a token that is part template, part question ("] What") is no query token
        start, stop = icl.span
        wider = templated.decode(icl.ids[start - 1 : stop + 1])
        assert templated.decode(icl.query) in query.query and query.query.strip() in wider
        assert plain.query == icl.query
        assert all(e.solution.strip() in templated.decode(icl.context) for e in shown)


def test_worked_thoughts_that_a_template_cuts_are_named(tokenizer):
    thinking = copy.deepcopy(tokenizer)
    thinking.chat_template = TEMPLATES["thoughts"]
    (shown,) = corpora.load("gsm-symbolic", 0, 1)
    shown = replace(shown, solution=f"<think>{shown.solution}</think>{shown.answer}")
    with pytest.raises(ValueError, match=f"drops the worked example {shown.id}"):
        prompts.chat_prompt(thinking, corpora.load("gsm-symbolic", 3, 1)[0], [shown])


def test_what_is_trained_on_is_the_answer_or_one_line_says_why_not(name, templated):
    examples = corpora.load("gsm-symbolic", 0, 3)
    if name in UNTRAINED:
        with pytest.raises(ValueError, match=UNTRAINED[name]) as error:
            generation.tokenize(templated, examples, 4096)
        assert "\n" not in str(error.value)
        return
    for example, row in zip(examples, generation.tokenize(templated, examples, 4096), strict=True):
        answer = [token for token in row["labels"] if token != -100]
        assert example.solution.strip() in templated.decode(answer)
        assert example.question not in templated.decode(answer)


def test_a_tokenizer_without_offsets_is_one_line(tokenizer, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "is_fast", property(lambda self: False))
    with pytest.raises(ValueError, match=r"tokenizer of 'tiny' .* tokenizer\.json"):
        models.load_tokenizer("tiny")


def test_context_is_shared_by_all_queries_behind_the_same_demonstrations(tokenizer):
    shown = corpora.load("gsm-symbolic", 0, 2)
    pairs = prompts.prompt_pairs(tokenizer, corpora.load("mmlu-test", 0, 10), [shown], 8192)
    assert len({icl.context for _, icl in pairs}) == 1
    assert len({plain.context for plain, _ in pairs}) == 1


def test_too_long_a_prompt_and_too_few_examples_are_one_line(tokenizer):
    query, *shown = corpora.load("mmlu-test", 0, 5)
    line = f"question {query.id} with its demonstrations is .* more than"
    with pytest.raises(ValueError, match=line):
        prompts.prompt_pairs(tokenizer, [query], [shown], 100)
    with pytest.raises(ValueError, match="5 demonstrations asked for, 3 at hand"):
        prompts.choose_demonstrations(corpora.load("mmlu-cot", 0, 3), 5, 1, 0)


def test_demonstrations_of_one_set_share_no_template():
    for chosen in prompts.choose_demonstrations(corpora.load("gsm-symbolic"), 5, 20, 0):
        assert len({e.group for e in chosen}) == 5


def test_the_span_is_the_query(tokenizer):
    query, shown = corpora.load("gsm-symbolic", 0, 1)[0], corpora.load("mmlu-cot", 0, 4)
    plain, icl = prompts.chat_prompt(tokenizer, query), prompts.chat_prompt(tokenizer, query, shown)
    assert f"⟦{query.query}⟧" in prompts.decoded(tokenizer, icl)
    assert plain.query == icl.query and icl.context[-3:] == plain.context[-3:]
    behind = prompts.behind(icl)
    assert behind.context == icl.context and behind.query == icl.ids[icl.span[1] :]
    assert behind.tail == icl.ids[icl.span[0] :]
