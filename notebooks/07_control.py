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
# (overlap of words, similarity of texts), and what costs more: a short fine-tuning run,
# extrapolated.
#
# *The full control takes two hours. Its cells have since been moved into `sts_utils/control`; the
# outputs shown in the committed notebook are, word for word, those of the run before that move
# (commit 0de4d57, the one behind `figures/control`), and cells without an execution number have not
# been run again. `make control` does.*

# %% tags=["parameters"]
PROFILE = "control"
SEEDS = None  # kept for papermill: the control has seeds of its own (control.seeds)

# %%
import pandas as pd

from sts_utils import config
from sts_utils.control import effort, generic, judgement, scores, sets, tables
from sts_utils.control.tables import Control, show

profile = config.load(PROFILE, SEEDS)
sets.compute(profile)
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
# The paper's STS_act, then the contrastive score.

# %%
show(tables.control_heat_paper, control)

# %%
show(tables.control_heat, control)

# %%
show(tables.control_heat_probability, control)

# %% [markdown]
# ## Design: which contrastive score?
#
# Half of the sets and one seed (`data/control_split.yaml`, written before any score was computed on
# them). Every score, every way to contrast, N from 20 to 1000. The rule: highest share of rank 1,
# then lowest mean rank, then highest r with the change of the likelihood.
#
# A contrastive D_N alone did not suffice: STS_act adds up activations, so a few features that are
# strong everywhere outweigh those that are particular to a domain. `sts_relative` takes the
# logarithm of each feature's activation in a domain over its mean over the domains, and averages it
# over D_N. Besides what is shown, about a dozen forms of it were tried on the design half (ratio or
# standardised instead of logarithm, weighted by shift or its root, centred cosines); this one came
# first by the rule.

# %%
show(tables.control_design, control)

# %%
show(tables.control_sizes, control)

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
# What `sts_utils.predict` reports about the scores that it offers. Its default, `sts_relative` on
# the paper's D_N, is the one of them that did best here, so it was chosen **after** the judgement
# half was seen; the score that was fixed before is `sts_relative_contrastive`.

# %%
tables.offered(control).round(2)

# %% [markdown]
# ## All sets and seeds together
#
# For description alone: the design half is in it. Below the table, r over domains within each
# training set, the score and the change each less its mean over training sets.

# %%
show(tables.control_all, control)

# %%
changes = control.matrix.changes(scores.LIKELIHOOD)
within = {
    s.label: judgement.r_within(scores.values(control.matrix, s), changes) for s in control.main
}
pd.DataFrame(within, index=pd.Index(names, name="training set")).round(2)

# %% [markdown]
# ## Does D_N hold the features that SFT moves?
#
# Overlap of D_N with the features that fine-tuning on the set really moved; for a contrastive D_N,
# with those that it moved more than fine-tuning on the other sets did.

# %%
show(tables.control_agreement, control)

# %% [markdown]
# ## The sign
#
# Can the cosine of signed mean shifts say whether a domain gains or loses, as it is, or beside the
# other domains and sets (row and column means removed)? The baseline always says the commoner sign.

# %%
show(tables.control_sign, control)

# %% [markdown]
# ## Why: most of an ICL shift is generic
#
# D_100 of different training sets, without and with contrast; and its generic part against the
# length of the context, one seed.

# %%
show(tables.control_generic, control)

# %% [markdown]
# The features that are in D_100 of most training sets, and the tokens of the domains' questions on
# which they fire hardest.

# %%
common = generic.generic_features([row[0] for row in control.matrix.cells])
contexts = generic.top_contexts(profile, common.index[:8].tolist())
contexts.assign(**{"share of sets": contexts.feature.map(common)})

# %% [markdown]
# What is left when the features that prose of the same length moves most are taken out (`D_N
# without generic`), by N:

# %%
left = judgement.judge(control.matrix, scores.without_generic())
left[["score", "n", "first", "rank", "rank_low", "rank_high"]].round(2)

# %% [markdown]
# ## Dose, and number of demonstrations

# %%
show(tables.control_doses, control)

# %%
effort.by_demonstrations(profile, control.main).round(2)

# %% [markdown]
# ## What it costs
#
# Tokens × blocks of computation (a backward pass counts as two forward ones), mean over training
# sets. What the domains cost is paid once for all training sets; the probe run's evaluation is paid
# for each.

# %%
costs = control.costs
print(f"a further training set: {costs.score / costs.probe:.2f} of a probe run's computation")
print(f"the first, with its domains: {(costs.score + costs.domains) / costs.probe:.2f}")
(costs / 1e6).round(2).rename("million tokens × blocks").to_frame()

# %% [markdown]
# ## Were the goals reached?
#
# Set before the work began, for the score that was fixed on the design half: its own domain first
# in at least 90% of the judged sets and seeds, r of at least 0.7, at no more than a tenth of the
# probe run's cost.

# %%
show(tables.control_goals, control)

# %%
goals, _ = tables.control_goals(control)
for g in goals.itertuples():
    print(f"{g.what}: {g.reached:.2f} (goal: {g.goal:g}, {g.verdict})")
