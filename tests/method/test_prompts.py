"""Prompts with demonstrations, and chat templates as families have them: the query's span is right,
or one line says why not. The templates are ours, each with what its family does otherwise than the
paper's three (tests/test_shapes.py)."""

import copy
from dataclasses import replace

import pytest
import yaml

from sts_utils import corpora, models, prompts
from sts_utils import generate as generation
from sts_utils.store import ROOT

TEMPLATES = yaml.safe_load((ROOT / "tests/chats/templates.yaml").read_text(encoding="utf-8"))
LOST, OWN = "drops the worked example", "does not extend its own prompt"
REFUSED = {"last": LOST, "reordered": LOST, "cut": "drops the user's text"}


@pytest.mark.parametrize("name", TEMPLATES)
def test_query_and_answer_are_found_or_one_line_says_why_not(name, tokenizer):
    templated = copy.deepcopy(tokenizer)
    templated.chat_template = "".join(TEMPLATES[name])
    shown, read = corpora.load("gsm-symbolic", 0, 2), templated.decode
    for query in [*corpora.load("mmlu-test", 0, 12), *corpora.load("gsm-symbolic", 3, 4)]:
        if name in REFUSED:
            with pytest.raises(ValueError, match=f"^[^\n]*{REFUSED[name]}[^\n]*$"):
                prompts.chat_prompt(templated, query, shown)
            continue
        plain, icl = (prompts.chat_prompt(templated, query, e) for e in ((), shown))
        # a token that is part template, part question ("] What") is no query token
        start, stop = icl.span
        assert read(icl.query) in query.query
        assert query.query.strip() in read(icl.ids[start - 1 : stop + 1])
        assert plain.query == icl.query
        assert all(e.solution.strip() in read(icl.context) for e in shown)
    if name in ("opened", *REFUSED):
        with pytest.raises(ValueError, match=f"^[^\n]*{OWN}[^\n]*$"):
            generation.tokenize(templated, shown, 4096)
        return
    for e, row in zip(shown, generation.tokenize(templated, shown, 4096), strict=True):
        answer = read([token for token in row["labels"] if token != -100])
        assert e.solution.strip() in answer and e.question not in answer


def test_what_has_no_prompt_is_one_line(tokenizer, monkeypatch):
    (query,), (shown,) = corpora.load("mmlu-test", 0, 1), corpora.load("gsm-symbolic", 0, 1)
    line = f"question {query.id} with its demonstrations is .* more than"
    with pytest.raises(ValueError, match=line):
        prompts.prompt_pairs(tokenizer, [query], [[shown]], 100)
    with pytest.raises(ValueError, match="5 demonstrations asked for, 3 at hand"):
        prompts.choose_demonstrations(corpora.load("mmlu-cot", 0, 3), 5, 1, 0)
    thinking = copy.deepcopy(tokenizer)
    thinking.chat_template = "".join(TEMPLATES["thoughts"])  # which cuts worked ones
    shown = replace(shown, solution=f"<think>{shown.solution}</think>{shown.answer}")
    with pytest.raises(ValueError, match=f"drops the worked example {shown.id}"):
        prompts.chat_prompt(thinking, query, [shown])
    monkeypatch.setattr(type(tokenizer), "is_fast", property(lambda self: False))
    with pytest.raises(ValueError, match=r"tokenizer of 'tiny' .* tokenizer\.json"):
        models.load_tokenizer("tiny")


def test_demonstrations_share_no_template_and_queries_a_context(tokenizer):
    sets = prompts.choose_demonstrations(corpora.load("gsm-symbolic"), 5, 20, 0)
    assert all(len({e.group for e in chosen}) == 5 for chosen in sets)
    pairs = prompts.prompt_pairs(tokenizer, corpora.load("mmlu-test", 0, 10), sets[:1], 8192)
    assert [len({prompt.context for prompt in side}) for side in zip(*pairs, strict=True)] == [1, 1]
    (plain, icl), query = pairs[0], corpora.load("mmlu-test", 0, 1)[0]
    assert f"⟦{query.query}⟧" in prompts.decoded(tokenizer, icl)
    assert plain.query == icl.query and icl.context[-3:] == plain.context[-3:]
    behind = prompts.behind(icl)
    assert behind.context == icl.context and behind.query == icl.ids[icl.span[1] :]
    assert behind.tail == icl.ids[icl.span[0] :]
