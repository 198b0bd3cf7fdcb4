"""Fig 4e, Tables 5 and 13: baselines and probes by hand, and what they cost, counted."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sts_utils import corpora, models, prompts, results
from sts_utils.examples import by_domain
from sts_utils.experiments import fig4e
from sts_utils.results import paper
from sts_utils.runs import samples


def test_baselines_by_hand(random_stats):
    domain, train, tuned = random_stats(0), random_stats(1), random_stats(2)
    weights = np.array([[1] * 12, [2, 0] * 6])
    of = (domain, weights), (domain, train, weights), (domain, tuned, weights)
    functions = (fig4e.mean_activation, fig4e.similarity, fig4e.moved)
    drawn = [f(*args) for f, args in zip(functions, of, strict=True)]
    for i, row in enumerate(weights):
        mean = (row[:, None] * domain.r).sum(0) / (row * domain.n).sum()
        after, other = (row[:, None] * tuned.r).sum(0), train.r.sum(0) / train.n.sum()
        assert drawn[0][i] == pytest.approx(mean.mean())
        norms = np.sqrt((mean @ mean) * (other @ other))
        assert drawn[1][i] == pytest.approx(mean @ other / norms)
        norms = np.sqrt((mean @ mean) * (after @ after))
        assert drawn[2][i] == pytest.approx(1 - mean @ after / norms)
    for f, args, values in zip(functions, of, drawn, strict=True):
        assert f(*args[:-1]) == pytest.approx(values[0])  # each query once


def test_r_of_a_predictor_is_by_hand(run, random_stats, monkeypatch):
    tuned = {(d, s): random_stats(900 + 20 * s + i) for s in (0, 1) for i, d in _names(run)}
    monkeypatch.setattr(fig4e.features, "extract_domain_after", lambda p, d, s: tuned[d, s])
    monkeypatch.setattr(fig4e, "tokens", lambda _: dict.fromkeys(TOKENS, 1))
    run.sets = {"mmlu-test": run}
    numbers = fig4e.compute(run)["mmlu-test"]
    found = numbers.r
    values = [[fig4e.moved(of, tuned[d, s]) for d, of in run.domains[s].items()] for s in (0, 1)]
    y = np.abs([change.mean() for change in run.change_arrays])
    by_hand = np.corrcoef(np.mean(values, axis=0), y)[0, 1]
    assert found["distance_before_after_sft"].value == pytest.approx(by_hand)
    assert found["sts_icl"].value == run.correlations()["sts_icl"].value
    raw = np.mean([[of.mean("r") for of in row.values()] for row in run.domains], axis=0)
    error = ((fig4e.probe(raw, y) - y) ** 2).sum()
    none = sum((np.delete(y, d).mean() - y[d]) ** 2 for d in range(14))
    assert numbers.skill["probe_raw_activations"].value == pytest.approx(1 - error / none)
    assert set(numbers.skill) == {*fig4e.STS, *fig4e.PROBES}


def _names(run):
    return list(enumerate(run.domain_names))


TOKENS = ("domains", "domains icl", "train", "train icl", "sft")


def test_a_probe_finds_a_law_and_none_in_noise():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(14, 20)) * np.r_[5.0, np.ones(19)]
    law = fig4e.skill(x[:, :2], 20 + x[:, 0], 0.9)
    assert law.value > 0.9 and law.low > 0 and law.reliability == 0.9
    noise = [fig4e.skill(x, np.abs(y), 0.9).value for y in rng.normal(size=(20, 14))]
    assert np.mean(noise) < 0.1


def test_a_constant_predictor_has_no_skill_where_its_r_is_minus_one():
    y = np.random.default_rng(0).normal(size=14)
    predicted = fig4e.probe(np.ones((14, 1)), y)
    assert np.corrcoef(predicted, y)[0, 1] == pytest.approx(-1)
    assert fig4e.skill(np.ones((14, 1)), y, 0.9).value == pytest.approx(0, abs=1e-9)


def test_a_probe_never_sees_the_domain_it_predicts():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(10, 4)), rng.normal(size=10)
    other = np.where(np.arange(10) == 3, 100.0, y)
    one, two = fig4e.probe(x, y), fig4e.probe(x, other)
    assert one[3] == pytest.approx(two[3]) and not np.allclose(one[:3], two[:3])


def test_costs_are_counted(profile, whole, tokenizer):
    weights = sum(p.numel() for p in whole.parameters())
    model = profile.model, profile.revision
    assert models.size(*model) == weights and models.depth(*model) == 2
    counted = fig4e.tokens(profile)

    def read(asked):
        """(plain, both conditions) of (query, demonstrations): each context is read once."""
        plain = [prompts.chat_prompt(tokenizer, query) for query, _ in asked]
        both = plain + [prompts.chat_prompt(tokenizer, *turns) for turns in asked]
        contexts = {tuple(p.context) for p in both}
        tails = sum(p.span[1] - len(p.context) for p in both)
        return sum(p.span[1] for p in plain), sum(map(len, contexts)) + tails

    shown, asked = by_domain(corpora.load("mmlu-cot")), []
    for domain in corpora.domains("mmlu-pro"):
        queries = samples.domain_queries(profile, domain, 0)
        assert len(queries) == 4
        (demonstrations,) = prompts.choose_demonstrations(shown[domain], 2, 1, 0)
        asked += [(query, demonstrations) for query in queries]
    plain, icl = read(asked)
    train, held_out = samples.training_examples(profile, 0)
    sets = prompts.choose_demonstrations(train, 2, 2, 0)
    train_plain, train_icl = read([(q, sets[i % 2]) for i, q in enumerate(held_out[:8])])
    sft = 0
    for e in train[:16]:
        turns = [{"role": "user", "content": e.query}, {"role": "assistant", "content": e.solution}]
        text = tokenizer.apply_chat_template(turns, tokenize=False).rstrip("\n")
        sft += min(256, len(tokenizer(text, add_special_tokens=False).input_ids))
    by_hand = (plain, icl, train_plain, train_icl, sft)
    assert counted == dict(zip(TOKENS, by_hand, strict=True))
    forward, training = 2 * weights / 2, 6 * weights * sft  # one block of two
    assert fig4e.costs(profile, counted) == {
        "mean_raw_activation": forward * plain,
        "similarity_domain_to_training_set": forward * (plain + train_plain),
        "distance_before_after_sft": training + 2 * forward * plain,
        "probe_raw_activations": training + forward * plain,
        "probe_sae_activations": training + forward * plain,
        "sts_act": forward * (plain + train_icl),
        "sts_icl": forward * (icl + train_icl),
    }


@pytest.fixture
def numbers(made_r):
    names = fig4e.BASELINES + fig4e.STS
    flops = {name: 1e12 * (i + 1) for i, name in enumerate(names)}

    def of():
        skill = {name: made_r() for name in fig4e.PROBES + fig4e.STS}
        return fig4e.Numbers({name: made_r() for name in names}, skill, flops)

    return {"benchmarks": of(), "mmlu-test": of()}


def test_fig4e_points_are_the_skills(numbers, run, same):
    figure, caption = fig4e.fig4e(numbers, run)
    (axis,) = figure.axes
    words = [*map(results.METRIC_NAMES.get, fig4e.STS), "raw\nprobe", "SAE\nprobe"]
    assert [t.get_text() for t in axis.get_xticklabels()] == words
    for container, of in zip(axis.containers, numbers.values(), strict=True):
        shown = [of.skill[name] for name in fig4e.STS + fig4e.PROBES]
        same(container, shown, x=range(4))
    assert len(caption.split()) <= 60
    plt.close(figure)


def test_table5(numbers, run, ours):
    both, _ = fig4e.table5(numbers, run)
    assert list(both.domains) == ["benchmarks"] * 5 + ["mmlu-test"] * 5
    table, numbers = both[both.domains == "mmlu-test"].set_index("predictor"), numbers["mmlu-test"]
    theirs = paper("table05_baselines").set_index("baseline")
    theirs = theirs.rename(
        {
            "similarity_before_after_sft": "distance_before_after_sft",
            "feature_activations": "mean_raw_activation",
        }
    )
    assert list(table.index) == [*fig4e.BASELINES, *fig4e.STS]
    for name, row in table.iterrows():
        ours(row, numbers.r[name])
        assert row["cost, TFLOP"] == numbers.flops[name] / 1e12
        if name in theirs.index:
            tuned = theirs.uses_finetuned_model[name] == "yes"
            assert row["uses the tuned model"] == tuned and row.paper == theirs.pearson[name]
    assert table.paper["sts_icl"] == theirs.pearson["sts"] and np.isnan(table.paper["sts_act"])


def test_table13(numbers, run, ours):
    both, _ = fig4e.table13(numbers, run)
    assert list(both.domains) == ["benchmarks"] * 4 + ["mmlu-test"] * 4
    table, numbers = both[both.domains == "mmlu-test"].set_index("predictor"), numbers["mmlu-test"]
    theirs = paper("table13_probes").set_index("predictor").pearson
    for name, row in table.iterrows():
        skill = numbers.skill[name]
        assert (row.skill, row.low, row.high) == (skill.value, skill.low, skill.high)
    probes = [theirs["probe_raw_activations"], theirs["probe_sae_activations"]]
    np.testing.assert_array_equal(table["paper: r"].astype(float), [*probes, np.nan, theirs["sts"]])


def test_claims_are_paired_differences(numbers, run):
    claims = list(fig4e.claims(numbers, run))
    assert [c.figure for c in claims] == ["table5"] * 6 + ["table13"] * 4
    assert claims[-1].claim == "STS beats a probe on sae activations"
    assert claims[-1].statistic.startswith("mmlu-test: ")
    numbers = numbers["mmlu-test"]
    gap = numbers.skill["sts_icl"].domains - numbers.skill["probe_sae_activations"].domains
    np.testing.assert_array_equal(claims[-1].estimate.domains, gap)
