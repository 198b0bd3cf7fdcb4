import numpy as np
import pytest

from sts_utils import config, corpora
from sts_utils.control import matrix, sets
from sts_utils.runs import samples


def test_training_and_evaluation_questions_are_disjoint(small):
    asked = {e.question for g in samples.evaluation_questions(small).values() for e in g}
    shown = {e.question for e in corpora.load(small.demonstrations)}
    for name in small.control.sets:
        chosen = sets.examples(small, name, 0)
        assert len(chosen) == 12
        assert not {e.question for e in chosen} & (asked | shown)


def test_the_split_covers_the_control_profile_without_overlap():
    profile, split = config.load("control"), matrix.split()
    design, judgement = split["design"], split["judgement"]
    assert {*design["sets"], *judgement["sets"]} == set(profile.control.sets)
    assert not set(design["sets"]) & set(judgement["sets"])
    assert not set(design["seeds"]) & set(judgement["seeds"])


def test_a_set_with_too_few_examples_says_what_to_lower(small):
    settings = small.control.model_copy(update={"sets": ("engineering",), "examples": 64})
    with pytest.raises(ValueError, match=r"'engineering' has .* lower it"):
        sets.pairs(small.model_copy(update={"control": settings}), "engineering", 0)


@pytest.mark.parametrize("context", ["others", "generic"])
def test_contrasting_contexts_ask_the_same_questions_at_like_length(small, context):
    own, other = sets.pairs(small, "law", 0), sets.pairs(small, "law", 0, context)
    assert [a.query for a, _ in own] == [a.query for a, _ in other]
    assert [b.context for _, b in own] != [b.context for _, b in other]
    lengths = [np.mean([len(icl.context) for _, icl in pairs]) for pairs in (own, other)]
    assert lengths[1] == pytest.approx(lengths[0], rel=0.15)


def test_each_step_is_of_a_set_and_seed_that_the_profile_names(small):
    steps = sets.steps(small)
    cells = [step.args[1:] for step in steps if step.compute is sets.cell]
    assert cells == [(name, seed) for seed in (0, 1) for name in small.control.sets]
    assert len({step.name for step in steps}) == len(steps)
