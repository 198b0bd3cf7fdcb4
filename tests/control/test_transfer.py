"""Planted skills and words: the measures tell them apart."""

from types import SimpleNamespace

import numpy as np
import pytest

from sts_utils import config
from sts_utils.control import sets, tables, transfer
from sts_utils.control.values import Control
from sts_utils.runs import plan

SKILLS, SURFACES = ("maximum", "minimum", "third", "holder"), ("a", "b", "c", "d")
DOMAINS = tuple(f"{skill}, {surface}" for skill in SKILLS for surface in SURFACES)
NAMES = tuple(d for d in DOMAINS if d[-1] in "ab")


@pytest.mark.slow
def test_skills_run_on_the_tiny_model_and_topics_have_no_such_table(small):
    size = {"examples": 12, "batch": 6, "queries": 4, "demonstrations": 2, "contexts": 2}
    named = ("maximum, apples", "third, python")
    own = config.load("skills-design").control.model_copy(update=size | {"sets": named})
    skills = config.load("tiny").model_copy(
        update={"domains": "skills-design", "demonstrations": "skills-design-shown", "control": own}
    )
    plan.compute(skills, sets.steps(skills))
    control = Control(skills)
    judged, caption = tables.control_transfer(control)
    assert judged.auc.between(0, 1).all() and judged.r.between(-1, 1).all() and "skill" in caption
    assert len(judged) == 3 + 2 * len(transfer.CANDIDATES)
    query, answer = (control.places[at].features[0][0] for at in ("query", "answer"))
    assert query.ids == answer.ids and (answer.n == answer.n[0]).all() and answer.n[0] < 12
    gains, _ = tables.control_gains(control)
    assert list(gains.cells) == list(transfer.KINDS)
    plan.compute(small, sets.steps(small))
    assert tables.control_transfer(Control(small)) is None


@pytest.fixture
def of():
    return transfer.kinds(SimpleNamespace(names=NAMES, domains=DOMAINS))


def world(of, skill, words, noise=0.1, seeds=2, questions=40, seed=0):
    """(scores, changes) of cells that gain so much by the same skill and by the same words."""
    rng = np.random.default_rng(seed)
    mean = 3.0 * (of == "own") + skill * (of == "skill") + words * (of == "words")
    cells = mean[:, None, :, None] + rng.normal(size=(*of.shape, seeds, questions)).swapaxes(1, 2)
    changes = [cells[:, :, d] for d in range(of.shape[1])]
    return mean[:, None] + noise * rng.normal(size=(len(of), seeds, of.shape[1])), changes


def test_cells_of_another_type_of_answer_are_not_compared(of):
    row = dict(zip(DOMAINS, of[NAMES.index("maximum, a")], strict=True))
    assert row["maximum, a"] == "own" and row["maximum, c"] == "skill"
    assert row["third, a"] == "words" and row["third, b"] == "neither" and row["holder, a"] == ""
    counts = {kind: (of[0] == kind).sum() for kind in transfer.KINDS}
    assert counts == {"own": 1, "skill": 3, "words": 2, "neither": 6}


def test_auc_tells_skill_from_words(of):
    comparable = [t for t, name in enumerate(NAMES) if not name.startswith("holder")]
    for skill, words, expected in ((2, 0, 1.0), (0, 2, 0.0)):
        scores, _ = world(of, skill, words)
        assert transfer.auc(scores[comparable], of[comparable]).mean() == expected
    scores, _ = world(of, 0, 0, noise=1.0, seeds=200)
    assert transfer.auc(scores[comparable], of[comparable]).mean() == pytest.approx(0.5, abs=0.03)
    ties = np.zeros((len(NAMES), 1, len(DOMAINS)))
    assert (transfer.auc(ties[comparable], of[comparable]) == 0.5).all()


def test_gains_and_reliability(of):
    rows = [t for t, name in enumerate(NAMES) if not name.startswith("holder")]
    _, changes = world(of, 2.0, -1.0)
    found = transfer.gains([c[rows] for c in changes], of[rows]).set_index("cells")
    for kind, mean in {"own": 3, "skill": 2, "words": -1, "neither": 0}.items():
        assert found.low[kind] - 0.2 < mean < found.high[kind] + 0.2
    assert transfer.reliability(changes, of) > 0.9
    noise = [np.random.default_rng(d).normal(size=c.shape) for d, c in enumerate(changes)]
    assert transfer.reliability(noise, of) < 0.6


def test_a_score_of_words_says_nothing_beyond_words(of):
    same = (of == "words").astype(float)
    given = np.stack([same, np.zeros_like(same)])
    _, changes = world(of, 2.0, 1.0)
    words, _ = world(of, 0.0, 5.0)
    r, p = transfer.partial(words, changes, given, of)
    assert abs(r.value) < 0.3 and p > 0.01
    skill, _ = world(of, 5.0, 0.0)
    r, p = transfer.partial(skill, changes, given, of)
    assert r.value > 0.8 and r.low > 0.5 and p < 0.05
