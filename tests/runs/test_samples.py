"""Which questions a run uses."""

from sts_utils import corpora
from sts_utils.examples import by_domain
from sts_utils.runs import samples


def test_halves_are_disjoint_and_whole(profile):
    shown = {e.question for e in corpora.load("mmlu-cot")}
    for domain, questions in by_domain(corpora.load("mmlu-test")).items():
        train, test = samples.halves(profile, domain)
        ids = {e.id for e in train}, {e.id for e in test}
        assert not ids[0] & ids[1]
        assert ids[0] | ids[1] == {e.id for e in questions if e.question not in shown}
        assert 0 <= len(test) - len(train) <= 1


def test_what_a_corpus_is_too_small_or_too_long_for_is_said(profile, caplog, monkeypatch):
    """Of LIMO fewer questions are held out than asked for, and not all solutions fit in context."""
    asked = profile.shift.model_copy(update={"queries": 100_000})
    many = profile.model_copy(update={"shift": asked})
    monkeypatch.setattr(samples.models, "context_length", lambda *_: 700)
    samples.training_pairs(many, 0)
    assert "held-out questions, all are read: shift.queries asks for 100000" in caplog.text
    assert "examples are short enough to be demonstrations" in caplog.text
