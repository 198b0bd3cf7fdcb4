"""Scores of every domain for every training set of the positive control."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from sts_utils.config import Profile
from sts_utils.control import readings, sets
from sts_utils.control.matrix import Cell, Matrix
from sts_utils.method import shift
from sts_utils.runs import samples
from sts_utils.runs.scores import SCORES, cosine, over_domains

#: The scores that read D_N, and those that do not.
FEATURE_SCORES = tuple(SCORES)
OTHER_SCORES = ("residual similarity", "token overlap")
ANSWERS = ("right − wrong answers", "right − wrong answers, residual")
#: Cosines of gradients (evaluation/gradients.py), and what they are of.
GRADIENTS = {
    "gradient of answers": "loglik",
    "gradient of log-odds": "odds",
    "features × gradient of log-odds": "features",
}


@dataclass(frozen=True)
class Score:
    """A score of domains: one of FEATURE_SCORES with its N, another, or a probe run (sets.PROBES);
    read at the query or where the answer is to be."""

    name: str
    n: int = 100
    place: str = "query"

    @property
    def label(self) -> str:
        return self.name + ("" if self.place == "query" else ", at the answer")


OVERLAP = Score("token overlap")
#: Fixed on the design half before any score was computed on the judgement half (07_control).
FIXED = Score(ANSWERS[0], place="answer")


def candidates(profile: Profile) -> list[Score]:
    """What is judged: the paper's scores and ours at both places, what a user would try first, what
    the design half found, and short runs of fine-tuning."""
    read = [Score(name, profile.top_n) for name in FEATURE_SCORES]
    read += [Score("residual similarity")]
    behind = [Score(s.name, s.n, "answer") for s in read]
    found = [*map(Score, GRADIENTS), Score(ANSWERS[1], place="answer"), FIXED]
    return [*read, *behind, OVERLAP, *map(Score, sets.PROBES), *found]


def values(matrix: Matrix, score: Score) -> np.ndarray:
    """[T, S, D] a score of each domain, for each training set and seed."""
    matrix = matrix if score.place == "query" else matrix.elsewhere
    return np.array([[of_cell(matrix, cell, score) for cell in row] for row in matrix.cells])


def of_cell(matrix: Matrix, cell: Cell, score: Score) -> np.ndarray:
    """[D] a score of each domain, for one training set and seed; NaN where a probe did not ask."""
    domains = matrix.features[cell.seed]
    if score.name in FEATURE_SCORES:
        dims = cell.dims(score.n)
        towards = cell.shifted.mean("dh") if score.name == "cosine" else None
        return over_domains(score.name, domains, dims, towards=towards)
    if score.name == "token overlap":
        return _overlaps(matrix.profile, cell.seed)[cell.name]
    if score.name in sets.PROBES:
        probed = sets.probe(matrix.profile, cell.name, cell.seed, score.name)
        measure = matrix.profile.evaluation.measure
        return probed.groupby("domain")[measure].mean().reindex(matrix.domains).to_numpy()
    if score.name == "residual similarity":
        residual = np.stack([domain.mean("r") for domain in domains])
        return cosine(cell.shifted.mean("r"), residual)
    if score.name.startswith("right − wrong answers"):
        place = readings.at(matrix.profile, score.place)
        own = readings.extract_answers(place, cell.name, cell.seed)
        domains = [readings.extract_answers(place, d) for d in matrix.domains]
        if score.name.endswith("residual"):
            return cosine(own.mean("dr"), np.stack([of.mean("dr") for of in domains]))
        towards, dims = own.mean("dh"), shift.shifted_dims(own, score.n)
        return over_domains("cosine", domains, dims, towards=towards)
    if score.name in GRADIENTS:
        key = GRADIENTS[score.name]
        of_domains = np.stack([readings.gradients(matrix.profile, d)[key] for d in matrix.domains])
        return cosine(readings.gradients(matrix.profile, cell.name, cell.seed)[key], of_domains)
    known = ", ".join((*FEATURE_SCORES, *OTHER_SCORES, *ANSWERS, *GRADIENTS, *sets.PROBES))
    raise ValueError(f"score {score.name!r}: choose from {known}")


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
