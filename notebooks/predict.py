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
# # Which domains will move?
#
# You are about to fine-tune a model. Which *other* domains will it move? First what was read, then
# the answer, then how it is found.

# %% tags=["parameters"]
TRAIN = "../data/example.jsonl"  # your .jsonl, .csv or .parquet file
MODEL = "smollm2-135m-instruct"
SAE = "data/saes/smollm2-135m-instruct/layer20-8x-k32"
DOMAINS = "mmlu-test"  # or your files: {"law": "law.jsonl", ...}
SEEDS = [0]
QUERIES = 16
N = 100
PROBE = 8  # steps of fine-tuning to try; None for none
BUDGET = 100  # extra examples to split over the domains; None for none
MORE = {}  # any other argument of sts_utils.predict
REFERENCE = "gsm-symbolic"  # a training set to compare the ranking with; None for none
INTERACTIVE = False  # a slider for N, where a browser is open on this notebook
OUT = None  # a folder to write the tables to
FOLDER = "."  # your files are relative to it

# %%
import itertools
import os
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from matplotlib.font_manager import findfont, get_font

import sts_utils
from sts_utils import generate, questions, run, scores
from sts_utils.experiments.labels import activations, promoted
from sts_utils.prediction import probe, sources
from sts_utils.prediction.predict import SCORES
from sts_utils.prediction.predict import TRAIN as OWN
from sts_utils.store import ROOT

pd.set_option("display.html.use_mathjax", False, "display.precision", 3)
pd.set_option("display.max_colwidth", None, "display.max_rows", 30)
os.chdir(FOLDER)

# %%
given = {"model": MODEL, "sae": SAE, "domains": DOMAINS, "seeds": SEEDS, "queries": QUERIES}
prediction = sts_utils.predict(TRAIN, **given | {"n": N, "probe": PROBE} | MORE)
score, profile, answers = prediction.score, prediction.profile, prediction.answers
if OUT:
    Path(OUT).mkdir(parents=True, exist_ok=True)
    prediction.table.to_csv(Path(OUT) / "table.csv", index=False)
    prediction.table.to_parquet(Path(OUT) / "table.parquet", index=False)

# %% [markdown]
# ## What was read

# %%
name = TRAIN if isinstance(TRAIN, (str, Path)) else "given in Python"
print(f"Training set: {name}, {len(prediction.train)} examples")
print(f"Model: {profile.model}, {profile.dtype}")
print(f"SAE: {profile.sae}, residual stream after block {profile.layer}")
print(f"Scores on N = {prediction.n} features, seeds {', '.join(map(str, prediction.seeds))}")
for said in prediction.notes:
    print(said)
example = prediction.train[0]
print("\n" + generate.chat_text(questions.tokenizer(profile), example.query) + example.solution)

# %% [markdown]
# ## What will move

# %%
for line in prediction.says():
    print(line)

# %% [markdown]
# A **probe** is a few steps of fine-tuning on your data, with every domain measured before and
# after. Its change is of the log-odds of the right option where all questions are multiple choice;
# else of the answers' log-likelihood a token, which form and wording move too. Above 0 the answers
# became likelier. Intervals are 95% over questions. **Reliability** is the share of the variance
# between domains that is signal, not noise. Another run and other examples are not in the
# intervals, nor whether more steps have the same sign. With enough signal the probe ranks the
# domains. A score, which says nothing of size or sign, ranks where there is no better evidence.

# %%
if answers is not None:
    changes = probe.table(answers).sort_values("change", key=abs, ascending=False)
    display(changes)
    if OUT:
        changes.to_csv(Path(OUT) / "probe.csv", index=False)

# %% [markdown]
# ## How it is found, and what a score can see
#
# The paper's two steps need no fine-tuning:
#
# 1. Put a few of your worked examples in the context and see which features of the SAE move on your
#    next question. The N that move most are `D_N = TopN_j E_x (h_j(x) − h_j(x_0, y_0, …, x))²`.
# 2. See how much each domain's questions use these features: `STS_act = E Σ_{j∈D_N} h_j(x̃)`.
#
# | what | reads |
# |---|---|
# | a probe | ours: a few steps of fine-tuning, every domain measured before and after |
# | `sts_act`, `sts_icl` | the paper's: how active they are; how far a domain's examples move them |
# | `sts_answers` | ours: how they move from wrong answers in context to right ones |
#
# `sts_icl` needs worked examples of the domains, `sts_answers` multiple choice in your data and in
# the domains' examples: most of the wording cancels there.
#
# In the positive control (notebook 16), on SmolLM2-135M alone, both the trained skill and its
# wording are known. `auc`: how often a score put the trained skill in other words above another
# skill in the trained words (by chance 0.5). `r`: with the change beyond wording. The paper's
# scores read the wording that a domain shares with your data, not the skill.

# %%
CONTROL = ROOT / "figures/control/control_judgement.csv"
NAMES = {"right − wrong answers, at the answer": "sts_answers", "token overlap": "overlap of words"}
if CONTROL.exists():
    judged = pd.read_csv(CONTROL).replace({"score": NAMES}).set_index("score").drop(columns="p")
    display(judged.loc[[*SCORES, "overlap of words", "quick probe"]])
else:
    print("The control's result is not at hand: the default score is not backed by it.")

# %% [markdown]
# ## The ranking
#
# A row a domain, with 95% intervals over its questions, of the scores over the seeds too.
# `rank_low` to `rank_high`: where its rank may lie. That fine-tuning moves a domain of a higher
# score more is the paper's claim. This project's run on SmolLM2-135M does not find it, and excludes
# a correlation as large as the paper's there.

# %%
others = [name for name in SCORES if name != score and prediction.table[name].notna().any()]
display(prediction.table.dropna(axis="columns", how="all"))
counts = {name: len(of.n) for (name, _, _), of in prediction.stats.items()}
training = counts.pop(OWN)
print(f"{min(counts.values())} to {max(counts.values())} questions a domain and seed;", end=" ")
print(f"D_{prediction.n} on {training} training questions a seed (512: or more).")
if len(prediction.seeds) == 1:
    print("With one seed the intervals leave out what other demonstrations would change.")
values, draws = prediction.estimates[score]
for a, b in itertools.pairwise(np.argsort(-values, kind="stable")):
    if (flips := (draws[:, a] <= draws[:, b]).mean()) > 0.05:
        pair = f"{prediction.domains[a]} and {prediction.domains[b]}"
        print(f"can't be told apart: {pair} (their order flips in {flips:.0%} of the draws)")


# %%
def drawable(name: str) -> str:
    """A domain's name, or its rank where the picture's font lacks a letter: the table has both."""
    has = get_font(findfont("DejaVu Sans")).get_char_index
    rank = prediction.table.set_index("domain")["rank"]
    return name.replace("$", r"\$") if all(map(has, map(ord, name))) else f"rank {rank[name]}"


# %%
def plot(prediction):
    """Every score with its interval, domains in the order of the one that ranks; the probe's."""
    table, first = prediction.table[::-1].set_index("domain"), prediction.score
    names = [first, *(s for s in SCORES if s != first and table[s].notna().any())]
    parts = {name: table[[name, f"{name}_low", f"{name}_high"]] for name in names}
    if "change" in table:
        parts |= {"probe": table[["change", "change_low", "change_high"]]}
    size = (2.2 + 2.2 * len(parts), 1.1 + 0.22 * len(table))
    figure, axes = plt.subplots(1, len(parts), figsize=size, sharey=True, layout="constrained")
    for axis, (name, part) in zip(np.atleast_1d(axes), parts.items()):
        value, low, high = part.to_numpy().T
        reach = np.maximum([value - low, high - value], 0)
        colour = {first: "C0", "probe": "C1"}.get(name, "0.55")
        axis.errorbar(value, range(len(table)), xerr=reach, fmt="o", capsize=2, color=colour)
        axis.set(xlabel="change by the probe" if name == "probe" else name)
    axis.set_yticks(range(len(table)), [drawable(d) for d in table.index])
    return figure


_ = plot(prediction)

# %% [markdown]
# How much of a ranking is the training set's, and how much would be there with any? The rank
# correlation (Spearman) of each score's ranking with that after a reference training set, grade
# school mathematics (GSM-Symbolic). Near 1, the score hardly reads your data.

# %%
if REFERENCE:
    without = {"n": N, "probe": None, "columns": None}
    other = sts_utils.predict(REFERENCE, **given | MORE | without)
    both = prediction.table.merge(other.table, on="domain", suffixes=("", " reference"))
    for name in (score, *others):
        if both[f"{name} reference"].notna().all() and len(both) > 2:
            alike = both[name].corr(both[f"{name} reference"], method="spearman")
            print(f"{name}: rank correlation with the ranking after {REFERENCE} {alike:.2f}")

# %% [markdown]
# ## What it does not say
#
# - Whether a domain gets better or worse: a score has no sign; a probe has that of its few steps.
# - Anything beyond shared wording, of every score but `sts_answers`, and that one missed its goals.
# - By how many points. Scores compare the domains of this table, not models, SAEs, sets or N.
# - What your learning rate, epochs, number and order of examples do: the score knows none of them.
# - Domains that are not listed, and reinforcement learning.
# - That a higher score means more change, on any model: this project could not show it.
# - That a mixture as advised helps: in our run of Fig 5 no mixture helped either of its domains.
#
# ## Why? The features that your data moves most
#
# The words that each promotes, the domains that use it most (mean activation a token), and where it
# fires hardest in a sample of your texts and of the domains': the peak is between ⟦ and ⟧.

# %%
kind = "answers" if score == "sts_answers" else "shift"
shifts = np.mean([scores.shift(prediction.stats[OWN, s, kind]) for s in prediction.seeds], axis=0)
ids = np.argsort(-shifts, kind="stable")[:10]
model, hook, tokenizer = run.backbone(profile), run.hook(profile), questions.tokenizer(profile)
texts = [("the training set", e) for e in sources.drawn(prediction.train, 32)]
texts += [(d, e) for d in prediction.domains for e in sources.drawn(prediction.questions[d], 4)]
fired = []
for domain, e in texts:
    text = f"{e.query}\n{e.solution}".strip()
    read = tokenizer(text, return_offsets_mapping=True)  # with BOS where the model has one
    ends = [0, *(stop for _, stop in read.offset_mapping[:256])]  # shown once, if shared
    if len(ends) <= 2:
        continue
    h = activations(model, hook, read.input_ids[:256], ids).cpu().numpy()  # [tokens, features]
    for i, at in enumerate(h.argmax(0)):
        cuts = ends[max(0, at - 10)], ends[at], ends[at + 1], ends[min(len(h), at + 11)]
        before, token, after = (text[a:b] for a, b in itertools.pairwise(cuts))
        fired.append((ids[i], domain, h[at, i], f"{before}⟦{token}⟧{after}"))
fired = pd.DataFrame(fired, columns=["feature", "domain", "peak", "text"]).query("peak > 0")
fired = fired.drop_duplicates(["feature", "peak", "text"], keep="last")
fired = fired.sort_values("peak", ascending=False, kind="stable")

# %%
known = run.sae(profile).cfg.metadata.neuronpedia_id
used = {
    d: np.mean([prediction.stats[d, s, "shift"].mean("h") for s in prediction.seeds], axis=0)
    for d in prediction.domains
}
for feature, words in zip(ids.tolist(), promoted(profile, ids)):
    print(f"Feature {feature}, shift {shifts[feature]:.3g}; promotes: {' '.join(words)}")
    most = sorted(((float(used[d][feature]), d) for d in used), reverse=True)[:3]
    using = ", ".join(f"{d} ({mean:.3g})" for mean, d in most if mean > 0) or "no domain"
    link = f"https://www.neuronpedia.org/{known}/{feature}" if known else ""
    print(f"used most by: {using} {link}")
    rows = fired[fired.feature == feature].set_index("domain")[["peak", "text"]]
    own = rows.index == "the training set"
    display(pd.concat([rows[own][:2], rows[~own][:2]]))

# %% [markdown]
# ## What to add to the mix
#
# A budget of extra examples in the ratio of the domains' score, as the paper's §5. `at_hand`:
# worked examples to draw from; don't evaluate on them.

# %%
if BUDGET:
    weight = prediction.table[score].clip(lower=0)
    weight = weight if weight.sum() > 0 else weight * 0 + 1.0  # none is above 0: evenly
    advice = prediction.table[["domain"]].assign(weight=weight, share=weight / weight.sum())
    quota = advice.share.to_numpy() * BUDGET
    counts = np.floor(quota).astype(int)
    counts[np.argsort(counts - quota, kind="stable")[: BUDGET - counts.sum()]] += 1
    rows, at_hand = [], []
    for domain, count in zip(advice.domain, counts):
        of = *prediction.questions[domain], *prediction.demonstrations.get(domain, ())
        worked = list({sources.key(e): e for e in of if e.solution}.values())
        chosen = [(e.query, e.solution, domain) for e in sources.drawn(worked, count)]
        rows, at_hand = rows + chosen, [*at_hand, len(worked)]
    display(advice.assign(examples=counts, at_hand=at_hand))
    print(f"{len(rows)} of {BUDGET} at hand")
    mixture = pd.DataFrame(rows, columns=["question", "answer", "domain"])
    if OUT and rows:
        how = {"orient": "records", "lines": True, "force_ascii": False}
        mixture.to_json(Path(OUT) / "mixture.jsonl", **how)

# %% [markdown]
# ## Another N or score
#
# The statistics are kept: `replace(prediction, n=…, score=…, domains=…)` computes nothing again.
# With `INTERACTIVE = True` a slider does it.

# %%
replace(prediction, n=max(1, prediction.n // 2), score="sts_act").table[
    ["domain", "rank", "sts_act"]
]

# %%
if INTERACTIVE:  # a widget waits for a browser, which papermill has not
    from ipywidgets import interact

    @interact(n=(1, len(shifts) // 2), score=[score, *others])
    def shown(n=prediction.n, score=score):
        """Draw the ranking by this N and score."""
        display(plot(replace(prediction, n=n, score=score)))
        plt.close("all")
