"""Scores of every domain for every training set of the positive control."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from sts_utils import models
from sts_utils.config import Profile
from sts_utils.control import matrix as control
from sts_utils.experiments import baselines
from sts_utils.method import shift
from sts_utils.method.score import sts_relative
from sts_utils.method.shift import ShiftedDims
from sts_utils.runs import samples, units

#: N of D_N that every score is tried with.
SIZES = (20, 50, 100, 200, 300, 500, 1000)
#: What is taken from the shift before features are ranked: nothing (the paper), the shift under length-matched
#: demonstrations of other sets, under prose, under both; or the features that prose moves most are left out.
DIMS = ("paper", "others", "generic", "both", "without generic")
#: The scores that read D_N, and those that do not.
FEATURE_SCORES = ("sts_act", "sts_icl", "sts_relative", "cosine")
OTHER_SCORES = ("residual similarity", "mean activation", "token overlap", "embedding similarity", "probe run")
#: Of the probe run's change and of the matrix, beside the profile's own measure.
LIKELIHOOD = "gold_loglik"


@dataclass(frozen=True)
class Score:
    """A score of domains: one of FEATURE_SCORES with its dims (of DIMS) and N, or one of OTHER_SCORES."""

    name: str
    dims: str = "paper"
    n: int = 100

    @property
    def label(self) -> str:
        if self.name in OTHER_SCORES:
            return self.name
        return f"{self.name}, {'D_N' if self.dims == 'paper' else f'D_N {self.dims}'}"


#: The contrastive score, fixed on the design half (notebook 07_control says how) before the judgement half was scored.
FIXED = Score("sts_relative", "both", 100)


# --- scores ------------------------------------------------------------------------------------


def dims(profile: Profile, name: str, seed: int, which: str, n: int) -> ShiftedDims:
    """D_N of a training set under one of DIMS."""
    own = control.shift_stats(profile, name, seed)
    if which == "without generic":
        generic = _ranked(profile, name, seed, "generic alone").ids[:n]
        ranked = _ranked(profile, name, seed, "paper")
        kept = ~np.isin(ranked.ids, generic)
        return ShiftedDims(ranked.ids[kept], ranked.shift[kept])[:n]
    if n > len(own.features):
        raise ValueError(f"N is {n}, but the SAE has {len(own.features)} features: choose fewer")
    return _ranked(profile, name, seed, which)[:n]


@cache
def _ranked(profile: Profile, name: str, seed: int, which: str) -> ShiftedDims:
    """Every feature in the order of its shift."""
    if which == "generic alone":
        return shift.shifted_dims(control.shift_stats(profile, name, seed, "generic"), None)
    contrast = {"paper": (), "others": ("others",), "generic": ("generic",), "both": ("others", "generic")}[which]
    own = control.shift_stats(profile, name, seed)
    return shift.shifted_dims(own, None, contrast=[control.shift_stats(profile, name, seed, c) for c in contrast])


@cache
def _domain_means(profile: Profile, seed: int, field: str) -> np.ndarray:
    """[D, F] mean of a field over the query tokens of each domain."""
    return np.stack([units.domain_stats(profile, d, seed).mean(field) for d in samples.evaluation_questions(profile)])


def scores(profile: Profile, score: Score, name: str, seed: int) -> np.ndarray:
    """[D] the score of each domain for one training set and seed."""
    if score.name in OTHER_SCORES:
        return _other_scores(profile, score.name, name, seed)
    ids = dims(profile, name, seed, score.dims, score.n).ids
    if score.name == "sts_act":
        return _domain_means(profile, seed, "h")[:, ids].sum(1)
    if score.name == "sts_icl":
        return _domain_means(profile, seed, "dh2")[:, ids].sum(1)
    if score.name == "sts_relative":
        return sts_relative(_domain_means(profile, seed, "h"), ShiftedDims(ids, np.zeros(len(ids))))
    if score.name == "cosine":
        return baselines.cosine(
            _signed(profile, name, seed, score.dims)[ids], _domain_means(profile, seed, "dh")[:, ids]
        )
    raise ValueError(f"score {score.name!r}: choose from {', '.join((*FEATURE_SCORES, *OTHER_SCORES))}")


def _signed(profile: Profile, name: str, seed: int, which: str) -> np.ndarray:
    """[F] mean signed shift of a training set, less the contrast's."""
    moved = control.shift_stats(profile, name, seed).mean("dh")
    contrast = {"others": ("others",), "generic": ("generic",), "both": ("others", "generic")}.get(which, ())
    for context in contrast:
        moved = moved - control.shift_stats(profile, name, seed, context).mean("dh") / len(contrast)
    return moved


def _other_scores(profile: Profile, which: str, name: str, seed: int) -> np.ndarray:
    if which == "residual similarity":
        return baselines.cosine(control.shift_stats(profile, name, seed).mean("r"), _domain_means(profile, seed, "r"))
    if which == "mean activation":
        return _domain_means(profile, seed, "r").mean(1)
    if which == "probe run":
        settings = profile.control
        changed = control.change(profile, name, seed, control.probe_steps(profile), settings.probe_questions)
        mean = changed.groupby("domain")[LIKELIHOOD].mean()
        return mean.loc[list(samples.evaluation_questions(profile))].to_numpy()
    vectors = _text_vectors(profile, seed, which)
    return baselines.cosine(
        vectors[name], np.stack([vectors[d, "domain"] for d in samples.evaluation_questions(profile)])
    )


@cache
def _text_vectors(profile: Profile, seed: int, which: str) -> dict:
    """Set -> vector of its text, and (domain, "domain") -> that of the domain's scored questions."""
    texts = {
        name: "\n".join(f"{e.query}\n{e.solution}" for e in control.examples(profile, name, seed))
        for name in profile.control.sets
    }
    for domain in samples.evaluation_questions(profile):
        texts[domain, "domain"] = "\n".join(e.query for e in samples.domain_queries(profile, domain, seed))
    if which == "token overlap":
        vectors = TfidfVectorizer(sublinear_tf=True).fit_transform(texts.values()).toarray()
    else:
        table = models.load_model(profile.model, profile.dtype, profile.revision).get_input_embeddings().weight
        tokenizer = samples.tokenizer(profile.model, profile.revision)
        rows = [tokenizer(text, add_special_tokens=False).input_ids for text in texts.values()]
        vectors = np.stack([table[ids].float().mean(0).detach().cpu().numpy() for ids in rows])
        vectors = vectors - vectors.mean(0)  # all English shares most of its mean embedding
    return dict(zip(texts, vectors, strict=True))


@cache
def matrix(profile: Profile, score: Score, sets: tuple[str, ...], seeds: tuple[int, ...]) -> np.ndarray:
    """[T sets, S seeds, D domains]."""
    return np.array([[scores(profile, score, name, seed) for seed in seeds] for name in sets])


def everything() -> list[Score]:
    """Every score with every D_N and N, and the others once."""
    made = [Score(name, which, n) for name in FEATURE_SCORES for which in DIMS for n in SIZES]
    return made + [Score(name) for name in OTHER_SCORES]
