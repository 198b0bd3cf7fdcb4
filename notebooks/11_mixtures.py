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
# # 11 · Which extra data to add
#
# A score says, before any training, how much a **domain** (a subject not trained on) should move
# with the training set. Two uses of it are tested here. Which domain profits from extra training
# data of its own (Fig 5)? In what ratio should data of two domains be added, without harm to
# mathematics (Table 10)?
#
# The score is $\mathrm{STS}_{ICL}$: how far a domain's worked examples move the features that the
# training set moves. Of the domains with questions enough, those where it is highest and lowest
# share a budget of extra examples in several ratios. One model is fine-tuned on each **mixture**,
# with the first seed.

# %% tags=["parameters"]
PROFILE = "smol"
SEEDS = None  # like "0,1,2"; the profile's own if None

# %%
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from sts_utils import config, questions, results, run
from sts_utils.experiments import trainings
from sts_utils.measured import Run
from sts_utils.results import Claim
from sts_utils.stats import Jackknife

profile = config.load(PROFILE, SEEDS)
print(f"Profile {profile.name}: {profile.about}")
main, settings, seed = Run(profile), profile.mixture, profile.seeds[0]
column, measure, unit, tested = run.mathematics_measure(profile)
print(f"{settings.examples} examples of {profile.train}, {settings.extra} extra ones")
print(f"mathematics: {measure} of {tested}, {unit}")

# %% [markdown]
# ## The two domains
#
# They are chosen by $\mathrm{STS}_{ICL}$, mean over seeds, before anything is trained. Each
# domain's questions are halved: extra data comes from one half and the test is on the other. A
# domain with too few questions for the extra data is left out.

# %%
scores = main.scores[main.scores.metric == "sts_icl"]
table = scores.groupby("domain").value.mean().rename("STS_ICL").to_frame()
halves = [len(questions.halves(profile, domain)[0]) for domain in table.index]
table.assign(**{"questions for training": halves}).sort_values("STS_ICL", ascending=False).round(4)

# %% [markdown]
# A mixture is how many extra examples each of the two gives: **none**; **all low**, all of the
# low-score domain; **half** of each; **all high**; and **STS**, in the ratio of the scores. Where
# that is within one example of the half it is the half, and one model stands for both.

# %%
ends, extra = trainings.mixtures(profile)
high, low = ends
print(f"highest STS_ICL: {high}, lowest: {low}")
pd.DataFrame(extra, [f"extra examples of {high}", f"of {low}"]).T

# %% [markdown]
# The extra questions come without a worked solution. As in the paper, the untouched model answers
# them, sampled at temperature 1, and it is these answers that are trained on. One of them:

# %%
example = trainings.with_answers(profile, high)[0]
print(example.query, "\n---\n", example.solution, sep="")

# %% [markdown]
# ## Fine-tuning
#
# Supervised fine-tuning (**SFT**) takes the training set's examples and the extra ones in one
# random order, with the recipe of notebook 04. The loss on answers, nats a token, at the first and
# the last step:

# %%
models = {name: (trainings.mixed, seed, ends, of) for name, of in extra.items()}
logs = run.training_logs(profile, models)
table = logs.groupby("run", sort=False).loss.agg(["first", "last"]).round(3)
table.rename_axis("mixture").rename(columns={"first": "first step", "last": "last step"})

# %% [markdown]
# ## What each mixture changes
#
# Every model is asked the same test questions as the untouched one, so that the change is paired by
# question: after − before. In brackets are 95% intervals. They leave out each twentieth of the
# questions in turn, the same for every mixture.


# %%
def gains_of(changes: pd.DataFrame, domains: Sequence[str], templates: Mapping[str, str]) -> dict:
    """Mixture -> domain, and "mathematics" -> Jackknife of the mean change against the untouched
    model (`changes`: columns mixture, domain, id, change). The same questions are left out for
    every mixture, those of a template (`templates`: id -> it) together."""
    estimates = {name: {} for name in dict.fromkeys(changes.mixture)}
    for domain in ("mathematics", *domains):
        wide = changes[changes.domain == domain].pivot(index="id", columns="mixture")["change"]
        groups = [templates.get(i, i) for i in wide.index]
        for name, of in estimates.items():
            of[domain] = Jackknife.mean(wide[name].to_numpy()[None], groups)
    return estimates


before = trainings.evaluated(profile, None)
change = {name: trainings.evaluated(profile, name) - before for name in extra}
changes = pd.concat(change, names=["mixture"]).rename("change").reset_index()
gains = gains_of(changes, ends, questions.templates(profile))  # mixture -> domain -> Jackknife
pd.DataFrame(gains).T.map(str)

# %% [markdown]
# ## Fig 5
#
# In a and b, each domain by how many of the extra examples are its own. Whether extra data helps at
# all is the distance from the dotted line, the training set alone. In c, the two domains without
# extra data and with the STS split, which is to balance them.

# %%
by_own = {high: gains["all high"], low: gains["all low"]}
own = {domain: of[domain] - gains["none"][domain] for domain, of in by_own.items()}
caption = (
    f"Fig 5. {high} and {low} (highest and lowest STS_ICL), test halves, after SFT on "
    f"{settings.examples} training and {settings.extra} extra examples (c: split by STS) that "
    "the untouched model answered; one seed, 95% over questions. All extra examples of its own, "
    f"against none, change {results.MEASURE_NAMES[profile.evaluation.measure]} in "
    f"{' and in '.join(f'{domain} by {gain}' for domain, gain in own.items())}. The paper: "
    "engineering gains much, law little."
)


def points(axis, x, estimates, **look):
    """Changes in hundredths with their intervals."""
    y = 100 * np.array([e.value for e in estimates])
    axis.errorbar(x, y, yerr=100 * results.bars(estimates), capsize=2, lw=1, **look)
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)


# %%
figure, axes = plt.subplots(1, 3, figsize=(7.0, 2.8), sharey=True)
for side, (domain, kind) in enumerate(zip(ends, ("high-STS", "low-STS"))):
    names = sorted(("all low", "half", "all high"), key=lambda name: extra[name][side])
    x = [extra[name][side] for name in names]
    colour, marker = results.PALETTE[side], "oD"[side]
    look = {"label": f"{domain} ({kind})", "color": colour, "fmt": marker}
    points(axes[side], x, [gains[name][domain] for name in names], ls="-", **look)
    axes[side].axhline(100 * gains["none"][domain].value, color=colour, ls=":")
    axes[side].set_xlabel(f"examples of {domain}\namong {settings.extra} extra ones")
    axes[side].set_xticks(x)
    x = np.array([0, 1]) + 0.1 * (side - 0.5)
    points(axes[2], x, [gains[name][domain] for name in ("none", "STS")], ls="", **look)
same = "= half, " if extra["STS"] == extra["half"] else ""
axes[2].set_xticks([0, 1], ["no extra", "STS split\n{}{}:{}".format(same, *extra["STS"])])
axes[2].set(xlim=(-0.5, 1.5))
for axis, title in zip(axes, "abc"):
    axis.set_title(title)
axes[2].plot([], [], color="0.3", ls=":", label="no extra examples")
names = axes[2].get_legend_handles_labels()
figure.legend(*names, frameon=False, loc="outside upper center", ncols=3)
axes[0].set_ylabel(f"change of\n{results.SHORT_NAMES[profile.evaluation.measure]}")
results.publish(profile, "fig5", figure, caption)

# %% [markdown]
# Two claims of the paper are judged. Extra data helps the high-STS domain more than the low-STS
# one: the gain of each by its own extra data, one minus the other. And the STS split balances the
# two: the squared distance of their changes is larger in the one-sided mixtures. It is a square
# because what noise adds to a square is known and can be taken away.


# %%
def balance(gains: Mapping[str, Mapping[str, Jackknife]], ends: Sequence[str]) -> Jackknife:
    """Squared distance between the changes of the two `ends`: mean of the one-sided mixtures, minus
    that of the STS split. What noise adds to a square, its variance, is taken off."""
    gaps = [gains[name][ends[0]] - gains[name][ends[1]] for name in ("all high", "all low", "STS")]
    squares = zip(*((e.value**2 - e.variance, e.left_out**2, e.seeds**2) for e in gaps))
    return Jackknife(*((high + low) / 2 - split for high, low, split in squares))


words = f"gain of {high} by its extra data minus gain of {low} by its own"
helps = Claim("fig5-helps", words, own[high] - own[low])
words = "squared distance between their changes: one-sided mixtures minus STS split"
balances = Claim("fig5-balances", words, balance(gains, ends))
results.judge(profile, [helps, balances])

# %% [markdown]
# ## Table 10: what becomes of mathematics

# %%
theirs = results.paper("table10_math_accuracy").set_index("condition").accuracy_percent
alone, mixed = (gains[name]["mathematics"] for name in ("none", "STS"))
ours = {
    "before SFT": {"value": 0.0, "low": None, "high": None},
    f"SFT on {profile.train}": results.numbers(alone),
    f"SFT on {profile.train} and the STS split": results.numbers(mixed),
}
table = [
    {"condition": name, **cells, "the paper's accuracy, %": accuracy}
    for (name, cells), accuracy in zip(ours.items(), theirs)
]
table.append({"condition": "difference of the two", **results.numbers(mixed - alone)})
columns = {"value": "change", "low": "95%: from", "high": "to"}
caption = (
    f"Table 10. Change of the {measure} of {tested} ({unit}) "
    "against the untouched model, after SFT on the training set alone and with extra data in "
    "the ratio of STS; one seed, 95% intervals over questions, the difference paired. The paper: "
    "accuracy before, after LIMO, and after LIMO and its STS-guided mixture."
)
results.publish(profile, "table10", pd.DataFrame(table).rename(columns=columns), caption)

# %%
words = f"{measure} after it minus before any training"
results.judge(profile, [Claim("table10-kept", words, gains["STS"]["mathematics"])])
