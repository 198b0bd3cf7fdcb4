"""All that a run computes: rounds of (function, arguments), each call made once, anywhere.

A call needs only what calls of earlier rounds left in the store.
"""

from collections.abc import Callable

from sts_utils import corpora, questions, run
from sts_utils.config import Profile
from sts_utils.control import scores as control
from sts_utils.experiments import ablation, labels, mixtures, reinforced, selective

Call = tuple[Callable, tuple]  # a function that leaves its result in the store, its arguments


def rounds(p: Profile) -> list[list[Call]]:
    """The calls of a profile's run; no data is read and no model loaded."""
    own = paper(p) if p.runs_paper else []
    more = control.rounds(p) if p.runs_control else []
    longest = max(len(own), len(more))
    own, more = ([*calls, *[[]] * (longest - len(calls))] for calls in (own, more))
    return [list(dict.fromkeys(a + b)) for a, b in zip(own, more, strict=True)]


def paper(p: Profile) -> list[list[Call]]:
    """The paper's experiments: what the untouched model gives, and the plain fine-tunings; what
    these changed, and trainings that need scores; what is left of these."""
    seed, second = p.seeds[0], questions.second_domains(p)
    others, like = [questions.trained_on(p, name) for name in p.others], reinforced.supervised(p)
    runs, sets = [p, *others, like], [q for q in (p, second) if q]
    tuned = [(q, s, (run.finetuned, s)) for q in runs for s in q.seeds]
    tuned.append((like, seed, (reinforced.reinforced, seed)))
    domains = [(q, d, s) for q in sets for s in q.seeds for d in corpora.domains(q.domains)]

    before: list[Call] = [(function, (q, s)) for q, s, (function, _) in tuned]
    before += [(run.train_features, (q, s)) for q in runs for s in q.seeds]
    before += [(run.domain_features, of) for of in domains]
    before += [(run.performance, (q,)) for q in sets]
    before += [(run.held_out_loss, (q,)) for q in (p, *others)]
    before += [(run.prose_features, (p, s)) for s in p.seeds]
    before += [(labels.peaks, (p,)), (run.rollouts, (like, seed)), (run.mathematics, (p,))]
    before += [(reinforced.accuracy, (like, None))]

    after: list[Call] = [(run.actual_features, (q, s, model)) for q, s, model in tuned]
    after += [(run.performance, (q, model, q.evaluation.asked)) for q, _, model in tuned]
    after += [(run.performance, (q, (run.finetuned, s), None)) for q in sets[1:] for s in p.seeds]
    after += [(run.held_out_loss, (q, model)) for q, _, model in tuned if q is not like]
    after += [(run.domain_after, (q, d, s, (run.finetuned, s))) for q, d, s in domains]
    after += [(selective.tuned, (p, seed, *choice)) for choice in selective.choices(p)]
    after += [(mixtures.evaluated, (p, name)) for name in (None, *mixtures.NAMES[:-1])]
    after += [(reinforced.accuracy, (like, tuned[-1][2])), (reinforced.own_answers, (like, seed))]

    last: list[Call] = [(ablation.zero_features, (p, seed, (run.finetuned, seed)))]
    last += [(mixtures.evaluated, (p, mixtures.NAMES[-1]))]  # where it is the half, it is there
    return [before, after, last]
