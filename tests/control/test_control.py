"""The control on the tiny model: what is asked and read, gradients, and all that is planned."""

import copy

import numpy as np
import pytest
import torch

from sts_utils import config, corpora, evaluate, interventions, plan, questions, run
from sts_utils.corpora import skills
from sts_utils.experiments import transfer
from sts_utils.features import FeatureStats, Hook

OTHER = "next, runners"


@pytest.fixture(scope="module")
def one():
    """The run on one training set of the judgement half: "holder, parcels"."""
    return questions.sets(config.load("tiny"), elsewhere=True)[2]


def test_what_is_trained_on_is_neither_asked_nor_shown_and_the_same_type_is_asked(one):
    asked = {e.question for g in questions.evaluation_questions(one).values() for e in g}
    asked |= {e.question for e in corpora.load(one.demonstrations)}
    learnt = questions.training_examples(one, 0)[0]
    assert {e.domain for e in learnt} == {"holder, parcels"}
    assert not {e.question for e in learnt} & asked
    assert not any(e.options for e in learnt) and learnt[0].solution == learnt[0].answer
    listed = questions.training_examples(one, 0, listed=True)[0]
    assert [e.question for e in listed] == [e.question for e in learnt] and listed[0].options
    chosen = transfer._asked(one, 0, 2)
    assert {skills.SKILLS[e.domain.split(", ")[0]][0] for e in chosen} == {"name"}
    assert len(chosen) == 2 * 12 == 2 * len(transfer.comparable(one))


def test_wrong_answers_stand_in_the_same_demonstrations(one, tokenizer):
    for args in ((0,), (0, OTHER)):
        for wrong, right in transfer.answer_pairs(transfer.at_answer(one), *args):
            assert wrong.tail == right.tail and wrong.query == right.query
            a, b = (tokenizer.decode(side.context).splitlines() for side in (wrong, right))
            differ = [x for x, y in zip(a, b, strict=True) if x != y]
            assert len(differ) == one.sts.demonstrations  # the answers, and nothing else


def test_the_paper_s_profiles_carry_the_design():
    small = questions.sets(config.load("control"), elsewhere=True)
    assert [sum(half in p.domains for p in small) for half in ("design", "judgement")] == [12, 16]
    for base in ("llama3-8b", "qwen2.5-7b", "gemma2-9b"):
        large = questions.sets(config.load(f"control-{base}"), elsewhere=True)
        assert [(p.train, p.seeds) for p in large] == [(p.train, p.seeds) for p in small]
        assert {p.model for p in large} == {config.load(base).model}


def test_moving_the_residual_moves_the_log_odds_as_the_gradient_says(
    one, whole, tokenizer, sae, monkeypatch
):
    monkeypatch.setattr(run, "hook", lambda p: Hook(0, sae, float("inf")))
    monkeypatch.setattr(run, "whole", lambda p: copy.deepcopy(whole))
    monkeypatch.setattr(transfer, "TOGETHER", 3)  # two passes
    examples = questions.domain_queries(one, OTHER, 0)
    found = transfer.gradients.function(one, 0, OTHER)
    direction, ends = torch.randn(64, generator=torch.Generator().manual_seed(0)), []
    for step in (1e-3 * direction, -1e-3 * direction):
        with interventions.edited(whole, {0: lambda r, step=step: r + step.to(r.device)}):
            ends.append(evaluate.option_likelihoods(whole, tokenizer, examples).gold_log_odds)
    slope = (ends[0] - ends[1]).mean() / 2e-3
    assert slope == pytest.approx(float(direction @ torch.tensor(found["odds"])), rel=0.02)
    assert found["features"].any() and not np.allclose(found["loglik"], found["odds"])


@pytest.mark.slow
def test_all_that_is_planned_is_computed_and_no_model_is_kept(one):
    p = config.load("tiny").model_copy(update={"stages": ("16_control",)})
    p = p.model_copy(update={"others": p.others[-2:-1]})
    for function, args in (call for calls in plan.rounds(p) for call in calls):
        function(*args, **({"part": p.sae} if "features" in function.__name__ else {}))
    (one,) = questions.sets(p, elsewhere=True)
    assert not run.finetuned.path(one, 0).exists()
    for table in (transfer.outcome(one, 0), transfer.probe(one, 0)):
        assert list(table.groupby("domain").size()) == 12 * [2]
        assert transfer.change(one, table).gold_log_odds.any()
    q = transfer.at_answer(one)
    answer = FeatureStats.from_arrays(run.domain_features(q, OTHER, 0, part=q.sae))
    assert len({*answer.n}) == 1 and answer.n[0] < 12  # tokens between question and answer
