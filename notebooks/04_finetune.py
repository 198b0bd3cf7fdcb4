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
# # 04 · Fine-tune
#
# Only now is the model trained: full supervised fine-tuning on the training set, loss on answers alone, with
# the paper's optimizer and schedule (AdamW, β = (0.9, 0.95), weight decay 0.01, gradient clipping at 1, cosine
# decay after 10% warm-up). On a CPU the forward and backward pass run in bfloat16 and the updates in float32:
# plain bfloat16 would round most of them away.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from sts_utils import config
from sts_utils.experiments import figures, mixtures, reinforcement, selective
from sts_utils.runs import performance as performances
from sts_utils.runs import samples, units

profile = config.load(PROFILE, SEEDS)
train, held_out = samples.training_examples(profile, profile.seeds[0])
print(
    f"{profile.sft.examples} of {len(train):,} {profile.train} examples, {profile.sft.epochs} epoch(s), "
    f"batch {profile.sft.batch}, learning rate {profile.sft.lr:g}; {len(held_out):,} held out"
)

# %% [markdown]
# One training example, as the model sees it: the question, and the solution that it learns to write.

# %%
print(train[0].query, "\n---\n", train[0].solution, sep="")

# %% [markdown]
# Each seed trains on its own draw of examples, in its own order.

# %%
log = units.training_log(profile)
log.groupby("run").loss.agg(["first", "last"]).round(3)

# %% [markdown]
# ## Did it learn?
#
# The loss on held-out training-set questions, whose templates were not trained on, before and after.

# %%
performance = performances.held_out(profile)
figure, caption = figures.training(log, performance, profile)

# %% [markdown]
# ## Other training sets
#
# Table 1 asks whether the method holds for other subjects: the same recipe on each, with the first seed.

# %%
others = {name: samples.trained_on(profile, name) for name in profile.others}
logs = units.logs({name: units.finetuned(run, run.seeds[0]) for name, run in others.items()})
logs.groupby("run").loss.agg(["first", "last"]).round(3)

# %% [markdown]
# ## Mixtures
#
# Which domain profits from extra data of its own? The two domains are chosen by measurement, the most and the least
# moved by SFT, on questions that are used only for training; the extra answers are sampled from the untouched model.

# %%
most, least = mixtures.affected(profile)
print(f"most moved: {most}, least moved: {least}; extra examples of each: {mixtures.sizes(profile)}")
example = mixtures.answered(profile, most)[0]
print(example.query, "\n---\n", example.solution, sep="")

# %%
mixed = {name: mixtures.mixed(profile, extra) for name, extra in mixtures.sizes(profile).items()}
units.logs(mixed).groupby("run").loss.agg(["first", "last"]).round(3)

# %% [markdown]
# ## Selective fine-tuning
#
# Nothing of the model trains; a new linear map, starting at zero, decodes the chosen features into the residual stream
# at each layer. The estimated dims against random ones:

# %%
pd.DataFrame(
    [
        {"dims": which, "how many": n, "change, nats a token": e.value}
        for (which, n), e in selective.estimates(profile).items()
    ]
).round(4)

# %% [markdown]
# ## Reinforcement learning
#
# GRPO needs questions that the model answers right now and then, and a verifier. The reward is 1 for a right final
# answer, by math-verify.

# %%
reward = units.logs({"GRPO": reinforcement.trained(profile)})
figure, axes = plt.subplots(1, 2, figsize=(6, 2.2))
sns.lineplot(reward, x="step", y="reward", ax=axes[0])
sns.lineplot(reward, x="step", y="length", ax=axes[1])

# %%
reinforcement.accuracy(profile).groupby("when").accuracy.agg(["mean", "count"]).round(3)

# %%
print(
    f"Fine-tuned models are in data/runs/: {len(profile.seeds)} seeds, {len(others)} other training sets, "
    f"{len(set(mixed.values()))} mixtures, one by reinforcement learning."
)
