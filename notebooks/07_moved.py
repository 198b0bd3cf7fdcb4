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
# # 07 · What SFT moves, and whether demonstrations find it
#
# The paper's claim has a mechanism. Supervised fine-tuning (**SFT**) moves few **features**, the
# units by which a sparse autoencoder (SAE) describes the model's state. Those features matter to
# what was trained. And **demonstrations**, worked examples in the context, move the same ones. This
# notebook asks each part: Fig 1a and 1b, Fig 2a and 2b.
#
# The **shift** of feature $j$ by SFT is $E_x(h_j(x;\Theta') - h_j(x;\Theta))^2$: $\Theta$ is the
# untouched model, $\Theta'$ the fine-tuned one, $x$ the plain tokens of held-out training
# questions. It is $D_N$'s equation with training in the place of demonstrations.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from sts_utils import config, questions, results, scores, stats
from sts_utils.experiments import selective
from sts_utils.measured import Run
from sts_utils.results import Claim
from sts_utils.run import mathematics_measure

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
run, n = Run(profile), profile.top_n


def percent(e, digits=0):
    return f"{e.value:.{digits}%} [{e.low:.{digits}%}, {e.high:.{digits}%}]"


# %% [markdown]
# ## Fig 1a: how the change is spread over features
#
# How much of the total do the N most moved features hold? They are compared with three others: all
# features alike, the N most **active** before SFT, and a shift **in proportion** to each feature's
# squared activity.
#
# `run.shifts` gives an array: the shifts as observed first, then without each twentieth of the
# questions in turn; by seed; by feature. Every interval below comes from these (a jackknife).

# %%
moved = run.shifts("actual")  # [1 + parts, seeds, features]
if not moved[0].any():  # one step is all warm-up
    raise ValueError("SFT moved no feature: raise sft.lr, sft.examples or sft.epochs")
activity, squares = run.shifts("train", "h"), run.shifts("train", "h2")


def share_held(moved: np.ndarray, ranked: np.ndarray, k: int) -> stats.Jackknife:
    """Share of the total of `moved` in the k dims with the most of `ranked`."""
    top = np.argpartition(-ranked, k - 1, axis=-1)[..., :k]
    return stats.Jackknife.of(np.take_along_axis(moved, top, -1).sum(-1) / moved.sum(-1))


top = share_held(moved, moved, n)
active = share_held(moved, activity, n)
in_proportion = share_held(squares, squares, n)
size = moved.shape[-1]
print(f"{moved.shape=}. Share of the total shift that {n} of {size} features hold:")
shares = {"most moved": top, "most active": active, "in proportion": in_proportion}
pd.DataFrame({name: results.numbers(e) for name, e in shares.items()}).T.round(3)

# %%
shift, by_activity = moved[0].mean(0), np.argsort(-activity[0].mean(0))
positive = shift[shift > 0]
bins = np.geomspace(positive.min(), positive.max(), 50)
figure, axis = plt.subplots(figsize=(3.4, 2.9))
axis.hist(positive, bins=bins, color="0.75", label=f"all {size} features")
label = f"{n} most moved: {top.value:.0%} of the change"
axis.hist(np.sort(shift)[-n:], bins=bins, color=results.SAE_COLOUR, label=label)
look = {"histtype": "step", "color": results.PALETTE[1], "lw": 1.2}
label = f"{n} most active: {active.value:.0%}"
axis.hist(shift[by_activity[:n]], bins=bins, label=label, **look)
axis.set(xscale="log", yscale="log", ylabel="SAE features")
axis.set_xlabel(r"shift after SFT, $E_x(\Delta h_j)^2$")
figure.legend(frameon=False, loc="outside upper center", fontsize=8)
caption = (
    f"Fig 1a. Shift of each SAE feature by SFT, on held-out training-set questions. The {n} "
    f"most moved of {size} hold {percent(top, 1)} of the total, the {n} most active "
    f"before SFT {percent(active, 1)}; if all moved alike {n / size:.1%}, if in "
    f"proportion to squared activity {percent(in_proportion, 1)}. 95% intervals. The paper: "
    "25% in the top 100 (Qwen2.5-7B)."
)
results.publish(profile, "fig1a", figure, caption)

# %% [markdown]
# The top N of any shift hold more than N of a uniform one, so that the change is not uniform needs
# no test. The claim is that it is more concentrated than activity is.

# %%
statistic = f"share in the top {n} of the change, minus that of a change in proportion to squared"
claim = Claim("fig1a-concentrated", f"{statistic} activity", top - in_proportion)
results.judge(profile, [claim])

# %% [markdown]
# ## Fig 1b: do the moved features matter?
#
# Features are taken out of the fine-tuned model's residual stream, $r - \sum_{j \in D} h_j(r) d_j$,
# while it reads held-out mathematics; the SAE's reconstruction error stays. The paper compares with
# **random** features, most of which are hardly ever active. A fairer control would be others **as
# active** as the shifted ones; how active the most active others are is said below. First seed; the
# mean of mathematics, by kind and number of features zeroed:

# %%
seed = profile.seeds[0]
zeroed = selective.zero_features(profile, seed, run.models[seed])
column, name, unit, asked = mathematics_measure(profile)
zeroed.groupby(["count", "features"])[column].mean().unstack().round(3)

# %% [markdown]
# The same questions are read each time, so each is compared with itself, intact.

# %%
lost = selective.changes(zeroed, column, questions.templates(profile))
counts = sorted({count for _, count in lost})
k = min(counts, key=lambda count: abs(count - n))
ranked_ids, active_h = scores.shifted_dims(run.actual[0], None).ids, run.actual[0].mean("h")
others = np.sort(active_h[ranked_ids[k:]])[-k:].sum() / active_h[ranked_ids[:k]].sum()
silent = (active_h < 0.01 * active_h[ranked_ids[:k]].mean()).mean()
control = (
    f"{silent:.0%} of all features, so of random ones, are nearly silent: below 1% of the mean "
    f"activity of the {k} shifted. The {k} most active others have {others:.0%} of theirs."
)

# %%
caption = (
    f"Fig 1b. {name.capitalize()} of {asked} (fine-tuned model, first seed) "
    "with SAE features taken out of the residual stream, reconstruction error kept; bands: "
    f"95% intervals. {control} {k} zeroed: shifted {lost['shifted', k]}, random "
    f"{lost['random', k]}. The paper: accuracy falls for shifted, stays for random features."
)

# %%
looks = {
    "shifted": ("most shifted by SFT", results.SAE_COLOUR),
    "random": ("random", results.CHANCE_COLOUR),
}
figure, axis = plt.subplots(figsize=(3.4, 2.6))
for which, (label, colour) in looks.items():
    line = {k: lost[which, k] for k in counts if (which, k) in lost}
    if line:
        value, low, high = zip(*((e.value, e.low, e.high) for e in line.values()))
        axis.plot(list(line), value, "o-", ms=4, color=colour, label=label)
        axis.fill_between(list(line), low, high, color=colour, alpha=0.25, lw=0)
axis.axhline(0, color="0.8", lw=0.8, zorder=0)
axis.set(xscale="log", xlabel="features zeroed", ylabel=f"change of {name},\n{unit}")
axis.set_xticks(counts, counts)
axis.minorticks_off()
figure.legend(frameon=False, loc="outside upper center", ncols=3, fontsize=8)
results.publish(profile, "fig1b", figure, caption)

# %% [markdown]
# Does zeroing the shifted features cost more than zeroing as many others?

# %%
claims = []
for which, k in sorted(lost):
    if which != "shifted":
        statistic = f"{name} lost, shifted minus {which}, {k} zeroed"
        claims.append(Claim(f"fig1b-{which}", statistic, lost[which, k] - lost["shifted", k]))
results.judge(profile, claims)

# %% [markdown]
# ## Fig 2a: do demonstrations find what SFT moves?
#
# $D_N$ is what demonstrations move most in the untouched model. Of the first seed, how many of its
# features are among the N that SFT moves most?

# %%
found, tuned = run.ranked[0][:n], scores.shifted_dims(run.actual[0], n)
both = np.intersect1d(found.ids, tuned.ids)
print(f"{len(both)} of {n}: {len(both) / n:.0%}, by chance {n / size:.0%}")

# %% [markdown]
# The same for every number of dims, over seeds, with intervals; and of the model's own state, the
# residual stream, without an SAE (**raw**). Two other rankings say how little it takes: the
# features that are most active anyway, and those that any **prose** in context moves, as long as
# the demonstrations. A difference of two overlaps has an interval too, for all leave out the same
# questions.

# %%
rankings = {  # (side, field) that ranks the dims, label, colour
    "SAE": ("train", "dh2", "demonstrations, SAE features", results.SAE_COLOUR),
    "raw": ("train", "dr2", "demonstrations, raw dims", results.RAW_COLOUR),
    "active": ("train", "h", "most active SAE features", results.PALETTE[2]),
    "prose": ("prose", "dh2", "prose in context, SAE features", results.PALETTE[4]),
}


def overlap(a: np.ndarray, b: np.ndarray, k: int) -> stats.Jackknife:
    """Share of the top k dims of `a` that are among the top k of `b`, [1 + parts, S, F] shifts."""
    return stats.Jackknife.of(scores.overlaps(a, b, np.array([k]))[..., 0])


curves, at_n, chance = {}, {}, {}
for name, (side, field, *_) in rankings.items():
    ranked = run.shifts(side, field)
    actual = run.shifts("actual", "dr2") if name == "raw" else moved
    size = ranked.shape[-1]
    ks = np.unique(np.round(np.geomspace(1, size, 40)).astype(int))
    e = stats.Jackknife.of(scores.overlaps(ranked, actual, ks))
    values = {"k": ks, "overlap": e.value, "low": e.low, "high": e.high, "chance": ks / size}
    curves[name], k = pd.DataFrame(values), min(n, size)
    at_n[name], chance[name] = overlap(ranked, actual, k), k / size
pd.DataFrame({name: results.numbers(e) for name, e in at_n.items()}).T.assign(chance=chance)

# %% [markdown]
# N raw dims are a larger fraction of all than N features. At the same fraction:

# %%
raw, raw_moved = run.shifts("train", "dr2"), run.shifts("actual", "dr2")
raw_size = raw.shape[-1]
raw_k = max(1, round(n / moved.shape[-1] * raw_size))
same_fraction = overlap(raw, raw_moved, raw_k)
said = {name: percent(e) for name, e in at_n.items()}
caption = (
    "Fig 2a. Share of each ranking's top dims that are among SFT's; bands and bars: 95% intervals; "
    "dashed: chance of features. Left: as many dims; right: as large a fraction. "
    f"Top {n}: demonstrations {said['SAE']} (chance {chance['SAE']:.0%}), "
    f"most active features {said['active']}, prose {said['prose']}, raw dims {said['raw']} (chance "
    f"{chance['raw']:.0%}). Same fraction, {raw_k} raw dims: {percent(same_fraction)}. "
    "The paper: 57% at 100, raw far lower."
)
print(f"{raw_k} of {raw_size} raw dims: {percent(same_fraction)}, chance {raw_k / raw_size:.0%}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(5.4, 3.4), sharey=True)
for place, (name, (*_, label, colour)) in enumerate(rankings.items()):
    curve, e = curves[name].query("k >= 10"), at_n[name]  # of fewer an overlap is a coin's toss
    left.plot(curve.k, curve.overlap, color=colour, lw=1, label=label)
    bar = {"fmt": "o^sD"[place], "color": colour, "ms": 5, "capsize": 2, "mec": "white"}
    at = min(n, curve.k.max()) * 1.12 ** (place - 1.5)  # beside one another
    left.errorbar(at, e.value, yerr=results.bars([e]), **bar)
    if name in ("SAE", "raw"):  # the others are SAE features too
        right.plot(100 * curve.chance, curve.overlap, color=colour)
        right.fill_between(100 * curve.chance, curve.low, curve.high, color=colour, alpha=0.2, lw=0)
for axis, x in ((left, curves["SAE"].k), (right, 100 * curves["SAE"].chance)):
    axis.plot(x, curves["SAE"].chance, color=results.CHANCE_COLOUR, ls="--", lw=0.8)
    axis.set(xscale="log", ylim=(0, 1.02))
left.axvline(n, color="0.8", lw=0.8, zorder=0)
theirs = results.paper("claims").set_index("id").loc["fig2a-found", "size"]
look = {"marker": "*", "ms": 9, "mfc": "white", "color": "0.3", "ls": "", "zorder": 4}
left.plot(100, theirs, label=f"the paper: {theirs:.0%} at 100", **look)
left.set(xlabel="top dims taken", ylabel="overlap with what SFT moves", xlim=(9, None))
right.set(xlabel="top dims taken (% of all)", xlim=(0.1, None))
look = {"ncols": 2, "columnspacing": 1, "handlelength": 1.2, "frameon": False}
figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", **look)
results.publish(profile, "fig2a", figure, caption)

# %% [markdown]
# The overlap against chance, against the two simpler rankings, and against raw dims: as many of
# them, and as large a fraction.

# %%
sae, above = at_n["SAE"], at_n["SAE"] - chance["SAE"]
same_above, words = same_fraction - raw_k / raw_size, "overlap above chance, SAE minus raw"
raw_above, fraction = at_n["raw"] - chance["raw"], f"same fraction, {n} and {raw_k} dims"
than = f"overlap at {n}, D_N minus"
claims = [
    Claim("fig2a-found", f"overlap at {n} minus chance", above),
    Claim("fig2a-activity", f"{than} the most active features", sae - at_n["active"]),
    Claim("fig2a-prose", f"{than} what prose moves", sae - at_n["prose"]),
    Claim("fig2a-raw", f"{words}, {min(n, raw_size)} dims of each", above - raw_above),
    Claim("fig2a-raw", f"{words}, {fraction}", above - same_above),
]
results.judge(profile, claims)

# %% [markdown]
# ## Fig 2b: is the change more concentrated in features than in raw dims?
#
# The dims are sorted by their shift; the curve is the share of the total that the first k hold.

# %%
curves, top, said = {}, {}, {}
for space, field in (("SAE", "dh2"), ("raw", "dr2")):
    largest = -np.sort(-run.shifts("actual", field), axis=-1)
    share = largest.cumsum(-1) / largest.sum(-1, keepdims=True)
    e = stats.Jackknife.of(share)
    curves[space] = pd.DataFrame({"share": e.value, "low": e.low, "high": e.high})
    k = max(1, round(0.01 * len(e.value)))  # 1%
    top[space] = share_held(largest, largest, k)
    at_k = curves[space].loc[k - 1]
    said[space] = f"{at_k.share:.0%} (95% interval {at_k.low:.0%} to {at_k.high:.0%})"
caption = (
    f"Fig 2b. How concentrated SFT's change is: the top 1% of SAE features hold {said['SAE']}, "
    f"the top 1% of raw residual dims {said['raw']}. Bands: 95% intervals; dashed: all dims "
    "moved alike. The paper: raw is flatter."
)

# %%
figure, axis = plt.subplots(figsize=(3.4, 2.6))
looks = {"SAE": ("SAE features", results.SAE_COLOUR), "raw": ("raw dims", results.RAW_COLOUR)}
for space, (label, colour) in looks.items():
    size = len(curves[space])
    ks = np.maximum(1, np.round(np.geomspace(0.002, 1, 60) * size)).astype(int)
    curve, x = curves[space].loc[np.unique(ks) - 1], 100 * np.unique(ks) / size
    axis.plot(x, curve.share, color=colour, label=label)
    axis.fill_between(x, curve.low, curve.high, color=colour, alpha=0.25, lw=0)
uniform = {"color": results.CHANCE_COLOUR, "ls": "--", "label": "all alike"}
axis.plot(np.geomspace(0.2, 100), np.geomspace(0.002, 1), **uniform)
axis.set(xscale="log", xlabel="top dims taken (% of all)", ylim=(0, 1.02))
axis.set_ylabel("share of SFT's change")
look = {"ncols": 3, "columnspacing": 1.0, "handlelength": 1.5}
figure.legend(frameon=False, loc="outside upper center", **look)
results.publish(profile, "fig2b", figure, caption)
gap = top["SAE"] - top["raw"]
claim = Claim("fig2b-concentrated", "share of the top 1%, SAE minus raw", gap)
results.judge(profile, [claim])
