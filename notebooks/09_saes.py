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
# # 09 · Which SAE, and which ranks
#
# The scores read the model through one SAE, at one layer, and keep the first N features of a
# ranking. How much hangs on these choices? Fig 4a to c and Table 12 repeat the main correlation
# through SAEs that differ in one thing. It is **width** (how many features), **layer** (the block
# whose output is read) or **sparsity** (L0: how many features are active at a token). Fig 4d takes
# later features of the ranking in the place of $D_N$.
#
# Nothing is trained again: the model and its changes are the same throughout.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

from sts_utils import config, corpora, questions, results, run, saes
from sts_utils.measured import Run
from sts_utils.results import Claim
from sts_utils.scores import PAPER_SCORES
from sts_utils.stats import Correlation, combined

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
main = Run(profile)

# %% [markdown]
# ## Other SAEs
#
# One pass of the model stored the features of every SAE of the profile's sweep. So $D_N$, the
# scores and r are computed again from what is stored, once an SAE. L0 is the SAE's own k, or it is
# measured on training questions.


# %%
def l0(p) -> float:
    """Mean number of active features a token of the profile's SAE."""
    if known := getattr(run.sae(p).cfg, "k", None):
        return float(known)
    # with the BOS that the model was trained with
    ids = questions.tokenizer(p)([e.query for e in corpora.load(p.train, 0, 64)]).input_ids
    rows = saes.activations(run.backbone(p), ids, 4096)
    return saes.quality(run.sae(p), rows)["l0"]


panels = {"widths": {}, "layers": {}, "sparsities": {}}  # -> its value -> metric -> r
r = {}
for name, panel in panels.items():
    for sae in getattr(profile.sweep, name):
        if sae not in r:
            r[sae] = main.with_sae(sae).correlations()
        read = run.with_sae(profile, sae)
        width = run.sae(read).cfg.d_sae
        at = width if name == "widths" else read.layer if name == "layers" else l0(read)
        panel[at] = r[sae]

# %%
for name, panel in panels.items():
    table = pd.DataFrame(panel.values(), [f"{at:g}" for at in panel]).map(str)
    display(table.rename_axis(name))

# %% [markdown]
# ## Fig 4a, 4b and 4c

# %%
drawn = {  # panel, x axis, what the paper found
    "fig4a": ("widths", "SAE features", "wider (131k against 16k) is lower"),
    "fig4b": ("layers", "block", "stable over layers 15, 20, 25"),
    "fig4c": ("sparsities", "L0 of the SAE", "falls from 0.78 at L0 13 to 0.65 at 109"),
}
differ = {"widths": "of {} widths at one layer and L0", "layers": "at {} layers"}
differ["sparsities"] = "of {} sparsities"
for name, (panel, label, theirs) in drawn.items():
    rows = {f"{at:g}": row for at, row in panels[panel].items()}
    if not rows:  # the profile names no such SAEs
        continue
    figure, axis = plt.subplots(figsize=(3.4, 2.6))
    results.r_points(axis, rows)
    axis.set_xlabel(label)
    if name == "fig4c":  # at the places of its L0s on a log scale, between ours
        at = results.paper("table12_sparsity")
        places = np.interp(np.log(at.l0), np.log(list(panels[panel])), range(len(rows)))
        axis.plot(places, at.pearson, "D--", color="0.5", mfc="white", label="the paper")
    figure.legend(frameon=False, loc="outside upper center", ncols=3, columnspacing=1)
    caption = (
        f"Fig {name[3:]}. r of score and absolute change over {profile.domains}, for SAEs "
        f"{differ[panel].format(len(rows))}; bars: 95% intervals, other categories drawn. "
        f"The paper: {theirs}."
    )
    results.publish(profile, name, figure, caption)

# %% [markdown]
# ## Table 12: r against the SAE's L0

# %%
rows, common = [], {"source": "ours", "model": profile.model}
for l0, row in panels["sparsities"].items():
    for metric, e in row.items():
        rows.append(common | {"l0": l0, "metric": metric} | results.numbers(e))
for r in results.paper("table12_sparsity").itertuples():
    rows.append({"source": "paper", "model": r.model, "l0": r.l0, "value": r.pearson})
caption = f"Table 12. r of score and absolute change over {profile.domains} against the SAE's L0."
results.publish(profile, "table12", pd.DataFrame(rows), caption)

# %% [markdown]
# r should fall with width and with L0: the statistic is the **slope** of r on their logarithm. And
# it should hardly depend on the layer: "hardly" is a standard deviation of r over layers below 0.1,
# fixed before looking. The variance's own noise, which makes any variance larger, is taken off.


# %%
def slope(panel: dict, metric: str):
    x = np.log2(list(panel))
    x = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    return combined(lambda r: np.tensordot(x, r, 1), [row[metric] for row in panel.values()])


def unfolded(square: Correlation) -> Correlation:
    """A square, which noise folds upward, without that: by the jackknife over categories."""
    n = len(square.left_out)
    return replace(square, value=n * square.value - (n - 1) * float(square.left_out.mean()))


def variance(panel: dict, metric: str):
    rows = [row[metric] for row in panel.values()]
    return unfolded(combined(lambda r: r.var(0, ddof=1), rows))


# %%
LITTLE, claims = 0.1, []
falls = {"fig4a-width": ("widths", "width"), "table12-sparsity": ("sparsities", "L0")}
for metric in PAPER_SCORES:
    for id, (panel, what) in falls.items():
        if len(panels[panel]) > 1:
            statistic = f"{metric}: slope of r on log2 {what}"
            claims.append(Claim(id, statistic, slope(panels[panel], metric)))
    if len(panels["layers"]) > 1:
        statistic = f"{metric}: variance of r over layers, noise taken off, minus {LITTLE}²"
        claims.append(
            Claim("fig4b-layer", statistic, variance(panels["layers"], metric) - LITTLE**2)
        )
results.judge(profile, claims)

# %% [markdown]
# ## Fig 4d: does the top of the ranking matter?
#
# The next N features in the ranking by shift take the place of $D_N$, and the next, up to six
# times N.

# %%
n, size = profile.top_n, len(main.ranked[0])
ranges = {
    f"{start + 1}–{start + n}": main.correlations([dims[start : start + n] for dims in main.ranked])
    for start in range(0, min(6 * n, size - n + 1), n)
}
figure, axis = plt.subplots(figsize=(3.4, 2.6))
results.r_points(axis, ranges, rotate=20)
axis.set_xlabel("ranks of the shifted dims used")
figure.legend(frameon=False, loc="outside upper center", ncols=len(axis.containers))
caption = (
    f"Fig 4d. r of score and absolute change over {profile.domains}, with these dims in place of "
    "D_N; bars: 95% intervals, other categories drawn. The paper: falls for dims of smaller shift."
)
results.publish(profile, "fig4d", figure, caption)

# %%
claims, (first, *later) = [], ranges.values()
for metric in PAPER_SCORES if later else ():
    rs = [first[metric], *(row[metric] for row in later)]
    gap = combined(lambda r: r[0] - r[1:].mean(0), rs)
    statistic = f"{metric}: r of ranks 1 to {n} minus the mean of later ranges"
    claims.append(Claim("fig4d-ranks", statistic, gap))
results.judge(profile, claims)
