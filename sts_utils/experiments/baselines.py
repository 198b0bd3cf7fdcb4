"""What STS must beat (Fig 4e, Tables 5 and 13): simple predictors of a domain's residual rows, and
probes, which learn from the changes of the other domains."""

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sts_utils.features import FeatureStats
from sts_utils.scores import cosine, expectation
from sts_utils.stats import Correlation


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


def probe(inputs: np.ndarray, change: np.ndarray) -> np.ndarray:
    """[D] predictions of each domain's `change` by ridge regression on the others' `inputs` [D, F],
    mean activations or one score; the penalty is chosen inside each fold."""
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
    left_out = [1 - error[keep].sum() / none[keep].sum() for keep in ~np.eye(n, dtype=bool)]
    value = float(1 - error.sum() / none.sum())
    return Correlation(value, np.array(left_out), np.nan, np.empty(0), share, bounded=False)
