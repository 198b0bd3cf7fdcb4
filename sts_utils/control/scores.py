"""Scores of every domain for every training set of the positive control."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from sts_utils.config import Profile
from sts_utils.control import sets
from sts_utils.control.matrix import Cell, Matrix
from sts_utils.runs import samples
from sts_utils.runs.scores import SCORES, cosine, over_domains

#: The scores that read D_N, and those that do not.
FEATURE_SCORES = tuple(SCORES)
OTHER_SCORES = ("residual similarity", "token overlap", "probe run")
#: Changes are measured by both: free of style, and with far less noise.
PROBABILITY, LIKELIHOOD = MEASURES = ("gold_probability", "gold_loglik")


@dataclass(frozen=True)
class Score:
    """A score of domains: one of FEATURE_SCORES with its dims (of CONTRASTS) and N, or another."""

    name: str
    dims: str = "paper"
    n: int = 100

    @property
    def label(self) -> str:
        if self.name in OTHER_SCORES:
            return self.name
        return f"{self.name}, {'D_N' if self.dims == 'paper' else f'D_N {self.dims}'}"


#: The contrastive score, fixed on the design half (notebook 07_control says how) before the
#: judgement half was scored.
FIXED = Score("sts_relative", "both", 100)


def paper_scores(profile: Profile) -> tuple[Score, Score]:
    """STS_ICL and STS_act, as the paper has them."""
    return Score("sts_icl", n=profile.top_n), Score("sts_act", n=profile.top_n)


def candidates(profile: Profile) -> list[Score]:
    """What is judged: the paper's scores, the fixed one and variants, what a user would try."""
    contrast, variants = FIXED.dims, [("sts_relative", "paper")]
    variants += [("sts_act", contrast), ("sts_icl", contrast)]
    variants += [("cosine", "paper"), ("cosine", contrast)]
    tried = [Score(*variant, FIXED.n) for variant in variants]
    return [*paper_scores(profile), FIXED, *tried, *(Score(name) for name in OTHER_SCORES)]


def values(matrix: Matrix, score: Score) -> np.ndarray:
    """[T, S, D] a score of each domain, for each training set and seed."""
    return np.array([[of_cell(matrix, cell, score) for cell in row] for row in matrix.cells])


def of_cell(matrix: Matrix, cell: Cell, score: Score) -> np.ndarray:
    """[D] a score of each domain, for one training set and seed."""
    domains = matrix.features[cell.seed]
    if score.name in FEATURE_SCORES:
        dims = cell.dims(score.dims, score.n)
        towards = cell.signed(score.dims) if score.name == "cosine" else None
        return over_domains(score.name, domains, dims, towards=towards)
    if score.name == "token overlap":
        return _overlaps(matrix.profile, cell.seed)[cell.name]
    if score.name == "probe run":
        mean = cell.probe.groupby("domain")[LIKELIHOOD].mean()
        return mean.loc[list(matrix.domains)].to_numpy()
    if score.name == "residual similarity":
        residual = np.stack([domain.mean("r") for domain in domains])
        return cosine(cell.shifted["own"].mean("r"), residual)
    known = ", ".join((*FEATURE_SCORES, *OTHER_SCORES))
    raise ValueError(f"score {score.name!r}: choose from {known}")


@cache
def _overlaps(profile: Profile, seed: int) -> dict[str, np.ndarray]:
    """Set -> [D] cosine of the tf-idf of its text and of each domain's scored questions."""
    names, domains = profile.control.sets, samples.evaluation_questions(profile)
    chosen = [sets.examples(profile, name, seed) for name in names]
    texts = ["\n".join(f"{e.query}\n{e.solution}" for e in of) for of in chosen]
    asked = [samples.domain_queries(profile, domain, seed) for domain in domains]
    texts += ["\n".join(e.query for e in of) for of in asked]
    vectors = TfidfVectorizer(sublinear_tf=True).fit_transform(texts).toarray()
    of_domains = vectors[len(names) :]
    return {name: cosine(v, of_domains) for name, v in zip(names, vectors, strict=False)}
