"""The control on the tiny model: what is asked and read, gradients, and one cell whole."""

import numpy as np
import pytest
import torch

from sts_utils import config, corpora, evaluate, interventions, questions
from sts_utils import scores as method
from sts_utils.control import scores, sets
from sts_utils.control.gradients import answer_gradients
from sts_utils.corpora import skills
from sts_utils.examples import Example
from sts_utils.features import FeatureStats

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
    greedy = part.sft.model_copy(update={"examples": 1000})
    with pytest.raises(ValueError, match=f"'{NAME}' has .*: lower examples .* or questions"):
        sets.examples(part.model_copy(update={"sft": greedy}), NAME, 0)


def test_wrong_answers_stand_in_the_same_demonstrations(part, tokenizer):
    for args in ((NAME, 0), ("next, runners",)):
        for wrong, right in scores.answer_pairs(scores.at_answer(part), *args):
            assert wrong.tail == right.tail and wrong.query == right.query
            a, b = (tokenizer.decode(side.context).splitlines() for side in (wrong, right))
            differ = [x for x, y in zip(a, b, strict=True) if x != y]
            assert len(differ) == part.control.demonstrations  # the answers, and nothing else


@pytest.mark.parametrize("base", ["llama3-8b", "qwen2.5-7b", "gemma2-9b"])
def test_the_paper_s_profiles_carry_the_design(base):
    small, large = sets.parts(config.load("control")), sets.parts(config.load(f"control-{base}"))
    names = [p.control.part.sets for p in small.values()]
    assert names == [p.control.part.sets for p in large.values()]
    assert [*map(len, names)] == [12, 16] and "third, python" in names[0]
    assert {p.model for p in large.values()} == {config.load(base).model}
    assert {p.evaluation.mode for p in large.values()} == {"options"}


def test_moving_the_residual_moves_the_log_odds_as_the_gradient_says(whole, tokenizer, sae):
    examples = corpora.load("skills-judgement")[:3]
    found = answer_gradients(whole, tokenizer, examples, 0, sae, float("inf"), "gradients")
    direction = torch.randn(64, generator=torch.Generator().manual_seed(0)).to(whole.device)
    ends = []
    for step in (1e-3 * direction, -1e-3 * direction):
        with interventions.edited(whole, {0: lambda residual, step=step: residual + step}):
            ends.append(evaluate.option_likelihoods(whole, tokenizer, examples).gold_log_odds)
    slope = (ends[0] - ends[1]).mean() / 2e-3
    assert slope == pytest.approx(float(direction.cpu() @ torch.tensor(found["odds"])), rel=0.02)
    assert found["features"].shape == (sae.cfg.d_sae,) and found["features"].any()
    assert not np.allclose(found["loglik"], found["odds"])
    with pytest.raises(ValueError, match="question bare has no options to tell its answer from"):
        bare = [Example("q", "a", "a", "d", "bare")]
        answer_gradients(whole, tokenizer, bare, 0, sae, 1.0, "gradients")


@pytest.mark.slow
def test_a_cell_is_the_paper_s_equations_and_all_that_is_planned_and_keeps_no_model(part):
    found = scores.scores(part)
    assert {values.shape for values in found.values()} == {(1, 1, 12)}
    assert {c.shape for c in sets.changes(part, "gold_log_odds")} == {(1, 1, 4)}
    own = FeatureStats.from_arrays(scores.shift_features(part, NAME, 0, part=part.sae))
    query, answer = (scores._domains(p, 0) for p in (part, scores.at_answer(part)))
    assert query[0].ids == answer[0].ids and len({*answer[0].n}) == 1 and answer[0].n[0] < 12
    acts = [method.sts_act(d, method.shifted_dims(own, part.top_n)) for d in query]
    np.testing.assert_allclose(found["sts_act"][0, 0], acts)
    asked = sets.quick_probe(part, NAME, 0).groupby("domain")
    assert asked.size().eq(part.evaluation.questions).all() and asked.gold_log_odds.sum().any()
    settings = part.control.model_copy(update={"parts": (part.control.part,)})
    planned = scores.rounds(part.model_copy(update={"control": settings}))
    assert all(f.path(*args).exists() for calls in planned for f, args in calls)
    assert not sets.finetuned.path(part, NAME, 0, sets.steps(part)).exists()
