"""SFT like GRPO, r on two choices of dims, and whose answers are shown."""

import numpy as np
import pytest

from sts_utils import questions, scores
from sts_utils import run as computed
from sts_utils.config import TrainingSet
from sts_utils.experiments import reinforced


def test_sft_like_grpo_has_its_steps_questions_and_rate(profile):
    g = profile.grpo.model_copy(update={"steps": 12, "prompts": 6, "lr": 3e-6, "dtype": "float32"})
    like = reinforced.supervised(profile.model_copy(update={"grpo": g}))
    sft = like.sft
    assert (like.train, like.seeds) == ("chain-sum", profile.seeds[:2])
    assert (sft.examples, sft.epochs, sft.batch, sft.micro_batch) == (72, 1, 6, 2)
    assert (sft.lr, sft.dtype) == (3e-6, "float32")
    assert len(questions.training_examples(like, 0)[0]) >= sft.examples


def test_settings_of_sft_train_no_model_by_rl_again(profile):
    """Its key is the same whichever of the runs on that training set asks."""
    like, other = (
        reinforced.supervised(profile),
        questions.trained_on(profile, TrainingSet(train="chain-sum")),
    )
    assert like.sft != other.sft
    assert reinforced.reinforced.path(like, 0) == reinforced.reinforced.path(other, 0)
    longer = like.model_copy(update={"grpo": like.grpo.model_copy(update={"steps": 3})})
    assert reinforced.reinforced.path(like, 0) != reinforced.reinforced.path(longer, 0)


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
