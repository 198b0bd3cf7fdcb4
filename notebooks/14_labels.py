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
# # 14 · What the shifted features are about
#
# The training set is mathematics. Its worked examples in the context, its **demonstrations**, move
# some **features** of the sparse autoencoder (SAE). Are these mathematical ones? $D_N$ are the N
# that move most, the **shifted dims**. A feature is labelled by the kind of text on which it fires
# hardest: mathematics, code or dialogue. The paper asks a language model for the label.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import numpy as np
import pandas as pd

from sts_utils import config, questions, results, stats
from sts_utils.experiments import labels
from sts_utils.measured import Run
from sts_utils.results import Claim
from sts_utils.stats import Estimate

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
run, top = Run(profile), profile.labels.top

# %% [markdown]
# ## The texts
#
# Equally many of each kind, as the model reads them; the beginning of the first of each:

# %%
sequences, kinds = labels.texts(profile)
decode = questions.tokenizer(profile).decode
for kind, name in enumerate(labels.KINDS):
    start = decode(sequences[np.flatnonzero(kinds == kind)[0]][:40])
    print(f"{(kinds == kind).sum()} texts of {name}: {start!r} …")

# %% [markdown]
# ## From texts to labels
#
# The SAE reads every text; of each feature only the highest activation in a text is kept. The ten
# texts with the highest ones vote, each for its kind, and the kind with the most votes is the
# label. A feature that never fires, or whose vote is tied, has none.


# %%
def labelled(votes: np.ndarray) -> np.ndarray:
    """[F] the kind with the most votes; −1 for a feature that never fires or whose vote is tied."""
    best = np.nan_to_num(votes).max(-1, keepdims=True)
    winners = (votes == best) & (best > 0)
    return np.where(winners.sum(-1) == 1, winners.argmax(-1), -1)


read = labels.peaks(profile)
votes = labels.votes(read["peaks"], kinds, top)
label = labelled(votes)
print(f"peaks {read['peaks'].shape} = (texts, features) -> votes {votes.shape} -> {label.shape}")
counts = [(label == kind).sum() for kind in range(len(labels.KINDS))]
pd.Series([*counts, (label < 0).sum()], [*labels.KINDS, "no label"], name="features").to_frame()

# %% [markdown]
# There are two ways to count what $D_N$ is about, and their numbers differ. By **votes**, as in
# notebook 02, a feature with six votes for mathematics of ten counts 0.6. By **labels**, as in
# Table 7, it counts whole, and features without a label are left out. Both of the first seed's
# $D_N$, and of all features:

# %%
ids = run.dims[0].ids
counts_by = {}
for name, of in ((f"D_{len(ids)}", ids), ("all", slice(None))):
    counted = np.bincount(label[of][label[of] >= 0], minlength=len(labels.KINDS))
    counts_by[name, "votes"] = np.nanmean(votes[of], 0)
    counts_by[name, "labels"] = counted / max(counted.sum(), 1)
pd.DataFrame(counts_by, index=labels.KINDS).T.rename_axis(["features", "counted by"]).round(3)

# %% [markdown]
# One by one, the ten that move most. How do the texts on which each fires hardest divide? And which
# next tokens does it make likelier (**promotes**), by the direction that it adds to the model's
# state? Do they name a subject, or form: punctuation, function words, pieces of words?

# %%
first = pd.DataFrame(votes[ids[:10]], columns=labels.KINDS).round(2)
words = labels.promoted(profile, ids[:10])
first["promotes"] = ["  ".join(filter(None, tokens)) for tokens in words]
first.insert(0, "feature", ids[:10])
results.shown(first)

# %% [markdown]
# Could this model itself be the judge? The paper asks a language model.

# %%
right = (read["judged"] == kinds).mean()
print(f"It names the kind of {right:.0%} of the texts rightly; by chance {1 / len(counts):.0%}.")

# %% [markdown]
# ## Table 7
#
# Of the features most shifted, the share labelled mathematics. It should be compared with the share
# among **all** labelled features, which the paper does not report: their ratio is the
# **enrichment**. The 95% intervals draw the texts of each kind again, with replacement, and these
# vote anew; and they draw the seeds again.

# %%
SIZES, DEEP = (50, 100, 200), 500  # of D_N in Table 7; ranks among which Table 8 looks


def drawn_labels(peaks: np.ndarray, kinds: np.ndarray, top: int, draw: int) -> np.ndarray:
    """[kinds, F] whether a feature has this label; by the texts as they are for draw 0."""
    picked = np.arange(len(kinds))
    if draw:
        rng = np.random.default_rng(draw)
        places = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
        picked = np.concatenate([rng.choice(place, len(place)) for place in places])
    label = labelled(labels.votes(peaks[picked], kinds[picked], top))
    return label == np.arange(len(labels.KINDS))[:, None]


# %% [markdown]
# Of each label: its share of $D_{50}$, $D_{100}$, $D_{200}$ and of all labelled features (Table 7).
# And the other way round: of the features with that label, the share that is among the 500 most
# shifted (Table 8). The paper draws 100 of them once; this is the mean over every such draw.


# %%
def shares(peaks, kinds, ranked, top, sizes=SIZES, draws=200) -> tuple[dict, dict]:
    """(label -> size -> Estimate of its share, label -> Estimate of recall, with "chance")."""
    size = len(ranked[0])
    dims = {n: [ids[:n] for ids in ranked] for n in sizes if n <= size} | {"all": ranked}
    found, deep = {n: [] for n in (*dims, "recall")}, min(DEEP, size // 2)
    for draw in range(draws + 1):
        right = drawn_labels(peaks, kinds, top, draw)
        for n, of in dims.items():
            counts = [right[:, ids].sum(1) for ids in of]
            found[n].append([count / max(count.sum(), 1) for count in counts])
        first = [right[:, ids[:deep]].sum(1) for ids in ranked]
        found["recall"].append(first / right.sum(1).clip(1))
    share = {}
    for k, name in enumerate(labels.KINDS):
        drawn = {n: np.array(rows)[..., k] for n, rows in found.items()}  # [1 + draws, seeds]
        share[name] = {
            n: Estimate(of[0].mean(), stats.over_seeds(of[1:])) for n, of in drawn.items()
        }
    recall = {name: of.pop("recall") for name, of in share.items()}
    del recall["dialogue"]
    return share, recall | {"chance": Estimate(deep / size, np.array([deep / size]))}


# %%
ranked = [dims.ids for dims in run.ranked]
share, recall = shares(read["peaks"], kinds, ranked, top)
base = share["math"]["all"]
more = {
    n: Estimate(e.value / base.value, e.draws / base.draws)
    for n, e in share["math"].items()
    if n != "all"
}
print("enrichment:", {f"D_{n}": str(e) for n, e in more.items()})

# %%
theirs = results.paper("table07_math_share").set_index("top_n").math_percent / 100
rows = []
for n, e in share["math"].items():
    row = {"features": f"D_{n}" if n in more else "all labelled"}
    row |= {"mathematics": e.value, "95%: from": e.low, "to": e.high}
    if n in more:
        of = {"enrichment": "value", "enrichment: from": "low", "enrichment: to": "high"}
        row |= {name: getattr(more[n], part) for name, part in of.items()}
    row |= {kind: share[kind][n].value for kind in ("code", "dialogue")}
    rows.append(row | {"the paper: mathematics": theirs.get(n)})

names = f"{profile.train}, {profile.labels.code}, {profile.labels.dialogue}"
labelling = (
    f"A feature's label is the commonest kind of the {top} texts on which it fires hardest "
    f"({names} in equal numbers). The paper: an LLM judge."
)
caption = (
    "Table 7. Share of the shifted features labelled mathematics, of those with a label, mean over "
    "seeds, with its 95% interval. Enrichment: this over the share of 'all labelled'. Then the "
    f"shares of the other labels. {labelling}"
)
results.publish(profile, "table7", pd.DataFrame(rows), caption)

# %% [markdown]
# ## Table 8
#
# The other way round: of the features with a label, the share that is among the most shifted.

# %%
theirs = results.paper("table08_recall").set_index("annotation").recall_percent_in_top500 / 100
rows = [
    {"label": name, **results.numbers(e), "the paper": theirs.get(name)}
    for name, e in recall.items()
]
columns = {"value": "share", "low": "95%: from", "high": "to"}
caption = (
    "Table 8. Share of the features labelled mathematics, and of those labelled code, among the "
    f"{DEEP} most shifted (the paper draws 100 of each once). {labelling}"
)
results.publish(profile, "table8", pd.DataFrame(rows).rename(columns=columns), caption)

# %% [markdown]
# ## The paper's claims

# %%
words = "share labelled so in D_{} over the base rate, minus 1"
claims = [Claim("table7-enriched", words.format(n), e - 1) for n, e in more.items()]
words = f"recall in the top {DEEP}, mathematics minus code"
results.judge(profile, [*claims, Claim("table8-recall", words, recall["math"] - recall["code"])])
