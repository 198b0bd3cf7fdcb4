"""All that a run computes: rounds of (function, arguments), each call made once, anywhere.

A call needs only what calls of earlier rounds left in the store."""

from sts_utils import corpora, fsdp, questions, run
from sts_utils.config import Profile
from sts_utils.experiments import labels, selective, trainings, transfer
from sts_utils.parallel import Call


def gpus(call: Call) -> int:
    """GPUs that a call holds, where there are any: of a fine-tuning all of its launcher's."""
    function, (p, *_) = call
    if function not in (run.finetuned, trainings.evaluated, transfer.outcome) or not p.launcher:
        return 1
    launched = fsdp.launched(p.launcher, p.sft)
    return 0 if launched.get("use_cpu") else launched["num_processes"]


def rounds(p: Profile) -> list[list[Call]]:
    """The paper's experiments: what the untouched model gives, and the plain fine-tunings; what
    these changed, and trainings that need scores; what is left of these."""
    asked = {name[:2] for name in p.stages} or {f"{number:02}" for number in range(1, 17)}
    seed, like, plain = p.seeds[0], trainings.supervised(p), questions.as_asked(p)
    others = questions.sets(p) if asked & {"08", "17"} else []
    runs = [*([p] if asked - {"16", "17"} else []), *others, *([like] if "12" in asked else [])]
    tuned = [(q, s, (run.finetuned, s)) for q in runs for s in q.seeds]
    rl = [(trainings.reinforced, s) for s in like.seeds if "12" in asked]
    tuned += [(like, s, model) for s, model in zip(like.seeds, rl, strict=False)]
    domains = [(p, d, s) for s in p.seeds for d in corpora.domains(p.domains)]

    before: list[Call] = [(run.train_features, (q, s)) for q in runs for s in q.seeds]
    before += [(run.domain_features, of) for of in domains if asked - {"16"}]
    if "06" in asked:
        before += [(run.domain_features, (plain, d, s)) for _, d, s in domains if s == seed]
    before += [(labels.peaks, (p,))] if asked & {"02", "14"} else []
    before += [(labels.density, (p,))] if asked & {"02", "03", "06"} else []
    before += [(run.mathematics, (p,))] if asked & {"11", "13"} else []
    tuning = selective.choices(p) if "13" in asked else []
    after: list[Call] = [(selective.tuned, (p, seed, *choice)) for choice in tuning]
    if not asked - {"01", "02", "03", "13", "14"}:
        return [before, after]
    before += [(function, (q, s)) for q, s, (function, _) in tuned]
    before += [(run.performance, (p,))] if asked - {"16"} else []
    before += [(run.held_out_loss, (q,)) for q in runs if q is not like]
    after += [(run.performance, (q, m, q.evaluation.asked)) for q, _, m in tuned]
    after += [(run.held_out_loss, (q, m)) for q, _, m in tuned if q is not like]
    last: list[Call] = []
    if asked & {"07", "08", "12"}:
        after += [(run.actual_features, (q, s, model)) for q, s, model in tuned]
    if "07" in asked:
        before += [(run.prose_features, (p, s)) for s in p.seeds]
        last.append((selective.zero_features, (p, seed, (run.finetuned, seed))))
    if "10" in asked:
        after += [(run.domain_after, (q, d, s, (run.finetuned, s))) for q, d, s in domains]
    if "11" in asked:
        after += [(trainings.evaluated, (p, name)) for name in (None, *trainings.NAMES[:-1])]
        last.append((trainings.evaluated, (p, trainings.NAMES[-1])))  # where it is the half: there
    if "17" in asked:
        before += [(transfer.gradients, (q, seed)) for q in others]
        before += [(transfer.gradients, (others[0], seed, d)) for d in corpora.domains(p.domains)]
        after += [(transfer.probe, (q, seed)) for q in others]
    elsewhere = questions.sets(p, elsewhere=True) if "16" in asked else []
    for q in {q.domains: q for q in reversed(elsewhere)}.values():
        names, behind = corpora.domains(q.domains), transfer.at_answer(q)
        before += [(run.performance, (q,))]
        before += [(transfer.answer_features, (behind, seed, d)) for d in names]
        before += [(transfer.gradients, (q, seed, d)) for d in names]
        both = [(at, d, s) for at in (q, behind) for d in names for s in q.seeds]
        before += [(run.domain_features, of) for of in both]
    for cell in ((q, s) for q in elsewhere for s in q.seeds):
        behind = transfer.at_answer(cell[0]), cell[1]
        after += [(transfer.outcome, cell), (transfer.probe, cell), (transfer.gradients, cell)]
        after += [(run.train_features, cell), (run.train_features, behind)]
        after.append((transfer.answer_features, behind))
    if "12" in asked:
        before.append((trainings.accuracy, (like, None)))
        after.append((trainings.accuracy, (like, rl[0])))
    return [before, after, last]
