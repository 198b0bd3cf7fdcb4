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
# The first asks how active the shifted features are in the domain, the second how far the domain's own
# demonstrations move them. Neither needs a label, a fine-tuned model or an accuracy.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import matplotlib.pyplot as plt
import seaborn as sns

from sts_utils import config
from sts_utils.experiments import figures
from sts_utils.runs import units

profile = config.load(PROFILE, SEEDS)
scores = units.scores(profile)
print(f"{len(scores)} rows: {', '.join(scores.columns)}")

# %% [markdown]
# Mean and spread over seeds, domains in the order of the mean. Each seed draws its own demonstrations and
# queries.

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.5, 3.2))
for axis, (metric, rows) in zip(axes, scores.groupby("metric")):
    order = rows.groupby("domain").value.mean().sort_values().index
    sns.pointplot(rows, y="domain", x="value", order=order, errorbar="sd", ls="none", color=figures.SAE_COLOUR, ax=axis)
    axis.set(xlabel=figures.METRIC_NAMES[metric], ylabel="")

# %% [markdown]
# Do the two scores agree? Their rank correlation over domains, seed by seed:

# %%
wide = scores.pivot_table(index=["seed", "domain"], columns="metric", values="value")
wide.groupby("seed").corr("spearman").xs("sts_act", level=1)["sts_icl"].rename(
    "Spearman, STS_act with STS_ICL"
).to_frame()

# %%
print("These are the predictions. They are fixed here, before any fine-tuning has run.")
