"""All that a run computes: rounds of (cached function, arguments), each call made once, anywhere.

A call needs only what calls of earlier rounds left in the store.
"""

from sts_utils import control, corpora, questions, run
from sts_utils.cache import Cached
from sts_utils.config import Profile
from sts_utils.experiments import ablation, labels, mixtures, reinforced, selective

Call = tuple[Cached, tuple]  # a function, and its arguments with the profile first


def rounds(p: Profile) -> list[list[Call]]:
    """The calls of a profile's run; no data is read and no model loaded."""
    found = control.rounds(p) if p.runs_control else [[], []]
    if p.runs_paper:
        found = [a + b for a, b in zip(paper(p), [*found, [], [], []], strict=False)]
    return [list({(f, args): (f, args) for f, args in calls}.values()) for calls in found if calls]


def paper(p: Profile) -> list[list[Call]]:
    """The paper's own experiments: what the untouched model gives and the plain fine-tunings; what
    these changed; what is trained and measured on top of it, in three rounds."""
    first, second = p.seeds[0], questions.second_domains(p)
    others = [questions.trained_on(p, name) for name in p.others]
    rl, sft = questions.trained_on(p, p.grpo.train), reinforced.supervised(p)
    tuned = [(q, s, (run.finetuned, s)) for q in (p, *others, sft) for s in q.seeds]
    tuned_or_rl = [*tuned, (rl, first, (reinforced.reinforced, first))]
    sets = [q for q in (p, second) if q]

    untouched: list[Call] = [(run.train_features, (q, s)) for q in (p, *others, rl) for s in q.seeds]
    untouched += [(run.prose_features, (p, seed)) for seed in p.seeds]
    untouched += [
        (run.domain_features, (q, domain, seed))
        for q in sets
        for seed in q.seeds
        for domain in corpora.domains(q.domains)
    ]
    untouched += [(run.performance, (q,)) for q in sets]
    untouched += [(run.held_out_loss, (q,)) for q in (p, *others)]
    untouched += [(model[0], (q, seed)) for q, seed, model in tuned_or_rl]
    untouched += [(labels.peaks, (p,)), (run.rollouts, (rl, first))]

    changed: list[Call] = [
        call
        for q, seed, model in tuned_or_rl
        for call in (
            (run.performance, (q, model, q.evaluation.asked)),
            (run.actual_features, (q, seed, model)),
        )
    ]
    changed += [(run.performance, (second, (run.finetuned, s), None)) for s in p.seeds if second]
    changed += [(run.held_out_loss, (q, m)) for q, _, m in tuned if q is not sft]
    changed += [
        (run.domain_after, (q, domain, seed, (run.finetuned, seed)))
        for q in sets
        for seed in p.seeds
        for domain in corpora.domains(q.domains)
    ]
    changed += [(reinforced.accuracy, (p,)), (run.own_answer_features, (rl, first))]
    changed += [(selective.tune, (p, *choice)) for choice in selective.choices(p)]
    return [untouched, changed]
