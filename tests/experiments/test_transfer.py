"""Training sets by the dozen: on the tiny model what is asked and read, gradients, and all that is
planned; in worlds of planted skills and words the control's measures tell them apart."""

import copy

import numpy as np
import pytest
import torch
from conftest import functions_of

from sts_utils import config, corpora, evaluate, plan, questions, run, saes
from sts_utils.corpora import packaged
from sts_utils.experiments import trainings
from sts_utils.features import FeatureStats, Hook

OTHER = "next, runners"
DOMAINS = [f"{k}, {w}" for k in ("maximum", "minimum", "third", "holder") for w in "abcd"]
NAMES = [d for d in DOMAINS if d[-1] in "ab" and not d.startswith("holder")]
SKILLS = [np.array([one.split(", ")[0] for one in some]) for some in (NAMES, DOMAINS)]
CONTROL = functions_of("16_control")
KINDS = CONTROL.kinds_of(NAMES, DOMAINS)
USED, NONE = (KINDS != "") & (KINDS != "own"), np.empty((0, *KINDS.shape))


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
    chosen = trainings._asked(one, 0, 2)
    assert {packaged.KINDS[e.domain.split(", ")[0]] for e in chosen} == {"name"}
    assert len(chosen) == 2 * 12 == 2 * len(trainings.comparable(one))


def test_wrong_answers_stand_in_the_same_demonstrations(one, tokenizer):
    for args in ((0,), (0, OTHER)):
        for wrong, right in trainings.answer_pairs(trainings.at_answer(one), *args):
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


def test_the_gradient_is_how_the_log_odds_move(one, whole, tokenizer, sae, monkeypatch):
    monkeypatch.setattr(run, "hook", lambda p: Hook(0, sae, float("inf")))
    monkeypatch.setattr(run, "whole", lambda p: copy.deepcopy(whole))
    monkeypatch.setattr(trainings, "TOGETHER", 3)  # two passes
    examples = questions.domain_queries(one, OTHER, 0)
    found = trainings.gradients.function(one, 0, OTHER)
    direction, ends = torch.randn(64, generator=torch.Generator().manual_seed(0)), []
    for step in (1e-3 * direction, -1e-3 * direction):
        with saes.edited(whole, {0: lambda r, step=step: r + step.to(r.device)}):
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
    for table in (trainings.outcome(one, 0), trainings.probe(one, 0)):
        assert list(table.groupby("domain").size()) == 12 * [2]
        assert trainings.change(one, table).gold_log_odds.any()
    q = trainings.at_answer(one)
    answer = FeatureStats.from_arrays(run.domain_features(q, OTHER, 0, part=q.sae))
    assert len({*answer.n}) == 1 and answer.n[0] < 12  # tokens between question and answer


def world(skill, words, noise=0.1, seeds=2, seed=0):
    """(scores, changes) of cells that gain so much by the same skill and by the same words; cells
    that are not compared were not asked."""
    rng = np.random.default_rng(seed)
    mean = 3.0 * (KINDS == "own") + skill * (KINDS == "skill") + words * (KINDS == "words")
    mean = np.where(KINDS == "", np.nan, mean)
    cells = mean[:, None, :, None] + rng.normal(size=(*KINDS.shape, seeds, 40)).swapaxes(1, 2)
    scores = mean[:, None] + noise * rng.normal(size=(len(NAMES), seeds, len(DOMAINS)))
    return scores, [cells[:, :, d] for d in range(len(DOMAINS))]


def partial(scores, changes, known=NONE):
    return CONTROL.partial(scores, changes, known, USED, SKILLS)


def test_auc_tells_skill_from_words_and_compares_no_other_type_of_answer():
    row = dict(zip(DOMAINS, KINDS[NAMES.index("maximum, a")], strict=True))
    assert row["maximum, a"] == "own" and row["maximum, c"] == "skill"
    assert row["third, a"] == "words" and row["third, b"] == "neither" and row["holder, a"] == ""
    assert [(KINDS[0] == kind).sum() for kind in CONTROL.KINDS] == [1, 3, 2, 6]
    for skill, words, expected in ((2, 0, 1.0), (0, 2, 0.0)):
        assert CONTROL.auc(world(skill, words)[0], KINDS).mean() == expected
    nothing = CONTROL.auc(world(0, 0, noise=1.0, seeds=200)[0], KINDS)
    assert nothing.mean() == pytest.approx(0.5, abs=0.03)
    assert (CONTROL.auc(np.zeros((len(NAMES), 1, len(DOMAINS))), KINDS) == 0.5).all()


def test_a_score_of_words_says_nothing_beyond_words():
    same, (_, changes) = (KINDS == "words").astype(float), world(2.0, 1.0)
    r, p = partial(world(0.0, 5.0)[0], changes, same[None])
    assert abs(r.value) < 0.3 and p > 0.01
    r, p = partial(world(5.0, 0.0)[0], changes, same[None])
    assert r.value > 0.8 and r.low > 0.5 and p < 0.05


def test_r_of_nothing_but_skills_that_are_alike_holds_0():
    """Score and change have the same value on all domains of a skill, and nothing to do with each
    other: an interval that draws cells or sets leaves 0 out in half of such worlds."""
    rng, found = np.random.default_rng(0), []
    skill = np.unique(SKILLS[1], return_inverse=True)[1]
    for _ in range(60):
        score, change = (rng.normal(size=(1, 1, 4))[..., skill] for _ in range(2))
        score, change = (of + 0.3 * rng.normal(size=(len(NAMES), 1, 16)) for of in (score, change))
        found.append(partial(score, list(change.transpose(2, 0, 1)[..., None]))[0])
    assert np.mean([r.low <= 0 <= r.high for r in found]) > 0.88


def test_p_permutes_sets_that_ask_the_same_domains():
    """Where each set asks others, all but its own, there is nothing to permute."""
    scores, changes = world(5.0, 0.0)
    nothing = [world(0, 0, noise=1.0, seed=k)[0] for k in range(10)]
    ps = [partial(of, changes)[1] for of in (scores, *nothing)]
    assert ps[0] < 0.05 and sum(p < 0.1 for p in ps[1:]) < 4
    for t, name in enumerate(NAMES):
        changes[DOMAINS.index(name)][t] = np.nan
    assert partial(scores, changes)[1] == 1
