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
# # 06 · Every figure and table
#
# Ours beside the paper's, in the paper's order. Each caption says which model and data it comes from, what was
# measured, with its 95% interval, and how the run differs from the paper's. At the end, the paper's claims are
# judged by one rule, fixed before looking.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None
FIGURES = None  # like "fig3 table6"; all if None

# %%
from IPython.display import Markdown, display

from sts_utils import config, stats
from sts_utils.experiments import (
    ablation,
    claims,
    comparisons,
    figures,
    labels,
    mixtures,
    reinforcement,
    selective,
    tables,
)
from sts_utils.report import page as report
from sts_utils.runs import performance as performances
from sts_utils.runs import units

profile = config.load(PROFILE, SEEDS)
wanted = report.chosen(FIGURES)


def show(name, make, digits=3):
    """Make, save and show a figure or table, if it was asked for."""
    if name not in wanted:
        return
    thing, caption = make()
    is_table = hasattr(thing, "columns")
    (tables if is_table else figures).save(thing, name, caption, profile)
    display(Markdown(f"**{caption}**"))
    if is_table:
        display(thing.round(digits))


def statistics(side):
    """Features of every seed: "estimated" by demonstrations, or "actual" by SFT."""
    of = units.train_stats if side == "estimated" else units.actual_stats
    return [of(profile, seed) for seed in profile.seeds]


# %% [markdown]
# ## Fig 1: SFT moves few features, and they matter

# %%
show("fig1a", lambda: figures.fig1a(statistics("actual"), profile))

# %% [markdown]
# Taking features out of the residual stream while the fine-tuned model reads held-out solutions. The paper compares
# with random features; most of those hardly ever fire, so the others nearest in activity stand beside them.

# %%
show("fig1b", lambda: figures.fig1b(ablation.estimates(profile), ablation.relative_activity(profile), profile))

# %% [markdown]
# ## Fig 2: demonstrations in context find the features that SFT moves

# %%
show("fig2a", lambda: figures.fig2a(statistics("estimated"), statistics("actual"), profile))

# %%
show("fig2b", lambda: figures.fig2b(statistics("actual"), profile))

# %% [markdown]
# ## Fig 3: the score against the change

# %%
observed = performances.observations(profile) if wanted & {"fig3", "table6", "table9"} else {}
correlations = stats.correlations(observed)
show("fig3", lambda: figures.fig3(observed, correlations, profile))

# %% [markdown]
# ## Fig 4: what the correlation depends on


# %%
def by(label, names):
    """label of an SAE -> r of each metric."""
    return {f"{label(profile, name):g}": row for name, row in comparisons.sweep(profile, names).items()}


show("fig4a", lambda: figures.fig4("a", by(comparisons.width, profile.sweep.widths), profile))

# %%
show("fig4b", lambda: figures.fig4("b", by(comparisons.block, profile.sweep.layers), profile))

# %%
show("fig4c", lambda: figures.fig4("c", by(comparisons.l0, profile.sweep.sparsities), profile))

# %%
show("fig4d", lambda: figures.fig4("d", comparisons.ranges_by_name(profile), profile))

# %%
show("fig4e", lambda: figures.fig4("e", comparisons.against_probes(profile), profile))

# %% [markdown]
# ## Fig 5: which extra data to add

# %%
show("fig5", lambda: figures.fig5(mixtures.changes(profile), mixtures.sizes(profile), profile))

# %% [markdown]
# ## Fig 6: reinforcement learning

# %%
show("fig6", lambda: figures.fig6(reinforcement.estimates(profile), reinforcement.accuracy(profile), profile))

# %% [markdown]
# Reinforcement learning has no ground-truth solutions to show. The model's own answers, where they are verified
# correct, may be nearer to what it is reinforced in:

# %%
found, verified = reinforcement.rollout_overlap, reinforcement.verified
show("rollouts", lambda: tables.rollouts(found(profile), verified(profile), profile))

# %% [markdown]
# ## Fig 7: training only what the shifted features decode to

# %%
show("fig7", lambda: figures.fig7(selective.estimates(profile), profile))

# %% [markdown]
# ## Table 1: other training sets

# %%
show("table1", lambda: tables.table1(comparisons.training_sets(profile), profile))

# %% [markdown]
# ## Tables 2–4: change of performance in every domain

# %%
show("tables2_4", lambda: tables.performance_change(performances.changes(profile), profile), digits=2)

# %% [markdown]
# ## Table 5: baselines beside their cost

# %%
show("table5", lambda: tables.table5(comparisons.predictors(profile), comparisons.costs(profile), profile))

# %% [markdown]
# ## Table 6: Pearson r

# %%
show("table6", lambda: tables.table6(correlations, profile))

# %% [markdown]
# ## Tables 7 and 8: what the shifted features are about

# %%
show("table7", lambda: tables.table7(*labels.labelling(profile, "share"), profile))

# %%
show("table8", lambda: tables.table8(*labels.labelling(profile, "recall"), profile))

# %% [markdown]
# ## Table 9: R²

# %%
show("table9", lambda: tables.table9(correlations, profile))

# %% [markdown]
# ## Table 10: is mathematics kept?

# %%
show("table10", lambda: tables.table10(mixtures.changes(profile), profile))

# %% [markdown]
# ## Table 11: selective fine-tuning

# %%
show("table11", lambda: tables.table11(selective.estimates(profile), profile))

# %% [markdown]
# ## Table 12: r against the SAE's L0

# %%
show("table12", lambda: tables.table12(by(comparisons.l0, profile.sweep.sparsities), profile))

# %% [markdown]
# ## Table 13: probes

# %%
show("table13", lambda: tables.table13(comparisons.predictors(profile), profile))

# %% [markdown]
# ## Training: did SFT teach its training set?

# %%
show("training", lambda: figures.training(units.training_log(profile), performances.held_out(profile), profile))

# %% [markdown]
# ## The claims
#
# A claim's statistic has a 95% bootstrap interval. The run **agrees** when the interval lies on the claim's side,
# **does not** when it lies on the other, and is **inconclusive** when it holds both.

# %%
if FIGURES is None:
    verdicts = claims.judged(profile)
    claims.save(verdicts, profile)
    display(verdicts.drop(columns="paper").round(3))

# %%
print(f"Wrote {', '.join(item.name for item in report.ORDER if item.name in wanted)} to figures/{profile.name}/.")
