"""The positive control: its training sets, its contexts, what is asked of a score, and planted truth."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from sts_utils import config, corpora
from sts_utils.control import judgement as control_tests
from sts_utils.control import matrix as control
from sts_utils.control import planted
from sts_utils.control import scores as control_scores
from sts_utils.control.scores import Score
from sts_utils.method import score, shift
from sts_utils.runs import samples


@pytest.fixture(scope="module")
def small():
    sets = ("business", "health", "law", "gsm-symbolic")
    settings = config.ControlSettings(
        sets=sets, examples=12, epochs=1, batch=6, queries=4, demonstrations=2, contexts=2, seeds=(0, 1),
        lr=1e-3, probe_questions=2,
    )  # fmt: skip
    return config.load("tiny").model_copy(update={"control": settings, "top_n": 20})


def test_training_and_evaluation_questions_are_disjoint(small):
    asked = {e.question for g in samples.evaluation_questions(small).values() for e in g}
    shown = {e.question for e in corpora.load(small.demonstrations)}
    for name in small.control.sets:
        chosen = control.examples(small, name, 0)
        assert len(chosen) == 12
        assert not {e.question for e in chosen} & (asked | shown)


def test_the_split_covers_the_control_profile_without_overlap():
    profile, split = config.load("control"), control.split()
    assert set(split["design"]["sets"]) | set(split["judgement"]["sets"]) == set(profile.control.sets)
    assert not set(split["design"]["sets"]) & set(split["judgement"]["sets"])
    assert not set(split["design"]["seeds"]) & set(split["judgement"]["seeds"])


def test_a_set_with_too_few_examples_says_what_to_lower(small):
    settings = small.control.model_copy(update={"sets": ("engineering",), "examples": 64})
    with pytest.raises(ValueError, match=r"'engineering' has .* lower it"):
        control.pairs(small.model_copy(update={"control": settings}), "engineering", 0)


@pytest.mark.parametrize("context", ["others", "generic"])
def test_contrasting_contexts_ask_the_same_questions_at_like_length(small, context):
    own, other = control.pairs(small, "law", 0), control.pairs(small, "law", 0, context)
    assert [a.query for a, _ in own] == [a.query for a, _ in other]
    assert [b.context for _, b in own] != [b.context for _, b in other]
    lengths = [np.mean([len(icl.context) for _, icl in pairs]) for pairs in (own, other)]
    assert lengths[1] == pytest.approx(lengths[0], rel=0.15)


def test_the_matrix_runs_on_the_tiny_model(small):
    sets, seeds = small.control.sets, small.control.seeds
    control.compute(small, sets, seeds)
    table = control_tests.tests(
        small, [Score("sts_act", "others", 20), Score("token overlap"), Score("probe run")], sets, seeds,
        measures=("gold_probability", "gold_loglik"),
    )  # fmt: skip
    assert len(table) == 3
    assert table["rank"].between(1, 14).all()
    assert (table.first_low <= table["first"]).all()
    assert table.filter(like="r_gold").notna().all().all()
    changes = control.change_arrays(small, "gold_probability")
    assert len(changes) == 14
    assert changes[0].shape[:2] == (4, 2)
    assert 0 <= control_tests.agreement(small, "others", 20, sets, seeds).mean() <= 1


def test_matrix_scores_are_the_scores_of_score_py(small):
    d = control_scores.dims(small, "law", 0, "others", 20)
    from sts_utils.runs import units

    for metric in score.METRICS:
        ours = control_scores.scores(small, Score(metric, "others", 20), "law", 0)
        theirs = [getattr(score, metric)(units.domain_stats(small, name, 0), d) for name in corpora.domains("mmlu-pro")]
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_centring_removes_rows_and_columns():
    values = np.random.default_rng(0).normal(size=(5, 7))
    added = values + np.arange(5)[:, None] + 3 * np.arange(7)
    np.testing.assert_allclose(control_tests.centred(added), control_tests.centred(values), atol=1e-12)
    assert np.abs(control_tests.centred(values).mean(0)).max() < 1e-12


def _planted_matrix(noise, seed=0):
    """Changes that grow with the score, in 6 sets × 14 domains, and the scores."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(6, 2, 14)) * 0.1 + rng.normal(size=(6, 1, 14)) + rng.normal(size=14)
    mean = scores.mean(1)[:, None] + 5 * rng.normal(size=14)  # what any training does to a domain
    return scores, [mean[:, :, d][..., None] + noise * rng.normal(size=(6, 2, 30)) for d in range(14)]


def test_r_centred_finds_a_planted_relation_and_not_a_shuffled_one():
    scores, changes = _planted_matrix(0.5)
    r, p = control_tests.r_centred(scores, changes, 300)
    assert r.value > 0.9
    assert r.low > 0.7
    assert p < 0.05
    other = np.random.default_rng(9).normal(size=scores.shape)
    r, p = control_tests.r_centred(other, changes, 300)
    assert r.low < 0 < r.high
    assert p > 0.05


def test_ranks_and_chance():
    values = np.zeros((2, 1, 14))
    values[0, 0, 3] = 1
    found = control_tests.ranks(values, [3, 5])
    np.testing.assert_array_equal(found, [[1], [7.5]])
    low, many = control_tests.chance(np.ones((6, 2)), 14)
    assert low < 0.001 and many < 0.001
    low, many = control_tests.chance(np.full((6, 2), 7.5), 14)
    assert low > 0.3 and many > 0.3


def test_sign_test_against_the_majority():
    scores, changes = _planted_matrix(0.1)
    found = control_tests.sign_test(scores, changes, 200)
    assert found["accuracy"].value > 0.85
    assert found["difference"].low > 0


def test_contrast_takes_away_what_any_context_moves(random_stats):
    own, other = random_stats(0), random_stats(1)
    plain, contrast = shift.shifted_dims(own, None), shift.shifted_dims(own, None, contrast=[other])
    expected = shift.shift(own) - shift.shift(other)
    np.testing.assert_allclose(contrast.shift, expected[contrast.ids])
    assert (np.diff(contrast.shift) <= 0).all()
    assert not np.array_equal(plain.ids, contrast.ids)
    assert np.allclose(shift.shifted_dims(own, None, contrast=[own]).shift, 0)


@pytest.mark.parametrize(
    "label", [f"{s}, {d}" for s in control_scores.FEATURE_SCORES for d in ("D_N", "D_N contrastive")]
)
def test_planted_ranking_is_recovered_and_a_shuffled_one_is_not(label):
    def rho(**how):
        return spearmanr(planted.scores(**how)[label], planted.AFFINITY).statistic

    assert min(rho(seed=seed) for seed in range(3)) > 0.9
    assert abs(np.mean([rho(shuffle=k) for k in range(40)])) < 0.4


def test_goals_have_their_own_direction():
    r = f"r_{control_scores.LIKELIHOOD}"
    judged = pd.Series({"first": 0.75, "first_low": 0.2, "first_high": 1.0, r: 0.7, f"{r}_low": 0.5, f"{r}_high": 0.8})
    assert control_tests.goals(judged, 0.09).verdict.tolist() == ["not reached", "reached", "reached"]
    assert control_tests.goals(judged, 0.11).verdict.tolist()[-1] == "not reached"
