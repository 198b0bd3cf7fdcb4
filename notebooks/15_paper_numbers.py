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
# # 15 · What the paper's own numbers can carry
#
# Nothing of our run: what follows from the numbers that the paper prints (`data/paper`), each under
# an assumption. Its main result is an r of 0.6 to 0.9 between a domain's score and its absolute
# change of accuracy, over 8 domains. Three questions: how much of those changes is signal, what 8
# domains can say, and what it does to r that the 8 were chosen by the outcome.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sts_utils import config, corpora, results, stats

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
changes = results.paper("table02_04_accuracy_change")  # a row a model and domain
printed = results.paper("table06_pearson")  # a row a model and score: r over 8 domains
points = results.paper("figure3_digitized")  # three of Fig 3's six panels, read off the picture
colours = dict(zip(printed.model.unique(), results.PALETTE))
markers = {"sts_act": "o", "sts_icl": "s"}
figure = Figure(figsize=(5.4, 6))  # not pyplot's: shown once, when it is whole
axes = figure.subplot_mosaic("ab;cc", height_ratios=(1, 1.2))
a, b, c = (axes[panel] for panel in "abc")
printed

# %% [markdown]
# ## The outcome
#
# How many answers fine-tuning flips is not printed. If it is a share $q$ of $n$ questions, a change
# $\delta$ of accuracy has the standard error $\sqrt{(q - \delta^2)/n}$. The changes over domains
# then have the reliability $1 - \overline{se^2} / \mathrm{var}\,|\delta|$: the share of their
# variance that is signal. Each domain is taken as evaluated once, on all of MMLU-Pro's questions;
# the mean of three independent runs has at best a third of the noise. Engineering has the largest
# absolute change of all 14 domains in each of the three models, so it is also left out.

# %%
SHARES = (0.05, 0.10, 0.20, 0.30)  # of all questions, those whose correctness SFT flips
EXTREME = "engineering"
changes["change"] = changes.change_percent / 100
changes["questions"] = changes.domain.map(corpora.entry("mmlu-pro").questions)
rows = []
for model, of in changes.groupby("model", sort=False):
    for domains, kept in (("all", of), (f"without {EXTREME}", of[of.domain != EXTREME])):
        change = kept.change.abs().to_numpy()
        for share in SHARES:
            flipped = np.maximum(share, change)  # at least the change itself
            noise = ((flipped - change**2) / kept.questions.to_numpy()).mean()
            rows.append((model, domains, share, float(1 - noise / change.var(ddof=1))))
reliability = pd.DataFrame(rows, columns=["model", "domains", "share", "reliability"])
reliability.pivot(index=["model", "domains"], columns="share", values="reliability").round(2)

# %%
for (model, domains), of in reliability.groupby(["model", "domains"], sort=False):
    ls = "-" if domains == "all" else "--"
    a.plot(100 * of.share, of.reliability, color=colours[model], ls=ls)
a.axhline(stats.TESTABLE, color=results.CHANCE_COLOUR, lw=0.8, ls=":")
a.axhline(0, color="0.8", lw=0.8, zorder=0)
a.set(title="a", xlabel="answers that flip (% of questions)", ylim=(-0.5, 1))
_ = a.set(ylabel="reliability of the |change|", xticks=100 * np.array(SHARES))

# %% [markdown]
# ## Few domains
#
# Fisher's interval of r takes the 8 domains as drawn at random from a normal population. They are
# not, and engineering is far out. The paper's ± is a spread over three seeds on the same domains:
# it says how well the computation repeats, and nothing of what r would be over other domains.
# Where Fig 3 can be read off, r is also computed from the points, with and without engineering.

# %%
rows = [(row.model, row.metric, "printed", 8, row.pearson_mean) for row in printed.itertuples()]
for (model, metric), of in points.groupby(["model", "metric"], sort=False):
    for source, kept in (("read off", of), (f"without {EXTREME}", of[of.domain != EXTREME])):
        x, y = kept.sts_read_off_picture.to_numpy(), kept.abs_change_percent.to_numpy()
        rows.append((model, metric, source, len(kept), float(stats.pearson(x, y))))
correlations = pd.DataFrame(rows, columns=["model", "metric", "source", "n", "r"])
intervals = [stats.fisher(row.r, row.n) for row in correlations.itertuples()]
correlations[["low", "high"]] = intervals
correlations.round(2)

# %%
table = correlations.query("source != 'read off'")  # as printed, but for the reading
cells = list(table[["metric", "model"]].drop_duplicates().itertuples(index=False, name=None))
for row in table.itertuples():
    whole = row.source == "printed"
    place = cells.index((row.metric, row.model)) + (0 if whole else 0.28)
    look = {"fmt": markers[row.metric], "color": colours[row.model], "ms": 5, "capsize": 2}
    look |= {} if whole else {"mfc": "white"}
    bar = c.errorbar(row.r, place, xerr=[[row.r - row.low], [row.high - row.r]], **look)
    bar.lines[2][0].set_linestyle("-" if whole else "--")
c.axvline(0, color="0.8", lw=0.8, zorder=0)
names = [f"{model.split('-')[0]} {results.METRIC_NAMES[metric]}" for metric, model in cells]
c.set_yticks(range(len(cells)), names)
c.invert_yaxis()
_ = c.set(title="c", xlabel="r with |change|", xlim=(-0.6, 1.02))

# %% [markdown]
# ## Chosen by the outcome
#
# The 4 largest and 4 smallest changes of 14 are spread wider than the 14, which raises r. How much
# is simulated with a score that is linear in the absolute change, with normal noise: mean r over
# all 14 domains and over the chosen 8. The score is the standardised change × a true r + noise.


# %%
def inflate(changes: np.ndarray, mean: float, sd: float, true: float) -> tuple[float, float]:
    """Mean r of [draws, D] absolute changes with a score: over all D, and over the chosen 8."""
    noise = np.random.default_rng(1).normal(size=changes.shape)  # the same for every `true`
    score = true * (changes - mean) / sd + (1 - true**2) ** 0.5 * noise
    order = np.argsort(changes, axis=-1)
    chosen = np.concatenate([order[:, :4], order[:, -4:]], axis=-1)
    few = (np.take_along_axis(of, chosen, -1) for of in (score, changes))
    return float(stats.pearson(score, changes).mean()), float(stats.pearson(*few).mean())


# %% [markdown]
# The changes are drawn from a normal population (all of one sign), from one folded at 0, or they
# are those that a model's table prints. Read backwards, the curve of a model says which r over all
# domains gives, on average, the printed one.

# %%
normal = np.random.default_rng(0).normal(size=(20_000, 14))
worlds = {  # changes, mean and standard deviation of their population
    "of one sign": (normal, 0, 1),
    "folded at 0": (np.abs(normal), (2 / np.pi) ** 0.5, (1 - 2 / np.pi) ** 0.5),
}
for model, of in changes.groupby("model", sort=False):
    table = of.change.abs().to_numpy()
    worlds[model] = (np.broadcast_to(table, normal.shape), table.mean(), table.std())
curves = {}
for name, world in worlds.items():
    means = [inflate(*world, true) for true in np.linspace(0, 0.95, 20)]
    curves[name] = pd.DataFrame(means, columns=["all", "chosen"])
printed["over all"] = [
    float(np.interp(row.pearson_mean, curves[row.model].chosen, curves[row.model]["all"]))
    for row in printed.itertuples()
]
printed.round(2)

# %%
for name, ls in (("of one sign", "-"), ("folded at 0", "--")):
    b.plot(curves[name]["all"], curves[name].chosen, color="0.3", ls=ls, label=f"changes {name}")
b.plot([0, 1], [0, 1], color=results.CHANCE_COLOUR, ls=":", lw=0.8, label="no inflation")
for _, row in printed.iterrows():
    look = {"marker": markers[row.metric], "color": colours[row.model], "ls": "", "ms": 5}
    b.plot(row["over all"], row.pearson_mean, **look)
b.legend(frameon=False, loc="upper left", handlelength=1.5, fontsize=8)
b.set(
    title="b", xlabel="mean r over all 14 domains", xlim=(0, 1), ylim=(0, 1.45), yticks=(0, 0.5, 1)
)
_ = b.set_ylabel("mean r over the chosen 8")

# %% [markdown]
# ## The picture

# %%
handles = [Line2D([], [], color=colour, lw=3, label=model) for model, colour in colours.items()]
look = {"color": "0.3", "ms": 5, "ls": ""}
for metric, marker in markers.items():
    handles.append(Line2D([], [], marker=marker, label=results.METRIC_NAMES[metric], **look))
handles.append(Line2D([], [], label=f"without {EXTREME}", color="0.3", ls="--"))
figure.legend(handles=handles, frameon=False, loc="outside upper center", ncols=3)
caption = (
    "Computed from the paper's printed numbers, not from a run. a: reliability of its absolute "
    "changes if a share of answers flips, each domain evaluated once (dotted: 0.5). b: "
    "mean r over 8 domains chosen by the outcome; markers: printed r. c: its r over 8 domains "
    "and, where Fig 3 can be read off, without engineering; Fisher's 95%."
)
results.publish(profile, "paper_numbers", figure, caption)
