"""Scores of every domain for every training set of the positive control."""

from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from sts_utils import scores as shift
from sts_utils.config import Profile
from sts_utils.control import readings, sets
from sts_utils.control.matrix import Matrix
from sts_utils.runs import features, samples
from sts_utils.scores import SCORES, cosine, over_domains

#: From demonstrations with wrong answers to the same with right ones: cosine of two shifts.
ANSWERS = ("right − wrong answers", "right − wrong answers, residual")
#: Cosines of gradients (runs/gradients.py), and what they are of.
GRADIENTS = {
    "gradient of answers": "loglik",
    "gradient of log-odds": "odds",
    "features × gradient of log-odds": "features",
}


@dataclass(frozen=True)
class Score:
    """A score of domains: one of runs/scores.py with its N, or another; read at the query
    or where the answer is to be."""

    name: str
    n: int = 100
    place: str = "query"

    @property
    def label(self) -> str:
        return self.name + ("" if self.place == "query" else ", at the answer")


OVERLAP = Score("token overlap")
#: STS_act on the features that are most active on the training set, in the place of D_N.
ACTIVE = "sts_act of the most active"
#: Fixed on the design half before any score was computed on the judgement half (07_control).
FIXED = Score(ANSWERS[0], place="answer")


def candidates(profile: Profile) -> list[Score]:
    """What is judged: the paper's scores and ours at both places, what a user would try first, what
    the design half found, and short runs of fine-tuning."""
    read = [Score(name, profile.top_n) for name in SCORES]
    read += [Score(ACTIVE, profile.top_n), Score("residual similarity")]
    behind = [Score(s.name, s.n, "answer") for s in read]
    found = [*map(Score, GRADIENTS), Score(ANSWERS[1], place="answer"), FIXED]
    return [*read, *behind, OVERLAP, *map(Score, sets.PROBES), *found]


def values(matrix: Matrix, score: Score, measure: str | None = None) -> np.ndarray:
    """[T, S, D] a score of each domain, for each training set and seed; NaN where a probe did not
    ask. `measure`: of performance, what a probe measures; the profile's if left out."""
    told = matrix.profile, score, matrix.domains, measure or matrix.profile.evaluation.measure
    return np.array([[of_cell(*told, n, seed) for seed in matrix.seeds] for n in matrix.names])


def of_cell(
    profile: Profile, score: Score, domains: tuple[str, ...], measure: str, name: str, seed: int
) -> np.ndarray:
    """[D] a score of each domain, for one training set and seed."""
    read = readings.at(profile, score.place)
    if score.name == "token overlap":
        return _overlaps(profile, seed)[name]
    if score.name in sets.PROBES:
        probed = sets.probe(profile, name, seed, score.name).groupby("domain")
        return probed[measure].mean().reindex(domains).to_numpy()
    if score.name in GRADIENTS:
        key = GRADIENTS[score.name]
        of_domains = np.stack([readings.gradients(profile, d)[key] for d in domains])
        return cosine(readings.gradients(profile, name, seed)[key], of_domains)
    if score.name in ANSWERS:
        own, found = readings.extract_answers(read, name, seed), _domains(read, domains)
        equation, residual = "cosine", "dr"
    else:
        own, found = readings.extract_shift(read, name, seed), _domains(read, domains, seed)
        equation, residual = score.name, "r"
    if score.name == ACTIVE:
        own, equation = replace(own, dh2=own.h), "sts_act"
    if score.name.endswith(("residual", "residual similarity")):
        return cosine(own.mean(residual), np.stack([of.mean(residual) for of in found]))
    return over_domains(equation, found, shift.shifted_dims(own, score.n), towards=own.mean("dh"))


@lru_cache(8)
def _domains(read: Profile, domains: tuple[str, ...], seed: int | None = None) -> list:
    """Features of the domains without and with demonstrations, or with wrong and right answers."""
    if seed is None:
        return [readings.extract_answers(read, domain) for domain in domains]
    return [features.extract_domain(read, domain, seed) for domain in domains]


@cache
def _overlaps(profile: Profile, seed: int) -> dict[str, np.ndarray]:
    """Set -> [D] cosine of the tf-idf of its text and of each domain's scored questions."""
    names, domains = profile.control.part.sets, sets.domains(profile)
    chosen = [sets.examples(profile, name, seed) for name in names]
    texts = ["\n".join(f"{e.query}\n{e.solution}" for e in of) for of in chosen]
    asked = [samples.domain_queries(profile, domain, seed) for domain in domains]
    texts += ["\n".join(e.query for e in of) for of in asked]
    vectors = TfidfVectorizer(sublinear_tf=True).fit_transform(texts).toarray()
    of_domains = vectors[len(names) :]
    return {name: cosine(v, of_domains) for name, v in zip(names, vectors, strict=False)}
