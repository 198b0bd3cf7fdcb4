"""Mixtures: which domains, in what ratio, how their changes are averaged, and what is shown."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sts_utils.experiments import fig5
from sts_utils.results import STYLES, judged, paper
from sts_utils.runs import samples
from sts_utils.stats import Estimate


def test_the_ends_have_questions_enough_for_training():
    sts = {"law": 2.0, "math": 5.0, "health": 9.0, "physics": 1.0}
    pools = {"law": 60, "math": 48, "health": 20, "physics": 47}
    assert fig5.ends(sts, pools, 48) == ("math", "law")
    assert fig5.ends(sts, pools, 20) == ("health", "physics")
    with pytest.raises(ValueError, match=r"mixture.extra is 60, but fewer than two domains have"):
        fig5.ends(sts, pools, 60)


def test_domains_are_chosen_by_their_score_and_no_outcome_is_read(run, monkeypatch):
    """STS_ICL, mean over seeds, by hand: what moves D_N most among domains with 4 to train on."""
    monkeypatch.setattr(fig5, "Run", lambda _: run)
    monkeypatch.delattr(fig5.performance, "measure")
    monkeypatch.setattr(run, "change_arrays", None)
    (high, low), extra = fig5.mixtures.__wrapped__(run.profile)
    sts = {}
    for d in run.domain_names:
        of = []
        for train, domains in zip(run.train, run.domains, strict=True):
            dims = np.argsort(-train.dh2.sum(0))[:8]
            of.append(domains[d].dh2[:, dims].sum() / domains[d].n.sum())
        sts[d] = np.mean(of)
    assert (high, low) == (max(sts, key=sts.get), min(sts, key=sts.get))
    first = round(4 * sts[high] / (sts[high] + sts[low]))
    assert first > 3 and extra["STS"] == (first, 4 - first)


def test_the_sts_split_is_in_the_ratio_of_sts():
    sizes = fig5.sizes(48, 3.3, 1.2)
    assert tuple(sizes) == fig5.MIXTURES
    assert sizes["STS"] == (35, 13)  # 48 × 3.3 / 4.5 = 35.2
    assert sizes["none"] == (0, 0) and sizes["half"] == (24, 24)
    assert sizes["all high"] == (48, 0) and sizes["all low"] == (0, 48)


@pytest.mark.parametrize(("high", "first"), [(1.0, 24), (1.09, 24), (1.15, 26), (1.3, 27)])
def test_a_split_within_one_example_of_the_half_is_the_half(high, first):
    # 48 × 1.09 / 2.09 = 25.03, 48 × 1.15 / 2.15 = 25.7, 48 × 1.3 / 2.3 = 27.1
    assert fig5.sizes(48, high, 1.0)["STS"] == (first, 48 - first)


def test_a_squared_distance_is_not_folded_upward():
    """Of 4,000 worlds with the same true gap, the mean of the estimates and of their draws' means
    is the true square; an absolute distance lies above a true gap of 0."""
    rng = np.random.default_rng(0)
    for gap in (0.0, 1.5):
        values = gap + rng.normal(size=4000)
        worlds = [fig5.apart(Estimate(v, v + rng.normal(size=400))) for v in values]
        for mean in (np.mean([w.value for w in worlds]), np.mean([w.draws.mean() for w in worlds])):
            assert mean == pytest.approx(gap**2, abs=0.2)
    assert np.abs(values - gap).mean() > 0.7


def test_gains_are_paired_by_question():
    rng, shape = np.random.default_rng(0), {"none": 0.1, "STS": 0.3}
    noise = {d: rng.normal(size=n) for d, n in {"law": 6, "math": 5, "mathematics": 9}.items()}
    rows = [
        {"mixture": name, "domain": d, "id": f"{d}{i}", "change": factor * value}
        for name, factor in shape.items()
        for d, values in noise.items()
        for i, value in enumerate(values)
    ]
    gains = fig5.gains(pd.DataFrame(rows).sample(frac=1, random_state=0), ("law", "math"), {})
    for name, factor in shape.items():
        for d, values in noise.items():
            assert gains[name][d].value == pytest.approx(factor * values.mean())
    # both mixtures are a multiple of the same questions' values: the draws are the same too
    np.testing.assert_allclose(gains["STS"]["law"].draws, 3 * gains["none"]["law"].draws)


@pytest.fixture
def numbers(made):
    extra = fig5.sizes(8, 3.0, 1.0)
    domains = ("law", "math")
    return fig5.Numbers(
        domains, extra, {name: {d: made() for d in (*domains, "mathematics")} for name in extra}
    )


def test_points_are_the_changes(numbers, run, same):
    figure, caption = fig5.fig5(numbers, run)
    *alone, both = figure.axes
    orders = ("all low", "half", "all high"), ("all high", "half", "all low")
    gains = numbers.gains
    for axis, domain, names in zip(alone, numbers.domains, orders, strict=True):
        (container,) = axis.containers
        same(container, [gains[name][domain] for name in names], 100)
        assert list(container.lines[0].get_xdata()) == [0, 4, 8]
    for container, domain, axis in zip(both.containers, numbers.domains, alone, strict=True):
        same(container, [gains[name][domain] for name in ("none", "STS")], 100)
        colour, marker = STYLES[domain]
        for of in (container, axis.containers[0]):
            assert of.lines[0].get_color() == colour and of.lines[0].get_marker() == marker
    assert "STS split\n6:2" in [t.get_text() for t in both.get_xticklabels()]
    names = ["no extra examples", "law (high-STS)", "math (low-STS)"]
    assert [t.get_text() for t in figure.legends[0].texts] == names
    for axis, domain, name in zip(alone, numbers.domains, ("all high", "all low"), strict=True):
        dotted = [line for line in axis.lines if line.get_linestyle() == ":"]
        assert list(dotted[0].get_ydata()) == [100 * gains["none"][domain].value] * 2
        assert f"{domain} by {gains[name][domain] - gains['none'][domain]}" in caption
    assert len(caption.split()) <= 60
    plt.close(figure)


def test_a_split_that_is_the_half_is_called_so(numbers, run):
    numbers = numbers._replace(extra=fig5.sizes(8, 1.1, 1.0))
    figure, caption = fig5.fig5(numbers, run)
    assert "STS split\n= half, 4:4" in [t.get_text() for t in figure.axes[2].get_xticklabels()]
    assert len(caption.split()) <= 60
    plt.close(figure)


def test_the_split_that_is_the_half_is_trained_once(profile, monkeypatch):
    for high, models in ((1.1, 4), (3.0, 5)):
        found = ("law", "math"), fig5.sizes(8, high, 1.0)
        monkeypatch.setattr(fig5, "mixtures", lambda _, found=found: found)
        keys = {name: fig5.train_mixture(profile, name).key for name in fig5.MIXTURES}
        assert len(set(keys.values())) == models
        assert (keys["STS"] == keys["half"]) == (models == 4)


def test_table10_names_our_training_set(numbers, run, ours):
    table, caption = fig5.table10(numbers, run)
    before, alone, mixed, difference = (row for _, row in table.iterrows())
    assert before["value"] == 0 and len(caption.split()) <= 60
    ours(alone, numbers.gains["none"]["mathematics"])
    ours(mixed, numbers.gains["STS"]["mathematics"])
    ours(difference, numbers.gains["STS"]["mathematics"] - numbers.gains["none"]["mathematics"])
    own = ["before SFT", "SFT on gsm-symbolic", "SFT on gsm-symbolic and the STS split"]
    assert list(table.condition)[:3] == own
    theirs = paper("table10_math_accuracy")
    assert list(table["the paper's condition"])[:3] == list(theirs.condition)
    assert list(table["its accuracy, %"])[:3] == list(theirs.accuracy_percent)


def test_claims_by_hand(run):
    """Change of (law, math) by each mixture; draws that hold no noise."""
    by = {"none": (1, 2), "all low": (1, 4), "half": (0, 0), "all high": (7, 3), "STS": (5, 4)}
    gains = {
        name: {"law": exact(law), "math": exact(math), "mathematics": exact(9 * law)}
        for name, (law, math) in by.items()
    }
    numbers = fig5.Numbers(("law", "math"), fig5.sizes(8, 3.0, 1.0), gains)
    helped, balanced, kept = fig5.claims(numbers, run)
    assert helped.estimate.value == (7 - 1) - (4 - 2)
    assert balanced.estimate.value == ((7 - 3) ** 2 + (1 - 4) ** 2) / 2 - (5 - 4) ** 2
    assert kept.estimate.value == 45 and kept.figure == "table10"
    assert helped.statistic == "gain of law by its extra data minus gain of math by its own"
    assert list(judged([helped, balanced, kept]).verdict) == ["agrees"] * 3


def test_differences_within_noise_are_inconclusive(run):
    """100 worlds in which every mixture changes both domains alike, on 100 noisy questions."""
    rng, ids, found = np.random.default_rng(0), np.arange(100), []
    for _ in range(100):
        rows = [
            pd.DataFrame({"mixture": m, "domain": d, "id": ids, "change": rng.normal(0.2, 1, 100)})
            for m in fig5.MIXTURES
            for d in ("law", "math", "mathematics")
        ]
        gains = fig5.gains(pd.concat(rows), ("law", "math"), {})
        numbers = fig5.Numbers(("law", "math"), fig5.sizes(8, 3.0, 1.0), gains)
        helped, balanced, _ = judged(fig5.claims(numbers, run)).verdict
        found.append([helped != "inconclusive", balanced != "inconclusive"])
    assert (np.mean(found, axis=0) <= 0.09).all()


def exact(value):
    """An estimate without noise."""
    return Estimate(float(value), np.full(10, float(value)))


def test_a_training_and_an_evaluation_for_every_mixture(profile):
    _, *steps = fig5.steps(profile)
    assert [step.args[1:] for step in steps[:5]] == [(name,) for name in fig5.MIXTURES]
    assert [step.args[1:] for step in steps[5:]] == [(), *((name,) for name in fig5.MIXTURES)]
    assert [step.after for step in steps] == [*[2] * 4, 3, 1, *[3] * 4, 4]


def test_each_model_is_compared_with_the_untouched_one_question_by_question(profile, monkeypatch):
    domains, rng, noise = ("law", "math"), np.random.default_rng(0), {}
    factors = {None: 1.0} | {name: 2.0 + i for i, name in enumerate(fig5.MIXTURES)}

    def measured(ids, model, column):
        of = [noise.setdefault(i, rng.normal()) * factors[model] for i in ids]
        return pd.DataFrame({"id": ids, column: of}).sample(frac=1, random_state=len(noise))

    def measure(_, model=None, questions=None):
        table = measured([e.id for e in questions], model, profile.evaluation.measure)
        return table.assign(domain=table.id.map({e.id: e.domain for e in questions}))

    def held_out(_, model=None):
        return measured([f"q{i}" for i in range(9)], model, "solution_loglik")

    monkeypatch.setattr(fig5, "mixtures", lambda _: (domains, {}))
    monkeypatch.setattr(fig5, "train_mixture", lambda _, name: name)
    monkeypatch.setattr(fig5.performance, "measure", measure)
    monkeypatch.setattr(fig5.performance, "measure_mathematics", held_out)
    table = fig5.evaluate_mixtures(profile)
    tests = [e.id for d in domains for e in samples.halves(profile, d)[1][:6]]
    for name, rows in table.groupby("mixture"):
        assert sorted(rows.id) == sorted([*tests, *(f"q{i}" for i in range(9))])
        expected = (factors[name] - 1) * rows.id.map(noise)
        np.testing.assert_allclose(rows.change, expected)
    assert list(dict.fromkeys(table.mixture)) == list(fig5.MIXTURES)


def test_a_mixture_s_model_is_named_by_what_it_trains_on(profile, monkeypatch):
    """Its questions' corpus and the answers' precision, not how many are asked afterwards."""
    monkeypatch.setattr(fig5, "mixtures", lambda _: (("law", "math"), fig5.sizes(8, 3.0, 1.0)))

    def key(section=None, **changes):
        nested = getattr(profile, section).model_copy(update=changes) if section else None
        update = {section: nested} if section else changes
        return fig5.train_mixture(profile.model_copy(update=update), "half").key

    same = key()
    other = {"float32": "bfloat16", "bfloat16": "float32"}[profile.evaluation.dtype]
    assert key("mixture", questions=7) == same
    assert len({same, key(domains="benchmarks"), key("evaluation", dtype=other)}) == 3
