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
# # 12 · Reinforcement learning
#
# Fine-tuning on solutions (SFT) learns from texts that can also be shown in context. Reinforcement
# learning (RL) has no such texts: the model learns from its own answers. Do demonstrations find
# what RL moves? The paper finds less of it (Fig 6); with the features that RL did move, its scores
# work again.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from sts_utils import config, generate, questions, results, run, scores
from sts_utils.experiments import trainings
from sts_utils.grpo import reward
from sts_utils.measured import Run
from sts_utils.results import CHANCE_COLOUR, PALETTE, SAE_COLOUR, Claim
from sts_utils.scores import PAPER_SCORES

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
g, n, seed = profile.grpo, profile.top_n, profile.seeds[0]

# %% [markdown]
# ## GRPO learns from the model's own answers
#
# Group relative policy optimisation needs questions that the model answers right now and then, and
# a verifier. Each question is answered several times, by sampling; the reward is 1 for a right
# final answer, by math-verify, else 0. Answers better than their group's mean become likelier.
#
# One question, and some of the untouched model's answers to such questions, with their rewards:

# %%
like = trainings.supervised(profile)  # the run on the same questions; GRPO's own settings too
train, held_out = questions.training_examples(like, seed)
print(f"{g.steps} steps of {g.prompts} {g.train} questions, {g.generations} answers each")
print(train[0].query, "\n---\nanswer:", train[0].answer)

# %%
asked, how = train[:16], {"temperature": g.temperature, "seed": seed}
texts, read = [e.query for e in asked], questions.tokenizer(like)
written = generate.completions(run.whole(like), read, texts, g.completion_tokens, **how)
rewards = [reward(text, e.answer) for text, e in zip(written, asked)]
print(f"{sum(rewards):.0f} of {len(asked)} sampled answers are right")
columns = {"question": [e.question for e in asked], "sampled": [text[:200] for text in written]}
results.shown(pd.DataFrame(columns | {"reward": rewards}).groupby("reward").head(2))

# %% [markdown]
# The reward of each step, and the mean length of the sampled completions, a line a seed. Part of
# what is learnt may be length and form: a falling length means stopping at the answer. A length at
# the cap (`grpo.completion_tokens`) means that the samples are cut off there. A reward of 0 for all
# answers of a step has nothing to learn from: they are all equally good.

# %%
models = {s: (trainings.reinforced, s) for s in like.seeds}  # trained now, if they are not yet
grpo = models[seed]
log = run.training_logs(like, models)
figure, axes = plt.subplots(1, 2, figsize=(6, 2.2))
for axis, (column, label) in zip(axes, {"reward": "reward", "length": "length, tokens"}.items()):
    look = {"hue": "seed", "palette": results.PALETTE[: len(models)], "legend": column == "reward"}
    sns.lineplot(log, x="step", y=column, ax=axis, **look)
    axis.set(ylabel=label, xticks=sorted({*log.step})[::3])

# %%
ends = {s: (of.reward[:3].mean(), of.reward[-3:].mean()) for s, of in log.groupby("seed")}
reached = "; ".join(f"{first:.2f} → {last:.2f}" for first, last in ends.values())
print(f"Mean reward of the first and of the last three steps, a seed: {reached}")

# %% [markdown]
# Greedy accuracy on questions held out, first seed:

# %%
solved = {
    when: trainings.accuracy(like, model).accuracy
    for when, model in (("before", None), ("after", grpo))
}
pd.DataFrame({when: right.agg(["mean", "count"]) for when, right in solved.items()}).T.round(3)

# %% [markdown]
# ## The same questions, learnt from their solutions
#
# What RL shifts is compared with SFT that reads as many questions in as many steps, at the same
# learning rate, with the solution in place of the sampled answers. Three trainings, then: the main
# SFT of this run, SFT on RL's questions, and GRPO on them.

# %%
base, sft, rl = Run(profile), Run(like), Run(like, models)
rl.train = sft.train  # of the untouched model, whatever is trained
rl.domains = sft.domains = base.domains[: len(like.seeds)]
runs = {"main SFT": base, "SFT": sft, "GRPO": rl}
print(f"SFT: {like.sft.examples} examples, batch {like.sft.batch}, learning rate {like.sft.lr:g}")

# %% [markdown]
# How much each training moved the SAE's features is
# $\sum_j E_x\,(h_j(x;\Theta') - h_j(x;\Theta))^2$, where $\Theta'$ is the trained model. And the
# overlap: the share of the $N$ features moved most that demonstrations find.

# %%
moved = {
    name: float(np.mean([scores.shift(after).sum() for after in one.actual]))
    for name, one in runs.items()
}
overlap = {name: one.overlap() for name, one in runs.items()}
both = [scores.shifted_dims(one.actual[0], n) for one in (sft, rl)]
shared = scores.overlap(*both, n)
print(f"First seeds: SFT and GRPO share {shared:.0%} of the {n} features that each moved most")
pd.DataFrame({"shift": moved, "overlap": {name: str(e) for name, e in overlap.items()}})

# %% [markdown]
# ## Fig 6
#
# The correlation $r$ of each score with the change of performance, on two choices of dims: those
# that demonstrations find (**estimated**), and those that the training did move (**actual**).

# %%
r = {}  # training -> which dims -> metric -> r
for name in ("SFT", "GRPO"):
    actual = [scores.shifted_dims(after, n, profile.definition) for after in runs[name].actual]
    r[name] = {"estimated": runs[name].correlations(), "actual": runs[name].correlations(actual)}
pd.DataFrame(
    {
        f"{name}, {dims} dims": {k: str(e) for k, e in r[name][dims].items()}
        for name in r
        for dims in r[name]
    }
).T

# %%
sure = [f"{rs['actual'][PAPER_SCORES[0]].reliability:.2f}" for rs in r.values()]
caption = (
    f"Fig 6. {g.steps} steps of {g.prompts} {g.train} questions, {len(models)} seed(s) (pale: main "
    f"SFT). GRPO: reward of the first and last three steps, a seed: {reached}; accuracy of the "
    f"first {solved['before'].mean():.0%}, then {solved['after'].mean():.0%}. a: overlap of "
    "estimated and actual dims (dashed: chance); Σ: "
    "shift of all features by training, squared activation. b: r, 95%; reliability of the change "
    f"{sure[0]} (SFT), {sure[1]} (GRPO). The paper: overlap lower for RL; r low with estimated "
    "dims, high with actual ones."
)

# %%
trained = dict(zip(runs, (profile.train, g.train, g.train)))
labels = [f"{k}\n{on}\nΣ {float(f'{moved[k]:.3g}'):,g}" for k, on in trained.items()]

figure, (left, right) = plt.subplots(1, 2, figsize=(5.4, 3.2))
look = {"capsize": 3, "color": [SAE_COLOUR, SAE_COLOUR, PALETTE[4]], "width": 0.6}
heights, bars = [e.value for e in overlap.values()], results.bars(overlap.values())
drawn = left.bar(range(3), heights, yerr=bars, **look)
drawn[0].set_alpha(0.5)  # on another set, with other steps
left.axhline(n / len(base.train[0].features), color=CHANCE_COLOUR, ls="--", lw=0.8)
left.set_xticks(range(3), labels)
left.set(ylabel=f"overlap of the top {n}", ylim=(0, 1), title="a")
left.set_xlabel("training, its set, total shift in\nsquared activation a token")
left.tick_params(axis="x", labelsize=8)
right.tick_params(axis="x", labelsize=8)
results.r_points(right, {f"{k}\n{dims}": rs for k in r for dims, rs in r[k].items()})
right.set(xlabel="training, dims read", title="b")
right.legend(frameon=False, loc="lower center", ncols=2, columnspacing=1, handletextpad=0.2)
results.publish(profile, "fig6", figure, caption)

# %% [markdown]
# ## In pairs
#
# SFT and GRPO are measured on the same questions, so their differences have intervals of their own.

# %%
pairs = {f"overlap at {n}": (overlap["SFT"], overlap["GRPO"])}
for dims in ("estimated", "actual"):
    for metric in PAPER_SCORES:
        pairs[f"r of {metric}, {dims} dims"] = (r["SFT"][dims][metric], r["GRPO"][dims][metric])
rows = [{"statistic": "total squared shift", "SFT": moved["SFT"], "GRPO": moved["GRPO"]}]
for statistic, (one, other) in pairs.items():
    gap = one - other
    row = {"statistic": statistic, "SFT": one.value, "GRPO": other.value, "SFT − GRPO": gap.value}
    row |= {"low": gap.low, "high": gap.high}
    rows.append(row | {"reliability": getattr(gap, "reliability", np.nan)})

caption = (
    f"Reinforcement learning and SFT on the same set: {g.train}, {g.steps} steps of {g.prompts} "
    f"questions, learning rate {g.lr:g}. Differences are paired: 95% over questions for the "
    "overlap, over domains for r. Reliability: of the less reliable change. Total squared shift: "
    f"of each feature, summed. First seeds share {shared:.0%} of the top {n} that they moved. "
    "Not in the paper."
)
results.publish(profile, "rl_and_sft", pd.DataFrame(rows), caption)

# %% [markdown]
# ## The paper's claims
#
# Demonstrations find less of what RL shifts; with what it did shift, the scores predict again.

# %%
words = f"overlap, SFT minus GRPO, {g.steps} steps on {g.train} each"
claims = [Claim("fig6-overlap", words, overlap["SFT"] - overlap["GRPO"])]
for metric in PAPER_SCORES:
    gap = r["GRPO"]["actual"][metric] - r["GRPO"]["estimated"][metric]
    words = f"{metric}: r with actual minus r with estimated dims, GRPO"
    claims.append(Claim("fig6-restores", words, gap))
results.judge(profile, claims)
