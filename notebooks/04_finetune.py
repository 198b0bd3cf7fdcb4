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
# Only now is the model trained: full supervised fine-tuning on the training set, with the paper's
# optimizer and schedule (AdamW, β = (0.9, 0.95), weight decay 0.01, gradient clipping at 1, cosine
# decay after 10% warm-up). The forward and backward pass run in the profile's `sft.dtype`, by
# default what the machine computes faster, and updates always in float32: plain bfloat16 would
# round most of them away.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display

from sts_utils import config
from sts_utils import generate as generation
from sts_utils.experiments import fig5, fig6, fig7, training
from sts_utils.runs import models, samples
from sts_utils.runs.run import Run
from sts_utils.scale import plan

profile = config.load(PROFILE, SEEDS)
plan.compute(profile, plan.everything(profile), stage="04_finetune")
run, sft = Run(profile), profile.sft
train, held_out = samples.training_examples(profile, profile.seeds[0])
print(f"{sft.examples} of {len(train):,} {profile.train} examples, {len(held_out):,} held out")
print(f"{sft.epochs} epoch(s), batch {sft.batch}, learning rate {sft.lr:g}")

# %% [markdown]
# One training example: the question, and the solution that the model learns to write.

# %%
print(train[0].query, "\n---\n", train[0].solution, sep="")

# %% [markdown]
# As the model sees it, both are one sequence in its chat template. Each token has a label, the
# token itself; −100 means that the loss leaves it out. Only the solution is trained on:

# %%
tokenizer = samples.tokenizer(profile.model, profile.revision)
(row,) = generation.tokenize(tokenizer, train[:1], sft.max_length)
ids, labels = np.array(row["input_ids"]), np.array(row["labels"])
print(
    f"{len(ids)} tokens, {(labels != -100).sum()} of them with a loss, from the first to the last:"
)
print(repr(tokenizer.decode(ids[labels != -100])))

# %% [markdown]
# Each seed trains on its own draw of examples, in its own order. The loss on answers, nats a token,
# at the first and the last step:

# %%
losses = training.compute(run)
losses.log.groupby("run").loss.agg(["first", "last"]).round(3)

# %% [markdown]
# ## Did it learn?
#
# The loss on held-out training-set questions, whose templates were not trained on, before and
# after.

# %%
figure, caption = training.training(losses, run)

# %% [markdown]
# ## Other training sets
#
# Table 1 asks whether the method holds for other subjects: the same recipe on each, with the first
# seed.

# %%
others = {}
for name in profile.others:
    other = samples.trained_on(profile, name)
    others[name] = models.finetune(other, other.seeds[0])
if others:
    display(models.training_logs(others).groupby("run").loss.agg(["first", "last"]).round(3))

# %% [markdown]
# ## Mixtures
#
# Which domain profits from extra data of its own? The two domains are those of the highest and the
# lowest $\mathrm{STS}_{ICL}$, chosen before anything is trained; the extra questions are not those
# that are asked later, and their answers are sampled from the untouched model.

# %%
(high, low), extra = fig5.mixtures(profile)
print(f"highest STS_ICL: {high}, lowest: {low}")
pd.DataFrame(extra, [f"extra examples of {high}", f"of {low}"]).T

# %%
example = fig5.answered(profile, high)[0]
print(example.query, "\n---\n", example.solution, sep="")

# %%
mixed = {name: fig5.train_mixture(profile, name) for name in extra}
models.training_logs(mixed).groupby("run").loss.agg(["first", "last"]).round(3)

# %% [markdown]
# ## Selective fine-tuning
#
# Nothing of the model trains; a new linear map, starting at zero, decodes the chosen features into
# the residual stream at each layer. The estimated dims against random ones, change of the
# log-likelihood of held-out solutions in nats a token:

# %%
selective = {(n, which): str(e) for (which, n), e in fig7.compute(run).items()}
pd.Series(selective, name="change", dtype=str).rename_axis(["dims", "which"]).to_frame()

# %% [markdown]
# ## Reinforcement learning
#
# GRPO needs questions that the model answers right now and then, and a verifier. The reward is 1
# for a right final answer, by math-verify. Beside the reward, the mean length of the sampled
# completions: where it falls with it, part of what was learnt is to stop at the answer.

# %%
log = models.training_logs({"GRPO": fig6.reinforced(profile)})
figure, axes = plt.subplots(1, 2, figsize=(6, 2.2))
for axis, (column, label) in zip(axes, {"reward": "reward", "length": "length, tokens"}.items()):
    sns.lineplot(log, x="step", y=column, ax=axis)
    axis.set(ylabel=label, xticks=log.step[::3])

# %%
solved = fig6.accuracy(profile)
solved.groupby("when").accuracy.agg(["mean", "count"]).round(3)

# %%
loss = -losses.held_out.groupby("when").solution_loglik.mean()
print(f"Held-out loss: {loss.before:.3f} before SFT, {loss.after:.3f} nats a token after it.")
print(f"In the store: {len(run.after)} seeds, {len(others)} other training sets,", end=" ")
print(f"{len(mixed)} mixtures, one model by reinforcement learning.")
