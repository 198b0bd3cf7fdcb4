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
# # 06 · The central result, and every claim
#
# **The question**: do two scores that are read before any training foretell how much each domain's
# performance moves in it? **The answer** is Fig 3 below. **How sure**: each statistic has a 95%
# interval, and a verdict. The run **agrees** with a claim when the interval lies on the claim's
# side, and **does not** when it lies on the other. When it holds 0, it may still be below the
# smallest value that the paper reports: then what there is is **weaker** than the paper's. Else it
# is **inconclusive**. A correlation with an outcome that is mostly noise, or of a single training
# run, is **not testable**.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display
from scipy.stats import PermutationMethod, pearsonr, spearmanr
from scipy.stats import f as f_distribution

from sts_utils import config, evaluate, questions, results, scores, stats
from sts_utils.experiments import labels
from sts_utils.features import FeatureStats
from sts_utils.measured import Run
from sts_utils.results import FIGURES, METRIC_NAMES, Claim

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
measured, measure = Run(profile), profile.evaluation.measure
observed = measured.observations()
print(f"{len(measured.domain_names)} domains in {len({*measured.categories})} categories")

# %% [markdown]
# ## The claims about Fig 3
#
# `observed` holds, for each score, the scores [seeds, domains] and the changes of every question.
# Their correlations:


# %%
def select(change: np.ndarray, selection: str, each: int = 4) -> np.ndarray:
    """[k] indices of the domains kept: "all", or, of "paper", the `each` largest and smallest
    |change|."""
    order = np.argsort(np.abs(change), kind="stable")
    if selection == "all" or len(order) <= 2 * each:
        return np.sort(order)
    return np.concatenate([order[:each], order[-each:]])


def by_seed(
    seen: stats.Observations, selection: str = "all", change: str = "absolute"
) -> np.ndarray:
    """[S] each seed's own r, over the domains that `selection` keeps by that seed's changes."""
    seeds = zip(seen.scores, seen.mean_changes(), strict=True)
    kept = [(x, y, select(y, selection)) for x, y in seeds]
    return np.array([stats.pearson(x[keep], stats.CHANGES[change](y[keep])) for x, y, keep in kept])


# %%
r = {metric: stats.correlate(seen) for metric, seen in observed.items()}
ids = {"sts_act": "fig3-act", "sts_icl": "fig3-icl"}
claims = [Claim(ids[metric], "r over all domains", e) for metric, e in r.items()]
if len(profile.seeds) > 1:  # how much each score's r varies over seeds; wide with three of them
    freedom = len(profile.seeds) - 1
    act, icl = (by_seed(seen).var(ddof=1) for seen in observed.values())
    ratio = np.log(act / icl)
    low, high = np.log(f_distribution.ppf([0.025, 0.975], freedom, freedom))
    ratio = SimpleNamespace(value=ratio, low=ratio - high, high=ratio - low)
    ratio.reliability, ratio.testable = r["sts_icl"].reliability, r["sts_icl"].testable
    words = "log of the variance of r over seeds, sts_act minus sts_icl"
    claims.append(Claim("fig3-steadier", words, ratio))
results.judge(profile, claims)

# %% [markdown]
# ## Every claim
#
# Those that the other notebooks of this run have judged stand beside them (`claims.csv` has every
# statistic).

# %%
every = pd.read_csv(FIGURES / profile.name / "claims.csv")


def together(verdicts: pd.Series) -> str:
    """The verdict on a claim by those on its statistics."""
    found = set(verdicts)
    for strong in ("does not", "weaker"):
        if strong in found:
            return strong
    return found.pop() if len(found) == 1 else "inconclusive"


groups = every.groupby(["figure", "claim"], sort=False)
kinds = {"statistics": ("verdict", "size")}
kinds |= {kind: (kind, together) for kind in ("verdict", "corrected")}
summed = groups.agg(**kinds).reset_index()
display(pd.DataFrame({kind: summed[kind].value_counts() for kind in ("corrected", "verdict")}))
shown = ["corrected", "verdict", "figure", "claim", "statistics"]
results.shown(summed[shown].sort_values(["corrected", "verdict"]))

# %% [markdown]
# `corrected` is the verdict by Holm's correction: with many claims and nothing true, some interval
# leaves 0 out by chance; corrected, that happens in 5% of such runs, over all statistics of the
# paper's claims. A correlation's interval leaves out each category of domains in turn (on Fisher's
# scale), that of a ratio of variances is F's, else it is a bootstrap over questions (variants of a
# template together), seeds or random draws. A claim with several statistics agrees when all of them
# do. The rule judges claims, not digits: the run may be of another scale than the paper's. Where
# the paper's column in `claims.csv` says "not reported", the claim is ours.
#
# ## Fig 3: the score before training, the change after it
#
# Two vectors of as many numbers as there are domains. The score $\mathrm{STS}_{ICL}$, read from the
# untouched model; and the change of performance, after − before, measured once the model was
# fine-tuned. Here of the first seed:

# %%
domains, dims = measured.domains[0].values(), measured.dims[0]
x = np.array([scores.sts_icl(domain, dims, profile.definition) for domain in domains])
y = np.array([change[0].mean() for change in measured.change_arrays])
vectors = pd.DataFrame({"STS_ICL": x, "change": y, "|change|": abs(y)}, measured.domain_names)
results.shown(vectors.rename_axis("domain").reset_index().sort_values("STS_ICL").round(4))

# %% [markdown]
# Their correlation, with the absolute change as in the paper:

# %%
its_r = np.corrcoef(x, abs(y))[0, 1]
print(f"r = {its_r:.3f} over {len(x)} domains")
figure, axis = plt.subplots(figsize=(3.4, 2.6))
sns.regplot(x=x, y=abs(y), ax=axis, ci=None, color=results.SAE_COLOUR, line_kws={"lw": 1})
_ = axis.set(xlabel=METRIC_NAMES["sts_icl"], ylabel="|change|", title=f"r = {its_r:.2f}")

# %% [markdown]
# That is all. The paper's number is the mean of this $r$ over the seeds. How sure is it? Other
# domains, asked other questions, would give another. Subjects of one category are alike, so the
# interval leaves out a whole category in turn. It covers 94 to 95% in simulation, where Fisher's,
# which takes all domains for independent, covers 85%. And the outcome has a **reliability**: the
# share of its variance that is signal. Divided by its root, $r$ becomes that with the true change.

# %%
seen = observed["sts_icl"]
print("r of each seed:", by_seed(seen).round(3))
one = r["sts_icl"]
print(f"r of the means over seeds, and its 95% interval, other categories drawn: {one}")
print("Fisher's interval: [{:.2f}, {:.2f}]".format(*stats.fisher(one.value, len(x))))
print(f"reliability of the absolute change: {one.reliability:.2f}")
if one.testable:
    print("r with the true change: {:.2f} [{:.2f}, {:.2f}]".format(*one.with_true_change))

# %% [markdown]
# The same for both scores, with the absolute change as in the paper, and with the signed one.

# %%
figure, axes = plt.subplots(2, 2, figsize=(7.4, 5.6), sharex="col", sharey="row")
palette = dict(zip(sorted({*measured.categories}), sns.husl_palette(len({*measured.categories}))))
colours = [palette[category] for category in measured.categories]
for row, kind in zip(axes, stats.CHANGES):
    for axis, (metric, seen) in zip(row, observed.items()):
        x = seen.scores.mean(0)
        y = 100 * stats.CHANGES[kind](seen.mean_changes().mean(0))
        sns.regplot(x=x, y=y, ax=axis, scatter=False, color="0.4", line_kws={"lw": 1})
        axis.errorbar(
            x, y, yerr=196 * stats.standard_errors(seen.changes), fmt="none", ecolor="0.85"
        )
        axis.scatter(x, y, c=colours, s=14, zorder=3)
        for i in np.argsort(-abs(y - np.median(y)))[:6]:
            axis.annotate(
                seen.domains[i], (x[i], y[i]), fontsize=6, xytext=(3, 2), textcoords="offset points"
            )
        axis.set_title(f"r = {stats.correlate(seen, kind)}", loc="left", fontsize=8)
        axis.set_xlabel(METRIC_NAMES[metric] if kind == "signed" else "")
    row[0].set_ylabel(f"{kind} change of\n{results.SHORT_NAMES[measure]}")

# %%
theirs = results.paper("table06_pearson").pearson_mean
caption = (
    "Fig 3. Score before training, change after it: a point a domain, mean over seeds, a colour a "
    "category, the six furthest named; grey bars are 95% intervals over questions, those of r over "
    "categories of domains. "
    f"Reliability of the absolute change: {r['sts_icl'].reliability:.2f} (below {stats.TESTABLE} "
    "nothing can be tested). The paper, absolute, over 8 domains: r = "
    f"{theirs.min():.2f} to {theirs.max():.2f}."
)
results.publish(profile, "fig3", figure, caption)

# %%
columns = {metric: seen.scores.mean(0) for metric, seen in observed.items()}
columns |= {"change": 100 * seen.mean_changes().mean(0)}
columns |= {"se": 100 * stats.standard_errors(seen.changes), "category": measured.categories}
points = pd.DataFrame(columns, pd.Index(seen.domains, name="domain")).reset_index()
caption = (
    f"The points of Fig 3: both scores and the change of {results.MEASURE_NAMES[measure]} × 100, "
    "means over seeds, with its standard error over questions."
)
results.publish(profile, "table6_points", points, caption)

# %% [markdown]
# ## Tables 6 and 9: r and R²
#
# Beside the paper's numbers, which are over eight domains that were **selected by the outcome**:
# the four of the largest and the four of the smallest change. That inflates r; both selections are
# shown.


# %%
def each_seed(seen, kind: str, selection: str) -> dict[str, float]:
    """r and R² of every seed's own score and change: mean and standard deviation over seeds."""
    rs = by_seed(seen, selection, kind)
    row = {"n": len(select(seen.mean_changes()[0], selection))}
    for name, values in (("r", rs), ("r2", rs**2)):
        row[f"{name}_mean"] = values.mean()
        row[f"{name}_sd"] = values.std(ddof=1) if len(values) > 1 else np.nan
    return row


def of_means(seen, kind: str) -> dict[str, float]:
    """r over all domains of the means over seeds, and how sure it is."""
    r, method = stats.correlate(seen, kind), PermutationMethod(2000, rng=np.random.default_rng(0))
    x, y = seen.scores.mean(0), stats.CHANGES[kind](seen.mean_changes().mean(0))
    row = results.numbers(r) | {"rho": spearmanr(x, y).statistic, "reliability": r.reliability}
    row |= {"p": pearsonr(x, y, method=method).pvalue}
    row |= dict(zip(("fisher_low", "fisher_high"), stats.fisher(r.value, len(x))))
    for part in ("between", "within"):
        row[f"r_{part}"] = str(stats.correlate(seen, kind, part))
    if r.testable:
        row |= dict(zip(("r_with_true_change", "true_low", "true_high"), r.with_true_change))
    return row


# %%
rows = []
for metric, seen in observed.items():
    for change in stats.CHANGES:
        row = {"domains": profile.domains, "metric": metric, "change": change}
        whole = each_seed(seen, change, "all") | of_means(seen, change)
        rows.append(row | {"selection": "all"} | whole)
        rows.append(row | {"selection": "paper"} | each_seed(seen, change, "paper"))
ours = pd.DataFrame(rows).rename(columns={"value": "r"})

# %%
ours = ours.assign(source="ours", model=profile.model)
theirs = {"source": "paper", "domains": "mmlu-pro", "selection": "paper", "n": 8}
theirs |= {"change": "absolute"}
about = ["source", "model", "domains", "metric", "selection", "change", "n"]
columns = ["r_mean", "r_sd", "r", "low", "high", "fisher_low", "fisher_high", "rho", "p"]
columns += ["r_between", "r_within", "reliability"]
columns += ["r_with_true_change", "true_low", "true_high"]
their_r = results.paper("table06_pearson")
their_r = their_r.rename(columns={"pearson_mean": "r_mean", "pearson_sd": "r_sd"}).assign(**theirs)
caption = (
    "Table 6. Pearson r of score and change over domains. r_mean, r_sd: over seeds, as the paper "
    "reports. r: of means over seeds, [low, high] with other categories drawn, [fisher_low, "
    "fisher_high] as if domains were independent, Spearman ρ, permutation p. r_between: of the "
    "categories' means; r_within: of domains less these. r_with_true_change: without the "
    "questions' noise, r and its interval over √reliability. Selection paper: eight domains "
    "chosen by the outcome."
)
both = pd.concat([ours, their_r], ignore_index=True).reindex(columns=[*about, *columns])
results.publish(profile, "table6", both, caption)

# %%
their_r2 = results.paper("table09_r2").assign(**theirs)
both = pd.concat([ours, their_r2], ignore_index=True).reindex(columns=[*about, "r2_mean", "r2_sd"])
caption = "Table 9. R² of score and change over domains, mean and spread over seeds."
results.publish(profile, "table9", both, caption)

# %% [markdown]
# Does r depend on the measure of performance? The same with every measure whose change is reliable
# enough, and with a signed score of ours: the cosine, on $D_N$, of a domain's mean shift and the
# training set's.

# %%
rows = []
for of in evaluate.MEASURES:
    changes = measured.changes_of(of)
    for change in stats.CHANGES:
        for metric, seen in (observed | measured.observations(["cosine"])).items():
            e = stats.correlate(replace(seen, changes=changes), change)
            if e.testable:
                row = {"measure": of, "change": change, "metric": metric}
                rows.append(row | results.numbers(e) | {"reliability": e.reliability})
columns = ["measure", "change", "metric", "value", "low", "high", "reliability"]
caption = (
    "Table 6 by measure. Pearson r of score and change over all domains, other categories drawn, "
    "for every measure whose change is reliable enough. Main: "
    f"{results.MEASURE_NAMES[measure]}, absolute; the others were looked at beside it. cosine: "
    "ours, signed, of a domain's mean shift on D_N and the training set's. The paper: accuracy."
)
results.publish(profile, "table6_measures", pd.DataFrame(rows, columns=columns), caption)

# %% [markdown]
# Does it depend on what the score reads? Three variants (ours), each fixed beforehand, and none
# chosen by its r:
#
# - *as asked*: the scores read questions with lettered options, as the paper's do; the outcome here
#   is asked without. Here the scores read the questions as they are asked (first seed).
# - *dense left out*: $D_N$ without features of density above 0.5 on the training questions.
# - *own spread*: activations and shifts in units of each feature's standard deviation over the
#   training questions' tokens, for $D_N$ and for the scores.


# %%
def in_own_spread(of: FeatureStats, spread: np.ndarray) -> FeatureStats:
    """Sums of features [Q, F] in units of their `spread` [F]; what never moves stays 0."""
    unit = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)
    scaled = {field: getattr(of, field) * unit for field in ("h", "dh")}
    return replace(of, **scaled, h2=of.h2 * unit**2, dh2=of.dh2 * unit**2)


asked = Run(questions.as_asked(profile))
asked.train, asked.changes = measured.train[:1], measured.changes
sparse, dims = labels.density(profile)["share"] <= 0.5, []
for one in measured.ranked:
    kept = sparse[one.ids]
    dims.append(scores.ShiftedDims(one.ids[kept], one.shift[kept])[: profile.top_n])
spread = [np.sqrt((t.mean("h2") - t.mean("h") ** 2).clip(0)) for t in measured.train]
scaled = Run(profile)
scaled.train = [in_own_spread(of, s) for of, s in zip(measured.train, spread)]
scaled.domains = [
    {domain: in_own_spread(of, s) for domain, of in seed.items()}
    for seed, s in zip(measured.domains, spread)
]
variants = {"the paper's": observed, "as asked": asked.observations()}
variants |= {"dense left out": measured.observations(dims=dims)}
variants |= {"own spread": scaled.observations()}

# %%
rows = [
    {"scores": name, "metric": metric, "change": change}
    | results.numbers(stats.correlate(seen, change))
    for name, of in variants.items()
    for metric, seen in of.items()
    for change in stats.CHANGES
]
caption = (
    "Table 6 by what the score reads (ours): r over all domains with the change, 95% with other "
    "categories drawn. as asked: options not listed, first seed's queries; dense left out: D_N "
    "without features of density above 0.5; own spread: features in units of their own deviation."
)
results.publish(profile, "table6_variants", pd.DataFrame(rows), caption)

# %%
print(f"Fig 3, Tables 6 and 9, {len(every)} judged statistics: figures/{profile.name}/.")
