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
# lm-eval asks every domain's questions before and after fine-tuning. A 135M model is near chance
# when it must name the right letter, so the likelihood of each option's text is read, and four
# measures are taken from it: the log-likelihood a token of the **gold text** (what the default
# run's scores are correlated with, because it is the most reliable), the log-odds and the
# probability of the gold option among the options, and accuracy. The same questions are asked
# before and after, so each change is paired and has a standard error.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from lm_eval.api.instance import Instance

from sts_utils import config, results
from sts_utils import evaluate as options
from sts_utils import evaluate as written
from sts_utils import generate as generation
from sts_utils import stats as correlation
from sts_utils.experiments import fig1b, fig5, fig6, tables2_4
from sts_utils.runs import models, performance, samples
from sts_utils.runs.run import Run
from sts_utils.scale import plan

profile = config.load(PROFILE, SEEDS)
plan.compute(profile, plan.everything(profile), stage="05_evaluate")
run, measure = Run(profile), profile.evaluation.measure
by_options = profile.evaluation.mode == "options"
before = performance.measure(profile)
print(f"{len(before)} questions in {before.domain.nunique()} domains")

# %% [markdown]
# ## One question, from its options to its probability
#
# Take the question of the first domain whose gold option the first seed's SFT made most, or least,
# likely. Its options are not listed in the prompt: each is a text that could be the answer.

# %%
seed, domain = profile.seeds[0], run.domain_names[0]
if by_options:
    its = run.changes.query("seed == @seed and domain == @domain and measure == 'gold_probability'")
    moved = its.loc[its.change.abs().idxmax()]
    asked = {e.id: e for e in samples.evaluation_questions(profile)[domain]}[moved.id]
    tokenizer = samples.tokenizer(profile.model, profile.revision)
    prompt = generation.chat_text(tokenizer, asked.question)
    right = asked.options.index(asked.answer)
    print(prompt)
    for i, text in enumerate(asked.options):
        print("gold:  " if i == right else "option:", text)
else:
    print("This run's models write chains of thought; no option's likelihood is read.")

# %% [markdown]
# The log-likelihood $\ell_o$ of option $o$ is the sum over its tokens of the log-probability that
# the model gives each, behind the prompt. Of the untouched and of the fine-tuned model:

# %%
if by_options:
    loglik = pd.DataFrame(index=asked.options)
    requests = [Instance("loglikelihood", {}, (prompt, text), 0) for text in asked.options]
    for when, model in (("before", None), ("after", run.after[seed])):
        lm = options.OptionsLM(models.load_whole(profile, model), tokenizer)
        loglik[when] = [value for value, _ in lm.loglikelihood(requests)]
    display(loglik.round(2))

# %% [markdown]
# Of these options, one is right: $P(\mathrm{gold}) = \exp(\ell_g) / \sum_o \exp(\ell_o)$.

# %%
if by_options:
    odds = np.exp(loglik - loglik.max())
    probability = odds / odds.sum()
    display(probability.round(4))

# %% [markdown]
# That is what the run stored for this question; the difference is its change. (Read in a batch of
# other questions, a model rounds otherwise, in bfloat16 more.)

# %%
if by_options:
    gold = probability.iloc[right]
    assert np.allclose(gold, [moved.before, moved.after], atol=0.02)
    change = gold.after - gold.before
    print(f"P(gold): {gold.before:.4f} before, {gold.after:.4f} after, {change:+.4f}")
    print(f"stored:  {moved.before:.4f} before, {moved.after:.4f} after, {moved.change:+.4f}")

# %% [markdown]
# ## Every domain, before
#
# The mean over a domain's questions of each measure, under the untouched model.

# %%
before.drop(columns="id").groupby("domain").mean(numeric_only=True).round(3)

# %% [markdown]
# ## Change
#
# After − before, question by question, mean over seeds, × 100, in both sets of domains.

# %%
numbers = tables2_4.compute(run)
results.shown(numbers.changes.round(2).rename_axis(["set", None]).reset_index("set"))

# %%
sets = {name: rows for name, rows in numbers.changes.groupby(level=0, sort=False)}
figure, axes = plt.subplots(1, len(sets), figsize=(4.2 * len(sets), 3), squeeze=False)
for axis, (name, rows) in zip(axes[0], sets.items()):
    rows = rows.sort_values(f"{measure} change")
    value = rows[f"{measure} change"]
    look = {"fmt": "o", "color": "C0", "capsize": 2}
    axis.errorbar(value, rows.domain, xerr=[value - rows.low, rows.high - value], **look)
    axis.axvline(0, color="0.5", lw=0.8)
    axis.set(title=name, xlabel=f"change of\n{results.SHORT_NAMES[measure]} (95% interval)")

# %% [markdown]
# ## How much of it is signal?
#
# A score can foretell a change only as far as the change is one: what differs between domains must
# be more than the noise of the questions asked. **Reliability** is the share of the variance
# between domains that is not noise, $1 - \overline{se^2} / \mathrm{var}$, and, as a check, the
# correlation of two halves of the questions (stepped up to the whole). Below a half nothing can be
# tested.

# %%
results.shown(numbers.reliability.rename_axis(["set", None]).reset_index("set"))

# %% [markdown]
# ## Is a drop lost knowledge?
#
# Where chains of thought are written (profiles on the paper's models), fine-tuning on long
# solutions makes answers longer, and an answer that is cut off is a drop without lost knowledge.
# So: the share without an answer, the share cut off and the mean length, before and after, and the
# scores against the change among questions answered in both.

# %%
if by_options:
    print("No answer is written in this run, so none can be missing or cut off.")
else:
    after = {s: performance.measure(profile, model) for s, model in run.after.items()}
    reports = {s: written.answers_report(before, table) for s, table in after.items()}
    answered = pd.concat(reports, names=["seed"]).groupby("domain").mean(numeric_only=True)
    display(answered.round(3))
    for metric, seen in run.scores.groupby("metric"):
        scores = seen.groupby("domain").value.mean()[answered.index]
        r = correlation.pearson(scores.to_numpy(), answered.change_answered.abs().to_numpy())
        print(f"r of {metric} and |change among questions answered in both|: {r:.2f}")

# %% [markdown]
# ## Zeroing features
#
# Mathematics, by the log-likelihood of held-out solutions, while SAE features are taken out of the
# fine-tuned model's residual stream (Fig 1b).

# %%
zeroed = fig1b.zero_features(profile)
zeroed.groupby(["features", "count"]).solution_loglik.mean().unstack("features").round(3)

# %% [markdown]
# ## The other models
#
# The same questions, asked of the models fine-tuned on other sets and by reinforcement learning
# (one seed): change of the measure × 100, with its standard error over questions.

# %%
changed = {name: run.trained_on(name).changes for name in profile.others}
reinforced = {seed: fig6.reinforced(profile)}
rl = run.trained_on(profile.grpo.train).with_models(reinforced)
changed[f"GRPO on {profile.grpo.train}"] = rl.changes
others = pd.concat(changed, names=["training"]).query("measure == @measure")
points = 100 * others.groupby(["domain", "training"]).change.agg(["mean", "sem"])
points.unstack("training").swaplevel(axis=1).sort_index(axis=1).round(1)

# %% [markdown]
# The mixtures are asked the test halves of their two domains and held-out mathematics: change of
# the measure against the untouched model. What a mixture adds is the difference from "none", the
# training set without extra examples.

# %%
gains = fig5.compute(run).gains
pd.DataFrame(gains).T.map(str)

# %%
clear = (numbers.changes.low > 0) | (numbers.changes.high < 0)
print(f"SFT on {profile.train}: {clear.sum()} of {len(clear)} domains moved by more than 1.96 se.")
print(f"Measured too, one seed each: {len(changed)} other models and {len(gains)} mixtures.")
