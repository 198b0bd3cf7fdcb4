"""The training sets of the positive control: their examples, and what fine-tuning on one moves.

A set is questions of one domain, a skill on a surface: those that are neither asked nor shown."""

import random
import shutil
from functools import cache
from pathlib import Path

import pandas as pd

from sts_utils import corpora, evaluate, questions, run
from sts_utils.cache import cached
from sts_utils.config import Profile, SweepSettings
from sts_utils.corpora import skills
from sts_utils.examples import Example, with_answer

PROBE_QUESTIONS = 16  # of a domain, that short runs of fine-tuning are asked: scores, too


def parts(profile: Profile) -> dict[str, Profile]:
    """Part (control.parts) -> its run: its domains, seeds and dose; `control.part` has its sets."""
    made, control = {}, profile.control
    for part in control.parts:
        part = part.model_copy(update={"sets": part.sets or skills.trained(part.domains)})
        dose = {"examples": part.examples, "epochs": part.epochs, "lr": control.lr}
        dose |= {"batch": control.batch}
        dose |= {"micro_batch": min(profile.sft.micro_batch, control.batch)}
        changed = {"train": part.domains, "domains": part.domains, "seeds": part.seeds}
        changed |= {"demonstrations": part.demonstrations, "alignment": "query"}
        sections = {"sft": dose, "sts": {"queries": part.queries}}
        sections |= {"evaluation": {"questions": part.questions}}
        sections |= {"control": {"part": part, "parts": ()}}
        for name, update in sections.items():
            changed[name] = getattr(profile, name).model_copy(update=update)
        made[part.name] = profile.model_copy(update=changed | {"sweep": SweepSettings()})
    return made


def domains(p: Profile) -> tuple[str, ...]:
    """The domains of a part that some training set of it is compared with."""
    names, trained = corpora.domains(p.domains), p.control.part.sets
    return tuple(d for d in names if any(skills.comparable(name, d) for name in trained))


@cache
def drawn(p: Profile, name: str, seed: int) -> tuple[Example, ...]:
    """The examples of a training set and seed, with their options. ValueError for too few."""
    known = {e.question for group in questions.evaluation_questions(p).values() for e in group}
    known |= {e.question for e in corpora.load(p.demonstrations)}
    free = [e for e in corpora.load(p.domains) if e.domain == name and e.question not in known]
    if len(free) < p.sft.examples:
        short = f"training set {name!r} has {len(free)} questions that are not asked"
        raise ValueError(f"{short}: lower examples ({p.sft.examples}) or questions of its part")
    return tuple(random.Random(f"{name} {seed}").sample(free, p.sft.examples))


def examples(p: Profile, name: str, seed: int) -> list[Example]:
    """The same as they are trained on: no options, the gold one's text as the answer."""
    return [with_answer(e) for e in drawn(p, name, seed)]


@cached(*run.MODEL, "domains", "demonstrations", "evaluation.questions", "sft", folder=True)
def finetuned(p: Profile, name: str, seed: int, *, out: Path) -> None:
    """The model after SFT on a training set."""
    run.sft(p, p.sft, examples(p, name, seed), seed, out)


@cached(*run.ASKED, "sft")
def change(p: Profile, name: str, seed: int) -> pd.DataFrame:
    """Performance after SFT on a set − before: domain, id and the measures, a row a question. The
    untouched model is asked once, for all sets."""
    model = (finetuned, name, seed)
    after = run.performance(p, model, None, _asked(p, name, None))
    shutil.rmtree(finetuned.path(p, *model[1:]), ignore_errors=True)  # two a cell are a disk full
    return _since(p, after)


@cached(*run.ASKED, "sft")
def quick_probe(p: Profile, name: str, seed: int) -> pd.DataFrame:
    """The same after a tenth of the examples at ten times the learning rate."""
    chosen, desc = examples(p, name, seed)[: max(1, p.sft.examples // 10)], f"probe {name}"
    model = run.briefly_tuned(p, chosen, 10 * p.sft.lr, seed, desc)
    asked = _asked(p, name, PROBE_QUESTIONS)
    after = evaluate.option_likelihoods(model, questions.tokenizer(p), asked, desc=desc)
    return _since(p, after)


def _asked(p: Profile, name: str, most: int | None) -> tuple[Example, ...]:
    """So many questions of each domain with the set's type of answer."""
    groups = questions.evaluation_questions(p).items()
    return tuple(e for d, group in groups if skills.comparable(name, d) for e in group[:most])


def _since(p: Profile, after: pd.DataFrame) -> pd.DataFrame:
    """What a model's performance is above the untouched one's."""
    after, before = (t.set_index(["domain", "id"]) for t in (after, run.performance(p)))
    return (after - before.loc[after.index]).reset_index()
