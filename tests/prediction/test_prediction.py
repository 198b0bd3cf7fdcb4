"""What a prediction says, of the tiny model: what its numbers rest on."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sts_utils.prediction.prediction import SCORES
from tiny_sets import SMALL, choices

import sts_utils
from sts_utils import scores


def test_table_holds_every_score_with_its_interval(found):
    table = found.table
    assert sorted(table.domain) == ["apples", "code", "pears"]
    assert list(table["rank"]) == [1, 2, 3]
    assert table[found.score].is_monotonic_decreasing
    assert table.sts_answers.isna().all()  # no multiple choice
    for name in (*SCORES[:-1], "rank"):
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()


def test_scores_are_the_paper_s_on_the_same_statistics(found):
    row, expected = found.table.set_index("domain").loc["pears"], []
    for own, domains in zip(found.train_stats, found.domain_stats, strict=True):
        dims, pears = scores.shifted_dims(own, 20), domains["pears"]
        relative = scores.sts_relative(list(domains.values()), dims)[found.domains.index("pears")]
        expected.append((relative, scores.sts_act(pears, dims), scores.sts_icl(pears, dims)))
    assert row[list(SCORES[:3])].tolist() == pytest.approx(np.mean(expected, 0).tolist())


def test_neighbours_that_flip_are_ties(found):
    apples = [of["apples"] for of in found.domain_stats]
    twins = replace(found, domain_stats=[{"apples": of, "twin": of} for of in apples])
    ((a, b, p),) = twins.ties
    assert {a, b} == {"apples", "twin"} and 0.3 < p < 0.7
    assert twins.table.rank_low.tolist() == [1, 1] and twins.table.rank_high.tolist() == [2, 2]
    far = [replace(of["pears"], h=of["pears"].h + 100) for of in found.domain_stats]
    pairs = zip(apples, far, strict=True)
    apart = replace(found, domain_stats=[{"apples": a, "far": b} for a, b in pairs])
    assert apart.ties == []
    assert apart.table.domain.tolist() == ["far", "apples"]
    assert apart.table.rank_low.tolist() == apart.table.rank_high.tolist() == [1, 2]


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
    for budget in (1, 3, 101):
        assert found.advice(budget).examples.sum() == budget
    for budget in (0, 2.5):
        with pytest.raises(ValueError, match="give a whole number of extra examples"):
            found.advice(budget)


def test_multiple_choice_is_read_with_wrong_and_right_answers():
    domains = {"apples": choices("apples"), "pears": choices("pears")}
    how = SMALL | {"seeds": (0, 1), "score": "sts_answers", "n": 20}
    made = sts_utils.predict(choices("fruit"), domains=domains, **how)
    table = made.table.set_index("domain")
    assert table.sts_answers.between(-1, 1).all() and made.score == "sts_answers"
    towards = [of[""] for of in made.answer_stats]
    expected = []
    for s, own in enumerate(towards):
        ids = scores.shifted_dims(own, 20).ids
        of = made.answer_stats[s]["pears"].mean("dh")[ids]
        expected.append(scores.cosine(own.mean("dh")[ids], of))
    assert table.sts_answers["pears"] == pytest.approx(np.mean(expected))
    assert (table.sts_answers_low <= table.sts_answers).all()
    assert made.advice(4).examples.sum() == 4 or table.sts_answers.max() <= 0
    assert made.answer_stats[0][""].n[0] < made.train_stats[0].n[0]  # behind the question
    with pytest.raises(ValueError, match="'sts_answers' needs multiple choice"):
        sts_utils.predict([{"question": "q", "answer": "a"}] * 20, domains=domains, **how)


def test_what_a_prediction_can_t_be_rescored_to(found):
    for change, said in (
        ({"domains": ["law"]}, "unknown domain 'law': choose from apples"),
        ({"domains": []}, "unknown domain"),
        ({"n": 1000}, r"n is 1000: choose 1..512"),
        ({"score": "sts_answers"}, "needs multiple choice"),
    ):
        with pytest.raises(ValueError, match=said):
            found.rescored(**change)
