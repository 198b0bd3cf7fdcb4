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
