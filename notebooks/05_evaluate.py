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
# Every domain's questions are asked before and after fine-tuning. A 135M model is near chance when
# it must name the right letter, so the likelihood of each option's text is read. Four measures are
# taken from it: the log-likelihood a token of the **gold** (right) option's text, its log-odds
# against the others, its probability among the options, and accuracy. The same questions are asked
# before and after, so each change is paired and has a standard error.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from sts_utils import config, evaluate, generate, questions, results, run, stats
from sts_utils.measured import Run

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
measured, measure = Run(profile), profile.evaluation.measure
by_options = profile.evaluation.mode == "options"
before = run.performance(profile)
print(f"{len(before)} questions in {before.domain.nunique()} domains")

# %% [markdown]
# ## One question, from its options to its probability
#
# Take the question of the first domain whose gold option the first seed's SFT made most, or least,
# likely. Its options are not listed in the prompt: each is a text that could be the answer.

# %%
seed, domain = profile.seeds[0], measured.domain_names[0]
if by_options:
    chosen = "seed == @seed and domain == @domain and measure == 'gold_probability'"
    its = measured.changes.query(chosen)
    moved = its.loc[its.change.abs().idxmax()]
    asked = {e.id: e for e in questions.evaluation_questions(profile)[domain]}[moved.id]
    tokenizer = questions.tokenizer(profile)
    prompt = generate.chat_text(tokenizer, asked.question)
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
    pieces = [tokenizer(t, add_special_tokens=False).input_ids for t in (prompt, *asked.options)]
    for when, model in (("before", None), ("after", measured.models[seed])):
        lm = evaluate.OptionsLM(run.whole(profile, model), tokenizer)
        loglik[when] = lm.score([pieces])[0].tolist()
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
    rounding = 0.02 if profile.evaluation.dtype == "float32" else 0.1
    assert np.allclose(gold, [moved.before, moved.after], atol=rounding), moved.to_dict()
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
# After − before, question by question, mean over seeds, × 100; the standard error is over
# questions. MMLU's subjects are put together into MMLU-Pro's categories, all questions of one
# together. So they can stand beside the paper's changes of accuracy (Tables 2–4).

# %%
category = dict(zip(measured.domain_names, measured.categories))
of_question = measured.changes.assign(category=measured.changes.domain.map(category))


def change_by(column: str) -> pd.DataFrame:
    """A row a domain or category: measures before, their change and its standard error, × 100."""
    rows = []
    for domain, group in of_question.groupby(column):
        row = {"domain": domain, "questions": group.id.nunique()}
        for of in dict.fromkeys((measure, "gold_log_odds", "accuracy")):
            its = group[group.measure == of]
            by_question = 100 * its.groupby("id").change.mean()
            row[f"{of} before"] = 100 * its.before.mean()
            row[f"{of} change"], row[f"{of} se"] = by_question.mean(), by_question.sem()
        value, width = row[f"{measure} change"], 1.96 * row[f"{measure} se"]
        rows.append(row | {"low": value - width, "high": value + width})
    return pd.DataFrame(rows).sort_values(f"{measure} change", key=lambda v: -abs(v))


theirs = results.paper("table02_04_accuracy_change")
theirs = theirs.pivot(index="domain", columns="model", values="change_percent")
beside = change_by("category").merge(theirs.add_prefix("paper: "), how="left", on="domain")

# %%
caption = (
    "Tables 2–4. Change of performance, after − before SFT, paired by question, × 100, mean over "
    f"seeds: of {results.MEASURE_NAMES[measure]} (95% interval over questions), the log-odds of "
    "the gold option and accuracy, of MMLU-Pro's categories and of each benchmark; beside the "
    "paper's change of accuracy."
)
results.publish(profile, "tables2_4", beside, caption)

# %%
changes = change_by("domain")
changes["category"] = changes.domain.map(category)
caption = "The same of every domain, as Fig 3 has them."
results.publish(profile, "changes", changes, caption)

# %%
rows = changes.sort_values(f"{measure} change")
figure, axis = plt.subplots(figsize=(5.4, 0.9 + 0.15 * len(rows)))
for family, of in rows.groupby(rows.category.map(results.FAMILY).fillna("benchmark")):
    style = results.FAMILIES[family]
    value, look = of[f"{measure} change"], {"fmt": style["marker"], "color": style["colour"]}
    axis.errorbar(
        value, of.domain, xerr=[value - of.low, of.high - value], ms=4, label=family, **look
    )
axis.set_yticks(list(rows.domain), list(rows.domain))
figure.legend(frameon=False, loc="outside upper center", ncols=3, columnspacing=1)
axis.axvline(0, color="0.5", lw=0.8)
_ = axis.set(
    xlabel=f"change of {results.SHORT_NAMES[measure]} (95% interval)", ylim=(-1, len(rows))
)

# %% [markdown]
# Where is the untouched model above chance? Only there can a question lose what was known. The
# test is binomial, of its accuracy against one over the number of options; a domain is marked at
# p < 0.05 after Holm's correction over domains.

# %%
if by_options:
    groups = questions.evaluation_questions(profile)
    chance = {d: np.mean([1 / len(e.options) for e in of]) for d, of in groups.items()}
    right = before.groupby("domain").accuracy.agg(["sum", "size"]).astype(int)
    rows = zip(right["sum"], right["size"], right.index.map(chance))
    p = [binomtest(k, n, share, "greater").pvalue for k, n, share in rows]
    above = pd.Series(multipletests(p, method="holm")[0], right.index)
    print(f"above chance: {above.sum()} of {len(above)} domains: {', '.join(above.index[above])}")

# %% [markdown]
# ## How much of it is signal?
#
# A score can foretell a change only as far as the change is one: what differs between domains must
# be more than the noise of questions and training runs. **Reliability** is the share of the
# variance between domains that is not noise: one minus the mean squared standard error over the
# variance, $1 - \overline{se^2} / \mathrm{var}$. Below a half no correlation is tested.

# %%
rows = []
for of in evaluate.MEASURES:
    arrays = measured.changes_of(of)
    row = {"measure": of, "questions": sum(c.shape[1] for c in arrays)}
    row["sd over domains"] = np.std([c.mean() for c in arrays], ddof=1)
    row["mean se"] = np.sqrt((stats.standard_errors(arrays) ** 2).mean())
    for kind in stats.CHANGES:
        row[f"reliability, {kind}"] = stats.reliability(arrays, kind)
    rows.append(row)
reliability = pd.DataFrame(rows).dropna().reset_index(drop=True)
best = reliability.set_index("measure")["reliability, signed"].idxmax()
rule = (
    "the most reliable" if best == measure else f"less reliable than {results.MEASURE_NAMES[best]}"
)
caption = (
    "Reliability of each measure's change: the share of its variance between domains that is "
    "signal, as 1 − mean squared standard error / variance. "
    f"Below {stats.TESTABLE} no correlation with it is testable. The run's scores are correlated "
    f"with {results.MEASURE_NAMES[measure]}: {rule}, signed."
)
named = reliability.replace({"measure": results.MEASURE_NAMES})
results.publish(profile, "reliability", named, caption)

# %% [markdown]
# ## Is a drop lost knowledge?
#
# Chains of thought are written by profiles on the paper's models. There fine-tuning on long
# solutions may make answers longer, and an answer that is cut off is a drop without lost knowledge.
# So the following are shown, before and after: the share without an answer, the share cut off, and
# the mean length. And the scores stand against the change among questions answered in both.


# %%
def answers_report(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """What became of each domain's answers, each measure `_before` and `_after`; the last column is
    the change among questions answered in both: a drop that is truncation is not in it."""
    suffixes = ("_before", "_after")
    both = before.merge(after, on=["domain", "id"], suffixes=suffixes, validate="one_to_one")
    if not len(both) == len(before) == len(after):
        raise ValueError(f"{len(before)} questions before, {len(after)} after, {len(both)} in both")
    both["change"] = both.accuracy_after - both.accuracy_before
    both["answered_both"] = both.answered_before & both.answered_after
    both["change_answered"] = both.change.where(both.answered_both)
    groups = both.groupby("domain")
    report, columns = groups.mean(numeric_only=True), ["questions"]
    for suffix in suffixes:
        report[f"no_answer{suffix}"] = 1 - report[f"answered{suffix}"]
        columns += [name + suffix for name in ("accuracy", "no_answer", "cut_off", "tokens")]
    report["questions"], report["answered_both"] = groups.size(), groups.answered_both.sum()
    return report[[*columns, "change", "answered_both", "change_answered"]].reset_index()


# %%
if by_options:
    print("No answer is written in this run, so none can be missing or cut off.")
else:
    after = [run.performance(profile, model) for model in measured.models.values()]
    reports = [answers_report(before, table) for table in after]
    answered = pd.concat(reports).groupby("domain").mean(numeric_only=True)
    display(answered.round(3))
    for metric, seen in measured.scores.groupby("metric"):
        scores = seen.groupby("domain").value.mean()[answered.index]
        r = stats.pearson(scores.to_numpy(), answered.change_answered.abs().to_numpy())
        print(f"r of {metric} and |change among questions answered in both|: {r:.2f}")

# %%
clear = (changes.low > 0) | (changes.high < 0)
print(f"SFT on {profile.train}: {clear.sum()} of {len(clear)} domains moved by more than 1.96 se.")
