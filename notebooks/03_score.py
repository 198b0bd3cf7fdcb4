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
# Mean and spread over seeds, domains in the order of the mean; a row of pictures for each set of
# domains. Each seed draws its own demonstrations and queries.

# %%
sets = {name: one.scores for name, one in measured.sets_as_named.items()}
figure, axes = plt.subplots(len(sets), 2, figsize=(7.5, 3.2 * len(sets)), squeeze=False)
style = {"errorbar": "sd", "ls": "none", "color": results.SAE_COLOUR}
for row, (name, of_set) in zip(axes, sets.items()):
    for axis, (metric, rows) in zip(row, of_set.groupby("metric")):
        order = rows.groupby("domain").value.mean().sort_values().index
        sns.pointplot(rows, y="domain", x="value", order=order, ax=axis, **style)
        axis.set(xlabel=results.METRIC_NAMES[metric], ylabel="", title=name)

# %% [markdown]
# Do the two scores agree? Their rank correlation over domains, seed by seed:

# %%
rows = {}
for name, of_set in sets.items():
    wide = of_set.pivot_table(index=["seed", "domain"], columns="metric", values="value")
    by_seed = wide.groupby("seed")
    rows[name] = {s: of.sts_act.corr(of.sts_icl, method="spearman") for s, of in by_seed}
pd.DataFrame(rows).rename_axis("seed").round(2)

# %%
print("These are the predictions. They are fixed here, before any fine-tuning has run.")
