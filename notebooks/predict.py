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
# # Predict on your own data
#
# You are about to fine-tune a model. Which *other* domains will it move? The paper's two steps need
# no fine-tuning:
#
# 1. Put a few of your worked examples in the context and see which SAE features move on your next
#    question. The $N$ that move most are $D_N$: $D_N = \mathrm{TopN}_j\; E_x\,\bigl(h_j(x) -
#    h_j(x_0,y_0,\dots,x)\bigr)^2$.
# 2. See how much each domain's questions use these features: $\mathrm{STS}_{act} = E\sum_{j\in D_N}
#    h_j(\tilde x)$.
#
# By default domains are compared feature by feature (`sts_relative`: the mean over $D_N$ of the
# logarithm of a feature's activation in a domain over its mean over the domains). What moves in
# step 1 is mostly wording and form, and so is what these scores read (notebook 07). Where your
# data and the domains' worked examples are multiple choice, `sts_answers` puts the same
# demonstrations in the context with wrong answers and with right ones: most of the wording and form
# cancel (in 74% [56, 89] of the control's comparisons it put the skill first).
#
# 3. A **probe** (ours): a few steps of fine-tuning, every domain measured before and after. It
#    costs more, and measures what the scores can only suggest, for those few steps.
#
# Below, 60 problems of school physics and chemistry stand in for your data.

# %% tags=["parameters"]
TRAIN = "../data/example.jsonl"  # your .jsonl, .csv or .parquet file
MODEL = "smollm2-135m-instruct"
SAE = "data/saes/smollm2-135m-instruct/layer20-8x-k32"
DOMAINS = "mmlu-test"  # or your files: {"law": "law.jsonl", ...}
SEEDS = [0]
QUERIES = 16
N = 100
PROBE = 8  # steps of fine-tuning to try; None for none

# %%
from IPython.display import display

import sts_utils

given = {"model": MODEL, "sae": SAE, "domains": DOMAINS, "seeds": SEEDS, "queries": QUERIES, "n": N}
prediction = sts_utils.predict(TRAIN, **given, probe=PROBE, progress=False)
for example in prediction.train[:2]:
    print(f"{example.question}\n  → {example.solution}\n")

# %% [markdown]
# What the score reads, as far as this project could show, and what the probe adds:

# %%
print("\n\n".join(prediction.reads()))

# %% [markdown]
# ## The probe
#
# Change of what is named below, with 95% intervals over questions: the log-odds of the right option
# where all domains are multiple choice, else the log-likelihood a token of the answers. Above 0 the
# answers became likelier. It holds for these few steps and examples; more of them may do something
# else.

# %%
if prediction.probe:
    print(prediction.probe.cost)
    print(f"Measured: the {prediction.probe.name}.")
    display(prediction.probe.table.round(3))

# %% [markdown]
# ## The ranking
#
# A row a domain, with 95% intervals. `rank_low` to `rank_high` is where its rank by
# this score may lie, had other questions been drawn.

# %%
columns = [
    "domain",
    "rank",
    "rank_low",
    "rank_high",
    *(f"{prediction.score}{end}" for end in ("", "_low", "_high")),
]
prediction.table[columns].round(3)

# %%
_ = prediction.plot()

# %% [markdown]
# ## How sure is it?

# %%
print("\n\n".join(prediction.sureness()))

# %% [markdown]
# What it does not say:

# %%
for said in prediction.limits():
    print(f"- {said}")

# %% [markdown]
# ## Other N, other score, other domains
#
# The statistics are kept, so this computes nothing again: `prediction.rescored(n=…, score=…,
# domains=…)`.

# %%
prediction.rescored(n=N // 2, score="sts_act").table[["domain", "rank", "sts_act"]].head()

# %% [markdown]
# With the mouse, where a kernel is running:

# %%
import ipywidgets as widgets
import matplotlib.pyplot as plt

from sts_utils.prediction.scores import SCORES

domains, table = prediction.domains, prediction.table
at_hand = [score for score in SCORES if table[score].notna().any()]
controls = {
    "n": widgets.IntSlider(
        N, 1, len(prediction.shifts) // 2, description="N", continuous_update=False
    ),
    "score": widgets.Dropdown(options=at_hand, value=prediction.score),
    "domains": widgets.SelectMultiple(options=domains, value=domains, rows=min(14, len(domains))),
}


def show(n, score, domains):
    """Draw the prediction that the controls ask for, or say why there is none."""
    try:
        display(prediction.rescored(n=n, score=score, domains=domains).plot())
        plt.close("all")
    except ValueError as error:
        print(error)


beside = widgets.VBox(list(controls.values()), layout={"flex": "0 0 auto"})
widgets.HBox([beside, widgets.interactive_output(show, controls)])

# %% [markdown]
# ## Why?
#
# The features that your data moves most: the words that each promotes, the domains that use it, and
# the text where it fires hardest, among a sample of your data and of the domains.

# %%
prediction.explain(5)

# %% [markdown]
# ## What to add to the mix
#
# A budget of extra examples, split over the domains in the ratio of their score. `mixture` draws
# them, as far as the domains' worked examples reach. That such a mixture helps is not shown: in our
# run of the paper's Fig 5 both domains gained less with every mixture than with no extra examples.

# %%
prediction.advice(100).round(3)

# %%
rows = prediction.mixture(100)
print(f"{len(rows)} of 100 at hand; the first:\n{rows[0]['question']}\n  → {rows[0]['answer']}")

# %% [markdown]
# `prediction.write("report", budget=100)` writes all of this as one HTML page, the table and the
# mixture beside it; `python -m sts_utils predict --train my.jsonl --budget 100` does the same
# without Python.
