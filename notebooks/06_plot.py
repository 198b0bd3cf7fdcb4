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
# Ours beside the paper's. Each caption says which model and data it comes from, what was measured, with its
# 95% interval, and how the run differs from the paper's.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
from IPython.display import Markdown, display

from sts_utils import config, figures, stats, tables, units

profile = config.load(PROFILE, SEEDS)
estimated = [units.train_stats(profile, seed) for seed in profile.seeds]
actual = [units.actual_stats(profile, seed) for seed in profile.seeds]
observed = units.observations(profile)
correlations = stats.correlations(observed)
written = []


def show(name, made, save):
    thing, caption = made
    written.extend(save(thing, name, caption, profile))
    display(Markdown(f"**{caption}**"))
    return thing


# %% [markdown]
# ## Fig 1a: SFT moves few features

# %%
_ = show("fig1a", figures.fig1a(actual, profile), figures.save)
# %% [markdown]
# ## Fig 2a: demonstrations in context find the features that SFT moves

# %%
_ = show("fig2a", figures.fig2a(estimated, actual, profile), figures.save)
# %% [markdown]
# ## Fig 2b: the change is concentrated

# %%
_ = show("fig2b", figures.fig2b(actual, profile), figures.save)
# %% [markdown]
# ## Fig 3: the score against the change

# %%
_ = show("fig3", figures.fig3(observed, correlations, profile), figures.save)
# %% [markdown]
# ## Tables 2–4: change of performance in every domain

# %%
show("tables2_4", tables.performance_change(units.changes(profile), profile), tables.save).round(2)

# %% [markdown]
# ## Table 6: Pearson r

# %%
show("table6", tables.table6(correlations, profile), tables.save).round(3)

# %% [markdown]
# ## Table 9: R²

# %%
show("table9", tables.table9(correlations, profile), tables.save).round(3)

# %%
print(f"Wrote {len(written)} files to figures/{profile.name}/: {', '.join(sorted({p.stem for p in written}))}.")
