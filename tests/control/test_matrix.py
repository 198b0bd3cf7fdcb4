import numpy as np
import pytest

from sts_utils import scores as score
from sts_utils import scores as shift
from sts_utils.control import judgement, readings, scores, sets, tables
from sts_utils.control.scores import FIXED, Score
from sts_utils.results import Result
from sts_utils.runs import features


@pytest.mark.slow
@pytest.mark.parametrize("result", tables.RESULTS, ids=lambda of: of.name)
def test_every_table_and_figure_is_drawn_on_the_tiny_model(control, result: Result):
    thing, caption = result.draw(control)
    assert len(caption) > 80
    if result.kind == "table":
        assert len(thing) and not thing.dropna(axis=1, how="all").empty


@pytest.mark.slow
def test_both_halves_judge_every_candidate(control):
    for table in control.judged.values():
        assert len(table) == 1 + len(control.candidates) and table.auc.between(0, 1).all()
        assert FIXED.label in set(table.score) and table.r.between(-1, 1).all()
    topics = judgement.topics(control.parts["topics"], [FIXED, scores.OVERLAP])
    assert topics.r.between(-1, 1).all()


@pytest.mark.slow
def test_features_are_read_at_the_query_or_where_the_answer_is_to_be(control):
    part = control.parts["judgement"]
    places = (readings.at(part.profile, place) for place in readings.PLACES)
    query, answer = (features.extract_domain(of, part.domains[0], 0) for of in places)
    assert query.ids == answer.ids and (answer.n == answer.n[0]).all() and answer.n[0] < 12


@pytest.mark.slow
def test_matrix_scores_are_the_paper_s_equations(control):
    whole = control.parts["topics"]
    d = shift.shifted_dims(readings.extract_shift(whole.profile, "law", 0), 20)
    names = whole.domains
    for metric in score.PAPER_SCORES:
        ours = scores.values(whole, Score(metric, 20))[1, 0]
        equation = getattr(score, metric)
        theirs = [equation(features.extract_domain(whole.profile, name, 0), d) for name in names]
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@pytest.mark.slow
def test_a_probe_is_read_in_the_measure_it_is_judged_by(control):
    whole = control.parts["topics"]
    for measure in (judgement.LIKELIHOOD, judgement.ODDS):
        ours = scores.values(whole, Score("quick probe"), measure)[1, 0]
        probed = sets.probe(whole.profile, "law", 0, "quick probe").groupby("domain")[measure]
        np.testing.assert_allclose(ours, probed.mean().reindex(whole.domains))


@pytest.mark.slow
def test_unknown_scores_and_sizes_are_one_line(control):
    whole = control.parts["topics"]
    with pytest.raises(ValueError, match="score 'sts': choose from sts_act, sts_icl"):
        scores.values(whole, Score("sts"))
    with pytest.raises(ValueError, match="top_n is 513, but there are only 512 features"):
        scores.values(whole, Score("sts_act", 513))


@pytest.mark.slow
def test_a_quick_probe_learns_from_a_tenth_and_saves_no_model(control, monkeypatch):
    part = control.parts["topics"].profile
    probed = sets.probe(part, "law", 0, "quick probe")
    assert set(probed.domain) == set(control.parts["topics"].domains)
    assert probed.groupby("domain").size().eq(part.evaluation.questions).all()
    assert probed[judgement.ODDS].abs().max() > 0
