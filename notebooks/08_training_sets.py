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
# # 08 · Other training sets
#
# The main result is of fine-tuning on mathematics. What if the model is fine-tuned on something
# else? Table 1 repeats two of its numbers for every training set. One is the correlation r, over
# domains, of each score with the absolute change. The other is the **overlap**: of the features
# that the set's demonstrations move most, the share that training on it moves most too.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
from itertools import combinations

import numpy as np
import pandas as pd

from sts_utils import config, questions, results, scores
from sts_utils.measured import Run
from sts_utils.results import Claim

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
run, n = Run(profile), profile.top_n
runs = {profile.train: run}
runs |= {p.train: Run(p) for p in questions.sets(profile)}

# %% [markdown]
# ## Was it learnt?
#
# If SFT did not teach a set, there is no change to predict. The test is the loss on held-out
# solutions, before and after: a set is **learnt** when the interval of the change lies below 0.

# %%
loss, change, learnt = {}, {}, {}
for name, one in runs.items():
    mean = -one.held_out.groupby("when").solution_loglik.mean()
    loss[name] = {"loss before": mean["before"], "loss after": mean["after"]}
    change[name] = one.loss_change()
    learnt[name] = change[name].high < 0
pd.DataFrame(loss).T.assign(change=pd.Series(change).map(str), learnt=learnt)

# %% [markdown]
# ## Table 1
#
# Each set's own $D_N$, its own fine-tuned model and that model's changes over the same domains.

# %%
measures = {
    name: one.correlations() | {"overlap": one.overlap(), "change of loss": change[name]}
    for name, one in runs.items()
}
pd.DataFrame(measures).T.map(str)

# %%
rows = []
for name, estimates in measures.items():
    of_set = loss[name] | {"learnt": "learnt" if learnt[name] else "not learnt"}
    for measure, e in estimates.items():
        row = {"source": "ours", "model": profile.model, "training set": name, "measure": measure}
        row |= results.numbers(e) | {"reliability": getattr(e, "reliability", None)}
        rows.append(row | of_set)
for r in results.paper("table01_other_training_sets").itertuples():
    row = {"source": "paper", "model": r.model, "training set": r.training_domain}
    rows.append(row | {"measure": r.metric, "value": r.pearson_mean})
    rows.append(row | {"measure": "overlap", "value": r.overlap_top100 / 100})

asked = profile.others_questions or profile.evaluation.questions
doses = "; ".join(
    f"{name}, {len(one.profile.seeds)} seed(s), {one.profile.sft.examples} examples"
    for name, one in runs.items()
)
missed = ", ".join(name for name in runs if not learnt[name])
caption = (
    "Table 1. Other training sets: r of each score with the absolute change over domains, and "
    f"overlap of estimated and actual dims at {n}, with 95% intervals; held-out loss, "
    f"nats a token. {doses}; of the others {asked} questions a domain, at most."
    f"{f' Unlearnt: {missed}.' if missed else ''} The paper's r: 8 domains."
)
results.publish(profile, "table1", pd.DataFrame(rows), caption)

# %% [markdown]
# With every training set that was learnt: are the dims found, and does STS_ICL correlate?

# %%
claims, chance = [], n / len(run.train[0].features)
for name in filter(learnt.get, runs):
    above = measures[name]["overlap"] - chance
    claims.append(Claim("table1-found", f"{name}: overlap minus chance", above))
    r = measures[name]["sts_icl"]
    claims.append(Claim("table1-correlates", f"{name}: r over all domains", r))
results.judge(profile, claims)

# %% [markdown]
# ## Are they the features of a subject?
#
# If so, another training set's demonstrations should find other features, and its scores should
# rank the domains otherwise, as far as the actual changes differ. For each pair of sets, first
# seeds, this shows the share of $D_N$ that both have. It also shows how their scores correlate over
# domains, and their changes. Beside them are two **placebos** of STS_ICL. One is the same sum over
# all features *outside* $D_N$. The other reads no training set: the residual stream's own shift,
# without an SAE.

# %%
rows = []
for (name, one), (other, two) in combinations(runs.items(), 2):
    row = {"sets": f"{name}, {other}", "shared": scores.overlap(one.dims[0], two.dims[0], n)}
    for metric in scores.PAPER_SCORES:
        row[f"r of {metric}"] = np.corrcoef(one.score(metric, 0), two.score(metric, 0))[0, 1]
    changes = [[c.mean() for c in both.change_arrays] for both in (one, two)]
    rows.append(row | {"r of changes": np.corrcoef(*changes)[0, 1]})
for name, one in runs.items():
    icl, outside = one.score("sts_icl", 0), [one.ranked[0][n:]]
    residual = [domain.dr2.sum() / domain.n.sum() for domain in one.domains[0].values()]
    placebos = {"all features outside D_N": one.score("sts_icl", 0, dims=outside)}
    placebos |= {"residual stream's shift": residual}
    for placebo, values in placebos.items():
        row = {"sets": f"{name}, {placebo}", "r of sts_icl": np.corrcoef(icl, values)[0, 1]}
        rows.append(row)
caption = (
    "Does a score depend on the training set (ours)? Correlations over domains between training "
    "sets, first seeds: of scores, of the actual changes, and of STS_ICL with placebos that read "
    "no training set."
)
results.publish(profile, "placebos", pd.DataFrame(rows), caption)
