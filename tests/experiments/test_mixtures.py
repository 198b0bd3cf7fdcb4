"""Mixtures: which domains, in what ratio, which are one model, and how changes are averaged."""

import numpy as np
import pandas as pd
import pytest

from sts_utils.experiments import mixtures
from sts_utils.stats import Jackknife

ENDS = ("law", "math")


@pytest.fixture(scope="module")
def notebook(notebook_functions):
    return notebook_functions("11_mixtures")


def test_domains_are_chosen_by_their_score_and_have_questions_enough(run, monkeypatch):
    monkeypatch.delattr(mixtures.run, "performance")  # no outcome is read
    monkeypatch.setattr(run, "change_arrays", None)
    monkeypatch.setattr(mixtures, "Run", lambda _: run)
    sts = run.scores[run.scores.metric == "sts_icl"].groupby("domain").value.mean().to_dict()
    first, second, *_, last = sorted(sts, key=sts.get, reverse=True)
    chosen = mixtures.mixtures.__wrapped__
    ends, extra = chosen(run.profile)
    assert ends == (first, last)
    assert extra["STS"][0] == round(4 * sts[first] / (sts[first] + sts[last])) > 3
    pools = dict.fromkeys(sts, range(4)) | {first: range(3)}  # mixture.extra is 4
    monkeypatch.setattr(mixtures.questions, "halves", lambda _, d: (pools[d], ()))
    assert chosen(run.profile)[0] == (second, last)
    pools = {d: range(3 + (d == last)) for d in sts}
    with pytest.raises(ValueError, match=r"mixture.extra is 4, but fewer than two domains have"):
        chosen(run.profile)


def test_the_sts_split_is_in_the_ratio_of_sts():
    sizes = mixtures.sizes(48, 3.3, 1.2)
    assert sizes["STS"] == (35, 13)  # 48 × 3.3 / 4.5 = 35.2
    assert sizes["none"] == (0, 0) and sizes["half"] == (24, 24)
    assert sizes["all high"] == (48, 0) and sizes["all low"] == (0, 48)
    for high, first in ((1.0, 24), (1.09, 24), (1.15, 26), (1.3, 27)):  # 24, 25.03, 25.7, 27.1
        assert mixtures.sizes(48, high, 1.0)["STS"] == (first, 48 - first)


def test_a_mixture_s_model_is_named_by_what_it_trains_on(profile):
    """The split that is the half is trained once; the answers' precision and the questions' corpus
    enter the name, not how many are asked afterwards."""

    def name(section=None, ends=ENDS, extra=(2, 2), **changes):
        nested = getattr(profile, section).model_copy(update=changes) if section else None
        p = profile.model_copy(update={section: nested} if section else changes)
        return mixtures.mixed.path(p, 0, ends, extra).name

    assert len({name(extra=of) for of in mixtures.sizes(8, 1.1, 1.0).values()}) == 4
    assert len({name(extra=of) for of in mixtures.sizes(8, 3.0, 1.0).values()}) == 5
    assert name("mixture", questions=7) == name() == name(ends=("law", "math"))
    others = [name("evaluation", dtype="bfloat16"), name(domains="benchmarks"), name("sft", lr=0.1)]
    others += [name("mixture", answer_tokens=5), name(ends=("law", "health"))]
    assert len({name(), *others}) == 6


def test_gains_are_paired_by_question(notebook):
    domains = np.repeat(["law", "math", "mathematics"], (6, 5, 9))
    change = np.random.default_rng(0).normal(size=20)
    one = pd.DataFrame({"domain": domains, "id": range(20), "mixture": "none", "change": change})
    rows = pd.concat([one, one.assign(mixture="STS", change=3 * change)])
    gains = notebook.gains_of(rows.sample(frac=1, random_state=0), ENDS, {})
    assert gains["STS"]["math"].value == pytest.approx(3 * change[6:11].mean())
    assert gains["STS"]["law"].half == pytest.approx(3 * gains["none"]["law"].half)


def means(law, math):
    """Domain -> Jackknife of the mean of values [questions]."""
    return {d: Jackknife.mean(of[None]) for d, of in (("law", law), ("math", math))}


def test_a_squared_distance_is_by_hand_and_not_folded_upward(notebook):
    """Over worlds with the same true gap the estimates average to its square."""
    flat = np.ones(40)
    gains = {"all low": means(flat, 4 * flat), "all high": means(7 * flat, 3 * flat)}
    gains["STS"] = means(5 * flat, 4 * flat)
    by_hand = ((7 - 3) ** 2 + (1 - 4) ** 2) / 2 - (5 - 4) ** 2
    assert notebook.balance(gains, ENDS).low == pytest.approx(by_hand)
    rng, same = np.random.default_rng(0), means(flat, flat)
    for gap in (0.0, 1.5):
        values = 1 + gap + 40**0.5 * rng.normal(size=(500, 40))
        worlds = [{"all low": same, "all high": same, "STS": means(v, flat)} for v in values]
        found = np.mean([notebook.balance(world, ENDS).value for world in worlds])
        assert found == pytest.approx(-(gap**2), abs=0.3)
