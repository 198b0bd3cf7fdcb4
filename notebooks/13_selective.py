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
# # 13 · Selective fine-tuning
#
# The **features** of a sparse autoencoder (SAE) describe the model's inner state. Some of them move
# when worked examples, **demonstrations**, stand in the context. If these are where learning acts,
# then training *only* there should be worth more than training elsewhere. Nothing of the model
# itself is trained here (Fig 7, Table 11).

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

from sts_utils import config, questions, results, run
from sts_utils.experiments import selective
from sts_utils.results import CHANCE_COLOUR, SAE_COLOUR, Claim

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
seed, choices = profile.seeds[0], selective.choices(profile)
if not choices:
    print("The profile names no layers (sweep.layers): there is nothing to train here.")

# %% [markdown]
# ## What is trained
#
# At each of several layers an SAE reads the residual stream $r$, the model's inner state. For a set
# $D$ of its features there is one new linear map $M$, which starts at zero:
#
# $$r \leftarrow r + h_D(r)\,M$$
#
# $h_D(r)$ are the activations of the chosen features alone, here also called **dims**. The loss is
# that of ordinary fine-tuning (SFT), on the same solutions. $D$ is either the $n$ features that
# demonstrations move most (**estimated**), or $n$ drawn at **random**, several times.

# %%
layers = {name: run.with_sae(profile, name) for name in profile.sweep.layers}
rows = [{"layer": q.layer, "features": run.sae(q).cfg.d_sae, "SAE": n} for n, q in layers.items()]
pd.DataFrame(rows)

# %%
trained = {choice: (selective.tuned, seed, *choice) for choice in choices}
if trained:
    logs = run.training_logs(profile, {f"{n} {w} {draw}": t for (w, n, draw), t in trained.items()})
    table = logs.groupby("run", sort=False).loss.agg(["first", "last"]).round(3)
    table = table.rename_axis("number, choice and draw of dims")
    display(table.rename(columns={"first": "loss at the first step", "last": "at the last"}))

# %% [markdown]
# ## What it changes
#
# Mathematics that was not trained on, after minus before: the mean over questions and random draws,
# as where features are zeroed (Fig 1b). In brackets are 95% intervals.

# %%
column, name, unit, source = run.mathematics_measure(profile)
before = run.mathematics(profile).sort_values("id")
tables = [before.assign(features="none", count=0, draw=0)]
for (which, n, draw), model in trained.items():
    table = pd.read_parquet(run.folder(profile, model) / "table.parquet")
    tables.append(table.assign(features=which, count=n, draw=draw))
changes = selective.changes(pd.concat(tables), column, questions.templates(profile))
sizes = sorted({n for _, n in changes})
print(f"{name} of {source}, {unit}:", {f"{n} {which}": str(e) for (which, n), e in changes.items()})

# %% [markdown]
# ## Fig 7

# %%
caption = (
    f"Fig 7. {name.capitalize()} of {source} after selective fine-tuning, against the untouched "
    "model: only linear maps from the chosen features (dims) into the residual stream train, at "
    f"{len(profile.sweep.layers)} layers (the paper: five), on {profile.selective.examples} "
    "examples. Estimated dims: those that demonstrations move most. Random ones may seldom be "
    f"active; {profile.selective.draws} draws. One seed, 95% over questions and draws. The paper: "
    "estimated dims are better."
)
if changes:
    figure, axis = plt.subplots(figsize=(3.4, 2.6))
    for i, (which, colour) in enumerate((("estimated", SAE_COLOUR), ("random", CHANCE_COLOUR))):
        drawn = [changes[which, n] for n in sizes]
        look = {"capsize": 3, "color": colour, "label": f"{which} dims"}
        x, bars = np.arange(len(sizes)) + 0.3 * (i - 0.5), results.bars(drawn)
        axis.bar(x, [e.value for e in drawn], 0.28, yerr=bars, **look)
    axis.set_xticks(range(len(sizes)), sizes)
    axis.set(xlabel="dims chosen a layer", ylabel=f"change of {name},\n{unit}")
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    results.publish(profile, "fig7", figure, caption)

# %% [markdown]
# ## Table 11
#
# The same numbers, beside the paper's.

# %%
theirs = results.paper("table11_selective_finetuning")
rows = [
    {"source": "ours", "dims": n, "choice": which, **results.numbers(e)}
    for (which, n), e in changes.items()
]
for row in theirs.itertuples():
    for which in ("random", "estimated"):
        change = getattr(row, f"{which}_dims") - row.before_sft
        rows.append({"source": "paper (points)", "dims": row.selected_dims, "choice": which})
        rows[-1] |= {"value": change}
caption = (
    "Table 11. Selective fine-tuning: change against the untouched model; ours of the "
    f"{name} of {source} ({unit}), the paper's in points of accuracy. Dims are the features chosen "
    "of one layer's SAE; the paper's has 28,672."
)
columns = {"value": "change", "low": "95%: from", "high": "to"}
if changes:
    results.publish(profile, "table11", pd.DataFrame(rows).rename(columns=columns), caption)

# %% [markdown]
# ## The paper's claim
#
# At each size, training the estimated dims helps more than training random ones.

# %%
claims = []
for n, row in zip(sizes, theirs.itertuples()):
    gap = changes["estimated", n] - changes["random", n]
    words = f"{name}, estimated minus random, {n} dims a layer"
    paper = f"{row.estimated_dims} against {row.random_dims}, {row.selected_dims} dims"
    claims.append(Claim("fig7-beats", words, gap, paper))
results.judge(profile, claims)
