"""SFT like GRPO, r on two choices of dims, and whose answers are shown."""

import numpy as np
import pytest

from sts_utils import corpora, questions, run, scores
from sts_utils.experiments import reinforced
from sts_utils.measured import Run


@pytest.fixture
def alike(profile, random_stats):
    """A maker of runs of one seed, each with the changes and the domains of the others."""

    def make(train=1, actual=2):
        of = Run(profile.model_copy(update={"top_n": 8, "seeds": (0,)}))
        of.domain_names = corpora.domains(profile.domains)
        of.domains = [{d: random_stats(100 + i) for i, d in enumerate(of.domain_names)}]
        of.train, of.actual = [random_stats(train)], [random_stats(actual)]
        rngs = [np.random.default_rng(d) for d in range(14)]
        of.change_arrays = [r.normal(0.05 * d, 0.3, size=(1, 25)) for d, r in enumerate(rngs)]
        return of

    return make


def test_sft_like_grpo_has_its_steps_questions_and_rate(profile):
    g = profile.grpo.model_copy(update={"steps": 12, "prompts": 6, "lr": 3e-6, "dtype": "float32"})
    like = reinforced.supervised(profile.model_copy(update={"grpo": g}))
    sft = like.sft
    assert (like.train, like.seeds) == ("chain-sum", profile.seeds[:1])
    assert (sft.examples, sft.epochs, sft.batch, sft.micro_batch) == (72, 1, 6, 2)
    assert (sft.lr, sft.dtype) == (3e-6, "float32")
    pool = questions.training_examples(like, 0)[0]
    assert len(pool) >= sft.examples and sft.examples / sft.batch == 12


def test_settings_of_sft_train_no_model_by_rl_again(profile):
    """Its key is the same whichever of the runs on that training set asks."""
    like, other = reinforced.supervised(profile), questions.trained_on(profile, "chain-sum")
    assert like.sft != other.sft
    assert reinforced.reinforced.path(like, 0) == reinforced.reinforced.path(other, 0)
    longer = like.model_copy(update={"grpo": like.grpo.model_copy(update={"steps": 3})})
    assert reinforced.reinforced.path(like, 0) != reinforced.reinforced.path(longer, 0)


def test_r_is_of_the_dims_that_demonstrations_find_or_training_moved(alike):
    of = alike(train=1, actual=2)
    r = reinforced.correlations(of)
    changes = np.abs([change.mean() for change in of.change_arrays])
    for dims, stats in (("estimated", of.train[0]), ("actual", of.actual[0])):
        chosen = scores.shifted_dims(stats, 8)
        x = [scores.sts_icl(domain, chosen) for domain in of.domains[0].values()]
        assert r[dims]["sts_icl"].value == pytest.approx(np.corrcoef(x, changes)[0, 1])
    assert r["estimated"]["sts_icl"].value != r["actual"]["sts_icl"].value


def test_differences_of_runs_that_moved_alike_are_0_in_every_draw(alike):
    """The same questions are drawn for SFT and for GRPO."""
    sft, rl = alike(), alike()
    gap = sft.overlap() - rl.overlap()
    assert gap.value == 0 and not gap.draws.any() and sft.overlap().draws.std() > 0
    one, other = (reinforced.correlations(of) for of in (sft, rl))
    for dims in ("estimated", "actual"):
        gap = one[dims]["sts_act"] - other[dims]["sts_act"]
        assert (gap.value, gap.low, gap.high) == (0, 0, 0)


def test_a_difference_of_r_leaves_each_domain_out_of_both(alike):
    one, other = (reinforced.correlations(alike(actual=k))["actual"]["sts_icl"] for k in (2, 3))
    gap, leave = one - other, one.domains - other.domains
    width = 2.160 * np.sqrt(13 / 14 * ((leave - leave.mean()) ** 2).sum())  # t, 13 degrees
    assert gap.value == pytest.approx(one.value - other.value)
    assert gap.high - gap.low == pytest.approx(2 * width, rel=1e-3)


def test_too_few_correct_answers_are_not_shown(profile, monkeypatch, random_stats):
    like = reinforced.supervised(profile)
    examples, read = questions.training_examples(like, 0)[0], random_stats()
    monkeypatch.setattr(run, "own_answer_features", lambda *_, part: read.arrays())
    monkeypatch.setattr(run, "verified", lambda *_: examples[:1])
    assert reinforced.own_answers(like, 0) is None
    monkeypatch.setattr(run, "verified", lambda *_: examples[:2])
    np.testing.assert_allclose(reinforced.own_answers(like, 0).dh2, read.dh2, rtol=1e-6)
