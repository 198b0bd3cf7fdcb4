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
# The paper's scores (STS) read a sparse autoencoder (SAE) and demonstrations, worked examples in
# the context. A score is worth that only if it beats what is simpler (Table 5): how active a domain
# is at all, how similar it is to the training set, how far fine-tuning moves it. And it should beat
# a **probe** (Fig 4e, Table 13): a regression that has seen the changes of all other domains.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
from collections.abc import Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sts_utils import config, generate, models, questions, results, run, stats
from sts_utils.features import FeatureStats, tokens_read
from sts_utils.measured import Run
from sts_utils.results import Claim
from sts_utils.scores import cosine
from sts_utils.stats import Correlation

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
main, METRICS = Run(profile), ("sts_act", "sts_icl")
print(f"{len(main.domain_names)} domains of {profile.domains}")

# %% [markdown]
# ## Three simple predictors
#
# All three are of one vector a domain: the mean $\bar r$ of the residual stream's rows over the
# tokens of its questions, at the SAE's layer and without any demonstration. `FeatureStats.r` holds
# the sum of each question's rows, `n` how many tokens it has.


# %%
name, domain = next(iter(main.domains[0].items()))
row = domain.r.sum(0, dtype=np.float64) / domain.n.sum()  # [d_model]
print(f"{name}: {len(domain.n)} questions, {domain.n.sum()} tokens, a row of {len(row)}")
np.testing.assert_allclose(row, domain.mean("r"))

# %% [markdown]
# - *mean raw activation*: the mean of $\bar r$ over its dimensions.
# - *similarity to the training set*: $\cos(\bar r, \bar r_\mathrm{train})$.
# - *distance before and after SFT*: $1 - \cos(\bar r, \bar r')$, where $\bar r'$ is of the
#   fine-tuned model. It needs the training that STS foretells. The paper says similarity, and not
#   with which sign.


# %%
def mean_activation(domain: FeatureStats) -> float:
    """Mean raw activation of a domain, over tokens and residual dims."""
    return domain.mean("r").mean()


def similarity(domain: FeatureStats, train: FeatureStats) -> np.ndarray:
    """Cosine of the mean residual rows of a domain and of the training set."""
    return cosine(domain.mean("r"), train.mean("r"))


def moved(before: FeatureStats, after: FeatureStats) -> np.ndarray:
    """1 − cosine of a domain's mean residual rows before and after fine-tuning."""
    return 1 - cosine(before.mean("r"), after.mean("r"))


# %% [markdown]
# Each of them is one number a domain and seed. `after` are the same questions, read by the
# fine-tuned models:


# %%
before = [list(seed.values()) for seed in main.domains]  # [S][D]
after = [
    [FeatureStats.from_arrays(run.domain_after(profile, d, s, m)) for d in main.domain_names]
    for s, m in main.models.items()
]
values = [
    (mean_activation(a), similarity(a, main.train[0]), moved(a, b))
    for a, b in zip(before[0], after[0])
]
shown = pd.DataFrame(values, main.domain_names, ["mean activation", "similarity", "distance"])
shown = shown.astype(float).assign(change=[of[0].mean() for of in main.change_arrays]).round(4)
results.shown(shown.rename_axis("domain").reset_index())

# %% [markdown]
# Their correlation with the absolute change, of the means over seeds.

# %%
SIMPLE = ("mean_raw_activation", "similarity_domain_to_training_set", "distance_before_after_sft")


def r_of(predictor, *sides: list[list[FeatureStats]]) -> Correlation:
    """r with the absolute change of a predictor of each domain's `sides` [S][D]."""
    values = [[predictor(*domain) for domain in zip(*seed)] for seed in zip(*sides)]  # [S][D]
    return stats.correlate(main.observe(np.array(values).__getitem__))


train = [[seed] * len(main.domain_names) for seed in main.train]
found = r_of(mean_activation, before), r_of(similarity, before, train), r_of(moved, before, after)
r = dict(zip(SIMPLE, found)) | main.correlations()
pd.Series(r, name="r").map(str).to_frame()

# %% [markdown]
# What does each cost? A forward pass takes two floating-point operations a weight and token, up to
# the SAE's layer; a step of training takes six, and of all weights. $\mathrm{STS}_{ICL}$ reads
# every domain a second time, behind its demonstrations. First the tokens that the first seed reads:
# plain, and in both conditions ("icl", where a context that several questions share counts once).

# %%
tokens, seed = {}, profile.seeds[0]
domains = [pair for d in main.domain_names for pair in questions.domain_pairs(profile, d, seed)]
for side, pairs in (("domains", domains), ("train", questions.training_pairs(profile, seed))):
    tokens[side] = sum(plain.span[1] for plain, _ in pairs)
    tokens[f"{side} icl"] = tokens_read(pairs)
learnt = questions.training_examples(profile, seed)[0][: profile.sft.examples]
batch = generate.tokenize(questions.tokenizer(profile), learnt, profile.sft.max_length)
tokens["sft"] = profile.sft.epochs * sum(len(row["input_ids"]) for row in batch)
display(pd.Series(tokens, name="tokens").to_frame())

# %%
weights = models.size(profile.model, profile.revision)
depth = models.config_of(profile.model, profile.revision).num_hidden_layers
forward = 2 * weights * (profile.layer + 1) / depth  # floating-point operations a token
training, plain, both = 6 * weights * tokens["sft"], tokens["domains"], tokens["train icl"]
costs = (forward * plain, forward * (plain + tokens["train"]), training + 2 * forward * plain)
flops = dict(zip(SIMPLE, costs)) | {"a probe": training + forward * plain}
flops |= {"sts_act": forward * (plain + both), "sts_icl": forward * (tokens["domains icl"] + both)}
(pd.Series(flops, name="TFLOP") / 1e12).round(3).to_frame()

# %% [markdown]
# ## Table 5

# %%
theirs = results.paper("table05_baselines").set_index("baseline").pearson
ours = {"feature_activations": SIMPLE[0], "similarity_before_after_sft": SIMPLE[2]}
theirs = theirs.rename(ours | {"sts": "sts_icl"})  # the paper has one number for STS
table = [
    {
        "predictor": predictor,
        **results.numbers(r[predictor]),
        "uses the tuned model": predictor == "distance_before_after_sft",
        "cost, TFLOP": flops[predictor] / 1e12,
        "paper": theirs.get(predictor),
    }
    for predictor in SIMPLE + METRICS
]
caption = (
    "Table 5. r of simple predictors with the absolute change over all domains, 95% intervals "
    "(other categories drawn), and what each costs for one seed in floating-point operations, "
    "evaluation left out. The distance is 1 − cosine of the mean rows; the paper says "
    "similarity, and not its sign. Its column is for 8 domains, with one number for STS."
)
results.publish(profile, "table5", pd.DataFrame(table), caption)

# %% [markdown]
# The paper's claim is that $\mathrm{STS}_{ICL}$ beats each of them. Both are of the same domains,
# so it is the difference of the two r that has the interval, by leaving out each category in turn.

# %%
ids = dict(zip(SIMPLE, ("table5-activation", "table5-similarity", "table5-distance")))
claims = [
    Claim(ids[predictor], "r of sts_icl minus r of it", r["sts_icl"] - r[predictor])
    for predictor in SIMPLE
]
results.judge(profile, claims)

# %% [markdown]
# ## Probes
#
# A probe is a ridge regression from a domain's mean activations to its absolute change. It is
# fitted on all domains of other categories and foretells those of one, for a sister subject would
# give an answer away. The penalty is chosen inside each fold. The paper shows r of such
# predictions. That misleads: a probe that learns nothing answers with the mean of the other
# domains. This mean is the lower, the higher those left out are, so its r is near −1.


# %%
def probe(inputs: np.ndarray, change: np.ndarray, categories: Sequence) -> np.ndarray:
    """[D] predictions of each domain's `change` by ridge regression on the `inputs` [D, F] of other
    categories, mean activations or one score; the penalty is chosen inside each fold."""
    ridge = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-1, 6, 15)))
    return cross_val_predict(ridge, inputs, change, cv=LeaveOneGroupOut(), groups=categories)


change = np.array([abs(of.mean()) for of in main.change_arrays])  # [D], over seeds and questions
predicted = probe(np.ones((len(change), 1)), change, main.categories)
print(f"r of a probe that sees nothing: {np.corrcoef(predicted, change)[0, 1]:.2f}")

# %% [markdown]
# So predictors are compared by their **skill** on the domains left out:
# $1 - \sum_d (\hat y_d - y_d)^2 \,/\, \sum_d (\bar y_{-d} - y_d)^2$. It is 0 for the mean
# $\bar y_{-d}$ of the other categories' domains and 1 for a perfect prediction.


# %%
def skill(inputs: np.ndarray, change: np.ndarray, categories, r: Correlation) -> Correlation:
    """1 − squared out-of-fold error of the probe over that of the other domains' mean.

    0 for a predictor that knows nothing, where the r of left-out predictions is −1; below 0 for one
    that learns noise. The interval leaves out each category's errors in turn; `r` is any r of these
    domains, with the outcome's reliability."""
    categories = np.array(categories)
    error = (probe(inputs, change, categories) - change) ** 2
    others = np.array([change[categories != own].mean() for own in categories])
    none = (others - change) ** 2
    kept = [categories != name for name in np.unique(categories)]
    left_out = [1 - error[rest].sum() / none[rest].sum() for rest in kept]
    value = float(1 - error.sum() / none.sum())
    return replace(r, value=value, left_out=np.array(left_out), bounded=False)


# %% [markdown]
# A score of STS goes through the same regression.

# %%
PROBES = {"probe_raw_activations": "r", "probe_sae_activations": "h"}
inputs = {metric: seen.scores.mean(0)[:, None] for metric, seen in main.observations().items()}
for kind, field in PROBES.items():  # [D, d_model] and [D, F], means over seeds
    inputs[kind] = np.mean([[d.mean(field) for d in seed] for seed in before], axis=0)
skills = {k: skill(x, change, main.categories, r["sts_icl"]) for k, x in inputs.items()}
pd.Series(skills, name="skill").map(str).to_frame()

# %% [markdown]
# ## Fig 4e

# %%
figure, axis = plt.subplots(figsize=(4.2, 3))
theirs = results.paper("table13_probes").set_index("predictor").pearson.rename({"sts": "sts_icl"})
look = {"color": results.SAE_COLOUR, "ms": 5, "capsize": 2}
for place, predictor in enumerate((*METRICS, *PROBES)):
    e = skills[predictor]
    if e.high - e.low < 0.01:  # the penalty took all: no precision, nothing was learnt
        axis.annotate(
            "answers\nthe mean", (place, 0), (0, 8), textcoords="offset points", ha="center"
        )
        axis.plot(place, e.value, "o", mfc="white", **{k: look[k] for k in ("color", "ms")})
    else:
        axis.errorbar(place, e.value, yerr=results.bars([e]), fmt="o", **look)
    if predictor in theirs:
        axis.plot(place + 0.2, theirs[predictor], "D", color="0.4", mfc="white", ms=5)

# %%
axis.plot([], [], "D", color="0.4", mfc="white", ms=5, label="the paper's r (not a skill)")
figure.legend(frameon=False, loc="outside upper right")
axis.axhline(0, color=results.CHANCE_COLOUR, ls="--", lw=0.8)
axis.set_xticks(range(4), [*map(results.METRIC_NAMES.get, METRICS), "raw\nprobe", "SAE\nprobe"])
axis.set(ylabel="skill on left-out domains\n(1 is perfect, 0 is the mean)", xlim=(-0.5, 3.5))
caption = (
    "Fig 4e. How well a ridge regression on each predictor foretells the |change| of domains "
    "left out: 1 − squared error over that of the other domains' mean (dashed: no better than "
    "that), 95% intervals over categories. Hollow: a regression that learned nothing and answers "
    "the mean. The paper shows r, which is no skill: it is drawn beside."
)
results.publish(profile, "fig4e", figure, caption)

# %% [markdown]
# ## Table 13

# %%
theirs = results.paper("table13_probes").set_index("predictor").pearson
theirs = theirs.rename({"sts": "sts_icl"})
table = [
    {"predictor": predictor, **results.numbers(skills[predictor]), "paper": theirs.get(predictor)}
    for predictor in (*PROBES, *METRICS)
]
table = pd.DataFrame(table).rename(columns={"value": "skill", "paper": "paper: r"})
caption = (
    "Table 13. Skill (1 − squared error over that of the mean) with which ridge regression on "
    "a domain's mean activations, or on its STS, foretells the absolute change of domains "
    "left out, with 95% intervals over categories. r of such predictions misleads: for a constant "
    "it is −1."
)
results.publish(profile, "table13", table, caption)

# %%
ids = dict(zip(PROBES, ("table13-raw-probe", "table13-sae-probe")))
words = "skill of sts_icl on a left-out domain minus that of the probe"
claims = [Claim(ids[probe], words, skills["sts_icl"] - skills[probe]) for probe in PROBES]
results.judge(profile, claims)
