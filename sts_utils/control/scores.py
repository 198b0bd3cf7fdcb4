"""What is read of the positive control's training sets and domains before any training."""

import random

import numpy as np

from sts_utils import corpora, prompts, questions, run
from sts_utils.cache import cached
from sts_utils.config import Profile
from sts_utils.control import sets
from sts_utils.examples import by_domain
from sts_utils.experiments.transfer import pulls

READ = (*run.READ, *run.DOMAINS, "sft.examples", "control.demonstrations", "control.contexts")


def at_answer(p: Profile) -> Profile:
    """The run that reads the tokens between a query and its answer in the place of the query's."""
    return p.model_copy(update={"place": "answer"})


@cached(*READ)
def shift_features(p: Profile, name: str, seed: int) -> dict:
    """Features of a set's questions without and with demonstrations (for D_N): half of its examples
    are asked, half are demonstrations."""
    chosen, size = sets.examples(p, name, seed), (p.control.demonstrations, p.control.contexts)
    asked, shown = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    shown = prompts.choose_demonstrations(shown, *size, seed)
    return run.read(p, questions.pairs(p, asked[: p.sts.queries], shown), f"{name}, {seed}")


@cached(*READ)
def answer_features(p: Profile, name: str, seed: int | None = None) -> dict:
    """Features of questions after demonstrations with wrong answers, then with the right ones: what
    is left of the shift is neither wording nor form. Of a training set and seed, or of a domain."""
    return run.read(p, answer_pairs(p, name, seed), f"{name}, right and wrong")


def answer_pairs(p: Profile, name: str, seed: int | None = None) -> prompts.Pairs:
    """(wrong, right) prompts of a training set and seed, or of a domain."""
    if seed is None:
        shown = by_domain(corpora.load(p.demonstrations))[name]
        asked = questions.domain_queries(p, name, 0)
    else:
        chosen = sets.drawn(p, name, seed)
        asked, shown = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    size = p.control.demonstrations, p.control.contexts
    rng = random.Random(f"wrong {name} {seed}")
    shown = prompts.choose_demonstrations(shown, *size, seed or 0)
    return questions.answer_pairs(p, asked[: p.sts.queries], shown, rng)


@cached(*READ, "evaluation.dtype")
def gradients(p: Profile, name: str, seed: int | None = None) -> dict[str, np.ndarray]:
    """Pulls (transfer.py) of a training set and seed, or of a domain's scored questions."""
    chosen = questions.domain_queries(p, name, 0) if seed is None else sets.drawn(p, name, seed)
    return pulls(p, chosen[: p.sts.queries])


def rounds(profile: Profile) -> list[list[tuple]]:
    """All that the control computes, as rounds of (cached function, its arguments): what the
    untouched model does on each part's domains, then a part's training sets, a seed at a time."""
    parts, after = sets.parts(profile).values(), []
    before = [(run.performance, (p,)) for p in {p.domains: p for p in parts}.values()]
    for p in parts:
        q = at_answer(p)
        for d in sets.domains(p):
            before += [(answer_features, (q, d)), (gradients, (p, d))]
            before += [(run.domain_features, (at, d, s)) for at in (p, q) for s in p.seeds]
        for cell in ((name, seed) for seed in p.seeds for name in p.control.part.sets):
            after += [(sets.change, (p, *cell)), (sets.quick_probe, (p, *cell))]
            after.append((gradients, (p, *cell)))
            after += [(shift_features, (at, *cell)) for at in (p, q)]
            after.append((answer_features, (q, *cell)))
    return [before, after]
