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
# # 03 · Scores: how transferable is the training set to each domain?
#
# Two scores read the shifted dimensions in a domain $\tilde T$, both from the untouched model:
#
# $$\mathrm{STS}_{act}(\tilde T) = E_{\tilde x} \sum_{j \in D_N} h_j(\tilde x;\Theta) \qquad
# \mathrm{STS}_{ICL}(\tilde T) = E_{\tilde x} \sum_{j \in D_N}
# \bigl(h_j(\tilde x_0,\tilde y_0,\dots,\tilde x;\Theta) - h_j(\tilde x;\Theta)\bigr)^2$$
#
# The first asks how active the shifted features are in the domain, the second how far the domain's
# own demonstrations move them. Neither needs a label, a fine-tuned model or an accuracy.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import Code

from sts_utils import config, results, scores
from sts_utils.experiments import labels
from sts_utils.measured import Run

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
measured = Run(profile)
dims, domains = measured.dims[0], measured.domains[0]
print(f"D_{len(dims)}, {len(domains)} domains: {', '.join(domains)}")

# %% [markdown]
# ## The equations, on the arrays of one domain
#
# Of each of its queries we have the sum over tokens of every feature, on the plain query ($h$) and
# of its squared change under the domain's demonstrations ($(\Delta h)^2$). Take the columns of
# $D_N$, sum over them, and divide by the number of tokens.

# %%
name, domain = next(iter(domains.items()))
sts_act = domain.h[:, dims.ids].sum(1, dtype=np.float64).sum() / domain.n.sum()
sts_icl = domain.dh2[:, dims.ids].sum(1, dtype=np.float64).sum() / domain.n.sum()
print(f"{name}: h {domain.h.shape} (queries, features), {domain.n.sum():,.0f} tokens")
print(f"STS_act = {sts_act:.3f}   STS_ICL = {sts_icl:.3f}")

# %%
Code(inspect.getsource(scores.sts_icl), language="python")

# %% [markdown]
# ## Every domain, every seed
#
# The same two functions, on every domain and seed, are the run's table of scores.

# %%
table = measured.scores
mine = table[(table.seed == profile.seeds[0]) & (table.domain == name)].set_index("metric").value
assert np.isclose(scores.sts_act(domain, dims, profile.definition), mine.sts_act)
assert np.isclose(scores.sts_icl(domain, dims, profile.definition), mine.sts_icl)
if profile.definition == "paper":
    assert np.isclose(sts_act, mine.sts_act) and np.isclose(sts_icl, mine.sts_icl)
table.pivot_table(index="domain", columns=["metric", "seed"], values="value").round(2)

# %% [markdown]
# Mean and spread over seeds, domains in the order of the mean. Each seed draws its own
# demonstrations and queries.

# %%
figure, axes = plt.subplots(1, 2, figsize=(8.5, 0.8 + 0.15 * len(domains)))
style = {"errorbar": "sd", "ls": "none", "color": results.SAE_COLOUR, "markersize": 3}
for axis, (metric, rows) in zip(axes, table.groupby("metric")):
    order = rows.groupby("domain").value.mean().sort_values().index
    sns.pointplot(rows, y="domain", x="value", order=order, ax=axis, **style)
    axis.set(xlabel=results.METRIC_NAMES[metric], ylabel="")

# %% [markdown]
# Do the two scores agree? Their rank correlation over domains, seed by seed:

# %%
wide = table.pivot_table(index=["seed", "domain"], columns="metric", values="value")
by_seed = wide.groupby("seed")
agree = {seed: of.sts_act.corr(of.sts_icl, method="spearman") for seed, of in by_seed}
pd.Series(agree, name="rank correlation").rename_axis("seed").round(2)

# %% [markdown]
# ## What the scores read
#
# A score is a sum over $D_N$. Which features is it made of? The share of each in the two scores
# (mean over domains), at which share of the training questions' tokens it is active (its
# **density**), and its shift under training demonstrations. A feature that is on nearly everywhere
# has little to say about a domain.

# %%
density, share = labels.density(profile)["share"][dims.ids], {}
for metric, field in {"sts_act": "h", "sts_icl": "dh2"}.items():
    means = np.mean([of.mean(field)[dims.ids] for of in domains.values()], 0)
    share[f"share of {metric}"] = means / means.sum()
parts = pd.DataFrame({"feature": dims.ids, "density": density, "shift": dims.shift} | share)
dense = parts.density > 0.5
print(f"{dense.sum()} of {len(parts)} features of D_N are active on more than half of all tokens;")
print(", ".join(f"{parts[c][dense].sum():.0%} is their {c}" for c in share))
parts.sort_values("share of sts_act", ascending=False).head(10).round(3)

# %%
figure, axis = plt.subplots(figsize=(4.2, 3))
size = 300 * parts["share of sts_act"]
points = axis.scatter(parts.density, parts["shift"], s=size, color=results.SAE_COLOUR, alpha=0.6)
axis.set(xlabel="density: share of training tokens", ylabel="shift", yscale="log")
caption = (
    "What the scores read (ours): density against shift of the features of D_N, first seed; a "
    f"point's area is its share of STS_act. The {dense.sum()} features of density above 0.5 make "
    f"up {parts['share of sts_act'][dense].sum():.0%} of STS_act and "
    f"{parts['share of sts_icl'][dense].sum():.0%} of STS_ICL."
)
results.publish(profile, "score_parts", figure, caption)

# %%
caption = "What the scores read (ours): every feature of D_N of the first seed."
results.publish(profile, "score_parts_table", parts, caption)

# %%
print("These are the predictions. They are fixed here, before any fine-tuning has run.")
