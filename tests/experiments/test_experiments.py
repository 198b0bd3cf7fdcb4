"""The further experiments on random and made-up numbers, against computations by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from sts_utils import corpora, models, saes, stats
from sts_utils.examples import by_domain
from sts_utils.experiments import baselines, comparisons, labels, selective
from sts_utils.method import extract, prompts, shift
from sts_utils.method.extract import Hook, feature_stats
from sts_utils.runs import performance as performances
from sts_utils.runs import samples, units
from sts_utils.stats import Estimate

# --- rows of several layers --------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(tokenizer):
    shown = [corpora.load("gsm-symbolic", 1, 2), corpora.load("gsm-symbolic", 2, 2)]
    return prompts.prompt_pairs(tokenizer, corpora.load("mmlu-test", 0, 6), shown, 8192)


def test_several_taps_equal_one_at_a_time(pairs, backbone):
    first, deepest = models.load_truncated("tiny", 0), backbone
    limit = extract.sink_norm(first, [plain for plain, _ in pairs]) / saes.SINK_FACTOR  # the median: drops many rows
    taps = [Hook(1, saes.load("random-4x-k16-layer1", 64), np.inf), Hook(0, saes.load("random-8x", 64), np.inf)]
    taps += [Hook(0, saes.load("random-4x", 64), limit)]
    together = feature_stats(pairs, deepest, taps)
    assert [f.h.shape[1] for f in together] == [256, 512, 256]
    for tap, found in zip(taps, together, strict=True):
        alone = feature_stats(pairs, first if tap.layer == 0 else deepest, [tap])[0]
        np.testing.assert_array_equal(found.n, alone.n)
        for field in ("h", "h2", "dh", "dh2", "r", "dr", "dr2"):
            np.testing.assert_allclose(getattr(found, field), getattr(alone, field), rtol=1e-5, atol=1e-5)
    assert together[2].n.sum() < together[1].n.sum() == together[0].n.sum()









# --- baselines ---------------------------------------------------------------------------------


def test_baselines_by_hand(random_stats):
    domain, train, tuned = random_stats(0), random_stats(1), random_stats(2)
    weights = np.array([[1] * 12, [2, 0] * 6])
    for row, (activation, cosine, moved) in zip(
        weights,
        zip(
            baselines.mean_activation(domain, weights), baselines.similarity(domain, train, weights),
            baselines.moved(domain, tuned, weights), strict=True,
        ),
        strict=True,
    ):  # fmt: skip
        n = sum(w * tokens for w, tokens in zip(row, domain.n, strict=True))
        mean = sum(w * r for w, r in zip(row, domain.r, strict=True)) / n
        after = sum(w * r for w, r in zip(row, tuned.r, strict=True))
        other = train.r.sum(0) / train.n.sum()
        assert activation == pytest.approx(mean.mean())
        assert cosine == pytest.approx(mean @ other / np.sqrt((mean @ mean) * (other @ other)))
        assert moved == pytest.approx(1 - mean @ after / np.sqrt((mean @ mean) * (after @ after)))


def test_observations_of_a_ratio_are_those_of_its_parts(random_stats):
    rows = [[random_stats(3 * s + d) for d in range(3)] for s in range(2)]
    changes = [np.random.default_rng(d).normal(size=(2, 20)) for d in range(3)]
    scored = [[(12, lambda w, f=f: (w @ f.h[:, 0]) / (w @ f.n)) for f in row] for row in rows]
    one = baselines.observations("abc", scored, changes, draws=30)
    parts = [[f.h[:, 0] for f in row] for row in rows], [[f.n for f in row] for row in rows]
    other = stats.ratio_of_sums("abc", *parts, changes, draws=30)
    np.testing.assert_allclose(one.scores, other.scores)
    np.testing.assert_allclose(one.replicates, other.replicates)


def test_a_probe_finds_a_law_and_none_in_noise():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(14, 20)) * np.r_[5.0, np.ones(19)]
    law = stats.pearson(baselines.probe(x[:, :2], 20 + x[:, 0]), 20 + x[:, 0])
    assert law > 0.95
    noise = [stats.pearson(baselines.probe(x, y), np.abs(y)) for y in rng.normal(size=(20, 14))]
    assert np.mean(noise) < 0.2


def test_a_probe_never_sees_the_domain_it_predicts():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(10, 4)), rng.normal(size=10)
    other = np.where(np.arange(10) == 3, 100.0, y)
    one, two = baselines.probe(x, y), baselines.probe(x, other)
    assert one[3] == pytest.approx(two[3]) and not np.allclose(one[:3], two[:3])


def test_probe_r_is_the_mean_over_seeds(random_stats):
    rows = [[random_stats(14 * s + d, features=6, width=5) for d in range(14)] for s in range(2)]
    changes = [np.random.default_rng(d).normal(0.1 * d, 0.3, size=(2, 25)) for d in range(14)]
    found = baselines.probe_r(rows, "h", changes, draws=4)
    by_hand = []
    for s, row in enumerate(rows):
        x = np.stack([f.h.sum(0) / f.n.sum() for f in row])
        y = np.array([change[s].mean() for change in changes])
        by_hand.append(np.corrcoef(baselines.probe(x, y), np.abs(y))[0, 1])
    assert found.value == pytest.approx(np.mean(by_hand)) and found.draws.shape == (4,)


# --- estimates ---------------------------------------------------------------------------------


def observed(seed, slope=0.3, changes=None, domains=14):
    rng = np.random.default_rng(seed)
    x = rng.normal(5, 1, size=domains)
    sums = [[x[d] + 0.3 * rng.normal(size=20) for d in range(domains)] for _ in range(2)]
    if changes is None:
        changes = [slope * x[d] + rng.normal(size=(2, 30)) for d in range(domains)]
    return stats.ratio_of_sums(range(domains), sums, [[np.ones(20)] * domains] * 2, changes)


def test_a_number_minus_itself_is_exactly_zero():
    for same in (stats.r(observed(0)), Estimate(0.5, stats.mean_draws(np.random.default_rng(0).normal(size=(3, 40))))):
        zero = same - same
        assert (zero.value, zero.low, zero.high) == (0.0, 0.0, 0.0)
        moved = same - 0.25
        assert moved.value == same.value - 0.25 and moved.low == pytest.approx(same.low - 0.25)


def test_scores_of_the_same_questions_share_their_replicates():
    one = observed(0)
    scaled = stats.Observations(one.domains, 3 * one.scores - 1, 3 * one.replicates - 1, one.changes)
    gap = stats.r(one) - stats.r(scaled)
    assert abs(gap.value) < 1e-12 and gap.high - gap.low < 1e-12
    # other scores, the same changes: what is common to both cancels, so the difference is narrower than unpaired
    first = one.mean_changes().mean(0)
    near, far = (first + np.random.default_rng(s).normal(0, 0.3, size=(2, 14)) for s in (1, 2))
    a, b = (
        stats.r(stats.Observations(one.domains, x, np.broadcast_to(x, (2000, 2, 14)), one.changes)) for x in (near, far)
    )
    shuffled = Estimate(b.value, np.random.default_rng(0).permutation(b.draws))
    paired, unpaired = a - b, a - shuffled
    assert paired.high - paired.low < 0.9 * (unpaired.high - unpaired.low)


def test_a_shorter_bootstrap_is_the_beginning_of_a_longer_one():
    """Estimates with fewer draws (probes) are paired with the first draws of the others."""
    np.testing.assert_array_equal(stats.query_weights(9, 60, 1, 2), stats.query_weights(9, 2000, 1, 2)[:60])
    drawn = np.random.default_rng(0).normal(size=(2000, 3))
    np.testing.assert_array_equal(stats.over_seeds(drawn[:60]), stats.over_seeds(drawn)[:60])
    long, short = Estimate(0.4, drawn[:, 0]), Estimate(0.1, drawn[:60, 1])
    for gap in (long - short, short - long):
        np.testing.assert_array_equal(np.abs(gap.draws), np.abs(drawn[:60, 0] - drawn[:60, 1]))


def test_r_of_an_estimate_is_the_table_s():
    one = observed(3)
    table = stats.correlation(one, "paper", "signed", permutations=20)
    found = stats.r(one, "paper", "signed")
    assert (found.value, found.low, found.high) == pytest.approx((table["r"], table["r_low"], table["r_high"]))
    spread = stats.r_spread(one)
    by_hand = [np.corrcoef(one.scores[s], np.abs([c[s].mean() for c in one.changes]))[0, 1] for s in range(2)]
    assert spread.value == pytest.approx(np.std(by_hand, ddof=1))




# --- a run of made-up statistics ---------------------------------------------------------------


@pytest.fixture
def run(profile, random_stats, monkeypatch):
    """`tiny` at N = 8 with random statistics (40 features) in place of extraction, training and evaluation."""
    run = profile.model_copy(update={"top_n": 8})
    place = {domain: i for i, domain in enumerate(corpora.domains("mmlu-pro"))}
    monkeypatch.setattr(units, "train_stats", lambda p, seed: random_stats(seed))
    monkeypatch.setattr(units, "actual_stats", lambda p, seed, model=None: random_stats(50 + seed))
    monkeypatch.setattr(units, "domain_stats", lambda p, d, seed: random_stats(100 + 20 * seed + place[d]))
    changes = [np.random.default_rng(d).normal(0.05 * d, 0.3, size=(2, 25)) for d in range(14)]
    monkeypatch.setattr(performances, "change_arrays", lambda p, after=None: changes)
    return run


def test_rank_ranges_begin_with_d_n(run):
    found = comparisons.rank_ranges.__wrapped__(run)
    assert list(found) == [(1, 8), (9, 16), (17, 24), (25, 32), (33, 40)]
    direct = {metric: stats.r(seen) for metric, seen in performances.observations(run).items()}
    for metric, r in direct.items():
        assert found[1, 8][metric].value == r.value
        np.testing.assert_array_equal(found[1, 8][metric].draws, r.draws)
    third, by_hand = performances.change_arrays(run), []
    for seed in run.seeds:
        train = units.train_stats(run, seed)
        ids = np.argsort(-train.dh2.sum(0) / train.n.sum())[16:24]
        rows = [units.domain_stats(run, d, seed) for d in corpora.domains("mmlu-pro")]
        x = [f.h[:, ids].sum() / f.n.sum() for f in rows]
        by_hand.append(np.corrcoef(x, np.abs([change[seed].mean() for change in third]))[0, 1])
    assert found[17, 24]["sts_act"].value == pytest.approx(np.mean(by_hand))




def test_costs_are_counted(profile, whole, tokenizer):
    found = comparisons.costs(profile)
    weights = sum(p.numel() for p in whole.parameters())

    def tokens(turns):
        return len(prompts.chat_prompt(tokenizer, *turns).ids)

    shown = by_domain(corpora.load("mmlu-cot"))
    plain = icl = 0
    for domain in corpora.domains("mmlu-pro"):
        queries = samples.domain_queries(profile, domain, 0)
        assert len(queries) == 4
        (demonstrations,) = prompts.choose_demonstrations(shown[domain], 2, 1, 0)
        plain += sum(tokens([q]) for q in queries)
        icl += sum(tokens([q, demonstrations]) for q in queries)
    train, held_out = samples.training_examples(profile, 0)
    sets = prompts.choose_demonstrations(train, 2, 2, 0)
    train_plain = sum(tokens([q]) for q in held_out[:8])
    train_icl = sum(tokens([q, sets[i % 2]]) for i, q in enumerate(held_out[:8]))
    sft = 0
    for e in train[:16]:
        turns = [{"role": "user", "content": e.query}, {"role": "assistant", "content": e.solution}]
        text = tokenizer.apply_chat_template(turns, tokenize=False).rstrip("\n")
        sft += min(256, len(tokenizer(text, add_special_tokens=False).input_ids))
    forward, training = 2 * weights, 6 * weights * sft
    assert found == {
        "feature_activations": forward * plain,
        "similarity_domain_to_training_set": forward * (plain + train_plain),
        "similarity_before_after_sft": training + 2 * forward * plain,
        "probe_raw_activations": training + forward * plain,
        "probe_sae_activations": training + forward * plain,
        "sts_act": forward * (plain + train_plain + train_icl),
        "sts_icl": forward * (plain + icl + train_plain + train_icl),
    }









# --- selective fine-tuning ---------------------------------------------------------------------


def test_selective_dims(run):
    train = units.train_stats(run, 0)
    top = np.argsort(-train.dh2.sum(0) / train.n.sum(), kind="stable")
    np.testing.assert_array_equal(selective.dims(run, "random-4x", "estimated", 8, 0), top[:8])
    draws = [selective.dims(run, "random-4x", "random", 8, draw) for draw in range(4)]
    assert len({frozenset(d) for d in draws}) == 4 and all(len(set(d)) == 8 for d in draws)
    with pytest.raises(ValueError, match=r"selective.dims holds 41, but SAE 'random-4x' has 40 features"):
        selective.dims(run, "random-4x", "random", 41, 0)


def test_selective_changes_are_means_over_draws_and_questions(profile, monkeypatch):
    rng = np.random.default_rng(0)
    ids = list("abcde")
    before = pd.DataFrame({"id": ids, "solution_loglik": rng.normal(size=5)})
    after = {key: rng.normal(size=5) for key in (("estimated", 0), ("random", 0), ("random", 1))}

    def trained(p, which, n, draw):
        return pd.DataFrame({"id": ids, "solution_loglik": after[which, draw]}).iloc[::-1]

    monkeypatch.setattr(selective, "trained", trained)
    monkeypatch.setattr(performances, "held_out_performance", lambda _: before)
    found = selective.estimates.__wrapped__(profile)
    start = before.solution_loglik.to_numpy()
    assert found["estimated", 8].value == pytest.approx((after["estimated", 0] - start).mean())
    random = np.mean([after["random", 0] - start, after["random", 1] - start])
    assert found["random", 8].value == pytest.approx(random)


# --- labels ------------------------------------------------------------------------------------


def slow_label(column, kinds, top):
    order = sorted(range(len(kinds)), key=lambda i: (-column[i], i))[:top]
    counts = [sum(column[i] > 0 and kinds[i] == k for i in order) for k in range(3)]
    if not sum(counts):
        return [np.nan] * 3, -1
    best = [k for k in range(3) if counts[k] == max(counts)]
    return [c / sum(counts) for c in counts], best[0] if len(best) == 1 else -1


def test_votes_and_labels_equal_a_slow_loop():
    rng = np.random.default_rng(0)
    kinds = np.repeat([0, 1, 2], 8)
    peaks = rng.gamma(1.0, size=(24, 60)) * (rng.random((24, 60)) < 0.3)
    peaks[:, 0] = 0.0  # silent
    peaks[:, 1] = np.isin(np.arange(24), [2, 9]) * 1.0  # a tie of two kinds
    shares = labels.votes(peaks, kinds, top=5)
    expected, label = zip(*[slow_label(peaks[:, j], kinds, 5) for j in range(60)], strict=True)
    np.testing.assert_allclose(shares, expected)
    np.testing.assert_array_equal(labels.labelled(shares), label)
    assert np.isnan(shares[0]).all() and list(labels.labelled(shares)[:2]) == [-1, -1]
    assert set(label) == {-1, 0, 1, 2}


def test_peaks_are_the_highest_activations(backbone, sae):
    sequences = [[1, 50, 900, 33], [1, 7, 8, 9, 4000, 12]]
    found = labels.peaks(backbone, sae, sequences, np.inf)
    for row, sequence in zip(found, sequences, strict=True):
        with torch.inference_mode():
            h = sae.encode(backbone(torch.tensor([sequence])).last_hidden_state[0])
        np.testing.assert_allclose(row, h[1:].max(0).values, rtol=1e-5)


def test_shares_and_recall_of_planted_labels(run, monkeypatch):
    """40 features: a third each of mathematics, code and dialogue, D_N mathematics but for one."""
    kinds = np.repeat([0, 1, 2], 20)
    ranked = np.r_[0:7, 14, 7:14, 15:40]  # 14 features of mathematics and code each, one code feature among the first
    kind = np.repeat([0, 1, 2], [14, 14, 12])
    peaks = np.where(kinds[:, None] == kind[None, :], 2.0, 0.1) + np.random.default_rng(0).random((60, 40)) * 0.01
    monkeypatch.setattr(labels, "peaks_of", lambda _: (peaks, kinds, kinds))
    monkeypatch.setattr(units, "dims", lambda p, seed, n: shift.ShiftedDims(ranked, np.zeros(40)))
    found = labels.shares.__wrapped__(run, sizes=(8, 15, 99), draws=5)
    assert list(found["share"]) == [8, 15, "all"]
    values = [found["share"][n].value for n in (8, 15, "all")]
    assert values == pytest.approx([7 / 8, 14 / 15, 14 / 40])
    # top 500 becomes the upper half: 20 of 40, all 14 of mathematics and 6 of code
    assert {name: e.value for name, e in found["recall"].items()} == pytest.approx(
        {"math": 1.0, "code": 6 / 14, "chance": 0.5}
    )
    assert found["share"][8].low == pytest.approx(7 / 8)  # redrawn texts label alike


def test_label_texts_are_equally_many_of_each_kind(profile):
    texts, kinds = labels.sample(profile)
    assert list(np.bincount(kinds)) == [profile.labels.samples] * 3 and len(texts) == len(kinds)
    assert max(map(len, texts)) <= profile.labels.tokens


# --- artifacts ---------------------------------------------------------------------------------


def test_one_forward_pass_stores_every_sae_and_damage_is_mended(profile, random_stats, monkeypatch):
    """`_features` computes what is missing together, reads it afterwards, and computes a damaged file again."""
    calls = []

    def extracted(pairs, model, taps, **_):
        calls.append([tap.layer for tap in taps])
        return [random_stats(7 + i) for i in range(len(taps))]

    monkeypatch.setattr(extract, "feature_stats", extracted)
    other = units.with_sae(profile, "random-4x-layer1")
    assert (other.layer, other.sae) == (1, "random-4x-layer1")

    def of(*profiles):
        return units.features("test", profiles, lambda p: {"sae": p.sae}, lambda: [], "test")

    np.testing.assert_allclose(of(profile, other).h, random_stats(7).h, rtol=1e-6)
    np.testing.assert_allclose(of(other).h, random_stats(8).h, rtol=1e-6)
    assert calls == [[0, 1]]
    for _ in range(2):
        (units.store.path("test", {"sae": other.sae}) / "arrays.safetensors").write_bytes(b"damaged")
        np.testing.assert_allclose(of(other).h, random_stats(7).h, rtol=1e-6)
    assert calls == [[0, 1], [1], [1]]


def test_l0_is_k_or_measured(profile, monkeypatch):
    assert comparisons.l0.__wrapped__(profile, "random-4x-k2") == 2.0
    measured = units.sae(units.with_sae(profile, "random-4x-k16"))
    monkeypatch.setattr(units, "sae", lambda _: _without_k(measured))
    assert comparisons.l0.__wrapped__(profile, "random-4x-k16") == pytest.approx(16, abs=0.5)
    assert comparisons.width(profile, "random-4x") == 256


def _without_k(sae):
    return SimpleNamespace(
        cfg=SimpleNamespace(d_sae=sae.cfg.d_sae), encode=sae.encode, decode=sae.decode, dtype=sae.dtype
    )
