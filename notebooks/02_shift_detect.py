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
# # 02 · Shifted dimensions
#
# $$D_N = \mathrm{TopN}_j\; E_x\,\bigl(h_j(x;\Theta) - h_j(x_0,y_0,\dots,x_t,y_t,x;\Theta)\bigr)^2$$
#
# $h_j$ is SAE feature $j$ on a token of the query $x$, $\Theta$ the untouched model, $(x_0,y_0,\dots)$ the
# training set's worked examples in context. $D_N$ is the estimate, before any training, of where
# fine-tuning will act.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from sts_utils import config
from sts_utils.experiments import figures, labels
from sts_utils.method import shift
from sts_utils.runs import units

profile = config.load(PROFILE, SEEDS)
estimated = {seed: units.train_stats(profile, seed) for seed in profile.seeds}
dims = {seed: units.dims(profile, seed) for seed in profile.seeds}

# %% [markdown]
# ## The top of the ranking
#
# Feature ids, their shift, and their mean activation on plain queries, for the first seed.

# %%
seed = profile.seeds[0]
activation = estimated[seed].mean("h")
top = dims[seed][:10]
pd.DataFrame({"feature": top.ids, "shift": top.shift, "mean activation, plain": activation[top.ids]}).round(3)

# %% [markdown]
# ## Does it depend on the draw?
#
# Other seeds draw other demonstrations and other queries. If $D_N$ means something, it should hardly change.

# %%
rows = [
    {"seeds": f"{a} and {b}", "overlap of D_N": shift.overlap(dims[a], dims[b], profile.top_n)}
    for a, b in itertools.combinations(profile.seeds, 2)
]
chance = profile.top_n / len(estimated[seed].features)
print(f"chance overlap {chance:.1%}")
pd.DataFrame(rows)

# %% [markdown]
# ## How concentrated is the shift?
#
# The share of all movement that the most shifted features hold, in the SAE's features and in the residual
# stream's own dimensions (**raw**), at the same fraction of dims.

# %%
figure, axis = plt.subplots(figsize=(4.2, 2.4))
for label, raw, colour in (("SAE", False, figures.SAE_COLOUR), ("raw", True, figures.RAW_COLOUR)):
    moved = shift.shift(estimated[seed], raw=raw)
    ks = range(1, len(moved) + 1)
    axis.plot([100 * k / len(moved) for k in ks], shift.top_share(moved, list(ks)), color=colour, label=label)
axis.set(xscale="log", xlabel="top dims taken (% of all)", ylabel="share of the ICL shift")
_ = axis.legend(frameon=False)
# %% [markdown]
# ## What are they about?
#
# Texts of three kinds, mathematics, code and dialogue; a feature is labelled by the kind of the texts on which it fires
# hardest. Below, the share of each kind's votes over the shifted features and over all that fire.

# %%
peaks, kinds, judged = labels.peaks_of(profile)
votes = labels.votes(peaks, kinds, profile.labels.top)
chosen = dims[profile.seeds[0]].ids
named = {f"D_{profile.top_n}": np.nanmean(votes[chosen], 0), "all features": np.nanmean(votes, 0)}
pd.DataFrame(named, index=labels.KINDS).T.round(3)

# %% [markdown]
# The paper asks a language model for the label. Could this one be the judge? The share of the texts whose kind it
# names rightly (chance 33%):

# %%
print(f"{(judged == kinds).mean():.0%}")

# %%
share = float(shift.top_share(shift.shift(estimated[seed]), profile.top_n))
print(f"D_{profile.top_n} holds {share:.0%} of the shift that demonstrations cause (seed {seed}).")
print("Whether SFT moves the same features is drawn in 06_plot (Fig 1a, 2a, 2b), once SFT has run.")
