"""Mixtures: which domains, in what ratio, how their changes are averaged, and what is shown."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from sts_utils.experiments import fig5
from sts_utils.results import STYLES, paper
from sts_utils.runs import samples


def test_affected_domains_are_measured_on_questions_for_training():
    ids, pools = ["l1", "l2", "m1", "m2", "h1", "p1"], {"law": ["l1", "l2"], "math": ["m1", "m2"]}
    pools |= {"health": ["h1"], "physics": ["p9", "p8"]}  # too few; none was evaluated
    changes = pd.DataFrame({"id": ids, "change": [0.1, 0.1, -0.9, 0.1, 5.0, 5.0]})
    assert fig5.affected(changes, pools, 2) == ("math", "law")
    assert fig5.affected(changes, pools, 1) == ("health", "law")
    with pytest.raises(ValueError, match=r"mixture.extra is 3, but fewer than two domains have"):
        fig5.affected(changes, pools, 3)


@pytest.mark.parametrize("extra", [1, 7, 48])
def test_the_sts_split_is_in_the_ratio_of_sts(extra):
    sizes = fig5.sizes(extra, 3.3, 1.2)
    assert tuple(sizes) == fig5.MIXTURES
    first, _ = sizes["STS"]
    assert abs(first - extra * 3.3 / 4.5) <= 0.5
    assert sizes.pop("none") == (0, 0) and {sum(split) for split in sizes.values()} == {extra}


def test_gains_are_paired_by_question():
    rng, shape = np.random.default_rng(0), {"none": 0.1, "STS": 0.3}
    noise = {d: rng.normal(size=n) for d, n in {"law": 6, "math": 5, "mathematics": 9}.items()}
    rows = [
        {"mixture": name, "domain": d, "id": f"{d}{i}", "change": factor * value}
        for name, factor in shape.items()
        for d, values in noise.items()
        for i, value in enumerate(values)
    ]
    gains = fig5.gains(pd.DataFrame(rows).sample(frac=1, random_state=0), ("law", "math"))
    for name, factor in shape.items():
        for d, values in noise.items():
            assert gains[name][d].value == pytest.approx(factor * values.mean())
    # both mixtures are a multiple of the same questions' values: the draws are the same too
    np.testing.assert_allclose(gains["STS"]["law"].draws, 3 * gains["none"]["law"].draws)


@pytest.fixture
def numbers(made):
    extra = fig5.sizes(4, 3.0, 1.0)
    domains = ("law", "math")
    return fig5.Numbers(
        domains, extra, {name: {d: made() for d in (*domains, "mathematics")} for name in extra}
    )


def test_points_are_the_changes(numbers, run, same):
    figure, caption = fig5.fig5(numbers, run)
    *alone, both = figure.axes
    orders = ("all least", "half", "all most"), ("all most", "half", "all least")
    gains = numbers.gains
    for axis, domain, names in zip(alone, numbers.domains, orders, strict=True):
        (container,) = axis.containers
        same(container, [gains[name][domain] for name in names], 100)
        assert list(container.lines[0].get_xdata()) == [0, 2, 4]
    for container, domain, axis in zip(both.containers, numbers.domains, alone, strict=True):
        same(container, [gains[name][domain] for name in ("none", "STS")], 100)
        colour, marker = STYLES[domain]
        for of in (container, axis.containers[0]):
            assert of.lines[0].get_color() == colour and of.lines[0].get_marker() == marker
    assert "STS split\n3:1" in [t.get_text() for t in both.get_xticklabels()]
    e = gains["STS"]["law"]
    said = f"STS (3, 1): {100 * e.value:+.1f} [{100 * e.low:+.1f}, {100 * e.high:+.1f}]"
    assert said in caption
    plt.close(figure)


def test_table10_and_claims(numbers, run, ours):
    table, _ = fig5.table10(numbers, run)
    before, alone, mixed = (row for _, row in table.iterrows())
    assert before["value"] == 0
    ours(alone, numbers.gains["none"]["mathematics"])
    ours(mixed, numbers.gains["STS"]["mathematics"])
    theirs = paper("table10_math_accuracy")
    assert list(table.condition) == list(theirs.condition)
    assert list(table["paper accuracy, %"]) == list(theirs.accuracy_percent)
    helped, balanced, kept = fig5.claims(numbers, run)
    value = {name: {d: e.value for d, e in of.items()} for name, of in numbers.gains.items()}
    of_most = value["all most"]["law"] - value["none"]["law"]
    of_least = value["all least"]["math"] - value["none"]["math"]
    assert helped.estimate.value == pytest.approx(of_most - of_least)
    apart = {name: abs(of["law"] - of["math"]) for name, of in value.items()}
    one_sided = (apart["all most"] + apart["all least"]) / 2
    assert balanced.estimate.value == pytest.approx(one_sided - apart["STS"])
    assert kept.estimate.value == value["STS"]["mathematics"] and kept.figure == "table10"


def test_a_training_and_an_evaluation_for_every_mixture(profile):
    steps = fig5.steps(profile)
    assert [step.args[1] for step in steps[1:-1]] == list(fig5.MIXTURES)
    assert [step.after for step in steps] == [2, *[3] * 5, 4]


def test_each_model_is_compared_with_the_untouched_one_question_by_question(profile, monkeypatch):
    domains, rng, noise = ("law", "math"), np.random.default_rng(0), {}
    factors = {None: 1.0} | {name: 2.0 + i for i, name in enumerate(fig5.MIXTURES)}

    def measured(ids, model, column):
        of = [noise.setdefault(i, rng.normal()) * factors[model] for i in ids]
        return pd.DataFrame({"id": ids, column: of}).sample(frac=1, random_state=len(noise))

    def measure(_, model=None, questions=None):
        table = measured([e.id for e in questions], model, "gold_probability")
        return table.assign(domain=table.id.map({e.id: e.domain for e in questions}))

    def held_out(_, model=None):
        return measured([f"q{i}" for i in range(9)], model, "solution_loglik")

    monkeypatch.setattr(fig5, "mixtures", lambda _: (domains, {}))
    monkeypatch.setattr(fig5, "train_mixture", lambda _, name: name)
    monkeypatch.setattr(fig5.performance, "measure", measure)
    monkeypatch.setattr(fig5.performance, "measure_held_out", held_out)
    table = fig5.evaluate_mixtures(profile)
    tests = [e.id for d in domains for e in samples.halves(profile, d)[1][:6]]
    for name, rows in table.groupby("mixture"):
        assert sorted(rows.id) == sorted([*tests, *(f"q{i}" for i in range(9))])
        expected = (factors[name] - 1) * rows.id.map(noise)
        np.testing.assert_allclose(rows.change, expected)
    assert list(dict.fromkeys(table.mixture)) == list(fig5.MIXTURES)
