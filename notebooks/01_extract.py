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
# # 01 · Extract: features with and without demonstrations
#
# The paper's idea in one sentence: *what a training answer does to the model's features when it is
# merely put in context foretells what training on it will do.* This notebook runs the untouched
# model on pairs of prompts that end in the same question, once alone (**plain**) and once after
# worked examples (**icl**), and sums up how each SAE feature differs on the question's own tokens.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import matplotlib.pyplot as plt
import pandas as pd

from sts_utils import config, prompts
from sts_utils.runs import check, models, samples
from sts_utils.runs.run import Run
from sts_utils.scale import plan

profile = config.load(PROFILE, SEEDS)
check.prepare(profile)
print(f"{profile.name}: {profile.about}")
print(f"model {profile.model}, block {profile.layer}, SAE {profile.sae}, seeds {profile.seeds}")

# %% [markdown]
# ## A pair of prompts
#
# Below, one training question after two demonstrations. The span between ⟦ and ⟧ is the **query**:
# the same tokens in both conditions, and the only ones that count. The chat header, the
# demonstrations and the assistant's header are left out, and so are attention sinks.

# %%
pairs = samples.training_pairs(profile, profile.seeds[0])
plain, icl = pairs[0]
tokenizer = samples.tokenizer(profile.model, profile.revision)
print(prompts.decoded(tokenizer, icl))

# %%
print("the same query tokens in both conditions:", plain.query == icl.query)
print(f"tokens: {len(plain.ids)} plain, {len(icl.ids)} icl, {len(icl.query)} of them the query")
print(f"a residual row above norm {models.sink_norm(profile):,.0f} is an attention sink")

# %% [markdown]
# ## What is computed
#
# One list holds everything that a run computes; this notebook takes its own part of it. A step that
# is done only reads its artifact. One forward pass serves all SAEs (those of Fig 4 too), and each
# context is run once: its key-value cache serves all the queries behind it.

# %%
steps = plan.everything(profile)
plan.compute(profile, steps, stage="01_extract")
pd.Series([s.kind for s in steps if s.stage == "01_extract"]).value_counts().rename("steps")

# %% [markdown]
# ## The training set
#
# Queries come from held-out templates, demonstrations from the pool that SFT will draw from; no two
# share a template. What is kept of a pair is its sums over tokens, a row a query.

# %%
run = Run(profile)
first = run.train[0]
print(f"(Δh)² of each query: {first.dh2.shape} = (queries, features)")
print(f"{first.n.sum():,.0f} query tokens a seed, {len(run.train)} seeds")

# %% [markdown]
# Most features hardly move; a few move a lot. The next notebook takes the top ones.

# %%
figure, axis = plt.subplots(figsize=(5, 2.2))
moved = first.mean("dh2")
axis.hist(moved[moved > 0], bins=[10 ** (x / 8) for x in range(-40, 25)], color="0.6")
shift = r"$E_x(\Delta h_j)^2$, icl against plain"
_ = axis.set(xscale="log", yscale="log", xlabel=shift, ylabel="features")

# %% [markdown]
# ## The domains
#
# Each downstream domain is treated alike, with its *own* chain-of-thought demonstrations. The
# queries are drawn from the questions on which performance will be measured; none of them is a
# demonstration.

# %%
rows = [
    {"domain": domain, "queries": len(of.n), "query tokens": int(of.n.sum())}
    for domains in run.domains
    for domain, of in domains.items()
]
pd.DataFrame(rows).groupby("domain").sum()

# %%
print(f"Features of {profile.train} and of {len(run.domain_names)} domains are in data/runs/.")
