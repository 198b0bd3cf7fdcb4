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
# # 07 · A positive control
#
# The paper correlates over domains after training on mathematics. Nothing in it shows that the
# score can tell one training set from another. Here most training sets **are** domains: fine-tuning
# on law should move law, and a score worth having must say so beforehand. A matrix of training sets
# × domains asks it, with training and evaluation questions disjoint and the same number of examples
# and steps for every set.
#
# Beside the paper's scores stand a **contrastive** one of ours, what a user would try first
# (overlap of words, similarity of the residual stream), and what costs more: a short fine-tuning
# run, extrapolated.
#
# *The full control takes up to two hours and was not run again: cells without an execution number
# show, word for word, the outputs of the run behind `figures/control` (commit 0de4d57). The code
# has since moved into `sts_utils/control`, and its side questions are gone: other doses of SFT,
# numbers of demonstrations and sizes of D_N, what is generic in a shift, the sign, the cost, the
# search for a score on the design half. They were measured once; commit 4ad543f holds them with
# their outputs. So some outputs here have rows that are no longer computed: the scores `mean
# activation` and `embedding similarity`, and the goal on cost. `make control` runs what is left.*

# %% tags=["parameters"]
PROFILE = "control"
SEEDS = None  # kept for papermill: the control has seeds of its own (control.seeds)

# %%
import pandas as pd

from sts_utils import config
from sts_utils.control import judgement, scores, sets, tables
from sts_utils.control.tables import Control, show
from sts_utils.runs import plan

profile = config.load(PROFILE, SEEDS)
plan.compute(profile, sets.steps(profile))
control = Control(profile)
names, seeds = control.matrix.names, control.matrix.seeds
print(f"{len(names)} training sets, {len(control.matrix.domains)} domains, seeds {seeds}")

# %% [markdown]
# ## Two examples, as they are trained on

# %%
for name in names[:2]:
    example = sets.examples(profile, name, seeds[0])[0]
    print(f"[{name}] {example.query[:300]}\n  -> {example.solution[:200]}\n")

# %% [markdown]
# ## Did fine-tuning move its own domain?
#
# The change of each question's performance, paired with the untouched model's. Any training moves
# every domain (it teaches the form of an answer) and some domains move under any training, so row
# and column means are removed. What is left is particular to a set and a domain. Rank 1: the
# training set's own domain gained most of all. The probability of the gold option is free of style;
# the likelihood a token of the gold option's text has far less noise, but moves with the domain's
# wording too.

# %%
show(tables.control_change, control)

# %% [markdown]
# ## Score and change, side by side
#
# The paper's STS_act, then the contrastive score. (The pictures were drawn before a column was
# divided by its standard deviation over training sets: here `math` takes the colour.)

# %%
show(tables.control_heat_paper, control)

# %%
show(tables.control_heat, control)

# %% [markdown]
# ## Design: which contrastive score?
#
# Half of the sets and one seed (`data/control_split.yaml`, written before any score was computed on
# them) served to choose one of 145 scores: every score, every way to contrast, N from 20 to 1000.
# The rule: highest share of rank 1, then lowest mean rank, then highest r with the change of the
# likelihood.
#
# A contrastive D_N alone did not suffice: STS_act adds up activations, so a few features that are
# strong everywhere outweigh those that are particular to a domain. `sts_relative` takes the
# logarithm of each feature's activation in a domain over its mean over the domains, and averages it
# over D_N. Besides those 145, about a dozen forms of it were tried on the design half (ratio or
# standardised instead of logarithm, weighted by shift or its root, centred cosines). By the rule,
# overlap of words and residual similarity came first; of the scores that read D_N, this one did.
# The search was done once and is in commit 4ad543f (`control_design`).

# %% [markdown]
# ## Judgement
#
# One definition was fixed on the design half (`scores.FIXED`), and is judged on sets and seeds that
# were not used to find it. The paper's scores, the baselines and the probe run stand beside it.
# `first_p` and `rank_p`: how often a random order of the domains does as well.

# %%
show(tables.control_judgement, control)

# %%
show(tables.control_ranks, control)

# %% [markdown]
# `sts_utils.predict` quotes this table. Its default, `sts_relative` on the paper's D_N, is the one
# of its scores that did best here, so it was chosen **after** the judgement half was seen;
# the score that was fixed before is `sts_relative_contrastive`.

# %% [markdown]
# ## r within each training set
#
# Over the domains, the score and the change each less its mean over training sets. For description
# alone: the design half is in it.

# %%
changes = control.matrix.changes(scores.LIKELIHOOD)
within = {
    s.label: judgement.r_within(scores.values(control.matrix, s), changes) for s in control.main
}
pd.DataFrame(within, index=pd.Index(names, name="training set")).round(2)

# %% [markdown]
# ## Skill or words?
#
# Topics and their words come together, so a score that reads words alone passes the test above. In
# the profile `skills-design` a training set is a skill on a surface, like "maximum, apples":
# fine-tuning moves the same skill in other words and not another skill in the same words. These two
# tables are of such a profile alone (`make reproduce PROFILE=skills-design`; not run at full size
# yet).

# %%
show(tables.control_gains, control)
show(tables.control_transfer, control)

# %% [markdown]
# ## Were the goals reached?
#
# Set before the work began, for the score that was fixed on the design half: its own domain first
# in at least 90% of the judged sets and seeds, r of at least 0.7, at no more than a tenth of the
# probe run's cost. All three were missed. The cost is in the outputs below and no longer computed.

# %%
show(tables.control_goals, control)

# %%
goals, _ = tables.control_goals(control)
for g in goals.itertuples():
    print(f"{g.what}: {g.reached:.2f} (goal: {g.goal:g}, {g.verdict})")
