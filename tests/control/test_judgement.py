"""Planted skills and words: the measures tell them apart."""

import numpy as np
import pytest

DOMAINS = [f"{k}, {w}" for k in ("maximum", "minimum", "third", "holder") for w in "abcd"]
NAMES = [d for d in DOMAINS if d[-1] in "ab" and not d.startswith("holder")]
SKILLS = [np.array([one.split(", ")[0] for one in some]) for some in (NAMES, DOMAINS)]


@pytest.fixture(scope="module")
def notebook(notebook_functions):
    return notebook_functions("16_control")


@pytest.fixture(scope="module")
def kinds(notebook):
    return notebook.kinds_of(NAMES, DOMAINS)


@pytest.fixture(scope="module")
def used(kinds):
    return (kinds != "") & (kinds != "own")


def world(kinds, skill, words, noise=0.1, seeds=2, seed=0):
    """(scores, changes) of cells that gain so much by the same skill and by the same words; cells
    that are not compared were not asked."""
    rng = np.random.default_rng(seed)
    mean = 3.0 * (kinds == "own") + skill * (kinds == "skill") + words * (kinds == "words")
    mean = np.where(kinds == "", np.nan, mean)
    cells = mean[:, None, :, None] + rng.normal(size=(*kinds.shape, seeds, 40)).swapaxes(1, 2)
    scores = mean[:, None] + noise * rng.normal(size=(len(NAMES), seeds, len(DOMAINS)))
    return scores, [cells[:, :, d] for d in range(len(DOMAINS))]


def test_cells_of_another_type_of_answer_are_not_compared(notebook, kinds):
    row = dict(zip(DOMAINS, kinds[NAMES.index("maximum, a")], strict=True))
    assert row["maximum, a"] == "own" and row["maximum, c"] == "skill"
    assert row["third, a"] == "words" and row["third, b"] == "neither" and row["holder, a"] == ""
    assert [(kinds[0] == kind).sum() for kind in notebook.KINDS] == [1, 3, 2, 6]


def test_auc_tells_skill_from_words(notebook, kinds):
    for skill, words, expected in ((2, 0, 1.0), (0, 2, 0.0)):
        assert notebook.auc(world(kinds, skill, words)[0], kinds).mean() == expected
    nothing = notebook.auc(world(kinds, 0, 0, noise=1.0, seeds=200)[0], kinds)
    assert nothing.mean() == pytest.approx(0.5, abs=0.03)
    assert (notebook.auc(np.zeros((len(NAMES), 1, len(DOMAINS))), kinds) == 0.5).all()


def test_a_score_of_words_says_nothing_beyond_words(notebook, kinds, used):
    same, (_, changes) = (kinds == "words").astype(float), world(kinds, 2.0, 1.0)
    r, p = notebook.partial(world(kinds, 0.0, 5.0)[0], changes, same[None], used, SKILLS)
    assert abs(r.value) < 0.3 and p > 0.01
    r, p = notebook.partial(world(kinds, 5.0, 0.0)[0], changes, same[None], used, SKILLS)
    assert r.value > 0.8 and r.low > 0.5 and p < 0.05


def test_r_of_nothing_but_skills_that_are_alike_holds_0(notebook, kinds, used):
    """Score and change have the same value on all domains of a skill, and nothing to do with each
    other: an interval that draws cells or sets leaves 0 out in half of such worlds."""
    rng, found = np.random.default_rng(0), []
    skill = np.unique(SKILLS[1], return_inverse=True)[1]
    for _ in range(60):
        score, change = (rng.normal(size=(1, 1, 4))[..., skill] for _ in range(2))
        score, change = (of + 0.3 * rng.normal(size=(len(NAMES), 1, 16)) for of in (score, change))
        changes, none = list(change.transpose(2, 0, 1)[..., None]), np.empty((0, *kinds.shape))
        found.append(notebook.partial(score, changes, none, used, SKILLS)[0])
    assert np.mean([r.low <= 0 <= r.high for r in found]) > 0.88


def test_p_permutes_sets_that_ask_the_same_domains(notebook, kinds, used):
    """Where each set asks others, all but its own, there is nothing to permute."""
    (scores, changes), none = world(kinds, 5.0, 0.0), np.empty((0, *kinds.shape))
    nothing = [world(kinds, 0, 0, noise=1.0, seed=k)[0] for k in range(10)]
    ps = [notebook.partial(of, changes, none, used, SKILLS)[1] for of in (scores, *nothing)]
    assert ps[0] < 0.05 and sum(p < 0.1 for p in ps[1:]) < 4
    for t, name in enumerate(NAMES):
        changes[DOMAINS.index(name)][t] = np.nan
    assert notebook.partial(scores, changes, none, used, SKILLS)[1] == 1
