"""Planted skills, words and topics: the measures tell them apart."""

from types import SimpleNamespace

import numpy as np
import pytest

from sts_utils.control import judgement, scores
from sts_utils.control.judgement import KINDS

SKILLS, SURFACES = ("maximum", "minimum", "third", "holder"), ("a", "b", "c", "d")
DOMAINS = tuple(f"{skill}, {surface}" for skill in SKILLS for surface in SURFACES)
NAMES = tuple(d for d in DOMAINS if d[-1] in "ab" and not d.startswith("holder"))


@pytest.fixture
def of():
    return judgement.kinds(SimpleNamespace(names=NAMES, domains=DOMAINS))


def world(of, skill, words, noise=0.1, seeds=2, questions=40, seed=0):
    """(scores, changes) of cells that gain so much by the same skill and by the same words; cells
    that are not compared were not asked."""
    rng = np.random.default_rng(seed)
    mean = 3.0 * (of == "own") + skill * (of == "skill") + words * (of == "words")
    mean = np.where(of == "", np.nan, mean)
    cells = mean[:, None, :, None] + rng.normal(size=(*of.shape, seeds, questions)).swapaxes(1, 2)
    changes = [cells[:, :, d] for d in range(of.shape[1])]
    return mean[:, None] + noise * rng.normal(size=(len(of), seeds, of.shape[1])), changes


def used(of):
    return (of != "") & (of != "own")


def test_cells_of_another_type_of_answer_are_not_compared(of):
    row = dict(zip(DOMAINS, of[NAMES.index("maximum, a")], strict=True))
    assert row["maximum, a"] == "own" and row["maximum, c"] == "skill"
    assert row["third, a"] == "words" and row["third, b"] == "neither" and row["holder, a"] == ""
    counts = {kind: (of[0] == kind).sum() for kind in KINDS}
    assert counts == {"own": 1, "skill": 3, "words": 2, "neither": 6}


def test_auc_tells_skill_from_words(of):
    for skill, words, expected in ((2, 0, 1.0), (0, 2, 0.0)):
        values, _ = world(of, skill, words)
        assert judgement.auc(values, of).mean() == expected
    values, _ = world(of, 0, 0, noise=1.0, seeds=200)
    assert judgement.auc(values, of).mean() == pytest.approx(0.5, abs=0.03)
    ties = np.zeros((len(NAMES), 1, len(DOMAINS)))
    assert (judgement.auc(ties, of) == 0.5).all()


def test_gains_and_reliability(of):
    def found(changes):
        matrix = SimpleNamespace(names=NAMES, domains=DOMAINS, changes=lambda _: changes)
        return judgement.gains(matrix)

    _, changes = world(of, 2.0, -1.0)
    table, sure = found(changes)
    table = table.set_index("cells")
    for kind, mean in {"own": 3, "skill": 2, "words": -1, "neither": 0}.items():
        assert table.change_low[kind] - 0.2 < mean < table.change_high[kind] + 0.2
    assert sure > 0.9 and table["cells above 0"].words == 0
    noise = [np.random.default_rng(d).normal(size=c.shape) for d, c in enumerate(changes)]
    assert found(noise)[1] < 0.6


def test_a_score_of_words_says_nothing_beyond_words(of):
    same = (of == "words").astype(float)
    given = np.stack([same, np.zeros_like(same)])
    _, changes = world(of, 2.0, 1.0)
    words, _ = world(of, 0.0, 5.0)
    r, p = judgement.partial(words, changes, given, used(of))
    assert abs(r.value) < 0.3 and p > 0.01
    skill, _ = world(of, 5.0, 0.0)
    r, p = judgement.partial(skill, changes, given, used(of))
    assert r.value > 0.8 and r.low > 0.5 and p < 0.05


def test_p_of_a_score_of_nothing_is_uniform(of):
    """How often the permutation test rejects at 10% where there is nothing to find."""
    rejected = []
    for seed in range(30):
        _, changes = world(of, 0.0, 0.0, seed=seed)
        other, _ = world(of, 0.0, 0.0, noise=1.0, seed=100 + seed)
        none = np.empty((0, *of.shape))
        rejected.append(judgement.partial(other, changes, none, used(of))[1] < 0.1)
    assert np.mean(rejected) < 0.3


def test_p_permutes_sets_that_ask_the_same_domains():
    groups = np.array([0, 1, 0, 1, 1])
    orders = [judgement._within(groups, np.random.default_rng(k)) for k in range(20)]
    assert all((groups[order] == groups).all() and len({*order}) == 5 for order in orders)
    assert len({tuple(order) for order in orders}) > 5


def test_topics_beyond_the_overlap_of_words(monkeypatch):
    """A score that is overlap and nothing else has no r beyond it; one with the rest has."""
    rng, names = np.random.default_rng(0), tuple("abcdefgh")
    overlap, more, ones = (rng.normal(size=(8, 1, 9)) for _ in range(3))
    overlap[np.arange(8), 0, np.arange(8)] = 5
    mean = (overlap + more)[..., None] + 0.1 * rng.normal(size=(8, 1, 9, 20))
    changes = [mean[:, :, d] for d in range(9)]
    planted = {"token overlap": overlap, "sts_act": overlap + more, "sts_icl": ones}
    monkeypatch.setattr(scores, "values", lambda matrix, score, *_: planted[score.name])
    matrix = SimpleNamespace(names=names, domains=(*names, "math"), changes=lambda _: changes)
    tried = [scores.Score(name) for name in planted]
    found = judgement.topics(matrix, tried).set_index(np.array(list(planted)))
    assert found["first"]["token overlap"] == 1 and found.first_low["token overlap"] < 0.7
    assert found.above["token overlap"] == 0 and np.isnan(found.beyond["token overlap"])
    assert found.beyond["sts_act"] > 0.9 and found.beyond_p["sts_act"] < 0.05
    assert found.above_low["sts_act"] > 0 and abs(found.r["sts_icl"]) < 0.5
