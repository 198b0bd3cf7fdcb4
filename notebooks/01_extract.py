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
# The paper's idea in one sentence: *what a training answer does to the model's features when it is merely
# put in context foretells what training on it will do.* This notebook runs the untouched model on
# pairs of prompts that end in the same question, once alone (**plain**) and once after worked examples
# (**icl**), and sums up how each SAE feature differs on the question's own tokens.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import matplotlib.pyplot as plt
import pandas as pd

from sts_utils import config
from sts_utils.method import prompts
from sts_utils.runs import samples, units

profile = config.load(PROFILE, SEEDS)
units.prepare(profile)
print(f"{profile.name}: {profile.about}")
print(f"model {profile.model}, block {profile.layer}, SAE {profile.sae}, seeds {profile.seeds}")

# %% [markdown]
# ## A pair of prompts
#
# Below, one training question after two demonstrations. The span between ⟦ and ⟧ is the **query**: the same
# tokens in both conditions, and the only ones that count. The chat header, the demonstrations and the
# assistant's header are left out, and so are attention sinks.

# %%
pairs = samples.training_pairs(profile, profile.seeds[0])
plain, icl = pairs[0]
tokenizer = samples.tokenizer(profile.model, profile.revision)
print(prompts.decoded(tokenizer, icl))

# %%
print("the same query tokens in both conditions:", plain.query == icl.query)
print(f"plain prompt {len(plain.ids)} tokens, icl prompt {len(icl.ids)} tokens, query {len(icl.query)} tokens")
print(f"a residual row above norm {units.sink_norm(profile):,.0f} is an attention sink and left out")

# %% [markdown]
# ## The training set
#
# Queries come from held-out templates, demonstrations from the pool that SFT will draw from; no two
# share a template. Several sets of demonstrations take turns, each computed once: its key-value cache serves
# all its queries.

# %%
others = units.sweep(profile)  # the SAEs of Fig 4 read the same forward passes
train = {seed: units.train_stats(profile, seed, also=others) for seed in profile.seeds}
first = train[profile.seeds[0]]
print(f"per-query sums: {first.dh2.shape} (queries, features); {first.n.sum():,.0f} query tokens a seed")

# %% [markdown]
# Most features hardly move; a few move a lot. The next notebook takes the top ones.

# %%
figure, axis = plt.subplots(figsize=(5, 2.2))
moved = first.mean("dh2")
axis.hist(moved[moved > 0], bins=[10 ** (x / 8) for x in range(-40, 25)], color="0.6")
_ = axis.set(xscale="log", yscale="log", xlabel=r"$E_x(\Delta h_j)^2$, icl against plain", ylabel="features")
# %% [markdown]
# ## The domains
#
# Each downstream domain is treated alike, with its *own* chain-of-thought demonstrations. The queries are drawn
# from the questions on which performance will be measured; none of them is a demonstration.

# %%
domains = {
    (domain, seed): units.domain_stats(profile, domain, seed, also=others)
    for seed in profile.seeds
    for domain in samples.evaluation_questions(profile)
}
summary = pd.DataFrame(
    [{"domain": d, "seed": s, "queries": len(v.n), "query tokens": int(v.n.sum())} for (d, s), v in domains.items()]
)
summary.groupby("domain")[["queries", "query tokens"]].sum()

# %%
print(
    f"Wrote features of {profile.train} ({len(train)} seeds) and of {summary.domain.nunique()} domains to data/runs/."
)
