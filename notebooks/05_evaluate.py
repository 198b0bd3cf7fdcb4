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
# # 05 · Evaluate: what moved?
#
# lm-eval asks every domain's questions before and after fine-tuning. A 135M model is near chance when it must
# name the right letter, so performance here is the **probability of the gold option among the options**,
# from the likelihood of the options' texts; the gold text's log-likelihood and the accuracy stand beside it.
# The same questions are asked before and after, so each change is paired and has a standard error.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display

from sts_utils import config, stats
from sts_utils.evaluation import written as mmlu_pro
from sts_utils.experiments import ablation, mixtures, reinforcement, tables
from sts_utils.runs import performance as performances
from sts_utils.runs import samples, units

profile = config.load(PROFILE, SEEDS)
before = performances.performance(profile)
print(f"{len(before)} questions in {before.domain.nunique()} domains")

# %%
before.drop(columns="id").groupby("domain").mean().round(3)

# %% [markdown]
# ## Change
#
# After − before, question by question, mean over seeds, in points.

# %%
changes = performances.changes(profile)
table, caption = tables.performance_change(changes, profile)
ours = [c for c in table.columns if not c.startswith("paper")]
table[ours].round(2)

# %%
figure, axis = plt.subplots(figsize=(5, 3))
measure = f"{profile.evaluation.measure} change"
rows = table.sort_values(measure)
bars = [rows[measure] - rows.low, rows.high - rows[measure]]
axis.errorbar(rows[measure], rows.domain, xerr=bars, fmt="o", color="C0", capsize=2)
axis.axvline(0, color="0.5", lw=0.8)
_ = axis.set(xlabel=f"change of {profile.evaluation.measure}, points (95% interval)")

# %%
clear = int(((rows.low > 0) | (rows.high < 0)).sum())
print(f"SFT on {profile.train}: {clear} of {len(rows)} domains moved by more than their 95% interval.")

# %% [markdown]
# ## Is a drop lost knowledge?
#
# Where chains of thought are written (profiles on the paper's models), fine-tuning on long solutions makes answers
# longer, and an answer that is cut off is a drop without lost knowledge. So: the share without an answer, the share cut
# off and the mean length, before and after, and the scores against the change among questions answered in both.

# %%
if profile.evaluation.mode == "generation":
    reports = {
        seed: mmlu_pro.answers_report(before, performances.performance(profile, units.finetuned(profile, seed)))
        for seed in profile.seeds
    }
    answered = pd.concat(reports, names=["seed"]).groupby("domain").mean(numeric_only=True)
    display(answered.round(3))
    scores = units.scores(profile).groupby(["metric", "domain"]).value.mean()
    for metric, values in scores.groupby("metric"):
        r = stats.pearson(values.droplevel(0)[answered.index].to_numpy(), answered.change_answered.abs().to_numpy())
        print(f"r of {metric} and |change among questions answered in both|: {r:.2f}")
else:
    print("This run scores given options; no answer is written, so none can be missing or cut off.")

# %% [markdown]
# ## Zeroing features
#
# Mathematics, by the log-likelihood of held-out solutions, while SAE features are taken out of the fine-tuned model's
# residual stream (Fig 1b).

# %%
zeroed = ablation.logliks(profile)
zeroed.groupby(["features", "count"]).solution_loglik.mean().unstack("features").round(3)

# %% [markdown]
# ## The other models
#
# The same questions, asked of the models fine-tuned on other sets and by reinforcement learning (one seed): change in
# points, with its standard error over questions.

# %%
runs = {name: samples.trained_on(profile, name) for name in profile.others}
moved = {name: performances.changes(run) for name, run in runs.items()}
runs_rl = samples.trained_on(profile, profile.grpo.train)
reinforced = {profile.seeds[0]: reinforcement.trained(profile)}
moved[f"GRPO on {profile.grpo.train}"] = performances.changes(runs_rl, reinforced)
table = pd.concat(moved, names=["training"]).query(f"measure == '{profile.evaluation.measure}'")
points = 100 * table.groupby(["domain", "training"]).change.agg(["mean", "sem"]).unstack("training")
points.swaplevel(axis=1).sort_index(axis=1).round(1)

# %% [markdown]
# The mixtures are asked the test halves of their two domains (change of the measure, as a fraction), and held-out
# mathematics (nats a token).

# %%
gains = mixtures.changes(profile)
said = {
    name: {what: f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for what, e in row.items()} for name, row in gains.items()
}
pd.DataFrame(said).T

# %%
print(f"{len(runs) + 1} other models and {len(gains)} mixtures measured against the untouched model, one seed each.")
