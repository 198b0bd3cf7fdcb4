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
# # 16 · A positive control: skill or words?
#
# The paper correlates over domains after training on mathematics. Nothing in it shows what the
# score follows. A domain can resemble the training set in what must be **done**, or only in the
# **words**. Here the two are crossed. A *skill* is a question about a list of numbers and names
# ("which is the largest?"). A *surface* is what the list is written as: apples sold by weekday, a
# Python list, parcels, race times. A model is fine-tuned on one skill on one surface. What happens
# to the same skill on other surfaces, and to other skills on the same surface?
#
# - **Design half**: six skills and four surfaces, to look for a score on.
# - **Judgement half**: eight new skills and four new surfaces, written and committed before any
#   score was computed on them (`data/skills.yaml`), judged once.
#
# No question is both trained on and asked. Only domains with the training set's type of answer (a
# number, a name, yes or no) are compared with it.

# %% tags=["parameters"]
PROFILE = "control"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

from sts_utils import config, corpora, features, generate, models, questions, results, run, stats
from sts_utils.experiments import trainings
from sts_utils.features import FeatureStats
from sts_utils.scores import cosine, over_domains, shifted_dims

# %%
profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
halves = {"design": [], "judgement": []}  # half -> the run of each training set
for one in questions.sets(profile, elsewhere=True):
    halves["design" if "design" in one.domains else "judgement"].append(one)
names = {half: [p.train.partition("/")[2] for p in sets] for half, sets in halves.items()}
domains = {
    half: [
        d
        for d in corpora.domains(sets[0].domains)
        if any(d in trainings.comparable(p) for p in sets)
    ]
    for half, sets in halves.items()
}
for half, (p, *_) in halves.items():
    print(f"{half}: {len(names[half])} sets × {len(domains[half])} domains, seeds {p.seeds}")

# %% [markdown]
# ## Four training sets, as they are trained on

# %%
for sets in halves.values():
    for p in (sets[0], sets[-1]):
        example = questions.training_examples(p, p.seeds[0])[0][0]
        print(f"[{p.train}] {example.query}\n  -> {example.solution}\n")

# %% [markdown]
# ## What does fine-tuning move?
#
# The model is fine-tuned on each training set and seed, and asked questions of every comparable
# domain, before and after. The change is that of the log-odds of the right answer against the other
# options, which is free of wording that all options share. Each pair of training set and domain is
# a *cell* of one of four kinds: the *own* domain, the same *skill* in other words, another skill in
# the same *words*, *neither*. If what is learned is the skill, it carries over to other words.
#
# Which of T training sets and D domains are of which kind:


# %%
# what a domain shares with the training set; cells of another type of answer are not compared
KINDS = ("own", "skill", "words", "neither")


def kinds_of(names: Sequence[str], domains: Sequence[str]) -> np.ndarray:
    """[T, D] of KINDS, or "" where the types of the answers differ."""
    found = np.full((len(names), len(domains)), "", dtype=object)
    for t, d in np.ndindex(found.shape):
        if corpora.comparable(names[t], domains[d]):
            (skill, surface), (other, words) = names[t].split(", "), domains[d].split(", ")
            found[t, d] = KINDS[2 * (skill != other) + (surface != words)]
    return found


# %% [markdown]
# Two gates were set beforehand: the changes must be reliable (split-half 0.8), and the same skill
# must gain. Else nothing below counts.
#
# The change of each of Q questions of a domain, after each training set and seed:

# %%
MEASURE, RELIABLE = "gold_log_odds", 0.8
changes = {half: [] for half in halves}  # [D] arrays [T, S, Q]; NaN where it was not asked
for half, sets in halves.items():
    runs = [[trainings.change(p, trainings.outcome(p, s)) for s in p.seeds] for p in sets]
    cells = [[dict(list(t.groupby("domain")[MEASURE])) for t in row] for row in runs]
    for domain in domains[half]:
        unasked = np.full(sets[0].evaluation.asked, np.nan)
        found = [[cell.get(domain, unasked) for cell in row] for row in cells]
        changes[half].append(np.array(found))
kinds = {half: kinds_of(names[half], domains[half]) for half in halves}  # [T, D]
print("set × seed × question:", changes["judgement"][0].shape, "of", domains["judgement"][0])

# %% [markdown]
# The mean change of each kind of cell, with 95% over training sets and seeds drawn again, and the
# gates.


# %%
def interval(name: str, e: stats.Estimate) -> dict:
    return {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}


def split_half(changes: Sequence[np.ndarray], splits: int = 200) -> float:
    """Reliability of [cells] changes [S, Q] as r of two halves of the questions over cells, stepped
    up to the whole (Spearman and Brown), mean over random splits."""
    rng, found = np.random.default_rng(0), []
    for _ in range(splits):
        halves = []
        for c in changes:
            order, n = rng.permutation(c.shape[1]), c.shape[1] // 2
            halves.append((c[:, order[:n]].mean(), c[:, order[n:]].mean()))
        found.append(stats.pearson(*np.array(halves).T))
    r = float(np.mean(found))
    return 2 * r / (1 + r)


def over_cells(values: np.ndarray) -> stats.Estimate:
    """Mean of [T, S] values, with draws over sets and seeds."""
    rng, (rows, columns) = np.random.default_rng(4), values.shape
    drawn = rng.integers(rows, size=(stats.DRAWS, rows))[:, :, None]
    picked = values[drawn, rng.integers(columns, size=(stats.DRAWS, 1, columns))]
    return stats.Estimate(float(values.mean()), picked.mean((1, 2)))


# %%
rows, gates = [], []
for half, kind_of in kinds.items():
    mean = np.stack([change.mean(-1) for change in changes[half]], -1)  # [T, S, D]
    for kind in KINDS:
        values = np.array([mean[t][:, row == kind].mean(-1) for t, row in enumerate(kind_of)])
        rows.append({"cells": kind} | interval("change", over_cells(values)))
        above = float((mean.mean(1)[kind_of == kind] > 0).mean())
        rows[-1] |= {"cells above 0": above, "half": half}
    gain = next(row for row in rows if (row["cells"], row["half"]) == ("skill", half))
    compared = [changes[half][d][t] for t, d in zip(*np.nonzero(kind_of != ""))]
    reliability = split_half(compared)
    passed = reliability >= RELIABLE and gain["change_low"] > 0
    gates.append(f"{half} {reliability:.2f}, gates {'passed' if passed else 'not passed'}")
gains = pd.DataFrame(rows)

# %%
ours = "This experiment is ours, not the paper's. No question is both trained on and asked. "
ours += "; ".join(
    f"{half}: {len(names[half])} sets, {p.sft.examples} examples, {len(p.seeds)} seed(s), "
    f"{p.evaluation.asked} questions a domain at most, learning rate {p.sft.lr:g}"
    for half, (p, *_) in halves.items()
)
judged_on = halves["judgement"][0]  # its setting ends every caption
results.publish(
    judged_on,
    "control_gains",
    gains,
    "Positive control, what skills and words gain: change of the log-odds of the gold option in "
    "the domain trained on, the same skill on other surfaces, other skills on the same surface, "
    "and neither; 95% over training sets and seeds. Gates, set before: split-half reliability of "
    f"{RELIABLE} over cells, and a gain of the same skill above zero. Reliability: "
    f"{'; '.join(gates)}. {ours}.",
)

# %% [markdown]
# ## Does a score follow the skill or the words?
#
# Before any training, every score is computed for every training set and domain. The paper's scores
# read the features of the query's tokens; *at the answer* they read the tokens between the query
# and its answer, where what is to be done must be known.
#
# First the paper's two scores and ours, and what needs no D_N: the features that are most active,
# and the residual stream.


# %%
@lru_cache(3)  # those of a seed
def of_domains(half: str, seed: int, place: str = "query", answers=False) -> list[FeatureStats]:
    """Features of the domains without and with demonstrations, or with wrong and right answers."""
    p = halves[half][0].model_copy(update={"place": place})
    if answers:
        arrays = (trainings.answer_features(p, seed, d, part=p.sae) for d in domains[half])
    else:
        arrays = (run.domain_features(p, d, seed, part=p.sae) for d in domains[half])
    return [FeatureStats.from_arrays(of) for of in arrays]


def shift_scores(half: str, p, seed: int) -> dict[str, np.ndarray]:
    """Label -> [D]"""
    found = {}
    for q, place in ((p, ""), (trainings.at_answer(p), ", at the answer")):
        own = FeatureStats.from_arrays(run.train_features(q, seed, part=q.sae))
        others, dims = of_domains(half, seed, q.place), shifted_dims(own, p.top_n)
        for score in ("sts_act", "sts_icl", "cosine"):
            found[score + place] = over_domains(score, others, dims, towards=own.mean("dh"))
        active = shifted_dims(replace(own, dh2=own.h), p.top_n)  # in the place of D_N
        found["sts_act of the most active" + place] = over_domains("sts_act", others, active)
        residual = np.stack([other.mean("r") for other in others])
        found["residual similarity" + place] = cosine(own.mean("r"), residual)
    return found


# %% [markdown]
# What a user would try first: the overlap of words (tf-idf), and a short run of fine-tuning, whose
# score is the change that it makes on questions that are not asked of the whole one.


# %%
def overlaps(half: str, seed: int) -> list[np.ndarray]:
    """[T] of [D] cosine of the tf-idf of a set's text and of each domain's scored questions."""
    sets, texts = halves[half], []
    for p in sets:
        examples = questions.training_examples(p, seed)[0][: p.sft.examples]
        texts.append("\n".join(f"{e.query}\n{e.solution}" for e in examples))
    asked = (questions.domain_queries(sets[0], d, seed) for d in domains[half])
    texts += ["\n".join(e.query for e in of) for of in asked]
    vectors = TfidfVectorizer(sublinear_tf=True).fit_transform(texts).toarray()
    return [cosine(v, vectors[len(sets) :]) for v in vectors[: len(sets)]]


def probed(half: str, p, seed: int) -> np.ndarray:
    """[D] change by the quick probe; NaN where it was not asked."""
    change = trainings.change(p, trainings.probe(p, seed)).groupby("domain")[MEASURE].mean()
    return change.reindex(domains[half]).to_numpy()


# %% [markdown]
# And what the design half found, explained below: cosines of gradients, and of movements from
# demonstrations with wrong answers to the same with right ones, on the N features that this moves
# most. The last was fixed on the design half before any score was computed on the judgement half.

# %%
FIXED, FIXED_N = "right − wrong answers, at the answer", 100
GRADIENTS = {"gradient of answers": "loglik", "gradient of log-odds": "odds"}
GRADIENTS |= {"features × gradient of log-odds": "features"}


def answer_scores(half: str, p, seed: int) -> dict[str, np.ndarray]:
    """Label -> [D]"""
    found, q, first = {}, trainings.at_answer(p), profile.seeds[0]  # domains are read once
    for label, key in GRADIENTS.items():
        of = (trainings.gradients(halves[half][0], first, d)[key] for d in domains[half])
        found[label] = cosine(trainings.gradients(p, seed)[key], np.stack(list(of)))
    own = FeatureStats.from_arrays(trainings.answer_features(q, seed, part=q.sae))
    others, dims = of_domains(half, first, q.place, True), shifted_dims(own, FIXED_N)
    residual = np.stack([other.mean("dr") for other in others])
    found[FIXED.replace(",", ", residual,")] = cosine(own.mean("dr"), residual)
    return found | {FIXED: over_domains("cosine", others, dims, towards=own.mean("dh"))}


# %%
found = {}  # half -> label -> [T, S, D]
for half, sets in halves.items():
    cells = {}
    for seed in sets[0].seeds:  # the domains are read once for a seed
        for p, words in zip(sets, overlaps(half, seed)):
            cell = shift_scores(half, p, seed) | answer_scores(half, p, seed)
            cells[p.train, seed] = cell | {
                "token overlap": words,
                "quick probe": probed(half, p, seed),
            }
    found[half] = {
        label: np.array([[cells[p.train, s][label] for s in p.seeds] for p in sets])
        for label in cells[sets[0].train, sets[0].seeds[0]]
    }
print(len(found["design"]), "scores")

# %% [markdown]
# - **AUC**: how often a score puts the same skill in other words above another skill in the same
#   words. A score that follows words has 0, one that follows skill has 1.
# - **r**: the correlation of score and change off the own cells, less what three things and each
#   training set's mean say of both: the overlap of words, the same surface, the answers' length.


# %%
def auc(values: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """[T, S] how often a score puts a domain of the same skill above one of the same words."""
    found = np.empty(values.shape[:2])
    for t, s in np.ndindex(found.shape):
        skill, words = values[t, s, kinds[t] == "skill"][:, None], values[t, s, kinds[t] == "words"]
        found[t, s] = ((skill > words) + 0.5 * (skill == words)).mean()
    return found


def r_less_known(
    change: np.ndarray, scores: np.ndarray, known: np.ndarray, used: np.ndarray
) -> np.ndarray:
    """[K] r of the change [T, D] and scores [K, T, D], less what is `known`, over cells `used`."""
    t, d = np.nonzero(used)
    means = (t[:, None] == np.unique(t)).astype(float)
    explained = np.column_stack([means, *(k[t, d] for k in known)])
    both = np.column_stack([change[t, d], *scores[:, t, d]])
    left = (both - explained @ np.linalg.lstsq(explained, both, rcond=None)[0]).T
    return stats.pearson(left[1:], left[:1])


# %% [markdown]
# The interval of r leaves out each skill whole, its training sets and its domains, for cells of a
# skill are alike. In simulated worlds where nothing is true it excludes 0 in 1 to 6%; with sets
# drawn one by one it would in half of them. p permutes a score's rows: does it know which set moves
# which domain?

# %%
DRAWS = 2000  # of the permutation test


# %%
def partial(values, changes, known, used, skills_of) -> tuple[stats.Correlation, float]:
    """(r, p): correlation of score and change over the cells `used` [T, D], both less what `known`
    [K, T, D] and each training set's mean say of them. `skills_of`: those of sets [T] and domains
    [D]. p permutes a score's rows over sets that ask the same domains (QAP), two-sided."""
    change, score = np.stack([c.mean((1, 2)) for c in changes], -1), values.mean(1)
    rng, scores = np.random.default_rng(8), [score]
    asked = np.stack([np.isfinite(c).any((1, 2)) for c in changes], -1)
    alike = np.unique(asked, axis=0, return_inverse=True)[1].ravel()
    groups = [np.flatnonzero(alike == group) for group in np.unique(alike)]
    for _ in range(DRAWS):
        scores.append(score.copy())
        for members in groups:
            scores[-1][members] = score[rng.permutation(members)]
    r, *others = r_less_known(change, np.stack(scores), known, used)
    p = (1 + (np.abs(others) >= abs(r) - 1e-12).sum()) / (DRAWS + 1)
    rest = []
    for skill in np.unique(skills_of[1]):
        its = np.logical_or.outer(*(of == skill for of in skills_of))
        rest.append(r_less_known(change, score[None], known, used & ~its)[0])
    sides = np.array(rest), np.ones(len(rest))
    return stats.Correlation(float(r), *sides, reliability=1.0, seeds=2), float(p)


# %% [markdown]
# Both, of each score:

# %%
judged = {}
for half, (p, *_) in halves.items():
    overlap = found[half]["token overlap"].mean(1)
    both = [np.array([one.split(", ") for one in some]) for some in (names[half], domains[half])]
    same = np.equal.outer(*(of[:, 1] for of in both)).astype(float)
    asked = questions.evaluation_questions(p)
    length = [np.mean([len(e.answer) for e in asked[domain]]) for domain in domains[half]]
    known = np.stack([overlap, same, np.broadcast_to(length, overlap.shape)])
    mean, rows = np.stack([c.mean(-1) for c in changes[half]], -1), []
    for label, values in {"the change itself": mean, **found[half]}.items():
        row = {"score": label} | interval("auc", over_cells(auc(values, kinds[half])))
        used = (kinds[half] != "") & (kinds[half] != "own")
        r, p_value = partial(values, changes[half], known, used, [of[:, 0] for of in both])
        rows.append(row | interval("r", r) | {"p": p_value})
    judged[half] = pd.DataFrame(rows)

# %% [markdown]
# The picture names the scores by what they read.

# %%
READ = {
    "sts_act": "STS_act (the paper's)",
    "sts_icl": "STS_ICL (the paper's)",
    "cosine": "cosine of the shifts",
    "sts_act of the most active": "most active features",
    "residual similarity": "residual stream",
}
GROUPS = {
    "after training": {"the change itself": "the change itself"},
    "at the question": READ,
    "at the answer": {f"{score}, at the answer": words for score, words in READ.items()},
    "right − wrong answers": {
        FIXED: "SAE features (fixed)",
        FIXED.replace(",", ", residual,"): "residual stream",
    },
    "gradients": dict(zip(GRADIENTS, ("of the answers", "of the log-odds", "by SAE features"))),
    "without an SAE": {"token overlap": "overlap of words", "quick probe": "short fine-tuning"},
}

# %%
places, labels = {}, {}  # score -> row; row -> label
for group, its in GROUPS.items():
    labels[len(labels)] = group
    for score, words in its.items():
        places[score], labels[len(labels)] = len(labels), words
figure, axes = plt.subplots(1, 2, figsize=(5.4, 0.9 + 0.17 * len(labels)), sharey=True)
for axis, (half, table) in zip(axes, judged.items(), strict=True):
    for score, row in table.set_index("score").loc[list(places)].iterrows():
        colour = results.SAE_COLOUR if score == FIXED else "0.35"
        axis.hlines(places[score], row.auc_low, row.auc_high, colors=colour, lw=1.2)
        axis.plot(row.auc, places[score], "o", color=colour, ms=4)
    axis.axvline(0.5, color=results.CHANCE_COLOUR, ls="--", lw=0.9)
    axis.set(xlim=(-0.05, 1.05), ylim=(len(labels) - 0.5, -0.7), title=f"{half} half")
    axis.set(xticks=(0, 0.5, 1), xlabel="← words      skill →")
axes[0].set_yticks(list(labels), list(labels.values()))
for text in axes[0].get_yticklabels():
    text.set(fontsize=8, fontweight="bold" if text.get_text() in GROUPS else "normal")
caption = (
    "Positive control, skill or words? How often (AUC) each score puts the trained skill in other "
    "words above another skill in the trained words. 0 follows words, 1 follows skill, dashed is "
    "chance; 95% over training sets and seeds. Coloured: the score fixed on the design half before "
    f"the judgement half was scored. {ours}."
)
results.publish(judged_on, "control_aucs", figure, caption)

# %% [markdown]
# ## Design: what was tried
#
# On the design half the paper's two scores, ours and the residual stream follow the words, at
# either place. Three changes make a difference:
#
# - **Wrong answers as the baseline.** Demonstrations move features mostly by their wording and
#   form. The same demonstrations with wrong answers have the same wording and form. D_N are the
#   features that move most from wrong to right answers. *Right − wrong answers* is the cosine, on
#   D_N, of two domains' movements: the paper's idea with a better baseline. It takes no gradient
#   and no training.
# - **The gradient of the log-odds** in place of the answer's likelihood: what pulls the right
#   answer above the wrong ones, in the residual stream or carried by SAE features. What raises
#   the answer's likelihood is mostly form.
# - **A quick probe**: fine-tuning on a tenth of the examples in batches of four at ten times the
#   learning rate, with no warm-up. It has a sign and a unit. A twentieth of the ordinary schedule
#   said little (docs/control.md).
#
# Also tried, once, on the design half and outside this notebook (r is with the change within
# training sets):
#
# | tried | AUC | r |
# |---|---|---|
# | *right − wrong answers* with N of 30 or 100 | 0.94 | |
# | the same with N of 300, 1000 or all 4,608 | 0.93 | |
# | the same with answers to other questions for wrong ones | 0.66 | |
# | residual stream of the last token before the answer, blocks up to the 12th | 0.69 to 0.74 | |
# | the same, from the 15th block on | 0.79 to 0.86 | |
# | the same, without the wrong answers | 0.00 to 0.38 | |
# | the same, the mean over training sets taken off instead | 0.08 to 0.21 | |
# | quick probe of three steps of eight | 0.77 | 0.35 |
# | quick probe of six steps of four | 0.89 | 0.58 |
# | gradients of the log-odds of twelve questions, all weights | 0.76 | 0.62 |
# | the same, MLPs | 0.77 | 0.63 |
# | the same, attention | 0.77 | 0.60 |
# | the same, by their sign | 0.72 | 0.57 |
# | gradients of the training answers' likelihood | 0.59 | 0.40 |
# | residual stream, 24 questions, after block 5 | 0.84 | 0.63 |
# | after block 10 | 0.87 | 0.64 |
# | after block 15 | 0.91 | 0.60 |
# | after block 20 | 0.87 | 0.54 |
# | after block 25 | 0.87 | 0.47 |
# | after block 28 | 0.92 | 0.47 |
# | the same, at the answer's position alone | 0.66 to 0.82 | |
# | the same, as an outer product with the residual stream | 0.81 to 0.89 | |
# | the same, with answers to other questions for options | 0.59 to 0.67 | |
# | features × gradient after blocks 15, 20, 25 | 0.68, 0.83, 0.79 | |
# | the same, its absolute value | 0.21 to 0.38 | |
# | contrasts with prose, or with other training sets' demonstrations | 0.00 to 0.32 | |
#
# **The rule**: the highest AUC on the design half at the profile's layer and N, among what costs at
# most a tenth of fine-tuning. That is *right − wrong answers* (`FIXED`). The gradients and
# the quick probe were fixed with it, to be judged beside it.

# %%
CAPTION = (
    "Positive control, skill or words, {half} half ({skills}). AUC: how often a score puts the "
    "trained skill's cells above the trained surface's. r: with the change off the own cells, "
    "less what overlap of words, surface, length of answers and the training set's mean say. 95% "
    "over training sets and seeds (AUC) and over skills (r); p by permuting training sets. "
    "{ours}."
)


def publish(half: str) -> None:
    skills = ", ".join(sorted({name.split(", ")[0] for name in names[half]}))
    caption = CAPTION.format(half=half, skills=skills, ours=ours)
    results.publish(halves[half][0], f"control_{half}", judged[half], caption)


publish("design")

# %% [markdown]
# ## Judgement
#
# New skills, new surfaces, two more types of answers.

# %%
publish("judgement")

# %% [markdown]
# Three goals were set before the judgement half was scored. The third is of cost: the tokens that
# the score reads of a training set × the blocks they go through, over what fine-tuning on the set
# computes, a backward pass counted as two forward ones.

# %%
GOALS = {"auc": 0.8, "r": 0.35, "cost": 0.1}
costs, blocks = [], models.config_of(profile.model, profile.revision).num_hidden_layers
for p in halves["judgement"]:
    read = features.tokens_read(trainings.answer_pairs(p, p.seeds[0])) * (p.layer + 1)
    chosen = questions.training_examples(p, p.seeds[0])[0][: p.sft.examples]
    batch = generate.tokenize(questions.tokenizer(p), chosen, p.sft.max_length)
    trained = p.sft.epochs * sum(len(row["input_ids"]) for row in batch)
    costs.append(read / (3 * trained * blocks))

fixed, rows = judged["judgement"].set_index("score").loc[FIXED], []
for what, goal in GOALS.items():
    reached = np.mean(costs) if what == "cost" else fixed[what]
    met = reached <= goal if what == "cost" else reached >= goal
    row = {"what": what, "goal": goal, "reached": reached}
    row |= {end: fixed.get(f"{what}_{end}", np.nan) for end in ("low", "high")}
    rows.append(row | {"verdict": "reached" if met else "not reached"})

# %%
results.publish(
    judged_on,
    "control_goals",
    pd.DataFrame(rows),
    f"Positive control, judgement half: goals set before, and what {FIXED} reached. Cost: what "
    "it reads of a training set, of what fine-tuning on that computes (tokens × blocks); the "
    "domains are read once for all training sets, and not in it, nor is the evaluation in "
    f"fine-tuning's. {ours}.",
)

# %% [markdown]
# The paper's activity score, the score that was fixed, and the change itself, cell by cell: each
# in its training set's own standard deviations. A score that follows skill lifts the second column,
# one that follows words the third.

# %%
heat = {"STS_act": found["judgement"]["sts_act"].mean(1), "right − wrong": None}
heat["right − wrong"] = found["judgement"][FIXED].mean(1)
heat["change by fine-tuning"] = np.stack([c.mean((1, 2)) for c in changes["judgement"]], -1)
figure, axes = plt.subplots(1, 3, figsize=(5.4, 3.2), sharey=True)
kind, rng = kinds["judgement"], np.random.default_rng(0)
aside = rng.uniform(-0.25, 0.25, kind.shape)  # so that points lie beside one another
for axis, (title, values) in zip(axes, heat.items(), strict=True):
    table = pd.DataFrame(values).where(kind != "")
    table = table.sub(table.mean(axis=1), axis=0).div(table.std(axis=1), axis=0).to_numpy()
    for column, name in enumerate(KINDS):
        for t, d in np.argwhere(kind == name):
            said = f"trained on {names['judgement'][t]}\nasked {domains['judgement'][d]}\n"
            dot = {"color": results.PALETTE[column], "alpha": 0.4, "ms": 3, "mew": 0}
            said += f"{table[t, d]:+.2f} standard deviations"
            axis.plot(column + aside[t, d], table[t, d], "os^D"[column], gid=said, **dot)
        middle = table[kind == name].mean()
        axis.hlines(middle, column - 0.35, column + 0.35, color="0.1", lw=1.5, zorder=4)
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)
    axis.set_xticks(range(len(KINDS)), KINDS, rotation=40, ha="right")
    axis.set_title(title)

# %%
axes[0].set_ylabel("above its training set's mean,\nin standard deviations")
figure.supxlabel("what the domain asked shares with the training set", fontsize=9)
caption = (
    f"Positive control: STS_act, {FIXED} and the change of the log-odds of the gold option. A "
    "point is a training set and a domain with the same type of answer, mean over seeds; a line is "
    "the mean. Own: the domain trained on; skill: in other words; words: another skill in the same "
    f"words; neither. {ours}."
)
results.publish(judged_on, "control_heat", figure, caption)

# %% [markdown]
# On SmolLM2, with the profile `control`, the goals were missed, and the score fell from 0.93 on the
# design half. Part of it was not there to be foreseen. The model learned some of the new skills
# hardly or not at all, even in the words it was trained on, and the change itself does not reach 1.
# The residual stream does as well as the SAE's features, which are not seen to add accuracy.
# [docs/control.md](../docs/control.md) has the numbers, and an earlier part with topics for
# training sets.
