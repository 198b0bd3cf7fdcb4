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
# Only now is the model trained, all its weights, by supervised fine-tuning (**SFT**): it learns to
# write the training set's solutions. Optimizer and schedule are the paper's: AdamW with β = (0.9,
# 0.95), weight decay 0.01, gradients clipped at 1, cosine decay after 10% warm-up. The learning
# rate is ours, for the paper gives none. docs/results.md has what was tried; no domain's outcome
# was looked at.
#
# The forward and backward pass run in the profile's `sft.dtype`. Updates are always float32: plain
# bfloat16 would round most of them away.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch

from sts_utils import config, generate, models, questions, results, run
from sts_utils.measured import Run

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
measured, sft = Run(profile), profile.sft
train, held_out = questions.training_examples(profile, profile.seeds[0])
print(f"{sft.examples} of {len(train):,} {profile.train} examples, {len(held_out):,} held out")
print(f"{sft.epochs} epoch(s), batch {sft.batch}, learning rate {sft.lr:g}")

# %% [markdown]
# One training example: the question, and the solution that the model learns to write.

# %%
print(train[0].query, "\n---\n", train[0].solution, sep="")

# %% [markdown]
# ## The label mask
#
# As the model sees it, both are one sequence in its chat template. Each token has a label: the
# token itself, or −100, which means that the loss leaves it out. Only the solution is trained on:

# %%
tokenizer = questions.tokenizer(profile)
(row,) = generate.tokenize(tokenizer, train[:1], sft.max_length)
ids, labels = np.array(row["input_ids"]), np.array(row["labels"])
print(f"{len(ids)} tokens, {(labels != -100).sum()} of them with a loss, first to last:")
print(repr(tokenizer.decode(ids[labels != -100])))

# %% [markdown]
# ## A training step and its loss
#
# The logits at a token foretell the next one. The loss is their cross-entropy with the label,
# averaged over the solution's tokens. Its unit is the **nat**: at a loss of 1 the model gives the
# right token a probability of 37%, by the geometric mean. One step of AdamW on this example alone:

# %%
if models.device() == "cpu":  # the paper's own models train over several GPUs
    model = models.load_model(profile.model, "float32", profile.revision).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95))
    inputs, targets = torch.tensor(ids)[None], torch.tensor(labels)[None, 1:]
    for step in ("before", "after one step"):
        logits = model(input_ids=inputs).logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        print(f"loss {step}: {loss.item():.3f} nats a token")
        if step == "before":
            loss.backward()
            optimizer.step()
    del model, optimizer, logits, loss

# %% [markdown]
# ## Every seed
#
# Each **seed** is a repetition: it trains on its own draw of examples, in its own order. Left, the
# loss on the solutions of each step's batch, which differ from step to step. Right, the loss on
# held-out solutions, whose templates were not trained on, before and after. Did it learn?

# %%
trained = {f"seed {seed}": model for seed, model in measured.models.items()}
log = run.training_logs(profile, trained)
losses = measured.held_out.assign(loss=-measured.held_out.solution_loglik)
losses = losses.groupby(["when", "id"]).loss.mean().reset_index()  # over seeds
figure, (left, right) = plt.subplots(1, 2, figsize=(6.0, 2.4), width_ratios=[3, 2])
palette = sns.color_palette("colorblind", log.run.nunique())
sns.lineplot(log, x="step", y="loss", hue="run", palette=palette, ax=left)
left.set(xlabel="SFT step", ylabel="training loss, nats a token")
left.legend(frameon=False)
look = {"errorbar": ("ci", 95), "seed": 0, "color": results.SAE_COLOUR, "capsize": 0.1}
sns.pointplot(losses, x="when", y="loss", order=["before", "after"], ax=right, **look)
right.set(xlabel="SFT", ylabel="held-out loss, nats a token")
means, change = losses.groupby("when").loss.mean(), measured.loss_change()
caption = (
    f"Training. Left: loss on solutions, a batch of {sft.batch} a step. Right: loss on "
    f"{losses.id.nunique()} held-out solutions of the training set (templates not trained on), "
    f"{means['before']:.3f} before and {means['after']:.3f} nats a token after SFT, mean over "
    f"seeds; bars: 95% over questions. The change, paired by question: {change}."
)
results.publish(profile, "training", figure, caption)

# %%
table = log.groupby("run").loss.agg(["first", "last"]).round(3)
table.rename(columns={"first": "loss at the first step", "last": "at the last"})

# %%
learnt = "It learnt" if change.high < 0 else "It is not certain that it learnt"
print(f"{learnt}: the held-out loss changed by {change} nats a token.")
print("Other training sets, mixtures, reinforcement learning: notebooks 08, 11, 12, 13.")
