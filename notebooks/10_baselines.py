# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 · Simpler predictors, probes, and what each costs
#
# STS reads an SAE and demonstrations. A score is worth that only if it beats what is simpler
# (Table 5): how active a domain is at all, how similar it is to the training set, how far
# fine-tuning moves it. And it should beat a probe (Fig 4e, Table 13): a regression that has seen
# the changes of all other domains. Both are compared on each set of domains; the set whose change
# is more reliable comes first.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sts_utils import config, generate, models, questions, results, run, stats
from sts_utils.features import FeatureStats, tokens_read
from sts_utils.measured import Run
from sts_utils.results import Claim
from sts_utils.scores import cosine, expectation
from sts_utils.stats import Correlation

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
main = Run(profile)
sets = main.sets  # corpus of domains -> the run on it
METRICS = ("sts_act", "sts_icl")
print("sets of domains:", {name: len(of.domain_names) for name, of in sets.items()})

# %% [markdown]
# ## Three simple predictors
#
# All three are of one vector a domain: the mean $\bar r$ of the residual stream's rows over the
# tokens of its questions, at the SAE's layer and without any demonstration. `FeatureStats.r` holds
# the sum of each question's rows, `n` how many tokens it has.


# %%
def mean_row(of: FeatureStats, weights: np.ndarray | None = None) -> np.ndarray:
    """[d_model] the mean residual row of plain questions; [B, d_model] with `weights` [B, Q]."""
    return expectation(of.r.astype(np.float64), of.n, weights)


first = next(iter(sets.values()))
name, domain = next(iter(first.domains[0].items()))
row = domain.r.sum(0, dtype=np.float64) / domain.n.sum()  # [d_model]
print(f"{name}: {len(domain.n)} questions, {domain.n.sum()} tokens, a row of {len(row)}")
np.testing.assert_allclose(row, mean_row(domain))

# %% [markdown]
# - *mean raw activation*: the mean of $\bar r$ over its dimensions.
# - *similarity to the training set*: $\cos(\bar r, \bar r_\mathrm{train})$.
# - *distance before and after SFT*: $1 - \cos(\bar r, \bar r')$, where $\bar r'$ is of the
#   fine-tuned model. It needs the training that STS foretells. The paper says similarity, and not
#   with which sign.


# %%
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


# %% [markdown]
# Each of them is one number a domain and seed. `after` are the same questions, read by the
# fine-tuned models:


# %%
def after_training(of: Run) -> list[list[FeatureStats]]:
    """[S][D] the residual stream of each domain in each fine-tuned model."""
    read = [
        [run.domain_after(of.profile, d, seed, model) for d in of.domain_names]
        for seed, model in of.models.items()
    ]
    return [[FeatureStats.from_arrays(arrays) for arrays in row] for row in read]


before = {name: [list(seed.values()) for seed in of.domains] for name, of in sets.items()}
after = {name: after_training(of) for name, of in sets.items()}
rows = zip(before[next(iter(sets))][0], after[next(iter(sets))][0])
values = [(mean_activation(a), similarity(a, first.train[0]), moved(a, b)) for a, b in rows]
shown = pd.DataFrame(values, first.domain_names, ["mean activation", "similarity", "distance"])
shown.astype(float).assign(change=[of[0].mean() for of in first.change_arrays]).round(4)

# %% [markdown]
# Their correlation with the absolute change, of the means over seeds. `observe` also computes each
# predictor without every twentieth of a domain's questions in turn, which is the weight 0 for
# these: the interval for other questions is made of that.

# %%
SIMPLE = ("mean_raw_activation", "similarity_domain_to_training_set", "distance_before_after_sft")


def r_of(of: Run, predictor, *sides: list[list[FeatureStats]]) -> Correlation:
    """r with the absolute change of a predictor of each domain's `sides` [S][D]."""

    def over_domains(s: int, weights) -> np.ndarray:  # [D], or [G, D] with weights [D][G, Q]
        drawn = weights or [None] * len(of.domain_names)
        given = zip(*(side[s] for side in sides), drawn)
        return np.stack([predictor(*domain) for domain in given], axis=-1)

    return stats.correlate(of.observe(over_domains))


r = {}
for name, of in sets.items():
    train = [[seed] * len(of.domain_names) for seed in of.train]
    activity = r_of(of, mean_activation, before[name])
    similar = r_of(of, similarity, before[name], train)
    distance = r_of(of, moved, before[name], after[name])
    r[name] = dict(zip(SIMPLE, (activity, similar, distance))) | of.correlations()
pd.DataFrame(r).map(str)

# %% [markdown]
# What does each cost? A forward pass takes two floating-point operations a weight and token, up to
# the SAE's layer; a step of training takes six, and of all weights. $\mathrm{STS}_{ICL}$ reads
# every domain a second time, behind its demonstrations. First the tokens that the first seed reads:
# plain, and in both conditions ("icl", where a context that several questions share counts once).

# %%
tokens = {}  # corpus of domains -> what is read -> tokens
for name, of in sets.items():
    p, seed = of.profile, of.profile.seeds[0]
    domains = [pair for d in of.domain_names for pair in questions.domain_pairs(p, d, seed)]
    counted = tokens[name] = {}
    for side, pairs in (("domains", domains), ("train", questions.training_pairs(p, seed))):
        counted[side] = sum(plain.span[1] for plain, _ in pairs)
        counted[f"{side} icl"] = tokens_read(pairs)
    learnt = questions.training_examples(p, seed)[0][: p.sft.examples]
    batch = generate.tokenize(questions.tokenizer(p), learnt, p.sft.max_length)
    counted["sft"] = p.sft.epochs * sum(len(row["input_ids"]) for row in batch)
display(pd.DataFrame(tokens).rename_axis("tokens"))

# %%
weights, depth = (f(profile.model, profile.revision) for f in (models.size, models.depth))
forward = 2 * weights * (profile.layer + 1) / depth  # floating-point operations a token
flops = {}
for name, read in tokens.items():
    training, plain, both = 6 * weights * read["sft"], read["domains"], read["train icl"]
    costs = (forward * plain, forward * (plain + read["train"]), training + 2 * forward * plain)
    flops[name] = dict(zip(SIMPLE, costs)) | {"a probe": training + forward * plain}
    flops[name] |= {"sts_act": forward * (plain + both)}
    flops[name] |= {"sts_icl": forward * (read["domains icl"] + both)}
(pd.DataFrame(flops) / 1e12).rename_axis("TFLOP").round(3)

# %% [markdown]
# ## Table 5

# %%
theirs = results.paper("table05_baselines").set_index("baseline").pearson
ours = {"feature_activations": SIMPLE[0], "similarity_before_after_sft": SIMPLE[2]}
theirs = theirs.rename(ours | {"sts": "sts_icl"})  # the paper has one number for STS
table = [
    {
        "domains": name,
        "predictor": predictor,
        **results.numbers(r[name][predictor]),
        "uses the tuned model": predictor == "distance_before_after_sft",
        "cost, TFLOP": flops[name][predictor] / 1e12,
        "paper": theirs.get(predictor),
    }
    for name in sets
    for predictor in SIMPLE + METRICS
]
caption = (
    "Table 5. r of simple predictors with the absolute change over all domains, 95% intervals "
    "(other domains drawn), and what each costs for one seed in floating-point operations, "
    "evaluation left out. The distance is 1 − cosine of the mean rows; the paper says "
    "similarity, and not its sign. Its column is for 8 domains, with one number for STS."
)
results.publish(profile, "table5", pd.DataFrame(table), caption)

# %% [markdown]
# The paper's claim is that $\mathrm{STS}_{ICL}$ beats each of them. Both are of the same domains,
# so it is the difference of the two r that has the interval, by leaving out each domain in turn.

# %%
ids = dict(zip(SIMPLE, ("table5-activation", "table5-similarity", "table5-distance")))
claims = [
    Claim(ids[predictor], f"{name}: r of sts_icl minus r of it", of["sts_icl"] - of[predictor])
    for name, of in r.items()
    for predictor in SIMPLE
]
results.judge(profile, claims)

# %% [markdown]
# ## Probes
#
# A probe is a ridge regression from a domain's mean activations to its absolute change. It is
# fitted on all domains but one and foretells that one; the penalty is chosen inside each fold. The
# paper shows r of such predictions. That misleads: a probe that learns nothing answers with the
# mean of the other domains, which is the lower the higher the one left out, so its r is −1.


# %%
def probe(inputs: np.ndarray, change: np.ndarray) -> np.ndarray:
    """[D] predictions of each domain's `change` by ridge regression on the others' `inputs` [D, F],
    mean activations or one score; the penalty is chosen inside each fold."""
    ridge = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-1, 6, 15)))
    return cross_val_predict(ridge, inputs, change, cv=LeaveOneOut())


change = np.array([abs(of.mean()) for of in first.change_arrays])  # [D], over seeds and questions
predicted = probe(np.ones((len(change), 1)), change)
print(f"r of a probe that sees nothing: {np.corrcoef(predicted, change)[0, 1]:.2f}")

# %% [markdown]
# So predictors are compared by their **skill** on the domain left out:
# $1 - \sum_d (\hat y_d - y_d)^2 \,/\, \sum_d (\bar y_{-d} - y_d)^2$. It is 0 for the mean
# $\bar y_{-d}$ of the other domains and 1 for a perfect prediction.


# %%
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


# %% [markdown]
# A score of STS goes through the same regression.

# %%
PROBES = {"probe_raw_activations": "r", "probe_sae_activations": "h"}
skills = {}
for name, of in sets.items():
    inputs = {metric: seen.scores.mean(0)[:, None] for metric, seen in of.observations().items()}
    for kind, field in PROBES.items():  # [D, d_model] and [D, F], means over seeds
        inputs[kind] = np.mean([[d.mean(field) for d in seed] for seed in before[name]], axis=0)
    change = np.abs([of.mean() for of in of.change_arrays])
    share = stats.reliability(of.change_arrays, "absolute")
    skills[name] = {key: skill(x, change, share) for key, x in inputs.items()}
pd.DataFrame(skills).map(str)

# %% [markdown]
# ## Fig 4e

# %%
figure, axis = plt.subplots(figsize=(3.4, 2.9))
for i, (name, found) in enumerate(skills.items()):
    of = [found[predictor] for predictor in (*METRICS, *PROBES)]
    x = np.arange(4) + 0.16 * (i - (len(skills) - 1) / 2)
    look = {"fmt": "os"[i], "color": results.PALETTE[i], "ms": 5, "capsize": 2, "label": name}
    axis.errorbar(x, [e.value for e in of], yerr=results.bars(of), **look)
figure.legend(frameon=False, loc="outside upper center", ncols=2)
axis.axhline(0, color=results.CHANCE_COLOUR, ls="--", lw=0.8)
axis.set_xticks(range(4), [*map(results.METRIC_NAMES.get, METRICS), "raw\nprobe", "SAE\nprobe"])
axis.set(ylabel="skill on a left-out domain")
caption = (
    "Fig 4e. How well a ridge regression on each predictor foretells the |change| of a domain "
    "left out: 1 − squared error over that of the other domains' mean (dashed: no better than "
    "that), 95% intervals over domains. The paper shows r: STS 0.79, probes 0.03 and 0.08."
)
results.publish(profile, "fig4e", figure, caption)

# %% [markdown]
# ## Table 13

# %%
theirs = results.paper("table13_probes").set_index("predictor").pearson
theirs = theirs.rename({"sts": "sts_icl"})
table = [
    {
        "domains": name,
        "predictor": predictor,
        **results.numbers(found[predictor]),
        "paper": theirs.get(predictor),
    }
    for name, found in skills.items()
    for predictor in (*PROBES, *METRICS)
]
table = pd.DataFrame(table).rename(columns={"value": "skill", "paper": "paper: r"})
caption = (
    "Table 13. Skill (1 − squared error over that of the mean) with which ridge regression on "
    "a domain's mean activations, or on its STS, foretells the absolute change of a domain "
    "left out, with 95% intervals over domains. r of such predictions misleads: for a constant "
    "it is −1."
)
results.publish(profile, "table13", table, caption)

# %%
ids = dict(zip(PROBES, ("table13-raw-probe", "table13-sae-probe")))
words = "skill of sts_icl on a left-out domain minus that of the probe"
claims = [
    Claim(ids[probe], f"{name}: {words}", found["sts_icl"] - found[probe])
    for name, found in skills.items()
    for probe in PROBES
]
results.judge(profile, claims)
