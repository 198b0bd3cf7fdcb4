"""Fig 4e, Tables 5 and 13: STS against simpler predictors and against probes."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sts_utils import corpora, models, results
from sts_utils import generate as generation
from sts_utils.config import Profile
from sts_utils.features import FeatureStats, tokens_read
from sts_utils.results import PALETTE, Claim, Result
from sts_utils.runs import features, samples
from sts_utils.runs.plan import Step
from sts_utils.runs.run import Run
from sts_utils.scores import cosine, expectation
from sts_utils.stats import Correlation, correlate, reliability

PROBES = ("probe_raw_activations", "probe_sae_activations")
BASELINES = (
    "mean_raw_activation",
    "similarity_domain_to_training_set",
    "distance_before_after_sft",
)
STS = ("sts_act", "sts_icl")


class Numbers(NamedTuple):
    """Of a set of domains: predictor -> r with the absolute change; -> how well it foretells that
    of a domain left out; -> floating-point operations that it costs."""

    r: dict[str, Correlation]
    skill: dict[str, Correlation]
    flops: dict[str, float]


def compute(run: Run) -> dict[str, Numbers]:
    """Set of domains -> `compare`; the set that can decide first."""
    return {name: compare(of) for name, of in run.sets.items()}


def compare(run: Run) -> Numbers:
    """r of the simple predictors, skill of the probes, STS beside both, and what each costs."""
    profile, train = run.profile, run.train
    domains = [list(of.values()) for of in run.domains]
    read = features.extract_domain_after
    tuned = [[read(profile, d, seed) for d in run.domain_names] for seed in profile.seeds]

    def r(score_of: Callable) -> Correlation:
        def over_domains(s: int, weights: Sequence | None) -> np.ndarray:
            drawn = weights or [None] * len(domains[s])
            return np.stack([score_of(s, d, w) for d, w in enumerate(drawn)], axis=-1)

        return correlate(run.observe(over_domains))

    activity = r(lambda s, d, w: mean_activation(domains[s][d], w))
    to_training = r(lambda s, d, w: similarity(domains[s][d], train[s], w))
    by_tuning = r(lambda s, d, w: moved(domains[s][d], tuned[s][d], w))
    found = dict(zip(BASELINES, (activity, to_training, by_tuning), strict=True))
    observed, changes = run.observations(), run.change_arrays
    inputs = {name: seen.scores.mean(0)[:, None] for name, seen in observed.items()}
    for name, field in zip(PROBES, ("r", "h"), strict=True):
        inputs[name] = np.mean([[of.mean(field) for of in row] for row in domains], axis=0)
    share, change = reliability(changes, "absolute"), np.abs([of.mean() for of in changes])
    skills = {name: skill(x, change, share) for name, x in inputs.items()}
    return Numbers(found | run.correlations(), skills, costs(profile, tokens(profile)))


def steps(profile: Profile) -> list[Step]:
    """The residual stream of each domain in the fine-tuned model."""
    kind, read = "domains after SFT", features.extract_domain_after
    sets = [p for p in (profile, samples.second_domains(profile)) if p]
    of = [(p, d, s) for p in sets for s in p.seeds for d in corpora.domains(p.domains)]
    return [Step(kind, read, args, "06_plot", 1) for args in of]


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


def tokens(profile: Profile) -> dict[str, int]:
    """Tokens that the first seed reads: of all domains and of the training set, plain and in both
    conditions ("icl"; a context once), and those of SFT."""
    seed = profile.seeds[0]
    names = samples.evaluation_questions(profile)
    domains = [pair for d in names for pair in samples.domain_pairs(profile, d, seed)]
    counted = {}
    for of, pairs in (("domains", domains), ("train", samples.training_pairs(profile, seed))):
        counted[of] = sum(plain.span[1] for plain, _ in pairs)
        counted[f"{of} icl"] = tokens_read(pairs)
    examples = samples.training_examples(profile, seed)[0][: profile.sft.examples]
    tokenizer = samples.tokenizer(profile.model, profile.revision)
    rows = generation.tokenize(tokenizer, examples, profile.sft.max_length)
    counted["sft"] = profile.sft.epochs * sum(len(row["input_ids"]) for row in rows)
    return counted


def costs(profile: Profile, tokens: Mapping[str, int]) -> dict[str, float]:
    """Predictor -> floating-point operations for one seed and all domains: 2 a weight and token of
    a forward pass up to the SAE's layer, 6 of a training step of the whole model."""
    model = profile.model, profile.revision
    forward = 2 * models.size(*model) * (profile.layer + 1) / models.depth(*model)
    training = 6 * models.size(*model) * tokens["sft"]
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


def fig4e(numbers: dict[str, Numbers], run: Run) -> tuple[Figure, str]:
    """Out-of-fold skill of STS and of the probes, in each set of domains."""
    words = (*map(results.METRIC_NAMES.get, STS), "raw\nprobe", "SAE\nprobe")
    figure, axis = plt.subplots(figsize=(3.4, 2.9))
    for i, (name, found) in enumerate(numbers.items()):
        of = [found.skill[predictor] for predictor in STS + PROBES]
        x = np.arange(4) + 0.16 * (i - (len(numbers) - 1) / 2)
        look = {"fmt": "os"[i], "color": PALETTE[i], "ms": 5, "capsize": 2, "label": name}
        axis.errorbar(x, [e.value for e in of], yerr=results.bars(of), **look)
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    axis.axhline(0, color=results.CHANCE_COLOUR, ls="--", lw=0.8)
    axis.set_xticks(range(4), words)
    axis.set(ylabel="skill on a left-out domain")
    return figure, (
        "Fig 4e. How well a ridge regression on each predictor foretells the |change| of a domain "
        "left out: 1 − squared error over that of the other domains' mean (dashed: no better than "
        "that), 95% intervals over domains. The paper shows r: STS 0.79, probes 0.03 and 0.08."
    )


def table5(numbers: dict[str, Numbers], run: Run) -> tuple[pd.DataFrame, str]:
    """Baselines beside their cost, in each set of domains."""
    theirs = results.paper("table05_baselines").set_index("baseline").pearson
    of = {name: (found.r, found.flops) for name, found in numbers.items()}
    tables = {name: _beside_paper(r, BASELINES + STS, theirs) for name, (r, _) in of.items()}
    for name, (_, flops) in of.items():
        cost = [flops[predictor] / 1e12 for predictor in tables[name].predictor]
        tables[name].insert(4, "cost, TFLOP", cost)
    table = _stacked(tables)
    table.insert(5, "uses the tuned model", table.predictor == "distance_before_after_sft")
    return table, (
        "Table 5. r of simple predictors with the absolute change over all domains, 95% intervals "
        "(other domains drawn), and what each costs for one seed in floating-point operations, "
        "evaluation left out. The distance is 1 − cosine of the mean rows; the paper says "
        "similarity, and not its sign. Its column is for 8 domains, with one number for STS."
    )


def _stacked(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, names=["domains", None]).reset_index("domains").reset_index(drop=True)


def table13(numbers: dict[str, Numbers], run: Run) -> tuple[pd.DataFrame, str]:
    """Probes against STS, in each set of domains."""
    theirs = results.paper("table13_probes").set_index("predictor").pearson
    skills = {name: found.skill for name, found in numbers.items()}
    table = _stacked({n: _beside_paper(of, PROBES + STS, theirs) for n, of in skills.items()})
    return table.rename(columns={"value": "skill", "paper": "paper: r"}), (
        "Table 13. Skill (1 − squared error over that of the mean) with which ridge regression on "
        "a domain's mean activations, or on its STS, foretells the absolute change of a domain "
        "left out, with 95% intervals over domains. r of such predictions misleads: for a constant "
        "it is −1."
    )


def _beside_paper(numbers: Mapping, names: Sequence[str], theirs: pd.Series) -> pd.DataFrame:
    """A row a predictor; the paper has one number for STS, beside STS_ICL."""
    ours = {"feature_activations": BASELINES[0], "similarity_before_after_sft": BASELINES[-1]}
    theirs = theirs.rename(ours | {"sts": "sts_icl"})
    rows = [{"predictor": n, **results.numbers(numbers[n]), "paper": theirs.get(n)} for n in names]
    return pd.DataFrame(rows)


def claims(numbers: dict[str, Numbers], run: Run) -> Iterator[Claim]:
    """STS_ICL predicts better than each of them, in each set of domains."""
    for (domains, found), name in itertools.product(numbers.items(), BASELINES):
        gap, words = found.r["sts_icl"] - found.r[name], name.replace("_", " ")
        statistic = f"{domains}: r of sts_icl minus r of it"
        yield Claim("table5", f"STS beats {words}", statistic, gap)
    for (domains, found), name in itertools.product(numbers.items(), PROBES):
        words = "a " + name.replace("_", " on ", 1).replace("_", " ")
        gap = found.skill["sts_icl"] - found.skill[name]
        statistic = f"{domains}: skill of sts_icl on a left-out domain minus that of the probe"
        yield Claim("table13", f"STS beats {words}", statistic, gap)


RESULTS = (
    Result(fig4e, "Fig 4e: STS and probes"),
    Result(table5, "Table 5: baselines", "table"),
    Result(table13, "Table 13: probes", "table"),
)
