"""Gradients of the log-odds against finite differences, on the tiny model."""

import numpy as np
import pytest
import torch

from sts_utils import corpora, interventions, models, saes
from sts_utils import evaluate as options
from sts_utils.examples import Example
from sts_utils.runs import gradients, samples


@pytest.fixture(scope="module")
def read():
    model, tokenizer = models.load_model("tiny"), samples.tokenizer("tiny")
    examples = corpora.load("skills-judgement")[:3]
    sae = saes.load("random-8x", model.config.hidden_size).to(model.device)
    found = gradients.answer_gradients(model, tokenizer, examples, 0, sae, float("inf"))
    return model, tokenizer, examples, sae, found


def odds(model, tokenizer, examples, moved):
    with interventions.edited(model, {0: lambda residual: residual + moved}):
        measured = options.option_likelihoods(model, tokenizer, examples)
    return measured.gold_log_odds.mean()


def test_moving_the_residual_moves_the_log_odds_as_the_gradient_says(read):
    model, tokenizer, examples, _, found = read
    direction = torch.randn(model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    step = 1e-3 * direction.to(model.device)
    ends = (odds(model, tokenizer, examples, sign * step) for sign in (1, -1))
    slope = (next(ends) - next(ends)) / 2e-3
    assert slope == pytest.approx(float(direction @ torch.tensor(found["odds"])), rel=0.02)


def test_features_carry_what_lies_along_their_directions(read):
    model, _, _, sae, found = read
    assert found["features"].shape == (sae.cfg.d_sae,) and found["features"].any()
    assert found["loglik"].shape == found["odds"].shape == (model.config.hidden_size,)
    assert not np.allclose(found["loglik"], found["odds"])


def test_a_question_without_options_is_one_line(read):
    model, tokenizer, _, sae, _ = read
    bare = [Example("q", "a", "a", "d", "bare")]
    with pytest.raises(ValueError, match="question bare has no options to tell its answer from"):
        gradients.answer_gradients(model, tokenizer, bare, 0, sae, 1.0)
