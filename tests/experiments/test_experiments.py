"""Which features are zeroed or tuned and what is made of it, what SFT moves, SFT like GRPO,
baselines, probes and mixtures, labels of features: by hand, on random statistics."""

import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import functions_of
from tokenizers.processors import TemplateProcessing

from sts_utils import questions, scores
from sts_utils.config import AblationSettings, TrainingSet
from sts_utils.experiments import labels, selective, trainings
from sts_utils.features import Hook
from sts_utils.stats import Correlation, Jackknife

BASELINES, MIXTURES = functions_of("10_baselines"), functions_of("11_mixtures")
MOVED, LABELS, ENDS = functions_of("07_moved"), functions_of("14_labels"), ("law", "math")
CATEGORIES = tuple(map(str, range(14)))
R = Correlation(0.1, np.zeros(14), np.ones(14), reliability=0.9, seeds=2)


def test_features_to_zero_are_the_most_moved_or_drawn(random_stats):
    actual, settings = random_stats(features=40), AblationSettings(counts=(10, 99), draws=3)
    chosen = selective.to_zero(actual, settings)  # 40 features only
    assert len(chosen) == 1 + 1 + 3 and len(chosen["none", 0, 0]) == 0
    assert set(chosen["shifted", 10, 0]) == set(np.argsort(-actual.dh2.sum(0))[:10])
    draws = [chosen["random", 10, draw] for draw in range(3)]
    assert len({frozenset(d) for d in draws}) == 3 and all(len(set(d)) == 10 for d in draws)


def test_changes_are_paired_by_question():
    rng = np.random.default_rng(0)
    choices = [("none", 0, 0), ("shifted", 2, 0), ("random", 2, 0), ("random", 2, 1)]
    values = {choice: rng.normal(size=6) for choice in choices}
    wide = pd.DataFrame(values, list("abcdef")).rename_axis("id")
    table = wide.rename_axis(["features", "count", "draw"], axis=1).unstack().rename("loglik")
    table = table.reset_index().sample(frac=1, random_state=0)
    lost = selective.changes(table, "loglik", {})
    alike = selective.changes(table, "loglik", dict.fromkeys("abcdef", "one template"))
    assert np.isnan(alike["shifted", 2].half)  # of one template nothing is known
    intact, shifted = values["none", 0, 0], values["shifted", 2, 0]
    assert lost["shifted", 2].value == pytest.approx((shifted - intact).mean())
    random = np.mean([values["random", 2, draw] - intact for draw in range(2)])
    assert lost["random", 2].value == pytest.approx(random)


def test_shares_and_overlap_of_shifts_by_hand(run):
    """Of the 8 of 40 features most moved, the 8 most active, and the 8 most shifted."""
    both, by_hand = [run.shifts(side) for side in ("train", "actual")], []
    for before, after in zip(run.train, run.actual, strict=True):
        total, *sides = after.dh2.sum(0), before.h.sum(0), before.dh2.sum(0)
        moved, active, shifted = (np.argsort(-x)[:8] for x in (total, *sides))
        shares = [total[top].sum() / total.sum() for top in (moved, active)]
        by_hand.append([*shares, len({*moved} & {*shifted}) / 8])
    shares = [MOVED.share_held(both[1], by, 8) for by in (both[1], run.shifts("train", "h"))]
    assert [e.value for e in (*shares, run.overlap())] == pytest.approx(np.mean(by_hand, 0))
    assert all(e.low < e.value < e.high for e in shares)
    # every side leaves out the same questions: what ranks alike has no difference, without any
    gap = run.overlap() - MOVED.overlap(3 * both[0], both[1], 8)
    assert gap.low == gap.value == gap.high == 0


def test_losses_are_paired_by_question(run):
    before = pd.DataFrame({"id": list("cab"), "solution_loglik": [-3.0, -1.0, -2.0]})
    one = pd.DataFrame({"id": list("abc"), "solution_loglik": [-0.9, -1.8, -2.7]})
    two = pd.DataFrame({"id": list("bca"), "solution_loglik": [-1.6, -2.4, -0.8]})
    after = [one.assign(when="after", seed=0), two.assign(when="after", seed=1)]
    run.held_out = pd.concat([before.assign(when="before", seed=pd.NA), *after])
    change = run.loss_change()
    assert change.value == pytest.approx(np.mean([-0.1, -0.2, -0.3, -0.2, -0.4, -0.6]))
    assert -0.6 <= change.low < change.value < change.high < 0


def test_features_to_tune_are_the_estimated_or_drawn():
    ranked = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(selective.to_train(ranked, "estimated", 8), ranked[:8])
    draws = [selective.to_train(ranked, "random", 8, (0, 8, draw)) for draw in range(4)]
    assert len({frozenset(d) for d in draws}) == 4 and all(len(set(d)) == 8 for d in draws)
    with pytest.raises(ValueError, match=r"selective.dims holds 41, but an SAE has 40 features"):
        selective.to_train(ranked, "random", 41, (0, 41, 0))


def test_a_training_for_each_choice_of_dims(profile):
    expected = [("estimated", 8, 0), ("random", 8, 0), ("random", 8, 1)]
    assert selective.choices(profile) == expected
    assert not selective.choices(profile.model_copy(update={"sweep": type(profile.sweep)()}))
    paths = {selective.tuned.path(profile, 0, *choice) for choice in expected}
    more = profile.selective.model_copy(update={"dims": (8, 16)})  # of other choices, not of this
    again = profile.model_copy(update={"selective": more})
    again = {selective.tuned.path(again, 0, *choice) for choice in expected}
    assert again == paths and len(paths) == 3


def test_truncated_models_go_before_the_whole_comes(profile, monkeypatch, random_stats, tmp_path):
    """What they read first: dims and sink thresholds. Together they would not fit on a GPU."""
    order, arrays = [], random_stats().arrays()

    def noted(what, result=None):
        return lambda *_, **__: order.append(what) or result

    monkeypatch.setattr(selective.run, "train_features", noted("dims", arrays))
    monkeypatch.setattr(selective.run, "hook", noted("sink", SimpleNamespace(sink_norm=1.0)))
    monkeypatch.setattr(selective.run, "release", noted("release"))

    def load(*_):
        raise InterruptedError(" ".join(order))

    monkeypatch.setattr(selective.models, "load_model", load)
    with pytest.raises(InterruptedError, match=r"^(dims )+(sink )+release$"):
        selective.tuned.function(profile, 0, "estimated", 8, 0, out=tmp_path)


def test_sft_like_grpo_has_its_steps_and_rate_and_trains_no_model_by_rl_again(profile):
    """The key of RL is the same whichever of the runs on that training set asks."""
    g = profile.grpo.model_copy(update={"steps": 12, "prompts": 6, "lr": 3e-6, "dtype": "float32"})
    like = trainings.supervised(profile.model_copy(update={"grpo": g}))
    sft = like.sft
    assert (like.train, like.seeds) == ("chain-sum", profile.seeds[:2])
    assert (sft.examples, sft.epochs, sft.batch, sft.micro_batch) == (72, 1, 6, 2)
    assert (sft.lr, sft.dtype) == (3e-6, "float32")
    assert len(questions.training_examples(like, 0)[0]) >= sft.examples
    like = trainings.supervised(profile)
    other = questions.trained_on(profile, TrainingSet(train="chain-sum"))
    assert like.sft != other.sft
    assert trainings.reinforced.path(like, 0) == trainings.reinforced.path(other, 0)
    longer = like.model_copy(update={"grpo": like.grpo.model_copy(update={"steps": 3})})
    assert trainings.reinforced.path(like, 0) != trainings.reinforced.path(longer, 0)


def test_r_is_of_the_dims_that_demonstrations_find_or_training_moved(run):
    changes, found = np.abs([change.mean() for change in run.change_arrays]), []
    for side in (run.train, run.actual):
        chosen = [scores.shifted_dims(of, 8) for of in side]
        both = zip(run.domains, chosen, strict=True)
        x = [[scores.sts_icl(domain, dims) for domain in of.values()] for of, dims in both]
        found.append(run.correlations(chosen)["sts_icl"])
        assert found[-1].value == pytest.approx(np.corrcoef(np.mean(x, 0), changes)[0, 1])
    gap = found[0] - run.correlations()["sts_icl"]
    assert (gap.value, gap.low, gap.high) == (0, 0, 0) and found[0].value != found[1].value


def test_baselines_by_hand(random_stats):
    def cosine(a, b):
        return a @ b / np.sqrt((a @ a) * (b @ b))

    domain, train, tuned = random_stats(0), random_stats(1), random_stats(2)
    mean, other, after = (x.r.sum(0) / x.n.sum() for x in (domain, train, tuned))
    assert BASELINES.mean_activation(domain) == pytest.approx(mean.mean())
    assert BASELINES.similarity(domain, train) == pytest.approx(cosine(mean, other))
    assert BASELINES.moved(domain, tuned) == pytest.approx(1 - cosine(mean, after))


def test_a_probe_finds_a_law_and_none_in_noise():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(14, 20)) * np.r_[5.0, np.ones(19)]
    law = BASELINES.skill(x[:, :2], 20 + x[:, 0], CATEGORIES, R)
    assert law.value > 0.9 and law.low > 0 and law.reliability == 0.9
    changes = np.abs(rng.normal(size=(20, 14)))
    noise = [BASELINES.skill(x, y, CATEGORIES, R).value for y in changes]
    assert np.mean(noise) < 0.1


def test_skill_is_by_hand_and_0_for_a_constant_whose_r_is_minus_one():
    rng = np.random.default_rng(2)
    x, y, constant = rng.normal(size=(14, 16)), rng.normal(size=14), np.ones((14, 1))
    error = ((BASELINES.probe(x, y, CATEGORIES) - y) ** 2).sum()
    none = sum((np.delete(y, d).mean() - y[d]) ** 2 for d in range(14))
    assert BASELINES.skill(x, y, CATEGORIES, R).value == pytest.approx(1 - error / none)
    assert np.corrcoef(BASELINES.probe(constant, y, CATEGORIES), y)[0, 1] == pytest.approx(-1)
    assert BASELINES.skill(constant, y, CATEGORIES, R).value == pytest.approx(0, abs=1e-9)


def test_a_probe_never_sees_the_category_it_predicts():
    rng = np.random.default_rng(1)
    x, y, names = rng.normal(size=(10, 4)), rng.normal(size=10), "abcddefghi"
    other = np.where(np.arange(10) == 3, 100.0, y)
    one, two = (BASELINES.probe(x, changed, tuple(names)) for changed in (y, other))
    assert one[3:5] == pytest.approx(two[3:5]) and not np.allclose(one[:3], two[:3])


def test_domains_are_chosen_by_their_score_and_have_questions_enough(run, monkeypatch):
    monkeypatch.delattr(trainings.run, "performance")  # no outcome is read
    monkeypatch.setattr(run, "change_arrays", None)
    monkeypatch.setattr(trainings, "Run", lambda _: run)
    sts = run.scores[run.scores.metric == "sts_icl"].groupby("domain").value.mean().to_dict()
    first, second, *_, last = sorted(sts, key=sts.get, reverse=True)
    chosen = trainings.mixtures.__wrapped__
    ends, extra = chosen(run.profile)
    assert ends == (first, last)
    assert extra["STS"][0] == round(4 * sts[first] / (sts[first] + sts[last])) > 3
    pools = dict.fromkeys(sts, range(4)) | {first: range(3)}  # mixture.extra is 4
    monkeypatch.setattr(trainings.questions, "halves", lambda _, d: (pools[d], ()))
    assert chosen(run.profile)[0] == (second, last)
    pools = {d: range(3 + (d == last)) for d in sts}
    with pytest.raises(ValueError, match=r"mixture.extra is 4, but fewer than two domains have"):
        chosen(run.profile)


def test_the_sts_split_is_in_the_ratio_of_sts():
    sizes = trainings.sizes(48, 3.3, 1.2)
    assert sizes["STS"] == (35, 13)  # 48 × 3.3 / 4.5 = 35.2
    assert sizes["none"] == (0, 0) and sizes["half"] == (24, 24)
    assert sizes["all high"] == (48, 0) and sizes["all low"] == (0, 48)
    for high, first in ((1.0, 24), (1.09, 24), (1.15, 26), (1.3, 27)):  # 24, 25.03, 25.7, 27.1
        assert trainings.sizes(48, high, 1.0)["STS"] == (first, 48 - first)


def test_a_mixture_s_model_is_named_by_what_it_trains_on(profile):
    """The split that is the half is trained once; the answers' precision and the questions' corpus
    enter the name, not how many are asked afterwards."""

    def name(section=None, ends=ENDS, extra=(2, 2), **changes):
        nested = getattr(profile, section).model_copy(update=changes) if section else None
        p = profile.model_copy(update={section: nested} if section else changes)
        return trainings.mixed.path(p, 0, ends, extra).name

    assert len({name(extra=of) for of in trainings.sizes(8, 1.1, 1.0).values()}) == 4
    assert len({name(extra=of) for of in trainings.sizes(8, 3.0, 1.0).values()}) == 5
    assert name("mixture", questions=7) == name() == name(ends=("law", "math"))
    others = [name("evaluation", dtype="bfloat16"), name(domains="benchmarks"), name("sft", lr=0.1)]
    others += [name("mixture", answer_tokens=5), name(ends=("law", "health"))]
    assert len({name(), *others}) == 6


def test_gains_are_paired_by_question():
    domains = np.repeat(["law", "math", "mathematics"], (6, 5, 9))
    change = np.random.default_rng(0).normal(size=20)
    one = pd.DataFrame({"domain": domains, "id": range(20), "mixture": "none", "change": change})
    rows = pd.concat([one, one.assign(mixture="STS", change=3 * change)])
    gains = MIXTURES.gains_of(rows.sample(frac=1, random_state=0), ENDS, {})
    assert gains["STS"]["math"].value == pytest.approx(3 * change[6:11].mean())
    assert gains["STS"]["law"].half == pytest.approx(3 * gains["none"]["law"].half)


def means(law, math):
    """Domain -> Jackknife of the mean of values [questions]."""
    return {d: Jackknife.mean(of[None]) for d, of in (("law", law), ("math", math))}


def test_a_squared_distance_is_by_hand_and_not_folded_upward():
    """Over worlds with the same true gap the estimates average to its square."""
    flat = np.ones(40)
    gains = {"all low": means(flat, 4 * flat), "all high": means(7 * flat, 3 * flat)}
    gains["STS"] = means(5 * flat, 4 * flat)
    by_hand = ((7 - 3) ** 2 + (1 - 4) ** 2) / 2 - (5 - 4) ** 2
    assert MIXTURES.balance(gains, ENDS).low == pytest.approx(by_hand)
    rng, same = np.random.default_rng(0), means(flat, flat)
    for gap in (0.0, 1.5):
        values = 1 + gap + 40**0.5 * rng.normal(size=(500, 40))
        worlds = [{"all low": same, "all high": same, "STS": means(v, flat)} for v in values]
        found = np.mean([MIXTURES.balance(world, ENDS).value for world in worlds])
        assert found == pytest.approx(-(gap**2), abs=0.3)


def slow_label(column, kinds, top):
    order = sorted(range(len(kinds)), key=lambda i: (-column[i], i))[:top]
    counts = [sum(column[i] > 0 and kinds[i] == k for i in order) for k in range(3)]
    if not sum(counts):
        return [np.nan] * 3, -1
    label = counts.index(max(counts)) if counts.count(max(counts)) == 1 else -1
    return [c / sum(counts) for c in counts], label


def test_votes_and_labels_equal_a_slow_loop():
    rng, kinds = np.random.default_rng(0), np.repeat([0, 1, 2], 8)
    peaks = rng.gamma(1.0, size=(24, 60)) * (rng.random((24, 60)) < 0.3)
    peaks[:, 0] = 0.0  # silent
    peaks[:, 1] = np.isin(np.arange(24), [2, 9]) * 1.0  # a tie of two kinds
    votes = labels.votes(peaks, kinds, top=5)
    expected, label = zip(*[slow_label(peaks[:, j], kinds, 5) for j in range(60)], strict=True)
    np.testing.assert_allclose(votes, expected)
    np.testing.assert_array_equal(LABELS.labelled(votes), label)
    assert np.isnan(votes[0]).all() and label[:2] == (-1, -1) and set(label) == {-1, 0, 1, 2}


def test_sinks_and_what_comes_before_are_silent(backbone, sae):
    ids = [1, 50, 900, 33, 17]
    with torch.inference_mode():
        rows = backbone(torch.tensor([ids], device=backbone.device)).last_hidden_state[0]
        h, norms = sae.encode(rows), rows.norm(dim=-1)
    whole = labels.activations(backbone, Hook(0, sae, np.inf), ids, [3, 5], first=2)
    torch.testing.assert_close(whole[2:], h[2:, [3, 5]])
    assert not whole[:2].any()
    sink = int(norms[2:].argmax()) + 2
    some = labels.activations(backbone, Hook(0, sae, float(norms[2:].max())), ids, [3, 5], first=2)
    rest = [t for t in range(5) if t != sink]
    assert not some[sink].any() and torch.equal(some[rest], whole[rest])


def test_promoted_tokens_are_those_of_the_highest_logits(profile, whole, tokenizer):
    (words,) = labels.promoted(profile, np.array([7]))
    direction = whole.model.norm(labels.run.sae(profile).W_dec[7:8])
    best = whole.lm_head(direction)[0].argmax().item()
    assert words[0] == tokenizer.decode([best]).strip() and len(words) == labels.WORDS


def test_shares_and_recall_of_planted_labels():
    """40 features: a third each of mathematics, code and dialogue, D_N mathematics but for one."""
    kinds = np.repeat([0, 1, 2], 20)
    ranked = np.r_[0:7, 14, 7:14, 15:40]  # one feature of code among the first of mathematics
    kind = np.repeat([0, 1, 2], [14, 14, 12])
    noise = np.random.default_rng(0).random((60, 40)) * 0.01
    peaks = np.where(kinds[:, None] == kind[None, :], 2.0, 0.1) + noise
    seeds = [ranked, ranked]
    shares_of = LABELS.shares
    share, recall = shares_of(peaks, kinds, seeds, top=10, sizes=(8, 15, 99), draws=5)
    shared = {kind: [of[n].value for n in (8, 15, "all")] for kind, of in share.items()}
    assert shared["math"] == pytest.approx([7 / 8, 14 / 15, 14 / 40])
    assert shared["code"] == pytest.approx([1 / 8, 1 / 15, 14 / 40])
    assert shared["dialogue"] == pytest.approx([0, 0, 12 / 40]) and len(share["math"]) == 3
    # top 500 becomes the upper half: 20 of 40, all 14 of mathematics and 6 of code
    expected = {"math": 1.0, "code": 6 / 14, "chance": 0.5}
    assert {name: e.value for name, e in recall.items()} == pytest.approx(expected)
    assert share["math"][8].low == pytest.approx(7 / 8)  # redrawn texts label alike


def test_texts_are_equally_many_of_each_kind_and_begin_with_bos(profile, tokenizer, monkeypatch):
    """Gemma-2 without BOS is broken; SmolLM2 has none."""
    plain, kinds = labels.texts(profile)
    assert list(np.bincount(kinds)) == [profile.labels.samples] * 3 and len(plain) == len(kinds)
    bos = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    with_bos = copy.deepcopy(tokenizer)
    tokens = {"single": "<|endoftext|> $A", "special_tokens": [("<|endoftext|>", bos)]}
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(**tokens)
    monkeypatch.setattr(questions, "tokenizer", lambda *_: with_bos)
    tokens = profile.labels.tokens
    assert labels.texts(profile)[0] == [[bos, *ids][:tokens] for ids in plain]
