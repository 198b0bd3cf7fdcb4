"""Fig 4e, Tables 5 and 13: STS against simpler predictors and against probes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sts_utils import corpora, generation, models, results, stats
from sts_utils.config import Profile
from sts_utils.method.extract import FeatureStats
from sts_utils.method.score import expectation
from sts_utils.results import Claim, Result, r_panel
from sts_utils.runs import features, samples
from sts_utils.runs.plan import Step
from sts_utils.runs.run import Run
from sts_utils.runs.scores import cosine
from sts_utils.stats import Estimate

PROBES = ("probe_raw_activations", "probe_sae_activations")
BASELINES = (
    "feature_activations",
    "similarity_domain_to_training_set",
    "similarity_before_after_sft",
)
STS = ("sts_act", "sts_icl")


class Numbers(NamedTuple):
    """Predictor -> r with the absolute change, and -> floating-point operations that it costs."""

    r: dict[str, Estimate]
    flops: dict[str, float]


def compute(run: Run) -> Numbers:
    """r of every predictor with the absolute change over all domains, and its cost."""
    profile, train = run.profile, run.train
    domains = [list(of.values()) for of in run.domains]
    tuned = [
        [features.extract_domain_after(profile, domain, seed) for domain in run.domain_names]
        for seed in profile.seeds
    ]

    def r(score_of: Callable) -> Estimate:
        def over_domains(s: int, weights: Sequence | None) -> np.ndarray:
            drawn = weights or [None] * len(domains[s])
            return np.stack([score_of(s, d, w) for d, w in enumerate(drawn)], axis=-1)

        return stats.r(run.observe(over_domains))

    activity = r(lambda s, d, w: mean_activation(domains[s][d], w))
    to_training = r(lambda s, d, w: similarity(domains[s][d], train[s], w))
    by_tuning = r(lambda s, d, w: moved(domains[s][d], tuned[s][d], w))
    probes = [probe_r(domains, field, run.change_arrays) for field in ("r", "h")]
    found = dict(zip(BASELINES, (activity, to_training, by_tuning), strict=True))
    found |= dict(zip(PROBES, probes, strict=True)) | run.correlations()
    weights = models.size(profile.model, profile.revision)
    return Numbers(found, costs(weights, tokens(profile)))


def steps(profile: Profile) -> list[Step]:
    """The residual stream of each domain in the fine-tuned model."""
    return [
        Step("domains after SFT", features.extract_domain_after, (profile, d, s), "06_plot", 1)
        for s in profile.seeds
        for d in corpora.domains(profile.domains)
    ]


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
    """[D] predictions of each domain's |change| by ridge regression on the others.

    `inputs` [D, F] are mean activations. The penalty is chosen inside each fold, by generalised
    cross-validation over the other domains.
    """
    ridge = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-1, 6, 15)))
    return cross_val_predict(ridge, inputs, np.abs(change), cv=LeaveOneOut())


def probe_r(
    domains: Sequence[Sequence[FeatureStats]], field: str, changes: Sequence, draws: int = 60
) -> Estimate:
    """r of the probe's predictions with |change|, mean over seeds; fitted anew in every replicate.

    `domains` [S][D]; `field` is "r" (raw) or "h" (SAE features); `changes` [D] arrays [S, Q].
    """
    observed = np.array([change.mean(1) for change in changes]).T
    drawn_changes = stats.change_draws(changes)[:draws]

    def r(x, y):
        return stats.pearson(probe(x, y), np.abs(y))

    values, drawn = [], []
    for s, row in enumerate(domains):
        values.append(r(np.stack([of.mean(field) for of in row]), observed[s]))
        weights = [stats.query_weights(len(of.n), draws, s, d) for d, of in enumerate(row)]
        pairs = zip(row, weights, strict=True)
        means = np.stack([expectation(getattr(of, field), of.n, w) for of, w in pairs], 1)
        drawn.append([r(x, y) for x, y in zip(means, drawn_changes[:, s], strict=True)])
    return Estimate(float(np.mean(values)), stats.over_seeds(np.array(drawn).T))


def tokens(profile: Profile) -> dict[str, int]:
    """Tokens that the first seed reads: of all domains and of the training set, without and with
    demonstrations, and of SFT."""
    seed = profile.seeds[0]
    names = samples.evaluation_questions(profile)
    domains = [pair for d in names for pair in samples.domain_pairs(profile, d, seed)]
    counted = {}
    for of, pairs in (("domains", domains), ("train", samples.training_pairs(profile, seed))):
        for side, name in enumerate((of, f"{of} icl")):
            counted[name] = sum(len(pair[side].ids) for pair in pairs)
    examples = samples.training_examples(profile, seed)[0][: profile.sft.examples]
    tokenizer = samples.tokenizer(profile.model, profile.revision)
    rows = generation.tokenize(tokenizer, examples, profile.sft.max_length)
    counted["sft"] = profile.sft.epochs * sum(len(row["input_ids"]) for row in rows)
    return counted


def costs(weights: int, tokens: Mapping[str, int]) -> dict[str, float]:
    """Predictor -> floating-point operations for one seed and all domains: 2 a weight and token of
    a forward pass, 6 of a training step."""
    forward, training = 2 * weights, 6 * weights * tokens["sft"]
    plain, train = tokens["domains"], tokens["train"]
    both = train + tokens["train icl"]
    return {
        "feature_activations": forward * plain,
        "similarity_domain_to_training_set": forward * (plain + train),
        "similarity_before_after_sft": training + 2 * forward * plain,
        "probe_raw_activations": training + forward * plain,
        "probe_sae_activations": training + forward * plain,
        "sts_act": forward * (plain + both),
        "sts_icl": forward * (plain + tokens["domains icl"] + both),
    }


def fig4e(numbers: Numbers, run: Run) -> tuple[Figure, str]:
    """r of STS and of the probes."""
    words = ("STS act", "STS ICL", "probe, raw", "probe, SAE")
    named = zip(words, STS + PROBES, strict=True)
    rows = {name: {"r": numbers.r[predictor]} for name, predictor in named}
    what = (
        "for STS and for ridge probes from a domain's mean activations to its change, left-out "
        "domains predicted from the others (14 points, so a probe of noise scores below zero)"
    )
    theirs = "STS 0.79, probe on raw activations 0.03, on SAE activations 0.08"
    return r_panel("Fig 4e", rows, "", what, theirs, rotate=20)


def table5(numbers: Numbers, run: Run) -> tuple[pd.DataFrame, str]:
    """Baselines beside their cost."""
    theirs = results.paper("table05_baselines").set_index("baseline").pearson
    table = _beside_paper(numbers, BASELINES + STS, theirs)
    table.insert(4, "uses the tuned model", table.predictor == "similarity_before_after_sft")
    table.insert(5, "cost, TFLOP", [numbers.flops[name] / 1e12 for name in table.predictor])
    return table, (
        "Table 5. r of simple predictors with the absolute change over all domains, 95% "
        "intervals, and what each costs for one seed, counted in floating-point operations "
        "(evaluation left out). Similarity before and after SFT is 1 − cosine, so that more "
        "movement is more. The paper's column is for 8 domains, with one number for STS."
    )


def table13(numbers: Numbers, run: Run) -> tuple[pd.DataFrame, str]:
    """Probes against STS."""
    theirs = results.paper("table13_probes").set_index("predictor").pearson
    return _beside_paper(numbers, PROBES + STS, theirs), (
        "Table 13. r with the absolute change over all domains: ridge probes from a domain's mean "
        "activations, each domain predicted from the others (leave one domain out; 14 points, and "
        "such predictions correlate negatively with the outcome when there is nothing to learn), "
        "and STS."
    )


def _beside_paper(numbers: Numbers, names: Sequence[str], theirs: pd.Series) -> pd.DataFrame:
    """A row a predictor; the paper has one number for STS, beside STS_ICL."""
    theirs = theirs.rename({"sts": "sts_icl"})
    rows = [
        {"predictor": n, **results.numbers(numbers.r[n]), "paper": theirs.get(n)} for n in names
    ]
    return pd.DataFrame(rows)


def claims(numbers: Numbers, run: Run) -> Iterator[Claim]:
    """STS_ICL predicts better than each of them."""
    for name in BASELINES + PROBES:
        figure, words = "table5", name.replace("_", " ")
        if name in PROBES:
            figure, words = "table13", "a " + name.replace("_", " on ", 1).replace("_", " ")
        gap = numbers.r["sts_icl"] - numbers.r[name]
        yield Claim(figure, f"STS beats {words}", "r of sts_icl minus r of it", gap)


RESULTS = (
    Result(fig4e, "Fig 4e: STS and probes"),
    Result(table5, "Table 5: baselines", "table"),
    Result(table13, "Table 13: probes", "table"),
)
