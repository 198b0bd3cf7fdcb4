import random

import pytest
from sts_utils.runs import samples

from sts_utils import config, corpora
from sts_utils.control import readings, sets, steps
from sts_utils.corpora import skills
from sts_utils.examples import Example, with_wrong_answer


def test_training_and_evaluation_questions_are_disjoint(small):
    asked = {e.question for g in samples.evaluation_questions(small).values() for e in g}
    shown = {e.question for e in corpora.load(small.demonstrations)}
    for name in small.control.part.sets:
        chosen = sets.examples(small, name, 0)
        assert len(chosen) == 8
        assert not {e.question for e in chosen} & (asked | shown)


def test_a_set_with_too_few_examples_says_what_to_lower(small):
    part = small.control.part.model_copy(update={"sets": ("engineering",), "examples": 64})
    settings = small.control.model_copy(update={"part": part})
    with pytest.raises(ValueError, match=r"'engineering' has .* lower examples or questions there"):
        readings.pairs(small.model_copy(update={"control": settings}), "engineering", 0)


def test_wrong_answers_stand_in_the_same_demonstrations(tiny):
    part = readings.at(sets.parts(tiny)["judgement"], "answer")
    tokenizer = samples.tokenizer(part.model)
    for told in (("holder, parcels", 0), ("next, runners", None)):
        for wrong, right in readings.answer_pairs(part, *told):
            assert wrong.tail == right.tail and wrong.query == right.query
            a, b = (tokenizer.decode(side.context) for side in (wrong, right))
            a, b = (text.splitlines() for text in (a, b))
            differ = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
            assert len(differ) == part.control.demonstrations  # the answers, and nothing else
    with pytest.raises(ValueError, match="has no options, so no wrong answer"):
        with_wrong_answer(random.Random(0), Example("q", "a", "a", "d", "id"))


def test_each_step_is_of_a_set_and_seed_that_the_profile_names(tiny):
    listed, parts = steps.steps(tiny), sets.parts(tiny)
    cells = [step.args[1:] for step in listed if step.compute is steps.cell]
    of = (p.control.part for p in parts.values())
    assert cells == [(name, seed) for part in of for seed in part.seeds for name in part.sets]
    full = steps.steps(config.load("control"))
    assert len({step.name for step in full}) == len(full)


def test_every_skill_on_the_trained_surfaces_is_a_set_of_the_full_control():
    parts = sets.parts(config.load("control"))
    design, judgement, topics = (parts[k].control.part.sets for k in parts)
    assert len(design) == 12 and len(judgement) == 16 and "third, python" in design
    assert not {s.split(", ")[0] for s in design} & {s.split(", ")[0] for s in judgement}
    assert len(topics) == 6 and "math" not in topics


def test_skills_of_another_type_of_answer_are_not_asked(tiny):
    part = sets.parts(tiny)["judgement"]
    asked = sets._questions(part, "holder, parcels", 2)
    assert {skills.SKILLS[e.domain.split(", ")[0]][0] for e in asked} == {"name"}
    assert len(asked) == 2 * 12 == 2 * len(sets.domains(part))


@pytest.mark.parametrize("base", ["llama3-8b", "qwen2.5-7b", "gemma2-9b"])
def test_the_paper_s_profiles_carry_the_design(base):
    small, large = config.load("control"), config.load(f"control-{base}")
    assert large.control.parts == small.control.parts and large.runs_control
    assert large.model == config.load(base).model and not large.runs_paper
    assert {p.evaluation.mode for p in sets.parts(large).values()} == {"options"}
