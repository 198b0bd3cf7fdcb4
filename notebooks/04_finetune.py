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
from sts_utils import config, figures, units

profile = config.load(PROFILE, SEEDS)
train, held_out = units.training_examples(profile, profile.seeds[0])
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
log.groupby("seed").loss.agg(["first", "last"]).round(3)

# %% [markdown]
# ## Did it learn?
#
# The loss on held-out training-set questions, whose templates were not trained on, before and after.

# %%
performance = units.held_out(profile)
figure, caption = figures.training(log, performance, profile)
written = figures.save(figure, "training", caption, profile)

# %%
print("Wrote", ", ".join(f"figures/{profile.name}/{path.name}" for path in written))
