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
# side, **does not** when it lies on the other, and is **inconclusive** when it holds both. A
# correlation with an outcome that is mostly noise is **not testable**.

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

from sts_utils import config, evaluate, results, scores, stats
from sts_utils.measured import Run
from sts_utils.results import FIGURES, METRIC_NAMES, Claim

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
measured, measure = Run(profile), profile.evaluation.measure
observed = {name: one.observations() for name, one in measured.sets.items()}

# %% [markdown]
# ## The claims about Fig 3
#
# `observed` holds, for each set of domains and each score, the scores [seeds, domains] and the
# changes of every question. The set whose change is more reliable comes first. Their correlations:

# %%
claims = [
    Claim(
        f"fig3-{metric.removeprefix('sts_')}", f"r over the domains of {name}", stats.correlate(o)
    )
    for name, of_set in observed.items()
    for metric, o in of_set.items()
]
if len(profile.seeds) > 1:  # how much each score's r varies over seeds; wide with three of them
    first, freedom = next(iter(observed.values())), len(profile.seeds) - 1
    act, icl = (stats.by_seed(o).var(ddof=1) for o in first.values())
    ratio = np.log(act / icl)
    low, high = np.log(f_distribution.ppf([0.025, 0.975], freedom, freedom))
    ratio = SimpleNamespace(value=ratio, low=ratio - high, high=ratio - low)
    ratio.reliability = stats.correlate(first["sts_icl"]).reliability
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
    if "does not" in found:
        return "does not"
    return found.pop() if len(found) == 1 else "inconclusive"


groups = every.groupby(["figure", "claim"], sort=False).verdict
summed = groups.agg(statistics="size", verdict=together).reset_index()
display(summed.verdict.value_counts().rename("claims").to_frame())
results.shown(summed[["verdict", "figure", "claim", "statistics"]].sort_values("verdict"))

# %% [markdown]
# The intervals are Fisher's of a correlation over domains, of a difference of such by leaving out
# each domain in turn, F's of a ratio of variances, else a bootstrap over questions (variants of a
# template together), seeds or random draws. A claim with several statistics agrees when all of them
# do, and does not when any does not. The rule judges claims, not digits: the run may be of another
# scale than the paper's. Where the paper's column in `claims.csv` says "not reported", the claim is
# ours.
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
vectors.sort_values("STS_ICL").round(4)

# %% [markdown]
# Their correlation, with the absolute change as in the paper:

# %%
r = np.corrcoef(x, abs(y))[0, 1]
print(f"r = {r:.3f} over {len(x)} domains")
figure, axis = plt.subplots(figsize=(3.4, 2.6))
sns.regplot(x=x, y=abs(y), ax=axis, ci=None, color=results.SAE_COLOUR, line_kws={"lw": 1})
_ = axis.set(xlabel=METRIC_NAMES["sts_icl"], ylabel="|change|", title=f"r = {r:.2f}")

# %% [markdown]
# That is all. The paper's number is the mean of this $r$ over the seeds. How sure is it? Two things
# vary: which **domains** there are (fourteen, of all that could be asked), and which **questions**
# were asked of them. Fisher's interval is for other domains; leaving out each twentieth of the
# questions in turn gives the interval for other questions. And the outcome has a **reliability**:
# the share of its variance that is signal. Divided by its root, $r$ becomes that with the true
# change.

# %%
seen = observed[profile.domains]["sts_icl"]
print("r of each seed:", stats.by_seed(seen).round(3))
r = stats.correlate(seen)
print(f"r of the means over seeds, and its 95% interval, other domains drawn: {r}")
print(f"reliability of the absolute change: {r.reliability:.2f}")
if r.testable:
    low, high = r.within
    print(f"r with the true change: {r.true:.2f}, other questions: [{low:.2f}, {high:.2f}]")

# %% [markdown]
# The same for both scores and both sets of domains, with the signed change in the picture: the
# paper correlates with the absolute one.

# %%
shape = {"figsize": (7.0, 0.4 + 2.6 * len(observed)), "sharey": "row", "squeeze": False}
figure, axes = plt.subplots(len(observed), 2, **shape)
for row, (name, of_set) in zip(axes, observed.items()):
    for axis, (metric, seen) in zip(row, of_set.items()):
        x, y = seen.scores.mean(0), 100 * seen.mean_changes().mean(0)
        width = 196 * stats.standard_errors(seen.changes)
        axis.axhline(0, color="0.8", lw=0.8, zorder=0)
        for i, (domain, (colour, marker)) in enumerate(results.styles(seen.domains).items()):
            look = {"fmt": marker, "color": colour, "ms": 5, "elinewidth": 0.8, "label": domain}
            axis.errorbar(x[i], y[i], yerr=width[i], **look)
        rs = [f"r with {kind} change {stats.correlate(seen, kind)}" for kind in stats.CHANGES]
        axis.set_title("\n".join(rs), loc="left", fontsize=8)
        axis.set_xlabel(METRIC_NAMES[metric])
    row[0].set_ylabel(f"{name}\nchange of {results.SHORT_NAMES[measure]}")
    row[1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))

# %%
sure = {name: stats.correlate(of_set["sts_icl"]).reliability for name, of_set in observed.items()}
theirs = results.paper("table06_pearson").pearson_mean
caption = (
    "Fig 3. Score before training, signed change after it: a point a domain, mean over seeds; bars "
    "are 95% intervals over questions, those of r over domains. Reliability of the absolute "
    f"change: {', '.join(f'{name} {share:.2f}' for name, share in sure.items())} (below "
    f"{stats.TESTABLE} nothing can be tested). The paper, over 8 domains: r = {theirs.min():.2f} "
    f"to {theirs.max():.2f}."
)
results.publish(profile, "fig3", figure, caption)

# %%
tables = {}
for name, of_set in observed.items():
    seen = of_set["sts_icl"]
    columns = {metric: o.scores.mean(0) for metric, o in of_set.items()}
    columns |= {"change": 100 * seen.mean_changes().mean(0)}
    columns |= {"se": 100 * stats.standard_errors(seen.changes)}
    tables[name] = pd.DataFrame(columns, seen.domains)
points = pd.concat(tables, names=["domains", "domain"]).reset_index()
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
    rs = stats.by_seed(seen, selection, kind)
    row = {"n": len(stats.select(seen.mean_changes()[0], selection))}
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
    row |= {"split_half": stats.split_half(seen.changes, kind)}
    if r.testable:
        row |= {"r_true": np.clip(r.true, -1, 1)}
        row |= dict(zip(("true_low", "true_high"), r.within))
    return row


# %%
rows = []
for name, of_set in observed.items():
    for metric, seen in of_set.items():
        for change in stats.CHANGES:
            row = {"domains": name, "metric": metric, "change": change}
            whole = each_seed(seen, change, "all") | of_means(seen, change)
            rows.append(row | {"selection": "all"} | whole)
            rows.append(row | {"selection": "paper"} | each_seed(seen, change, "paper"))
ours = pd.DataFrame(rows).rename(columns={"value": "r"})

# %%
ours = ours.assign(source="ours", model=profile.model)
theirs = {"source": "paper", "domains": "mmlu-pro", "selection": "paper", "n": 8}
theirs |= {"change": "absolute"}
about = ["source", "model", "domains", "metric", "selection", "change", "n"]
columns = ["r_mean", "r_sd", "r", "low", "high", "rho", "p", "reliability", "split_half"]
columns += ["r_true", "true_low", "true_high"]
their_r = results.paper("table06_pearson")
their_r = their_r.rename(columns={"pearson_mean": "r_mean", "pearson_sd": "r_sd"}).assign(**theirs)
caption = (
    "Table 6. Pearson r of score and change over domains. r_mean, r_sd: over seeds, as the paper "
    "reports. r: of means over seeds, [low, high] with other domains drawn, Spearman ρ, "
    "permutation p. r_true: without the questions' noise, [true_low, true_high] with other "
    "questions. Selection paper: eight domains chosen by the outcome."
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
for name, of_set in observed.items():
    one = measured.sets[name]
    for of in evaluate.MEASURES:
        changes = one.changes_of(of)
        for change in stats.CHANGES:
            for metric, seen in (of_set | one.observations(["cosine"])).items():
                r = stats.correlate(replace(seen, changes=changes), change)
                row = {"domains": name, "measure": of, "change": change, "metric": metric}
                if r.testable:
                    rows.append(row | results.numbers(r) | {"reliability": r.reliability})
columns = ["domains", "measure", "change", "metric", "value", "low", "high", "reliability"]
caption = (
    "Table 6 by measure. Pearson r of score and change over all domains, other domains drawn, for "
    "every measure whose change is reliable enough. Main: "
    f"{results.MEASURE_NAMES[measure]}, absolute; the others were looked at beside it. cosine: "
    "ours, signed, of a domain's mean shift on D_N and the training set's. The paper: accuracy."
)
results.publish(profile, "table6_measures", pd.DataFrame(rows, columns=columns), caption)

# %%
print(f"Fig 3, Tables 6 and 9, {len(every)} judged statistics: figures/{profile.name}/.")
