"""The control on the tiny model: what is asked and read, gradients, and all that is planned."""

import copy

import numpy as np
import pytest
import torch

from sts_utils import config, corpora, evaluate, interventions, questions, run
from sts_utils.control import scores, sets
from sts_utils.corpora import skills
from sts_utils.experiments import transfer
from sts_utils.features import FeatureStats, Hook

NAME = "holder, parcels"


@pytest.fixture(scope="module")
def part():
    """The judgement half of the tiny profile, with one training set."""
    p = sets.parts(config.load("tiny"))["judgement"]
    one = p.control.part.model_copy(update={"sets": (NAME,)})
    return p.model_copy(update={"control": p.control.model_copy(update={"part": one})})


def test_what_is_trained_on_is_neither_asked_nor_shown_and_the_same_type_is_asked(part):
    asked = {e.question for g in questions.evaluation_questions(part).values() for e in g}
    asked |= {e.question for e in corpora.load(part.demonstrations)}
    assert not {e.question for e in sets.examples(part, NAME, 0)} & asked
    chosen = sets._asked(part, NAME, 2)
    assert {skills.SKILLS[e.domain.split(", ")[0]][0] for e in chosen} == {"name"}
    assert len(chosen) == 2 * 12 == 2 * len(sets.domains(part))
    greedy = part.model_copy(update={"sft": part.sft.model_copy(update={"examples": 1000})})
    with pytest.raises(ValueError, match=f"'{NAME}' has .*: lower examples .* or questions"):
        sets.examples(greedy, NAME, 0)


def test_wrong_answers_stand_in_the_same_demonstrations(part, tokenizer):
    for args in ((NAME, 0), ("next, runners",)):
        for wrong, right in scores.answer_pairs(scores.at_answer(part), *args):
            assert wrong.tail == right.tail and wrong.query == right.query
            a, b = (tokenizer.decode(side.context).splitlines() for side in (wrong, right))
            differ = [x for x, y in zip(a, b, strict=True) if x != y]
            assert len(differ) == part.control.demonstrations  # the answers, and nothing else


def test_the_paper_s_profiles_carry_the_design():
    small = [p.control.part.sets for p in sets.parts(config.load("control")).values()]
    assert [*map(len, small)] == [12, 16] and "third, python" in small[0]
    for base in ("llama3-8b", "qwen2.5-7b", "gemma2-9b"):
        large = sets.parts(config.load(f"control-{base}")).values()
        assert small == [p.control.part.sets for p in large]
        assert {p.model for p in large} == {config.load(base).model}


def test_moving_the_residual_moves_the_log_odds_as_the_gradient_says(
    part, whole, tokenizer, sae, monkeypatch
):
    monkeypatch.setattr(run, "hook", lambda p: Hook(0, sae, float("inf")))
    monkeypatch.setattr(run, "whole", lambda p: copy.deepcopy(whole))
    monkeypatch.setattr(transfer, "TOGETHER", 3)  # two passes
    examples = questions.domain_queries(part, "next, runners", 0)
    found = scores.gradients.function(part, "next, runners")
    direction, ends = torch.randn(64, generator=torch.Generator().manual_seed(0)), []
    for step in (1e-3 * direction, -1e-3 * direction):
        with interventions.edited(whole, {0: lambda r, step=step: r + step.to(r.device)}):
            ends.append(evaluate.option_likelihoods(whole, tokenizer, examples).gold_log_odds)
    slope = (ends[0] - ends[1]).mean() / 2e-3
    assert slope == pytest.approx(float(direction @ torch.tensor(found["odds"])), rel=0.02)
    assert found["features"].any() and not np.allclose(found["loglik"], found["odds"])


@pytest.mark.slow
def test_all_that_is_planned_is_computed_and_no_model_is_kept(part):
    settings = part.control.model_copy(update={"parts": (part.control.part,)})
    before, after = scores.rounds(part.model_copy(update={"control": settings}))
    for function, args in before + after:
        function(*args, part=part.sae if "features" in function.__name__ else None)
    assert not sets.finetuned.path(part, NAME, 0).exists()
    for table in (sets.change(part, NAME, 0), sets.quick_probe(part, NAME, 0)):
        asked = 12 * [part.evaluation.questions]
        assert list(table.groupby("domain").size()) == asked and table.gold_log_odds.any()
    q = scores.at_answer(part)
    answer = FeatureStats.from_arrays(run.domain_features(q, "next, runners", 0, part=q.sae))
    assert len({*answer.n}) == 1 and answer.n[0] < 12  # tokens between question and answer
