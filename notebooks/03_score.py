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
from IPython.display import HTML, Code, display
from ipywidgets import Dropdown, IntSlider
from matplotlib.figure import Figure

from sts_utils import config, questions, results, run, scores
from sts_utils.experiments import labels
from sts_utils.shipped import Run

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
measured = Run(profile)
dims, domains = measured.dims[0], measured.domains[0]
print(f"D_{len(dims)}, {len(domains)} domains, {len(profile.seeds)} seed(s)")

# %% [markdown]
# ## The equations, on the arrays of one domain
#
# Of each of its queries we have the sum over tokens of every feature, on the plain query ($h$) and
# of its squared change under the domain's demonstrations ($(\Delta h)^2$). (From a clone: one row,
# the sum over all queries, of the most shifted features.) Take the columns of $D_N$, sum over them,
# and divide by the number of tokens.

# %%
name, domain = next(iter(domains.items()))
columns = scores.columns(domain, dims)  # where the features of D_N stand
sts_act = domain.h[:, columns].sum(1, dtype=np.float64).sum() / domain.n.sum()
sts_icl = domain.dh2[:, columns].sum(1, dtype=np.float64).sum() / domain.n.sum()
print(f"{name}: h {domain.h.shape} (queries, features), {domain.n.sum():,.0f} tokens")
print(f"STS_act = {sts_act:.3f}   STS_ICL = {sts_icl:.3f}")

# %%
Code(inspect.getsource(scores.sts_icl), language="python")

# %% [markdown]
# ## Every domain, every seed
#
# The same two functions, on every domain and seed, are the run's table of scores.

# %%
NAMES = {"sts_act": "STS_act", "sts_icl": "STS_ICL"}
table = measured.scores
mine = table[(table.seed == profile.seeds[0]) & (table.domain == name)].set_index("metric").value
assert np.isclose(scores.sts_act(domain, dims, profile.definition), mine.sts_act)
assert np.isclose(scores.sts_icl(domain, dims, profile.definition), mine.sts_icl)
if profile.definition == "paper":
    assert np.isclose(sts_act, mine.sts_act) and np.isclose(sts_icl, mine.sts_icl)
each = table.assign(score=table.metric.replace(NAMES) + ", seed " + table.seed.astype(str))
wide = each.pivot_table(index="domain", columns="score", values="value").round(1)
results.shown(wide.rename_axis(columns=None).reset_index())

# %% [markdown]
# ## What the scores read
#
# A score is a sum over $D_N$. Which features is it made of? The share of each in the two scores
# (mean over domains), at which share of the training questions' tokens it is on (its **density**),
# and its shift under training demonstrations. A feature that is on nearly everywhere has little to
# say about a domain.

# %%
FIELDS = {"STS_act": "h", "STS_ICL": "dh2"}
parts = pd.DataFrame({"feature": dims.ids, "density": measured.density[dims.ids]})
parts["shift"] = dims.shift
for metric, field in FIELDS.items():
    means = np.mean([of.mean(field)[scores.columns(of, dims)] for of in domains.values()], 0)
    parts[f"share of {metric}"] = means / means.sum()
parts = parts.sort_values("share of STS_act", ascending=False)
most, dense = parts.head(2), parts[parts.density > 0.5]
print(f"Of the {len(parts)} features of D_{len(parts)}:")
for some, which in (
    (most, "the two with most of STS_act"),
    (dense, "on at over half of all tokens"),
):
    act, icl = (f"{some[f'share of {metric}'].sum():.0%}" for metric in FIELDS)
    ids = ", ".join(map(str, some.feature)) or "none"
    print(f"- {ids} ({which}) make up {act} of STS_act and {icl} of STS_ICL")
results.shown(parts.head(10))

# %%
figure, axis = plt.subplots(figsize=(4.2, 3))
size = 300 * parts["share of STS_act"]
axis.scatter(parts.density, parts["shift"], s=size, color=results.SAE_COLOUR, alpha=0.6)
axis.set(xlabel="density: share of training tokens", ylabel="shift", yscale="log")
for feature, x, y in parts[["feature", "density", "shift"]].head(3).itertuples(index=False):
    axis.annotate(
        feature, (x, y), fontsize=8, xytext=(-8, 0), textcoords="offset points", ha="right"
    )
caption = (
    "What the scores read (ours): density against shift of the features of D_N, first seed; a "
    f"point's area is its share of STS_act. The {len(dense)} features of density above 0.5 make "
    f"up {dense['share of STS_act'].sum():.0%} of STS_act and "
    f"{dense['share of STS_ICL'].sum():.0%} of STS_ICL."
)
results.publish(profile, "score_parts", figure, caption)

# %%
caption = "What the scores read (ours): every feature of D_N of the first seed."
results.publish(profile, "score_parts_table", parts.sort_index(), caption)

# %% [markdown]
# ## Which domains score high?
#
# Mean and spread over seeds, domains in the order of their STS_ICL. Each seed draws its own
# demonstrations and queries.

# %%
size = (5.2, 0.8 + 0.16 * len(domains))
figure, axes = plt.subplots(1, 2, figsize=size, sharey=True)
means = table.groupby(["metric", "domain"]).value.mean()
style = {"errorbar": "sd", "ls": "none", "color": results.SAE_COLOUR, "markersize": 3}
style["order"] = means["sts_icl"].sort_values(ascending=False).index
for axis, (metric, rows) in zip(axes, table.groupby("metric")):
    sns.pointplot(rows, y="domain", x="value", ax=axis, **style)
    axis.set(xlabel=f"{NAMES[metric]}, a token", ylabel="")
    axis.grid(axis="y", color="0.92")

# %% [markdown]
# Do the two scores agree? Their rank correlation over domains, seed by seed:

# %%
wide = table.pivot_table(index=["seed", "domain"], columns="metric", values="value")
by_seed = wide.groupby("seed")
agree = {seed: of.sts_act.corr(of.sts_icl, method="spearman") for seed, of in by_seed}
pd.Series(agree, name="rank correlation").rename_axis("seed").round(2)

# %% [markdown]
# ## How one domain's score comes about
#
# The ten features with the largest share of each score of a domain. Orange: features that are on at
# more than half of the training questions' tokens.


# %%
def largest(domain: str, seed: int) -> Figure:
    """The features of a seed's D_N that make up most of the domain's scores."""
    s, figure = profile.seeds.index(seed), Figure(figsize=(5.4, 2.6))
    of, dims, axes = measured.domains[s][domain], measured.dims[s], figure.subplots(1, 2)
    for axis, (metric, field) in zip(axes, FIELDS.items()):
        means = of.mean(field)[scores.columns(of, dims)]
        top = np.argsort(-means, kind="stable")[:10][::-1]
        dense = measured.density[dims.ids[top]] > 0.5
        colours = np.where(dense[:, None], results.RAW_COLOUR, results.SAE_COLOUR)
        axis.barh(dims.ids[top].astype(str), means[top] / means.sum(), color=colours)
        axis.set(xlabel=f"share of {metric}, which is {means.sum():,.0f}")
    axes[0].set(ylabel="feature")
    return figure


# %% [markdown]
# And a question of the domain, token by token: the sum over $D_N$ of what enters the score. The
# more orange a token, the more it adds.

# %%
model, hook, tokenizer = run.backbone(profile), run.hook(profile), questions.tokenizer(profile)


def question(domain: str, seed: int, number: int) -> str:
    """HTML of a question, coloured by what each token adds to either score."""
    pairs = questions.domain_pairs(profile, domain, seed)
    ids = measured.dims[profile.seeds.index(seed)].ids
    plain, icl = pairs[number % len(pairs)]
    h, behind = (
        labels.activations(model, hook, of.ids, ids, of.span[0])[slice(*of.span)].cpu().numpy()
        for of in (plain, icl)
    )
    adds = {"Σ h": h.sum(1), "Σ (Δh)²": ((behind - h) ** 2).sum(1)}
    return "\n".join(
        f"<b>{what}</b>, {values.mean():,.1f} a token"
        + labels.coloured(tokenizer, plain.query, values)
        for what, values in adds.items()
    )


# %% [markdown]
# Together, for the domain of the highest $\mathrm{STS}_{ICL}$. In JupyterLab any domain, seed and
# question can be picked. (A page leaves the pickers out: they need a running notebook.)


# %%
def dashboard(domain: str, seed: int, number: int) -> list:
    """All of the above on one domain."""
    title = HTML(f"<h4>{domain}, seed {seed}</h4>")
    return [title, largest(domain, seed), HTML(question(domain, seed, number))]


highest = wide.sts_icl[profile.seeds[0]].idxmax()
pickers = [
    Dropdown(options=sorted(domains), value=highest, description="domain"),
    Dropdown(options=profile.seeds, description="seed"),
    IntSlider(0, 0, profile.sts.queries - 1, description="question"),
]
display(*pickers)
parts = [display(part, display_id=True) for part in dashboard(*(p.value for p in pickers))]


def redraw(change):
    """The dashboard of what is picked, in the place of the one before."""
    for part, new in zip(parts, dashboard(*(p.value for p in pickers))):
        part.update(new)


for picker in pickers:
    picker.observe(redraw, "value")

# %%
print("These are the predictions. They are fixed here, before any fine-tuning has run.")
