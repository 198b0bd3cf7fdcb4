import numpy as np
import pytest

from sts_utils.control import judgement, matrix, scores, sets
from sts_utils.control.scores import Score
from sts_utils.method import score
from sts_utils.runs import features, plan, samples


@pytest.fixture(scope="module")
def whole(small):
    plan.compute(small, sets.steps(small))
    return matrix.load(small)


@pytest.mark.slow
def test_the_matrix_runs_on_the_tiny_model(whole):
    changes = whole.changes("gold_probability")
    assert len(changes) == 14 and changes[0].shape[:2] == (4, 2)
    judged = judgement.judge(whole, scores.candidates(whole.profile), ("gold_loglik",), draws=20)
    assert judged["rank"].between(1, 14).all()
    assert whole.own == {0: 1, 1: 6, 2: 8}  # gsm-symbolic is no domain


@pytest.mark.slow
def test_matrix_scores_are_the_paper_s_equations(whole, small):
    d = whole.cells[2][0].dims("both", 20)
    names = samples.evaluation_questions(small)
    for metric in score.PAPER_SCORES:
        ours = scores.values(whole, Score(metric, "both", 20))[2, 0]
        equation = getattr(score, metric)
        theirs = [equation(features.extract_domain(small, name, 0), d) for name in names]
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.slow
def test_unknown_scores_and_sizes_are_one_line(whole):
    with pytest.raises(ValueError, match="score 'sts': choose from sts_act, sts_icl"):
        scores.values(whole, Score("sts"))
    with pytest.raises(ValueError, match="N is 513, but the SAE has 512 features: choose fewer"):
        whole.cells[0][0].dims("paper", 513)
