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
# merely put in context foretells what training on it will do.*
#
# This notebook runs the untouched model on pairs of prompts that end in the same question. It
# stands alone in one (**plain**). In the other **demonstrations** come first, worked examples with
# their answers (**icl**, for in-context learning).
#
# The model's **residual stream** is its inner state, a row of numbers for each token. A sparse
# autoencoder (**SAE**) writes such a row as a few active **features** out of thousands. We sum up
# how each feature differs on the question's own tokens.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from sts_utils import check, config, prompts, questions, results, run
from sts_utils.measured import Run

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
check.prepare(profile)
print(f"model {profile.model}, block {profile.layer}, SAE {profile.sae}, seeds {profile.seeds}")

# %% [markdown]
# ## A pair of prompts
#
# Below, one training question after two demonstrations. The span between ⟦ and ⟧ is the **query**:
# the same tokens in both conditions, and the only ones that count. The chat header, the
# demonstrations and the assistant's header are left out.

# %%
pairs = questions.training_pairs(profile, profile.seeds[0])
plain, icl = pairs[0]
tokenizer = questions.tokenizer(profile)
print(prompts.decoded(tokenizer, icl))

# %%
print("the same query tokens in both conditions:", plain.query == icl.query)
print(f"tokens: {len(plain.ids)} plain, {len(icl.ids)} icl, {len(icl.query)} of them the query")

# %% [markdown]
# ## The forward pass
#
# A hook on block number `layer` keeps the residual stream after it. The SAE encodes the query's
# rows into features $h$: most are zero. A few tokens are **attention sinks**, whose rows are more
# than ten times as long as the median. They carry no text and are left out.

# %%
model, hook = run.backbone(profile), run.hook(profile)
kept_output = {}


def keep(block, inputs, output):
    """What the block writes: the residual stream [1, tokens, d_model]."""
    kept_output["r"] = output if torch.is_tensor(output) else output[0]


def query_rows(prompt):
    """[query tokens, d_model] residual stream after the SAE's block."""
    handle = model.layers[profile.layer].register_forward_hook(keep)
    with torch.inference_mode():
        model(input_ids=torch.tensor([prompt.ids], device=model.device), use_cache=False)
    handle.remove()
    return kept_output["r"][0, slice(*prompt.span)].float()


r_plain, r_icl = query_rows(plain), query_rows(icl)
text = (r_plain.norm(dim=-1) < hook.sink_norm) & (r_icl.norm(dim=-1) < hook.sink_norm)
h_plain, h_icl = hook.sae.encode(r_plain[text]), hook.sae.encode(r_icl[text])
print(f"residual rows {tuple(r_plain.shape)}, sinks left out: {int((~text).sum())}")
print(f"features {tuple(h_plain.shape)}, active a token: {(h_plain > 0).sum(1).float().mean():.1f}")

# %% [markdown]
# Subtract, square, sum over the query's tokens: $\sum (\Delta h_j)^2$, one number a feature. The
# most moved features of this one question:

# %%
squared_change = (h_icl - h_plain).square().sum(0).cpu().numpy()
most = np.argsort(-squared_change)[:5]
pd.DataFrame({"feature": most, "Σ(Δh)²": squared_change[most].round(2)})

# %% [markdown]
# ## The same, for every question
#
# The run does this for all queries and seeds, for the SAEs of Fig 4 in the same pass, and keeps the
# sums: a row a query. Each context is read once; its key-value cache serves all queries behind it.
# The row of our query must be what we just computed by hand.

# %%
measured = Run(profile)
first = measured.train[0]
print(f"Σ(Δh)² of each query: {first.dh2.shape} = (queries, features)")
print(f"{first.n.sum():,.0f} query tokens a seed, {len(measured.train)} seeds")
if profile.alignment == "query":
    stored = first.dh2[first.ids.index(plain.example_id)]
    print(f"our query: {squared_change.sum():.2f} by hand, {stored.sum():.2f} stored")
    assert np.corrcoef(squared_change, stored)[0, 1] > 0.99  # to the rounding of the dtype

# %% [markdown]
# How far does each feature move, as a mean over tokens? Both axes are logarithmic. The next
# notebook takes those at the right end.

# %%
figure, axis = plt.subplots(figsize=(5, 2.2))
moved = first.mean("dh2")
axis.hist(moved[moved > 0], bins=[10 ** (x / 8) for x in range(-40, 25)], color="0.6")
shift = r"$E_x(\Delta h_j)^2$, icl against plain"
axis.set(xscale="log", yscale="log", xlabel=shift, ylabel="features")
share = np.sort(moved)[-profile.top_n :].sum() / moved.sum()
print(f"The top {profile.top_n} of {len(moved):,} features hold {share:.0%} of the movement.")

# %% [markdown]
# ## The domains
#
# A **domain** is a subject or benchmark on which the model will not be trained. Each is treated
# alike, with its *own* chain-of-thought demonstrations. The queries are drawn from the questions on
# which performance will be measured; none of them is a demonstration. Subjects stand together in
# MMLU-Pro's categories.

# %%
category = dict(zip(measured.domain_names, measured.categories))
rows = [
    {"category": category[name], "domain": name, "queries": len(of.n), "tokens": int(of.n.sum())}
    for domains in measured.domains
    for name, of in domains.items()
]
by = pd.DataFrame(rows).groupby("category")
table = by.agg({"domain": "nunique", "queries": "sum", "tokens": "sum"}).reset_index()
columns = {"domain": "domains", "queries": "queries, all seeds", "tokens": "query tokens"}
results.shown(table.rename(columns=columns).sort_values("domains", ascending=False))

# %%
print(f"Features of {profile.train} and of {len(category)} domains are stored.")
