"""What is read of the positive control's training sets and domains, and every score of them."""

import random
from dataclasses import replace
from functools import lru_cache

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from sts_utils import corpora, prompts, questions, run
from sts_utils.cache import cached
from sts_utils.config import Profile
from sts_utils.control import sets
from sts_utils.control.gradients import answer_gradients
from sts_utils.examples import by_domain
from sts_utils.features import FeatureStats
from sts_utils.scores import cosine, over_domains, shifted_dims

READ = (*run.READ, *run.DOMAINS, "sft.examples", "control.demonstrations", "control.contexts")
#: From demonstrations with wrong answers to the same with right ones, on the N features that this
#: moves most. Fixed on the design half before any score was computed on the judgement half.
FIXED, FIXED_N = "right − wrong answers, at the answer", 100
#: Cosines of gradients: of the answer's likelihood, or of the log-odds.
GRADIENTS = {"gradient of answers": "loglik", "gradient of log-odds": "odds"}
GRADIENTS |= {"features × gradient of log-odds": "features"}


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


def answer_pairs(p: Profile, name: str, seed: int | None = None) -> questions.Pairs:
    """(wrong, right) prompts of a training set and seed, or of a domain."""
    size = (p.control.demonstrations, p.control.contexts)
    if seed is None:
        shown = by_domain(corpora.load(p.demonstrations))[name]
        asked = questions.domain_queries(p, name, 0)
    else:
        chosen = sets.drawn(p, name, seed)
        asked, shown = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    shown = prompts.choose_demonstrations(shown, *size, seed or 0)
    rng = random.Random(f"wrong {name} {seed}")
    return questions.answer_pairs(p, asked[: p.sts.queries], shown, rng)


@cached(*READ, "evaluation.dtype")
def gradients(p: Profile, name: str, seed: int | None = None) -> dict[str, np.ndarray]:
    """`answer_gradients` of a training set and seed, or of a domain's scored questions."""
    chosen = questions.domain_queries(p, name, 0) if seed is None else sets.drawn(p, name, seed)
    hook, model, tokenizer = run.hook(p), run.whole(p), questions.tokenizer(p)
    read = (chosen[: p.sts.queries], p.layer, hook.sae, hook.sink_norm)
    return answer_gradients(model, tokenizer, *read, desc=f"gradients {name}")


def scores(p: Profile) -> dict[str, np.ndarray]:
    """Label -> [T sets, S seeds, D] of a part: the paper's scores and ours at both places, what a
    user would try first, short runs of fine-tuning, and what the design half found."""
    names, seeds = p.control.part.sets, p.seeds
    cells = {(n, s): of_cell(p, n, s) for s in seeds for n in names}  # domains: once for a seed
    labels = cells[names[0], seeds[0]]
    return {k: np.array([[cells[n, s][k] for s in seeds] for n in names]) for k in labels}


def of_cell(p: Profile, name: str, seed: int) -> dict[str, np.ndarray]:
    """Label -> [D] a score of each domain, for one training set and seed; NaN where a probe did not
    ask. A probe's is the change of the profile's measure."""
    domains, found = sets.domains(p), {}
    for q, place in ((p, ""), (at_answer(p), ", at the answer")):
        own = FeatureStats.from_arrays(shift_features(q, name, seed, part=p.sae))
        others, towards = _domains(q, seed), own.mean("dh")
        dims = shifted_dims(own, p.top_n)
        for score in ("sts_act", "sts_icl", "sts_relative", "cosine"):
            found[score + place] = over_domains(score, others, dims, towards=towards)
        active = shifted_dims(replace(own, dh2=own.h), p.top_n)  # in the place of D_N
        found["sts_act of the most active" + place] = over_domains("sts_act", others, active)
        residual = np.stack([other.mean("r") for other in others])
        found["residual similarity" + place] = cosine(own.mean("r"), residual)
    found["token overlap"] = overlaps(p, seed)[name]
    short = sets.change(p, name, seed, sets.steps(p, probe=True), sets.PROBE_QUESTIONS)
    for kind, table in (("probe run", short), ("quick probe", sets.quick_probe(p, name, seed))):
        means = table.groupby("domain")[p.evaluation.measure].mean()
        found[kind] = means.reindex(domains).to_numpy()
    for label, key in GRADIENTS.items():
        others = np.stack([gradients(p, d)[key] for d in domains])
        found[label] = cosine(gradients(p, name, seed)[key], others)
    own = FeatureStats.from_arrays(answer_features(at_answer(p), name, seed, part=p.sae))
    others, dims, towards = _domains(at_answer(p)), shifted_dims(own, FIXED_N), own.mean("dh")
    residual = np.stack([other.mean("dr") for other in others])
    found[FIXED.replace(",", ", residual,")] = cosine(own.mean("dr"), residual)
    return found | {FIXED: over_domains("cosine", others, dims, towards=towards)}


@lru_cache(3)  # those of a seed
def _domains(p: Profile, seed: int | None = None) -> list[FeatureStats]:
    """Features of the domains without and with demonstrations, or with wrong and right answers."""
    function, seeds = (answer_features, ()) if seed is None else (run.domain_features, (seed,))
    found = (function(p, domain, *seeds, part=p.sae) for domain in sets.domains(p))
    return [FeatureStats.from_arrays(arrays) for arrays in found]


@lru_cache
def overlaps(p: Profile, seed: int) -> dict[str, np.ndarray]:
    """Set -> [D] cosine of the tf-idf of its text and of each domain's scored questions."""
    names = p.control.part.sets
    texts = [[f"{e.query}\n{e.solution}" for e in sets.examples(p, name, seed)] for name in names]
    texts += [[e.query for e in questions.domain_queries(p, d, seed)] for d in sets.domains(p)]
    texts = ["\n".join(several) for several in texts]
    vectors = TfidfVectorizer(sublinear_tf=True).fit_transform(texts).toarray()
    return {n: cosine(v, vectors[len(names) :]) for n, v in zip(names, vectors, strict=False)}


def rounds(profile: Profile) -> list[list[tuple]]:
    """All that the control computes, as rounds of (cached function, its arguments): what the
    untouched model does on each part's domains, then a part's training sets, a seed at a time."""
    before, after = [], []
    for p in sets.parts(profile).values():
        q, short = at_answer(p), (sets.steps(p, probe=True), sets.PROBE_QUESTIONS)
        before.append((run.performance, (p,)))
        for d in sets.domains(p):
            before += [(answer_features, (q, d)), (gradients, (p, d))]
            before += [(run.domain_features, (at, d, s)) for at in (p, q) for s in p.seeds]
        for cell in ((name, seed) for seed in p.seeds for name in p.control.part.sets):
            after += [(sets.change, (p, *cell, sets.steps(p))), (sets.change, (p, *cell, *short))]
            after += [(sets.quick_probe, (p, *cell)), (gradients, (p, *cell))]
            after += [(shift_features, (at, *cell)) for at in (p, q)]
            after.append((answer_features, (q, *cell)))
    return [before, after]
