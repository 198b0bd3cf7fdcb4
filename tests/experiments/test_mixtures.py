"""Mixtures: which domains, in what ratio, which are one model, and how changes are averaged."""

import numpy as np
import pandas as pd
import pytest

from sts_utils.experiments import mixtures
from sts_utils.results import verdict
from sts_utils.stats import Estimate

ENDS = ("law", "math")


def test_the_ends_have_questions_enough_for_training():
    sts = {"law": 2.0, "math": 5.0, "health": 9.0, "physics": 1.0}
    pools = {"law": 60, "math": 48, "health": 20, "physics": 47}
    assert mixtures.ends(sts, pools, 48) == ("math", "law")
    assert mixtures.ends(sts, pools, 20) == ("health", "physics")
    with pytest.raises(ValueError, match=r"mixture.extra is 60, but fewer than two domains have"):
        mixtures.ends(sts, pools, 60)


def test_domains_are_chosen_by_their_score_and_no_outcome_is_read(run, monkeypatch):
    monkeypatch.delattr(mixtures.run, "performance")
    monkeypatch.setattr(run, "change_arrays", None)
    (high, low), extra = mixtures.mixtures(run)
    top = [np.argsort(-train.dh2.sum(0))[:8] for train in run.train]
    both = list(zip(run.domains, top, strict=True))
    sts = {
        d: np.mean([of[d].dh2[:, dims].sum() / of[d].n.sum() for of, dims in both])
        for d in run.domain_names
    }
    assert (high, low) == (max(sts, key=sts.get), min(sts, key=sts.get))
    assert extra["STS"][0] == round(4 * sts[high] / (sts[high] + sts[low])) > 3


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


def test_gains_are_paired_by_question():
    rng, shape = np.random.default_rng(0), {"none": 0.1, "STS": 0.3}
    noise = {d: rng.normal(size=n) for d, n in {"law": 6, "math": 5, "mathematics": 9}.items()}
    rows = [
        {"mixture": name, "domain": d, "id": f"{d}{i}", "change": factor * value}
        for name, factor in shape.items()
        for d, values in noise.items()
        for i, value in enumerate(values)
    ]
    gains = mixtures.gains(pd.DataFrame(rows).sample(frac=1, random_state=0), ENDS, {})
    assert gains["STS"]["math"].value == pytest.approx(0.3 * noise["math"].mean())
    np.testing.assert_allclose(gains["STS"]["law"].draws, 3 * gains["none"]["law"].draws)


def test_a_squared_distance_is_not_folded_upward():
    """Over worlds with the same true gap the estimates, and their draws, average to its square."""
    rng = np.random.default_rng(0)
    for gap in (0.0, 1.5):
        values = gap + rng.normal(size=4000)
        worlds = [mixtures.apart(Estimate(v, v + rng.normal(size=400))) for v in values]
        for mean in (np.mean([w.value for w in worlds]), np.mean([w.draws.mean() for w in worlds])):
            assert mean == pytest.approx(gap**2, abs=0.2)


def test_balance_by_hand():
    def exact(*values):
        return {d: Estimate(v, np.full(10, v)) for d, v in zip(ENDS, values, strict=True)}

    gains = {"all low": exact(1, 4), "all high": exact(7, 3), "STS": exact(5, 4)}
    assert mixtures.balance(gains, ENDS).low == ((7 - 3) ** 2 + (1 - 4) ** 2) / 2 - (5 - 4) ** 2


def test_differences_within_noise_are_inconclusive():
    """60 worlds in which every mixture changes both domains alike, on 100 noisy questions."""
    rng, names, found = np.random.default_rng(0), ["none", "all low", "all high", "STS"], []
    places = pd.MultiIndex.from_product([names, [*ENDS, "mathematics"], range(100)])
    places.names = ["mixture", "domain", "id"]
    for _ in range(60):
        changes = pd.Series(rng.normal(0.2, 1, len(places)), places, name="change").reset_index()
        of = mixtures.gains(changes, ENDS, {})
        high, low = of["all high"]["law"], of["all low"]["math"]
        helps = (high - of["none"]["law"]) - (low - of["none"]["math"])
        both = helps, mixtures.balance(of, ENDS)
        found.append([verdict(e.low, e.high) != "inconclusive" for e in both])
    assert (np.mean(found, axis=0) <= 0.09).all()
