"""What a prediction says, of the tiny model: what its numbers rest on."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny_sets import SMALL

import sts_utils
from sts_utils import scores as ours
from sts_utils import scores as score
from sts_utils import scores as shift
from sts_utils.prediction import prediction, scores


def test_table_holds_every_score_with_its_interval(found):
    table = found.table
    assert sorted(table.domain) == ["apples", "code", "pears"]
    assert list(table["rank"]) == [1, 2, 3]
    assert table[found.score].is_monotonic_decreasing
    assert table.sts_answers.isna().all()  # no multiple choice
    for name in scores.SCORES[:-1]:
        assert (table[f"{name}_low"] <= table[name]).all() and (
            table[name] <= table[f"{name}_high"]
        ).all()
    assert (table.rank_low <= table["rank"]).all() and (table["rank"] <= table.rank_high).all()


def test_scores_are_the_paper_s_on_the_same_statistics(found):
    row = found.table.set_index("domain").loc["pears"]
    expected = {"sts_act": [], "sts_icl": [], "sts_relative": []}
    for s in range(2):
        plain = shift.shifted_dims(found.train_stats[s], 20)
        expected["sts_act"].append(score.sts_act(found.domain_stats[s]["pears"], plain))
        expected["sts_icl"].append(score.sts_icl(found.domain_stats[s]["pears"], plain))
        relative = ours.sts_relative(list(found.domain_stats[s].values()), plain)
        expected["sts_relative"].append(relative[found.domains.index("pears")])
    for name, values in expected.items():
        assert row[name] == pytest.approx(np.mean(values))


def test_how_sure_is_said(found):
    said = " ".join(found.sureness())
    assert "3 domains, 2 seeds, 6 questions" in said and "D_20 on 8 training questions" in said


def test_neighbours_that_flip_are_ties(found):
    apples = [of["apples"] for of in found.domain_stats]
    twins = replace(found, domain_stats=[{"apples": of, "twin": of} for of in apples])
    ((a, b, p),) = twins.ties
    assert {a, b} == {"apples", "twin"} and 0.3 < p < 0.7
    assert f"{a} and {b} ({p:.0%})" in " ".join(twins.sureness())
    assert twins.table.rank_low.tolist() == [1, 1] and twins.table.rank_high.tolist() == [2, 2]
    far = [replace(of["pears"], h=of["pears"].h + 100) for of in found.domain_stats]
    pairs = zip(apples, far, strict=True)
    apart = replace(found, domain_stats=[{"apples": a, "far": b} for a, b in pairs])
    assert apart.ties == [] and "No two neighbours" in " ".join(apart.sureness())
    assert apart.table.domain.tolist() == ["far", "apples"]
    assert apart.table.rank_low.tolist() == apart.table.rank_high.tolist() == [1, 2]


def test_positive_control_is_quoted_when_it_exists(found, tmp_path, monkeypatch):
    own = scores.in_control()["sts_relative"]
    said = f"{own['r']:.2f} [{own['r_low']:.2f}, {own['r_high']:.2f}]"
    assert f"sts_relative {said}" in " ".join(found.sureness())
    assert f"in the trained words in {own['auc']:.0%}" in found.reads()[0]
    assert "not the skill" in found.reads()[0] and "needs multiple choice" in found.reads()[0]
    monkeypatch.setattr(scores, "CONTROL", tmp_path)
    assert "not backed by it yet" in " ".join(found.sureness())
    assert "In the positive control" not in " ".join(found.reads())


def test_a_question_that_every_seed_asks_is_drawn_once(found):
    kinds = ("train_stats", "domain_stats", "answer_stats")
    one = replace(found, seeds=(0,), **{name: getattr(found, name)[:1] for name in kinds})
    same = replace(one, seeds=(0, 1), **{name: getattr(one, name) * 2 for name in kinds})
    for name in ("sts_act", "sts_relative"):
        np.testing.assert_allclose(same.estimates[name][1], one.estimates[name][1])


def test_advice_is_in_the_ratio_of_the_score(found):
    advice = found.advice(10)
    assert advice.examples.sum() == 10 and advice.domain.tolist() == found.table.domain.tolist()
    assert np.abs(advice.examples - 10 * advice.weight / advice.weight.sum()).max() < 1
    np.testing.assert_allclose(advice.weight, np.exp(found.table.sts_relative))
    rows = found.mixture(10)
    counts = pd.Series([row["domain"] for row in rows]).value_counts()
    assert counts.to_dict() == dict(zip(advice.domain, advice.examples, strict=True))
    assert all(row["question"] and row["answer"] for row in rows)
    assert len({row["question"] for row in rows}) == 10
    for budget in (0, 2.5):
        with pytest.raises(ValueError, match="give a whole number of extra examples"):
            found.advice(budget)


def test_largest_remainder_spends_the_whole_budget():
    for seed in range(20):
        share = np.random.default_rng(seed).dirichlet(np.ones(14))
        counts = prediction.largest_remainder(share, 101)
        assert counts.sum() == 101 and (np.abs(counts - 101 * share) < 1).all()


def test_unknown_domain_or_score_of_a_rescored_prediction(found):
    with pytest.raises(ValueError, match="unknown domain 'law': choose from apples"):
        found.rescored(domains=["law"])
    with pytest.raises(ValueError, match="unknown domain"):
        found.rescored(domains=[])
    with pytest.raises(ValueError, match=r"n is 1000: choose 1..512"):
        found.rescored(n=1000)


def test_multiple_choice_is_read_with_wrong_and_right_answers():
    def choices(word):
        rows = []
        for i in range(16):
            options = [f"{word} {i}", f"{word} {i + 1}", f"{word} {i + 2}"]
            rows.append({"question": f"{word} {i}?", "choices": options, "answer": i % 3})
        return rows

    domains = {"apples": choices("apples"), "pears": choices("pears")}
    how = SMALL | {"seeds": (0, 1), "score": "sts_answers", "n": 20}
    made = sts_utils.predict(choices("fruit"), domains=domains, **how)
    table = made.table.set_index("domain")
    assert table.sts_answers.between(-1, 1).all() and made.score == "sts_answers"
    assert "from wrong answers to right ones" in made.reads()[0]
    assert 'score="sts_answers" follows' in made.rescored(score="sts_act").reads()[0]
    towards = [of[""] for of in made.answer_stats]
    expected = []
    for s, own in enumerate(towards):
        ids = shift.shifted_dims(own, 20).ids
        of = made.answer_stats[s]["pears"].mean("dh")[ids]
        expected.append(ours.cosine(own.mean("dh")[ids], of))
    assert table.sts_answers["pears"] == pytest.approx(np.mean(expected))
    assert (table.sts_answers_low <= table.sts_answers).all()
    assert made.advice(4).examples.sum() == 4 or table.sts_answers.max() <= 0
    assert made.answer_stats[0][""].n[0] < made.train_stats[0].n[0]  # behind the question
    with pytest.raises(ValueError, match="'sts_answers' needs multiple choice with answers in"):
        sts_utils.predict([{"question": "q", "answer": "a"}] * 20, domains=domains, **how)
