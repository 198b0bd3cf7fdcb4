"""What STS must beat: activations, similarities (Table 5) and probes (Table 13)."""

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sts_utils import stats
from sts_utils.method.extract import FeatureStats


def mean_activation(domain: FeatureStats, weights: np.ndarray) -> np.ndarray:
    """[B] mean raw activation of a domain, over tokens and residual dims, with queries weighted [B, Q]."""
    return (weights @ domain.r.sum(1)) / (weights @ domain.n) / domain.r.shape[1]


def similarity(domain: FeatureStats, train: FeatureStats, weights: np.ndarray) -> np.ndarray:
    """[B] cosine of the mean residual row of a domain and of the training set, both of plain questions."""
    return cosine((weights @ domain.r) / (weights @ domain.n)[:, None], train.mean("r"))


def moved(before: FeatureStats, after: FeatureStats, weights: np.ndarray) -> np.ndarray:
    """[B] 1 − cosine of a domain's mean residual row before and after fine-tuning, the same questions in both.

    `after` is read in the fine-tuned model (units.domain_after), which this baseline needs.
    """
    return 1 - cosine(*((weights @ f.r) / (weights @ f.n)[:, None] for f in (before, after)))


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine along the last axis; 0 where a side is 0."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.divide((a * b).sum(-1), norms, out=np.zeros_like(norms), where=norms > 0)


def observations(domains, per_domain, changes, draws: int = stats.DRAWS) -> stats.Observations:
    """Observations of any score: `per_domain[s][d](weights [B, Q]) -> [B]`, given with its number of queries."""
    shape = len(per_domain), len(domains)
    scores, replicates = np.empty(shape), np.empty((draws, *shape))
    for s, d in np.ndindex(shape):
        queries, score = per_domain[s][d]
        scores[s, d] = score(np.ones((1, queries)))[0]
        replicates[:, s, d] = score(stats.query_weights(queries, draws, s, d))
    return stats.Observations(tuple(domains), scores, replicates, changes)


def probe(features: np.ndarray, change: np.ndarray) -> np.ndarray:
    """[D] predictions of each domain's |change| by ridge regression on the others (leave one domain out).

    `features` [D, F] are mean activations. The penalty is chosen inside each fold, by generalised
    cross-validation over the other domains.
    """
    ridge = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-1, 6, 15)))
    return cross_val_predict(ridge, features, np.abs(change), cv=LeaveOneOut())


def probe_r(features: list[list[FeatureStats]], field: str, changes, draws: int = 60) -> stats.Estimate:
    """r of the probe's predictions with |change|, mean over seeds; the probe is fitted again in every replicate.

    `features[s][d]` are a domain's statistics; `field` is "r" (raw) or "h" (SAE features).
    """
    mean_changes = np.array([change.mean(1) for change in changes]).T
    drawn_changes = stats.change_draws(changes)[:draws]

    def r(x, y):
        return stats.pearson(probe(x, y), np.abs(y))

    values, drawn = [], []
    for s, row in enumerate(features):
        values.append(r(np.stack([f.mean(field) for f in row]), mean_changes[s]))
        sums = [
            (w @ getattr(f, field)) / (w @ f.n)[:, None]
            for d, f in enumerate(row)
            for w in [stats.query_weights(len(f.n), draws, s, d)]
        ]
        drawn.append([r(x, y) for x, y in zip(np.stack(sums, 1), drawn_changes[:, s], strict=True)])
    return stats.Estimate(float(np.mean(values)), stats.over_seeds(np.array(drawn).T))
