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
import html
import inspect
import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML, Code, display
from ipywidgets import Dropdown, HBox, Textarea
from matplotlib.figure import Figure
from tqdm import tqdm

from sts_utils import config, prompts, questions, results, run, scores
from sts_utils.experiments import labels
from sts_utils.shipped import Run

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
measured = Run(profile)

# %% [markdown]
# ## The equation, on arrays
#
# The first seed's statistics hold, for each query (row) and feature (column), the sum over the
# query's tokens of $(\Delta h_j)^2$, and how many tokens they are. (From a clone: one row, the sum
# over all queries.) Their ratio is the expectation; the N largest are $D_N$.

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
top = {"feature": dims.ids, "shift": dims.shift, "mean activation": stats.mean("h")[dims.ids]}
top = pd.DataFrame(top | {"density": measured.density[dims.ids]})
dense = top[top.density > 0.5]
print(f"On at more than half of all tokens: {', '.join(map(str, dense.feature)) or 'none'}.")
print(f"They make up {dense['shift'].sum() / dims.shift.sum():.0%} of the shift of D_{len(dims)}.")
top.head(10).round(3)

# %% [markdown]
# A feature's **density** is the share of the training questions' tokens at which it is on. A
# feature that is on nearly everywhere is about no subject.
#
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
read = measured.peaks
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

# %% [markdown]
# ## A dashboard of one feature
#
# What is a feature about? Here the SAE reads 32 training questions, and keeps what each feature of
# $D_N$ is at each token. On a busy laptop that takes a minute.

# %%
chosen = np.unique([seed.ids for seed in measured.dims])
model, hook, tokenizer = run.backbone(profile), run.hook(profile), questions.tokenizer(profile)
fired = []
for example in tqdm(questions.training_examples(profile, profile.seeds[0])[1][:32]):
    prompt = prompts.chat_prompt(tokenizer, example)
    h = labels.activations(model, hook, prompt.ids, chosen, first=prompt.span[0])
    fired.append(h[slice(*prompt.span)].cpu().numpy())
fired = pd.DataFrame(np.concatenate(fired), columns=chosen)
print(f"{len(fired):,} tokens × {len(chosen)} features")

# %% [markdown]
# The pictures of a feature: how strong it is where it is on, and how far it moves. Its shift under
# demonstrations stands among those of all features; so does its shift after fine-tuning (SFT), if
# the run has trained.

# %%
sides = {"demonstrations": measured.train}
if measured.made or all(run.finetuned.path(profile, s).exists() for s in profile.seeds):
    sides["SFT"] = measured.actual


def pictures(seed: int, feature: int) -> Figure:
    """A histogram of the feature's activation, and its shift among all features'."""
    figure = Figure(figsize=(5.4, 2.3))
    left, right = figure.subplots(1, 2)
    on = fired[feature][fired[feature] > 0]
    left.hist(on, bins=30, color=results.SAE_COLOUR)
    left.set(xlabel="activation where it is on", ylabel="tokens of 32 questions")
    left.set_title(f"on at {measured.density[feature]:.1%} of tokens")
    for (name, of), colour in zip(sides.items(), results.PALETTE):
        moved = scores.shift(of[profile.seeds.index(seed)])
        rank, own = 1 + (moved > moved[feature]).sum(), moved[feature]
        right.plot(1 + np.arange(len(moved)), np.sort(moved)[::-1], color=colour, lw=1)
        right.plot(rank, own, "o", color=colour, label=f"{name}: {own:.3g}, rank {rank:,}")
    right.set(xscale="log", yscale="log", xlabel="rank among all features", ylabel="shift")
    right.set_ylim(bottom=1e-3)
    right.legend(frameon=False, loc="lower left")
    return figure


# %% [markdown]
# Its words: the tokens whose logits its decoder direction raises and lowers most. Its contexts: the
# texts of three kinds on which it fires hardest, around the peak. The more orange a token, the
# higher the activation.

# %%
sequences, kinds = labels.texts(profile)
raised, lowered = (
    dict(zip(chosen, labels.promoted(profile, chosen, low))) for low in (False, True)
)


def contexts(feature: int, texts: int = 4, around: int = 16) -> str:
    """HTML: what the feature promotes, and where it fires hardest."""
    parts = []
    for said, of in (("raises", raised), ("lowers", lowered)):
        words = " ".join(f"<code>{html.escape(word)}</code>" for word in of[feature] if word)
        parts.append(f"<p><b>{said}</b> {words}</p>")
    for i in np.argsort(-measured.peaks["peaks"][:, feature], kind="stable")[:texts]:
        h = labels.activations(model, hook, sequences[i], [feature])[:, 0].cpu().numpy()
        part = slice(max(0, h.argmax() - around), h.argmax() + around)
        parts.append(f"<b>{labels.KINDS[kinds[i]]}</b>, peak {h.max():.3g}")
        parts.append(labels.coloured(tokenizer, sequences[i][part], h[part]))
    return "\n".join(parts)


# %% [markdown]
# Together, for the feature that moves most among those that are not on nearly everywhere, and for
# the one that moves most of all:


# %%
def dashboard(seed: int, feature: int) -> list:
    """All of the above on one feature of a seed's D_N."""
    title = HTML(f"<h4>Feature {feature}, seed {seed}</h4>")
    return [title, pictures(seed, feature), HTML(contexts(feature))]


rare = dims.ids[(top.density > 0.5).to_numpy().argmin()]  # the first that is not dense
display(*dashboard(profile.seeds[0], rare))

# %% [markdown]
# In JupyterLab any feature of $D_N$ can be picked, by seed and rank. (A page leaves the pickers
# out: they need a running notebook.)

# %%
seed = Dropdown(options=profile.seeds, description="seed")
feature = Dropdown(description="feature")


def by_rank(change=None):
    """Offer the features of the chosen seed's D_N, the most shifted first."""
    ids = measured.dims[seed.index].ids.tolist()
    feature.options = [(f"rank {rank}: {id}", id) for rank, id in enumerate(ids, 1)]
    feature.index = 0


by_rank()
display(HBox([seed, feature]))
parts = [display(part, display_id=True) for part in dashboard(seed.value, feature.value)]


def redraw(change):
    """The dashboard of what is picked, in the place of the one before."""
    for part, new in zip(parts, dashboard(seed.value, feature.value)):
        part.update(new)


seed.observe(by_rank, "value")
feature.observe(redraw, "value")

# %% [markdown]
# Your own text, coloured by the chosen feature. The first token is never read: its state carries no
# text.


# %%
def own_text(text: str, feature: int) -> HTML:
    """The text's tokens, coloured by the feature."""
    ids = tokenizer(text).input_ids[:512]
    if len(ids) < 2:
        return HTML("Write a few words.")
    h = labels.activations(model, hook, ids, [feature])[:, 0].cpu().numpy()
    return HTML(f"Feature {feature}, peak {h.max():.3g}" + labels.coloured(tokenizer, ids, h))


text = "Tom has 3 boxes of 12 eggs. He drops 5 eggs. How many eggs are left? 3 × 12 − 5 = 31."
box = Textarea(text, description="text", layout={"width": "90%"})
display(box)
coloured = display(own_text(text, rare), display_id=True)
for picker in (box, feature):
    picker.observe(lambda _: coloured.update(own_text(box.value, feature.value)), "value")

# %%
share = dims.shift.sum() / scores.shift(stats).sum()
print(f"D_{profile.top_n} holds {share:.0%} of the shift that demonstrations cause.")
print("Whether SFT moves the same features is drawn in 07_moved (Fig 1a, 2a, 2b).")
