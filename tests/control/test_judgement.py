"""Planted skills and words: the measures tell them apart."""

import numpy as np
import pytest

from sts_utils.control import judgement

DOMAINS = [f"{k}, {w}" for k in ("maximum", "minimum", "third", "holder") for w in "abcd"]
NAMES = [d for d in DOMAINS if d[-1] in "ab" and not d.startswith("holder")]
KINDS = judgement.kinds(NAMES, DOMAINS)
USED = (KINDS != "") & (KINDS != "own")


def world(skill, words, noise=0.1, seeds=2, seed=0):
    """(scores, changes) of cells that gain so much by the same skill and by the same words; cells
    that are not compared were not asked."""
    rng = np.random.default_rng(seed)
    mean = 3.0 * (KINDS == "own") + skill * (KINDS == "skill") + words * (KINDS == "words")
    mean = np.where(KINDS == "", np.nan, mean)
    cells = mean[:, None, :, None] + rng.normal(size=(*KINDS.shape, seeds, 40)).swapaxes(1, 2)
    scores = mean[:, None] + noise * rng.normal(size=(len(NAMES), seeds, len(DOMAINS)))
    return scores, [cells[:, :, d] for d in range(len(DOMAINS))]


def test_cells_of_another_type_of_answer_are_not_compared():
    row = dict(zip(DOMAINS, KINDS[NAMES.index("maximum, a")], strict=True))
    assert row["maximum, a"] == "own" and row["maximum, c"] == "skill"
    assert row["third, a"] == "words" and row["third, b"] == "neither" and row["holder, a"] == ""
    assert [(KINDS[0] == kind).sum() for kind in judgement.KINDS] == [1, 3, 2, 6]


def test_auc_tells_skill_from_words():
    for skill, words, expected in ((2, 0, 1.0), (0, 2, 0.0)):
        assert judgement.auc(world(skill, words)[0], KINDS).mean() == expected
    values, _ = world(0, 0, noise=1.0, seeds=200)
    assert judgement.auc(values, KINDS).mean() == pytest.approx(0.5, abs=0.03)
    assert (judgement.auc(np.zeros((len(NAMES), 1, len(DOMAINS))), KINDS) == 0.5).all()


def test_gains_and_reliability():
    _, changes = world(2.0, -1.0)
    table, reliability = judgement.gains(changes, KINDS)
    table = table.set_index("cells")
    for kind, mean in {"own": 3, "skill": 2, "words": -1, "neither": 0}.items():
        assert table.change_low[kind] - 0.2 < mean < table.change_high[kind] + 0.2
    assert reliability > 0.9 and table["cells above 0"].words == 0
    noise = [np.random.default_rng(d).normal(size=c.shape) for d, c in enumerate(changes)]
    assert judgement.gains(noise, KINDS)[1] < 0.6


def test_a_score_of_words_says_nothing_beyond_words():
    same, (_, changes) = (KINDS == "words").astype(float), world(2.0, 1.0)
    scores = {"words": world(0.0, 5.0)[0], "skill": world(5.0, 0.0)[0]}
    table = judgement.judge(scores, changes, KINDS, same[None]).set_index("score")
    assert list(table.index) == ["the change itself", "words", "skill"]
    assert table.auc.skill == 1 and table.auc.words == 0
    assert abs(table.r.words) < 0.3 and table.p.words > 0.01
    assert table.r.skill > 0.8 and table.r_low.skill > 0.5 and table.p.skill < 0.05


@pytest.mark.slow
def test_p_of_a_score_of_nothing_is_uniform():
    """How often the permutation test rejects at 10% where there is nothing to find."""
    none, rejected = np.empty((0, *KINDS.shape)), []
    for seed in range(30):
        (_, changes), (other, _) = world(0, 0, seed=seed), world(0, 0, noise=1.0, seed=100 + seed)
        rejected.append(judgement.partial(other, changes, none, USED)[1] < 0.1)
    assert np.mean(rejected) < 0.3


def test_p_permutes_sets_that_ask_the_same_domains():
    groups = np.array([0, 1, 0, 1, 1])
    orders = [judgement._within(groups, np.random.default_rng(k)) for k in range(20)]
    assert all((groups[order] == groups).all() and len({*order}) == 5 for order in orders)
    assert len({tuple(order) for order in orders}) > 5
