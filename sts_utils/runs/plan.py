"""What a run computes: a list of steps, run here or over a Ray cluster."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from tqdm import tqdm

from sts_utils import corpora, parallel
from sts_utils.config import Profile
from sts_utils.runs import engine, features, models, performance, samples
from sts_utils.runs.models import TrainedModel


class Step(NamedTuple):
    """Something that a run computes and leaves in the store: a call that can run anywhere.

    An argument that is a Step is computed first, where this one runs; a step that is done only
    reads its artifact, so one whose machine died is simply run again.

    | field | is |
    |---|---|
    | kind | what it is called in `make check`, which sums the cost of each kind |
    | stage | the notebook that shows it |
    | after | its round: it needs only what steps of earlier rounds left in the store |
    | gpus | held while it runs, where there are any |
    """

    kind: str
    compute: Callable
    args: tuple
    stage: str
    after: int = 0
    gpus: int = 1

    @property
    def name(self) -> str:
        """The call in words: what, trained on what, of which domains, and its other arguments."""
        profile, *rest = self.args
        told = [a.name if isinstance(a, Step) else a for a in rest]
        told += [profile.place] if profile.place != "query" else []
        return " ".join(map(str, [self.compute.__name__, profile.train, profile.domains, *told]))


def base(profile: Profile, whole: bool = True) -> list[Step]:
    """Every seed's run; if `whole`, the SAEs of Fig 4 and the further training sets too."""
    also = [Step("", models.sweep, (profile,), "01_extract")] if whole else []
    steps = [s for seed in profile.seeds for s in demonstrated(profile, seed, also)]
    steps += domains_of(profile, profile.seeds, also) + before(profile)
    if second := samples.second_domains(profile):
        steps += domains_of(second, profile.seeds) + before(second)[:1]
    for run in [profile] + [samples.trained_on(profile, name) for name in profile.others if whole]:
        name = "fine-tuning (SFT)" if run is profile else f"fine-tuning on {run.train}"
        for seed in run.seeds:
            tuned = training(name, models.finetune, run, seed)
            steps += [tuned, *measured(run, tuned, seed)]
            if run is profile:
                of, measure = (run, tuned), performance.measure_held_out
                steps.append(Step("held-out solutions", measure, of, "04_finetune", 1))
                steps += measured(second, tuned, seed)[:1] if second else []
            else:
                steps += demonstrated(run, seed)
    return steps


def demonstrated(profile: Profile, seed: int, also: Sequence[Step] = ()) -> list[Step]:
    """Features of the training set without and with demonstrations."""
    kind, of = "features of the training set (D_N)", (profile, seed, *also)
    return [Step(kind, features.extract_train, of, "01_extract")]


def domains_of(profile: Profile, seeds: Iterable[int], also: Sequence[Step] = ()) -> list[Step]:
    """Features of each domain's questions."""
    kind, names = "features of the domains (STS)", corpora.domains(profile.domains)
    of = [(profile, domain, seed, *also) for seed in seeds for domain in names]
    return [Step(kind, features.extract_domain, args, "01_extract") for args in of]


def before(profile: Profile) -> list[Step]:
    """The untouched model's performance."""
    measured_ = Step("evaluation", performance.measure, (profile,), "05_evaluate")
    held_out = Step("held-out solutions", performance.measure_held_out, (profile,), "04_finetune")
    return [measured_, held_out]


def training(kind: str, train: Callable, profile: Profile, *args, after: int = 0) -> Step:
    """A step that fine-tunes the whole model, over as many GPUs as the profile's launcher takes."""
    gpus = engine.training_gpus(profile)
    return Step(kind, train, (profile, *args), "04_finetune", after, gpus)


def measured(profile: Profile, tuned: Step, seed: int) -> list[Step]:
    """What a fine-tuned model changed: performance, and features of the training set."""
    after, actual = tuned.after + 1, (profile, seed, tuned)
    return [
        Step("evaluation", performance.measure, (profile, tuned), "05_evaluate", after),
        Step("actual shift", features.extract_actual, actual, "06_plot", after),
    ]


# --- running them ------------------------------------------------------------------------------


def call(step: Step) -> object:
    """What a step computes; a fine-tuned model is trained now if it is missing."""
    args = [call(arg) if isinstance(arg, Step) else arg for arg in step.args]
    made = step.compute(*args)
    if isinstance(made, TrainedModel):
        made.folder()
    return made


def compute(
    profile: Profile,
    steps: Iterable[Step],
    stage: str | None = None,
    workers: int | None = None,
    weight: Callable[[Step], float] = lambda _: 1.0,
) -> int:
    """Compute `steps`, of one `stage` alone if it is named; returns how many they are.

    Here, one after the other, or with `executor: ray` over a cluster, round by round: of so many
    `workers` of this machine if there is no other; in a round those of most `weight` begin first,
    so that processes end together.
    """
    chosen = [step for step in steps if stage in (None, step.stage)]
    chosen.sort(key=lambda step: (step.after, -weight(step)))
    if profile.executor == "ray":
        rounds = [
            [(call, (step,)) for step in of]
            for _, of in groupby(chosen, key=lambda step: step.after)
        ]
        parallel.compute(
            rounds,
            workers,
            over_ray=True,
            gpus=lambda made: made[1][0].gpus,
            weight=lambda made: weight(made[1][0]),
            release=models.release,
        )
    else:
        for step in tqdm(chosen, desc=stage or "steps", unit="step", leave=False):
            call(step)
    return len(chosen)
