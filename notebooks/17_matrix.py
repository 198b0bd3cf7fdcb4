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
# # 17 · Which training set moves which domain?
#
# The paper trains on mathematics and asks which domains move. A score can do well at that without
# reading the training set at all: any fine-tuning may move some domains more than others. So here
# twelve training sets meet the same domains. **The question**: does a score know which *set* moves
# which *domain*? Two numbers answer it:
#
# - the mean **within-set r**: over domains, one training set at a time, as in the paper;
# - the **interaction**: r over all cells once the mean of each set and of each domain is taken off
#   score and change. What is common to all sets is gone from it.
#
# **Placebos** read no training set, the wrong one, or not its $D_N$. A score that does no better
# than its placebo has not read the training set.

# %% tags=["parameters"]
PROFILE = "matrix"
SEEDS = None  # like "0,1"; the profile's own if None
PROBE = True  # the probe run too, which is a third of the time

# %%
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from sklearn.feature_extraction.text import TfidfVectorizer

from sts_utils import config, generate, questions, results, stats
from sts_utils.experiments import trainings
from sts_utils.measured import Run
from sts_utils.results import Claim
from sts_utils.scores import cosine, over_domains, shifted_dims
from sts_utils.stats import Correlation

# %%
SCORES = ("sts_act", "sts_icl", "cosine")
profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
runs = {p.train: Run(p) for p in questions.sets(profile)}
first = next(iter(runs.values()))
for one in runs.values():  # the untouched model reads the domains once, for all sets
    one.domains = first.domains
names, domains, categories = list(runs), first.domain_names, np.array(first.categories)
print(f"{len(names)} training sets × {len(domains)} domains in {len({*categories})} categories")

# %% [markdown]
# ## The training sets, and what each learned
#
# As many steps each, and as nearly as many learned tokens as their solutions allow. A set is
# **learnt** where the loss on its own held-out solutions falls.

# %%
rows = []
for name, one in runs.items():
    p, example = one.profile, questions.training_examples(one.profile, 0)[0][0]
    chosen = questions.training_examples(p, 0)[0][: p.sft.examples]
    batch = generate.tokenize(questions.tokenizer(p), chosen, p.sft.max_length)
    learned = sum((np.array(row["labels"]) != -100).sum() for row in batch)
    row = {"training set": name, "examples": len(chosen), "steps": len(chosen) // p.sft.batch}
    row |= {"learned tokens": learned, "seeds": len(p.seeds)}
    loss = one.loss_change()
    rows.append(row | {"held-out loss": str(loss), "learnt": loss.high < 0})
    print(f"[{name}] {example.query[-90:]!r} -> {example.solution[:60]!r}")
sets = pd.DataFrame(rows)
caption = (
    "The training sets: SFT's examples, steps and learned tokens, and the change of the loss on "
    "held-out solutions, nats a token, with its 95% interval."
)
results.publish(profile, "matrix_sets", sets, caption)

# %% [markdown]
# ## What each moved
#
# The mean change of every domain, and its reliability: of all cells, and of the interaction.

# %%
changes = {name: one.change_arrays for name, one in runs.items()}  # [D] arrays [S, Q]
change = np.array([[c.mean() for c in of] for of in changes.values()])  # [T, D]
noise = np.array([stats.standard_errors(of) ** 2 for of in changes.values()])


def centred(values: np.ndarray) -> np.ndarray:
    """[..., T, D] values less the means of their sets and of their domains."""
    rest = values - values.mean(-1, keepdims=True)
    return rest - rest.mean(-2, keepdims=True)


reliability = {"within sets": 1 - noise.mean() / change.var(1, ddof=1).mean()}
reliability["interaction"] = 1 - noise.mean() / centred(change).var(ddof=1)
print({name: round(float(share), 2) for name, share in reliability.items()})
alike = np.corrcoef(change)[np.triu_indices(len(names), 1)]
print(f"r of the changes of two sets, mean over pairs: {alike.mean():.2f}")

# %%
families = [results.FAMILY.get(category, "benchmark") for category in categories]
order = sorted(range(len(domains)), key=lambda d: ([*results.FAMILIES].index(families[d]), d))
table = pd.DataFrame(100 * change[:, order].T, [domains[d] for d in order], names)
figure, axis = plt.subplots(figsize=(5.4, 1.6 + 0.14 * len(domains)))
limit, measure = np.quantile(np.abs(table), 0.98), profile.evaluation.measure
bar = {"label": f"change of {results.SHORT_NAMES[measure]}", "extend": "both", "location": "top"}
look = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "xticklabels": 1, "yticklabels": 1}
sns.heatmap(table, ax=axis, cbar_kws=bar, **look)
axis.tick_params(labelsize=8)
for text, d in zip(axis.get_yticklabels(), order):
    text.set_color(results.FAMILIES[families[d]]["colour"])
caption = (
    f"The transfer matrix (ours): change of {results.MEASURE_NAMES[measure]} × 100 of each domain "
    "(rows, coloured by family as in Fig 3) after SFT on each set (columns)."
)
results.publish(profile, "matrix_changes", figure, caption)

# %% [markdown]
# ## Scores, rivals, placebos
#
# Each is an array [sets, domains], from the untouched model and the first seed. The exception is
# the **probe run**: the change after four steps on 16 examples, of questions that the outcome does
# not ask. **Rivals** foretell the change in other ways. No set's answers are one of several
# options, so *right − wrong answers* (16) can't be had here.


# %%
def words() -> np.ndarray:
    """[T, D] cosine of the tf-idf of a set's text and of each domain's scored questions."""
    texts = []
    for one in runs.values():
        chosen = questions.training_examples(one.profile, 0)[0][: one.profile.sft.examples]
        texts.append("\n".join(f"{e.query}\n{e.solution}" for e in chosen))
    seed = profile.seeds[0]
    asked = [questions.domain_queries(first.profile, d, seed) for d in domains]
    texts += ["\n".join(e.query for e in of) for of in asked]
    vectors = TfidfVectorizer(sublinear_tf=True).fit_transform(texts).toarray()
    return np.stack([cosine(v, vectors[len(runs) :]) for v in vectors[: len(runs)]])


def probed() -> np.ndarray:
    """[T, D] change by the probe run."""
    measure, rows = profile.evaluation.measure, []
    for one in runs.values():
        change = trainings.change(one.profile, trainings.probe(one.profile, profile.seeds[0]))
        rows.append(change.groupby("domain")[measure].mean()[list(domains)])
    return np.stack(rows)


# %%
read = list(first.domains[0].values())  # [D]
trains, ranked = ([getattr(one, side)[0] for one in runs.values()] for side in ("train", "ranked"))
n, towards = profile.top_n, [train.mean("dh") for train in trains]


def rows_of(score: str, dims: list) -> np.ndarray:
    """[T, D] a score of every domain, on the `dims` of each training set."""
    both = zip(dims, towards)
    return np.stack([over_domains(score, read, own, towards=to) for own, to in both])


found = {score: rows_of(score, [of[:n] for of in ranked]) for score in SCORES}

# %%
found["residual similarity"] = np.stack(
    [cosine(train.mean("r"), np.stack([domain.mean("r") for domain in read])) for train in trains]
)
active = [shifted_dims(replace(train, dh2=train.h), n) for train in trains]
found["sts_act of the most active"] = rows_of("sts_act", active)
found["overlap of words"] = words()
seed = profile.seeds[0]
pull = {d: trainings.gradients(first.profile, seed, d)["loglik"] for d in domains}
pulled = [trainings.gradients(one.profile, seed)["loglik"] for one in runs.values()]
found["gradient of answers"] = np.stack([cosine(g, np.stack(list(pull.values()))) for g in pulled])
for score in ("sts_act", "sts_icl"):
    found[f"placebo: {score} outside D_N"] = rows_of(score, [of[n:] for of in ranked])
tried = {"probe run": probed()} if PROBE else {}
shift = np.array([domain.dr2.sum() / domain.n.sum() for domain in read])
found["placebo: residual stream's shift"] = np.tile(shift, (len(names), 1))

# %% [markdown]
# ## Does the score know which set moves which domain?
#
# The intervals leave out each category of domains, in all sets at once, and each training set; the
# wider of the two is shown. *Another set's D_N* is the mean of the same number over all other
# pairings of sets: with the score of one set for another's change.


# %%
def within_sets(score: np.ndarray, change: np.ndarray) -> float:
    """Mean over sets of r over domains, of [T, D] values, on Fisher's scale."""
    return float(np.tanh(np.arctanh(stats.pearson(score, change).clip(-0.999, 0.999)).mean()))


def interaction(score: np.ndarray, change: np.ndarray) -> float:
    """r over all cells of [T, D] values less the means of sets and of domains; a set's scores in
    units of their spread."""
    spread = score.std(1, keepdims=True)
    score = np.divide(score, spread, out=np.zeros_like(score), where=spread > 0)
    return float(stats.pearson(centred(score).ravel(), centred(change).ravel()))


def mispaired(statistic: Callable, score: np.ndarray, change: np.ndarray) -> float:
    """The mean of a statistic with every other set's score."""
    return float(np.mean([statistic(np.roll(score, k, 0), change) for k in range(1, len(score))]))


def minus_mispaired(statistic: Callable, score: np.ndarray, change: np.ndarray) -> float:
    return statistic(score, change) - mispaired(statistic, score, change)


# %%
def sure(statistic: Callable, score: np.ndarray, change: np.ndarray, share: float) -> Correlation:
    """A statistic with the wider of its two jackknife intervals. `share`: the reliability."""
    kept, seeds = [categories != name for name in np.unique(categories)], 2
    sizes = np.unique(categories, return_counts=True)[1]
    by_category = [statistic(score[:, keep], change[:, keep]) for keep in kept]
    rest = ~np.eye(len(names), dtype=bool)
    by_set = [statistic(score[keep], change[keep]) for keep in rest]
    parts = (np.array(by_category), sizes), (np.array(by_set), np.ones(len(names)))
    value, more = statistic(score, change), (share, seeds)
    both = [Correlation(value, *part, *more, bounded=False) for part in parts]
    return max(both, key=lambda e: e.high - e.low)


# %% [markdown]
# Some sets are the unused questions of a benchmark that is a domain too. What a set does to its own
# domain is no transfer. The interaction is shown without these cells as well: each is filled with
# what the means of its set and of its domain say.

# %%
own = [questions.training_examples(one.profile, 0)[0][0].domain for one in runs.values()]
own = np.array([[name == domain for domain in domains] for name in own])  # [T, D]
print(f"{own.sum()} of {own.size} cells are a set's own domain")


def filled(values: np.ndarray) -> np.ndarray:
    """[T, D] values, those of a set's own domain as if there were no interaction."""
    values = np.where(own, values[~own].mean(), values)
    for _ in range(50):  # until the means hold what was filled in
        values = np.where(own, values - centred(values), values)
    return values


# %% [markdown]
# How small an effect could be seen? Worlds like this one are simulated, with a known true
# correlation of a score and the change. How wide is the interval where there is none (half its
# width), and how often is an effect found? In these worlds 40% of a score's variance and 15% of a
# change's are common to all sets. A training run adds 0.3 of the signal's deviation, and the
# questions add what they do here.


# %%
def world(rng: np.random.Generator, true: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """[T, D] score and change that correlate with `true`, with the noise of questions and runs."""
    shape, own = change.shape, rng.normal(size=(2, *change.shape))
    x = 0.6**0.5 * own[0] + 0.4**0.5 * rng.normal(size=shape[1])
    other = 0.85**0.5 * own[1] + 0.15**0.5 * rng.normal(size=shape[1])
    y = true * x + (1 - true**2) ** 0.5 * other
    return x, y + (noise**2 + 0.3**2) ** 0.5 * rng.normal(size=shape)


rng, rows, worlds = np.random.default_rng(0), [], 60
relative = (1 / max(reliability["within sets"], 0.1) - 1) ** 0.5  # noise over signal
for statistic in (within_sets, interaction):
    for true in (0, 0.3, 0.6):
        es = [sure(statistic, *world(rng, true, relative), 1.0) for _ in range(worlds)]
        row = {"statistic": statistic.__name__, "true r": true}
        row |= {"half-width": np.mean([(e.high - e.low) / 2 for e in es])}
        rows.append(row | {"found above 0": np.mean([e.low > 0 for e in es])})
results.shown(pd.DataFrame(rows))

# %%
STATISTICS = {
    "r within sets, absolute": (within_sets, np.abs(change), "within sets"),
    "r within sets, signed": (within_sets, change, "within sets"),
    "interaction": (interaction, change, "interaction"),
    "interaction without own domains": (interaction, filled(change), "interaction"),
}
judged, rows = {}, []
for label, read_score in (found | tried).items():
    row = {"score": label}
    for what, (statistic, outcome, share) in STATISTICS.items():
        score = np.abs(read_score) if label == "probe run" and "absolute" in what else read_score
        score = filled(score) if "own domains" in what else score
        e = judged[label, what] = sure(statistic, score, outcome, reliability[share])
        row[what] = f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]"
        paired = partial(minus_mispaired, statistic)
        e = judged[label, f"{what} − mispaired"] = sure(paired, score, outcome, reliability[share])
        if "placebo" not in label and what in ("r within sets, absolute", "interaction"):
            row[f"{what} − another set's D_N"] = f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]"
    rows.append(row)

# %%
caption = (
    f"The transfer matrix (ours), {len(names)} sets × {len(domains)} domains: r of each score with "
    "the change within sets, and of the interaction, with and without the cells of a set's own "
    "domain; and less the same with other sets' scores. 95%, the wider of leaving out categories "
    "and sets."
)
results.publish(profile, "matrix", pd.DataFrame(rows), caption)

# %%
found |= tried
NAMES = {"sts_act": "STS_act", "sts_icl": "STS_ICL", "cosine": "cosine of the shifts"}
NAMES["sts_act of the most active"] = "STS_act of the most active"
NAMES |= {f"placebo: {key} outside D_N": f"placebo: {NAMES[key]} outside D_N" for key in SCORES[:2]}
less = [judged[label, "interaction without own domains"] for label in found]

# %%
figure = Figure(figsize=(5.4, 1.1 + 0.25 * len(found)))  # not pyplot's: shown once, when whole
axes = figure.subplots(1, 2, sharey=True)
for axis, what in zip(axes, ("r within sets, absolute", "interaction")):
    es = [judged[label, what] for label in found]
    values = [e.value for e in es]
    axis.errorbar(values, range(len(es)), xerr=results.bars(es), fmt="o", ms=4, capsize=2)
    made = [i for i, e in enumerate(es) if e.high - e.low < 1e-6]  # 0 by its making, not precise
    axis.plot(np.take(values, made), made, "o", color="white", ms=2.5, zorder=4)
    axis.axvline(0, color="0.8", lw=0.8, zorder=0)
    axis.set(xlabel=what.replace(", absolute", "\nwith |change|"), ylim=(len(es) - 0.5, -0.5))
look = {"fmt": "D", "ms": 3, "capsize": 2, "color": results.RAW_COLOUR}
at, values = np.arange(len(less)) + 0.3, [e.value for e in less]
axes[1].errorbar(values, at, xerr=results.bars(less), label="without own domains", **look)

# %%
least = results.paper("table01_other_training_sets").pearson_mean.min()
axes[0].axvline(least, color=results.CHANCE_COLOUR, ls="--", lw=0.8, label="the paper's smallest")
axes[0].set_yticks(range(len(found)), [NAMES.get(label, label) for label in found], fontsize=8)
figure.legend(frameon=False, loc="outside upper right", ncols=2)
caption = (
    "The transfer matrix (ours): how well each score foretells the change, within sets and of the "
    "interaction (diamonds: without the cells of a set's own domain). 95%, the wider of leaving "
    "out categories and sets. Dashed: the paper's smallest "
    f"r over its training sets ({least:.2f}, 8 domains). Hollow: 0 by its making."
)
results.publish(profile, "matrix_scores", figure, caption)

# %%
claims = []
for metric in ("sts_act", "sts_icl"):
    within, across = (judged[metric, what] for what in ("r within sets, absolute", "interaction"))
    claims.append(Claim("matrix-within", f"{metric}: mean r within sets", within))
    claims.append(Claim("matrix-interaction", f"{metric}: r of the interaction", across))
    e = judged[metric, "r within sets, absolute − mispaired"]
    claims.append(Claim("matrix-placebo", f"{metric}: r within sets minus another set's D_N", e))
results.judge(profile, claims)
