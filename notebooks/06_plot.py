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
# First Fig 3, the paper's main result, in full; then every experiment, a file of
# `sts_utils/experiments` each: its figures and tables, with a caption that says which model and
# data they come from and what the paper found, and the verdict on the paper's claims. A claim's
# statistic has a 95% interval. The run **agrees** when the interval lies on the claim's side,
# **does not** when it lies on the other, and is **inconclusive** when it holds both. A correlation
# with an outcome that is mostly noise is **not testable**.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None
FIGURES = None  # like "fig3 table6"; all if None

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display

from sts_utils import config, results
from sts_utils import scores as score
from sts_utils import scores as shift
from sts_utils import stats as correlation
from sts_utils.experiments import (
    EXPERIMENTS,
    fig1a,
    fig1b,
    fig2a,
    fig2b,
    fig3,
    fig4_saes,
    fig4d,
    fig4e,
    fig5,
    fig6,
    fig7,
    paper_numbers,
    show,
    table1,
    tables2_4,
    tables7_8,
    training,
)
from sts_utils.report import page
from sts_utils.runs.run import Run
from sts_utils.scale import plan

profile = config.load(PROFILE, SEEDS)
wanted = page.chosen(FIGURES)
if FIGURES is None:
    plan.compute(profile, plan.everything(profile), stage="06_plot")
run, claims = Run(profile), []
in_full = bool(wanted & {result.name for result in fig3.RESULTS})

# %% [markdown]
# ## Fig 3: the score before training, the change after it
#
# Two vectors of as many numbers as there are domains. The score $\mathrm{STS}_{ICL}$, read from the
# untouched model; and the change of performance, after − before, measured once the model was
# fine-tuned. Here of the first seed:

# %%
if in_full:
    first, dims = run.domains[0].values(), run.dims[0]
    x = np.array([score.sts_icl(domain, dims, profile.definition) for domain in first])
    y = np.array([change[0].mean() for change in run.change_arrays])
    vectors = pd.DataFrame({"STS_ICL": x, "change": y, "|change|": abs(y)}, run.domain_names)
    display(vectors.sort_values("STS_ICL").round(4))

# %% [markdown]
# Their correlation, with the absolute change as in the paper:

# %%
if in_full:
    r = np.corrcoef(x, abs(y))[0, 1]
    print(f"r = {r:.3f} over {len(x)} domains")
    figure, axis = plt.subplots(figsize=(3.4, 2.6))
    sns.regplot(x=x, y=abs(y), ax=axis, ci=None, color=results.SAE_COLOUR, line_kws={"lw": 1})
    axis.set(xlabel=results.METRIC_NAMES["sts_icl"], ylabel="|change|", title=f"r = {r:.2f}")

# %% [markdown]
# That is all. The paper's number is the mean of this $r$ over the seeds. How sure is it? Two things
# vary: which **domains** there are (fourteen, of all that could be asked), and which **questions**
# were asked of them. Fisher's interval is for other domains; leaving out each twentieth of the
# questions in turn gives the interval for other questions. And the outcome has a
# **reliability**: divided by its root, $r$ becomes that with the true change.

# %%
if in_full:
    observed = run.observations()["sts_icl"]
    print("r of each seed:", correlation.by_seed(observed).round(3))
    r = correlation.correlate(observed)
    print(f"r of the means over seeds, and its 95% interval, other domains drawn: {r}")
    print(f"reliability of the absolute change: {r.reliability:.2f}")
    if r.testable:
        low, high = r.within
        print(f"r with the true change: {r.true:.2f}, other questions: [{low:.2f}, {high:.2f}]")

# %% [markdown]
# The same for both scores and both sets of domains, the set whose change is more reliable first,
# with the signed change in the picture: the paper correlates with the absolute one. A last table
# asks whether the choice of the measure mattered: the same r with every measure whose change is
# reliable enough.

# %%
claims += show(fig3, run, wanted)

# %% [markdown]
# ## Fig 1: SFT moves few features, and they matter
#
# How the change by SFT is spread over the SAE's features.

# %%
claims += show(fig1a, run, wanted)

# %% [markdown]
# Features are taken out of the residual stream while the fine-tuned model reads held-out solutions.
# The paper compares with random features; most of those hardly ever fire. Others as active as the
# shifted ones would be a fairer control, and stand beside them where there are any.

# %%
claims += show(fig1b, run, wanted)

# %% [markdown]
# ## Fig 2: demonstrations in context find the features that SFT moves
#
# The overlap of the features that demonstrations move most with those that SFT moves most, at every
# number of features and at every fraction, and the same of the residual stream's own dimensions.
# Two other rankings say how little it takes: the features that are most active anyway, and those
# that any prose in context moves.

# %%
claims += show(fig2a, run, wanted)

# %% [markdown]
# SFT's change is more concentrated in SAE features than in raw dimensions.

# %%
claims += show(fig2b, run, wanted)

# %% [markdown]
# ## Fig 4a–c, Table 12: other SAEs
#
# The same model and the same changes, read through SAEs of another width, layer or sparsity.

# %%
claims += show(fig4_saes, run, wanted)

# %% [markdown]
# ## Fig 4d: does the top of the ranking matter?
#
# The next N features in the ranking by shift take the place of $D_N$, and the next, and so on.

# %%
claims += show(fig4d, run, wanted)

# %% [markdown]
# ## Fig 4e, Tables 5 and 13: simpler predictors, probes, and what each costs
#
# What a score must beat: how active a domain is at all, how similar it is to the training set, how
# far fine-tuning moves it, and a probe that is trained on the other domains' changes. Probes are
# compared by the error on the domain left out: r would punish one that learns nothing with −1.

# %%
claims += show(fig4e, run, wanted)

# %% [markdown]
# ## Fig 5, Table 10: which extra data to add
#
# The domains of the highest and the lowest score share a budget of extra training data, in several
# ratios, one of them that of their scores; and what becomes of mathematics. Whether extra data
# helps at all is the distance from the dotted line, the training set alone.

# %%
claims += show(fig5, run, wanted)

# %% [markdown]
# ## Fig 6: reinforcement learning
#
# RL has no ground-truth solutions to learn from, so demonstrations should find less of what it
# moves than of what SFT on the same questions, in as many steps, does. The model's own answers,
# where they are verified correct, may be nearer to what it is reinforced in: the table shows them
# instead.

# %%
claims += show(fig6, run, wanted)

# %% [markdown]
# ## Fig 7, Table 11: training only what the shifted features decode to
#
# Nothing of the model trains but linear maps from chosen features into the residual stream, at
# several layers: those of the features found by demonstrations, or of random ones.

# %%
claims += show(fig7, run, wanted)

# %% [markdown]
# ## Table 1: other training sets
#
# Does it hold when the model is fine-tuned on something other than mathematics?

# %%
claims += show(table1, run, wanted)

# %% [markdown]
# Are the features that demonstrations find those of a subject? The share of $D_N$ of the first
# seed that each of the other training sets has as well:

# %%
if "table1" in wanted:
    for name in profile.others:
        shared = shift.overlap(run.dims[0], run.trained_on(name).dims[0], profile.top_n)
        print(f"{profile.train} and {name}: {shared:.0%} of {profile.top_n}")

# %% [markdown]
# ## Tables 2–4: change of performance in every domain
#
# What the scores are to predict, beside the paper's changes.

# %%
claims += show(tables2_4, run, wanted)

# %% [markdown]
# ## Tables 7 and 8: what the shifted features are about
#
# A feature is labelled by the kind of text on which it fires hardest: mathematics, code, dialogue.

# %%
claims += show(tables7_8, run, wanted)

# %% [markdown]
# ## Training: did SFT teach its training set?
#
# If not, there would be no change to predict.

# %%
claims += show(training, run, wanted)

# %% [markdown]
# ## What the paper's own numbers can carry
#
# Nothing of this run: what follows from the paper's printed numbers, each under an assumption.
#
# - **The outcome.** How many answers fine-tuning flips is not printed. If it is a share $q$ of $n$
#   questions, a change $\delta$ of accuracy has the standard error $\sqrt{(q - \delta^2)/n}$, and
#   the changes over domains a reliability. Each domain is taken as evaluated once, on all of
#   MMLU-Pro's questions; the mean of three independent runs has at best a third of the noise.
# - **Few domains.** Fisher's interval of $r$ takes the 8 domains as drawn at random from a normal
#   population. They are not, and engineering, which moves most in all three models, is far out.
# - **Chosen by the outcome.** The 4 largest and 4 smallest changes of 14 are spread wider than the
#   14, which raises $r$. Simulated with a score that is linear in the absolute change, with normal
#   noise.
# - **The paper's ± is a spread over three seeds**, on the same domains. It says how well the
#   computation repeats, and nothing of what $r$ would be over other domains.

# %%
claims += show(paper_numbers, run, wanted)

# %% [markdown]
# ## All claims

# %%
if FIGURES is None:
    verdicts = results.judged(claims)
    results.save_claims(verdicts, profile.name)
    display(results.shown(results.by_claim(verdicts).sort_values("verdict")))

# %%
of_06 = [result.name for experiment in EXPERIMENTS for result in experiment.RESULTS]
print(f"Wrote {', '.join(n for n in of_06 if n in wanted)} to figures/{profile.name}/.")
