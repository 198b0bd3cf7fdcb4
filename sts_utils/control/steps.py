"""What the positive control computes, each thing once."""

from sts_utils.config import Profile
from sts_utils.control import readings, sets
from sts_utils.runs import engine, performance, plan
from sts_utils.runs.plan import Step

NOTEBOOK = "07_control"


def cell(profile: Profile, name: str, seed: int) -> None:
    """Fine-tune on a training set, evaluate, extract: what one row of the matrix needs."""
    sets.change(profile, name, seed)
    for kind in sets.PROBES:
        sets.probe(profile, name, seed, kind)
    readings.gradients(profile, name, seed)
    behind = readings.at(profile, "answer")
    for read in (profile, behind):
        readings.extract_shift(read, name, seed)
    readings.extract_answers(behind, name, seed)


def steps(profile: Profile) -> list[Step]:
    """What the control computes beside the paper's run: each part's domains, and a cell a training
    set and seed."""
    steps, gpus = [], engine.training_gpus(profile)
    done = {step.name for step in plan.base(profile)} if profile.runs_paper else set()
    for part in sets.parts(profile).values():
        seeds, names = part.control.part.seeds, part.control.part.sets
        steps.append(Step("evaluation", performance.measure, (part,), NOTEBOOK))
        for place in readings.PLACES:
            of = plan.domains_of(readings.at(part, place), seeds)
            steps += [s._replace(stage=NOTEBOOK) for s in of if s.args[1] in sets.domains(part)]
        for domain in sets.domains(part):
            read, of = (readings.at(part, "answer"), domain), (part, domain)
            steps.append(Step("right and wrong answers", readings.extract_answers, read, NOTEBOOK))
            steps.append(Step("gradients of the domains", readings.gradients, of, NOTEBOOK))
        for seed in seeds:
            for name in names:
                args = (part, name, seed)
                steps.append(Step("control, training sets", cell, args, NOTEBOOK, 1, gpus))
    return list({step.name: step for step in steps if step.name not in done}.values())
