"""What STS must beat (Fig 4e, Tables 5 and 13): simple predictors and probes, and what each costs.

A simple predictor is a function of a domain's residual rows; a probe learns from the changes of the
other domains.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sts_utils import features, generate, models, questions
from sts_utils.config import Profile
from sts_utils.features import FeatureStats
from sts_utils.scores import cosine, expectation
from sts_utils.stats import Correlation

# --- simple predictors ---------------------------------------------------------------------------


def mean_row(of: FeatureStats, weights: np.ndarray | None = None) -> np.ndarray:
    """[d_model] the mean residual row of plain questions; [B, d_model] with `weights` [B, Q]."""
    return expectation(of.r.astype(np.float64), of.n, weights)


def mean_activation(domain: FeatureStats, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean raw activation of a domain, over tokens and residual dims."""
    sums = domain.r.sum(1).astype(np.float64)
    return expectation(sums, domain.n, weights) / domain.r.shape[1]


def similarity(domain: FeatureStats, train: FeatureStats, weights=None) -> np.ndarray:
    """Cosine of the mean residual rows of a domain and of the training set."""
    return cosine(mean_row(domain, weights), train.mean("r"))


def moved(before: FeatureStats, after: FeatureStats, weights=None) -> np.ndarray:
    """1 − cosine of a domain's mean residual rows before and after fine-tuning."""
    return 1 - cosine(mean_row(before, weights), mean_row(after, weights))


def over_domains(predictor: Callable, *of: Sequence[FeatureStats], weights=None) -> np.ndarray:
    """[D] a predictor of every domain, from the D statistics in each of `of`; [G, D] with
    `weights`, [G, Q] a domain, how often each query counts."""
    drawn = weights or [None] * len(of[0])
    return np.stack([predictor(*args) for args in zip(*of, drawn, strict=True)], axis=-1)


# --- probes --------------------------------------------------------------------------------------


def probe(inputs: np.ndarray, change: np.ndarray) -> np.ndarray:
    """[D] predictions of each domain's `change` by ridge regression on the others.

    `inputs` [D, F] are mean activations, or one score. The penalty is chosen inside each fold, by
    generalised cross-validation over the other domains.
    """
    ridge = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-1, 6, 15)))
    return cross_val_predict(ridge, inputs, change, cv=LeaveOneOut())


def skill(inputs: np.ndarray, change: np.ndarray, share: float) -> Correlation:
    """1 − squared out-of-fold error of the probe over that of the other domains' mean.

    0 for a predictor that knows nothing, where the r of left-out predictions is −1; below 0 for one
    that learns noise. The interval leaves out each domain's error in turn. `share`: reliability.
    """
    n = len(change)
    error = (probe(inputs, change) - change) ** 2
    none = ((change.sum() - change) / (n - 1) - change) ** 2
    rest = ~np.eye(n, dtype=bool)
    left_out = np.array([1 - error[keep].sum() / none[keep].sum() for keep in rest])
    value = float(1 - error.sum() / none.sum())
    return Correlation(value, left_out, np.nan, np.empty(0), share, bounded=False)


# --- costs ---------------------------------------------------------------------------------------


def tokens(p: Profile) -> dict[str, int]:
    """Tokens that the first seed reads: of all domains and of the training set, plain and in both
    conditions ("icl"; a context once), and those of SFT."""
    seed, names = p.seeds[0], questions.evaluation_questions(p)
    domains = [pair for d in names for pair in questions.domain_pairs(p, d, seed)]
    counted = {}
    for of, pairs in (("domains", domains), ("train", questions.training_pairs(p, seed))):
        counted[of] = sum(plain.span[1] for plain, _ in pairs)
        counted[f"{of} icl"] = features.tokens_read(pairs)
    examples = questions.training_examples(p, seed)[0][: p.sft.examples]
    rows = generate.tokenize(questions.tokenizer(p), examples, p.sft.max_length)
    counted["sft"] = p.sft.epochs * sum(len(row["input_ids"]) for row in rows)
    return counted


def costs(p: Profile, tokens: Mapping[str, int]) -> dict[str, float]:
    """Predictor -> floating-point operations for one seed and all domains: 2 a weight and token of
    a forward pass up to the SAE's layer, 6 of a training step of the whole model."""
    weights = models.size(p.model, p.revision)
    forward = 2 * weights * (p.layer + 1) / models.depth(p.model, p.revision)
    training = 6 * weights * tokens["sft"]
    plain, both = tokens["domains"], tokens["train icl"]
    return {
        "mean_raw_activation": forward * plain,
        "similarity_domain_to_training_set": forward * (plain + tokens["train"]),
        "distance_before_after_sft": training + 2 * forward * plain,
        "probe_raw_activations": training + forward * plain,
        "probe_sae_activations": training + forward * plain,
        "sts_act": forward * (plain + both),
        "sts_icl": forward * (tokens["domains icl"] + both),
    }
