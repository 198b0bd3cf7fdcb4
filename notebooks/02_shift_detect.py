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
# $h_j$ is SAE feature $j$ on a token of the query $x$, $\Theta$ the untouched model,
# $(x_0,y_0,\dots)$ the training set's worked examples in context. The **shifted dimensions** $D_N$
# are the estimate, before any training, of where fine-tuning will act.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import inspect
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Code

from sts_utils import config, results, scores
from sts_utils.experiments import labels
from sts_utils.measured import Run

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
measured = Run(profile)

# %% [markdown]
# ## The equation, on arrays
#
# The first seed's statistics hold, for each query (row) and feature (column), the sum over the
# query's tokens of $(\Delta h_j)^2$, and how many tokens they are. Their ratio is the expectation;
# the N largest are $D_N$.

# %%
stats = measured.train[0]
moved = stats.dh2.sum(0, dtype=np.float64) / stats.n.sum()
by_hand = np.argsort(-moved, kind="stable")[: profile.top_n]
print(f"Σ (Δh)²: {stats.dh2.shape}, tokens: {stats.n.shape} -> shift: {moved.shape}")

# %% [markdown]
# The package says the same in one function, which is the one that every figure goes through:

# %%
Code(inspect.getsource(scores.shifted_dims), language="python")

# %%
dims = scores.shifted_dims(stats, profile.top_n, profile.definition)
assert (dims.ids == by_hand).all()
assert (dims.ids == measured.dims[0].ids).all()  # what the run uses from here on
activation = stats.mean("h")[dims.ids]
top = {"feature": dims.ids, "shift": dims.shift, "mean activation, plain": activation}
pd.DataFrame(top).head(10).round(3)

# %% [markdown]
# ## Does it depend on the draw?
#
# Other seeds draw other demonstrations and other queries. If $D_N$ means something, it should
# hardly change.

# %%
seeds = dict(zip(profile.seeds, measured.dims, strict=True))
rows = [
    {"seeds": f"{a} and {b}", "overlap of D_N": scores.overlap(seeds[a], seeds[b], profile.top_n)}
    for a, b in itertools.combinations(seeds, 2)
]
print(f"chance overlap {profile.top_n / len(stats.features):.1%}")
pd.DataFrame(rows)

# %% [markdown]
# ## How concentrated is the shift?
#
# The share of all movement that the most shifted features hold, in the SAE's features and in the
# residual stream's own dimensions (**raw**), at the same fraction of dims.

# %%
figure, axis = plt.subplots(figsize=(4.2, 2.4))
for label, raw, colour in (("SAE", False, results.SAE_COLOUR), ("raw", True, results.RAW_COLOUR)):
    moved = scores.shift(stats, raw=raw)
    held = np.cumsum(np.sort(moved)[::-1]) / moved.sum()
    percent = 100 * np.arange(1, len(moved) + 1) / len(moved)
    axis.plot(percent, held, color=colour, label=label)
axis.set(xscale="log", xlabel="top dims taken (% of all)", ylabel="share of the ICL shift")
_ = axis.legend(frameon=False)

# %% [markdown]
# ## What are they about?
#
# Texts of three kinds, mathematics, code and dialogue, are read by the SAE. Each feature has ten
# votes: the kinds of the ten texts on which it fires hardest. Below, the share of each kind's votes
# over the shifted features and over all that fire. (Table 7 counts features by their commonest
# kind, so its share is another number.)

# %%
read = labels.peaks(profile)
votes = labels.votes(read["peaks"], read["kinds"], profile.labels.top)
named = {f"D_{profile.top_n}": np.nanmean(votes[dims.ids], 0), "all": np.nanmean(votes, 0)}
pd.DataFrame(named, index=labels.KINDS).T.round(3)

# %% [markdown]
# One by one, the ten that move most: how the texts on which each fires hardest divide, and the
# tokens whose logits its decoder direction raises most. Do they name a subject, or form:
# punctuation, function words, pieces of words?

# %%
first = pd.DataFrame(votes[dims.ids[:10]], columns=labels.KINDS).round(2)
words = labels.promoted(profile, dims.ids[:10])
first["promotes"] = ["  ".join(filter(None, of)) for of in words]
results.shown(first.assign(feature=dims.ids[:10]).set_index("feature").reset_index())

# %% [markdown]
# The paper asks a language model for the label. Could this one be the judge? The share of the texts
# whose kind it names rightly (chance 33%):

# %%
print(f"{(read['judged'] == read['kinds']).mean():.0%}")

# %%
share = dims.shift.sum() / scores.shift(stats).sum()
print(f"D_{profile.top_n} holds {share:.0%} of the shift that demonstrations cause.")
print("Whether SFT moves the same features is drawn in 07_moved (Fig 1a, 2a, 2b).")
