"""What the paper's own printed numbers can carry: noise of its outcome, few domains, selection."""

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sts_utils import corpora, results
from sts_utils.results import CHANCE_COLOUR, METRIC_NAMES, PALETTE, Result
from sts_utils.runs.run import Run
from sts_utils.stats import TESTABLE, fisher, pearson

#: Of all questions, those whose correctness SFT flips. The paper does not print it.
SHARES = (0.05, 0.10, 0.20, 0.30)
EXTREME = "engineering"  # has the largest absolute change of all 14 in each of the three models
#: The paper correlates over so many domains of the largest absolute change, and of the smallest.
EACH = 4
#: True r that are simulated, and how often.
TRUE, DRAWS = np.linspace(0, 0.95, 20), 20_000


class Numbers(NamedTuple):
    """Frames computed from data/paper; the columns, and what a row is."""

    #: model, domains ("all", "without engineering"), share, reliability
    reliability: pd.DataFrame
    #: model, metric, source ("printed", "read off", "without engineering"), n, r, low, high
    correlations: pd.DataFrame
    #: changes ("of one sign", "folded at 0", a model's name), true, all, chosen: the simulated r
    #: and its mean over all domains and over the chosen
    inflation: pd.DataFrame
    #: model, metric, printed, all: the mean r over all domains where the chosen have the printed r
    undone: pd.DataFrame


def compute(run: Run) -> Numbers:
    """All of it; nothing of `run` is read."""
    inflated = inflation()
    return Numbers(reliabilities(), correlations(), inflated, undone(inflated))


# --- the outcome -------------------------------------------------------------------------------


def _changes() -> pd.DataFrame:
    """Tables 2–4: model, domain, change of accuracy (a fraction), questions of the domain."""
    table = results.paper("table02_04_accuracy_change")
    counts = corpora.entry("mmlu-pro").questions
    return table.assign(change=table.change_percent / 100, questions=table.domain.map(counts))


def reliability(changes: np.ndarray, questions: np.ndarray, share: float) -> float:
    """1 − mean se² / variance of [D] absolute changes of accuracy, [D] numbers of questions each.

    se² = (q − change²) / questions, q the `share` of questions whose correctness flips; at least
    the change itself, for fewer flips can't make it.
    """
    flipped = np.maximum(share, np.abs(changes))
    return float(1 - ((flipped - changes**2) / questions).mean() / np.abs(changes).var(ddof=1))


def reliabilities() -> pd.DataFrame:
    """Of each model's changes, with and without EXTREME, at each of SHARES."""
    rows = []
    for model, of in _changes().groupby("model", sort=False):
        for domains, kept in (("all", of), (f"without {EXTREME}", of[of.domain != EXTREME])):
            values = kept.change.to_numpy(), kept.questions.to_numpy()
            rows += [(model, domains, q, reliability(*values, q)) for q in SHARES]
    return pd.DataFrame(rows, columns=["model", "domains", "share", "reliability"])


# --- the correlation ---------------------------------------------------------------------------


def correlations() -> pd.DataFrame:
    """Printed r, r of the points read off Fig 3 (three of its six panels), r without EXTREME."""
    rows = [
        (row.model, row.metric, "printed", 2 * EACH, row.pearson_mean)
        for row in results.paper("table06_pearson").itertuples()
    ]
    points = results.paper("figure3_digitized")
    for (model, metric), of in points.groupby(["model", "metric"], sort=False):
        for source, kept in (("read off", of), (f"without {EXTREME}", of[of.domain != EXTREME])):
            x, y = kept.sts_read_off_picture.to_numpy(), kept.abs_change_percent.to_numpy()
            rows.append((model, metric, source, len(kept), float(pearson(x, y))))
    table = pd.DataFrame(rows, columns=["model", "metric", "source", "n", "r"])
    intervals = [fisher(row.r, row.n) for row in table.itertuples()]
    return table.assign(low=[low for low, _ in intervals], high=[high for _, high in intervals])


# --- the selection -----------------------------------------------------------------------------


def inflate(changes: np.ndarray, mean: float, sd: float, true: float) -> tuple[float, float]:
    """Mean r, over [draws, D] absolute changes, with a score: of all D and of the chosen domains.

    The score is the standardised change × `true` + normal noise, so that r is `true` in the
    population of `mean` and `sd` that the changes are from; the noise is the same for every `true`.
    """
    noise = np.random.default_rng(1).normal(size=changes.shape)
    score = true * (changes - mean) / sd + (1 - true**2) ** 0.5 * noise
    order = np.argsort(changes, axis=-1)
    chosen = np.concatenate([order[:, :EACH], order[:, -EACH:]], axis=-1)
    over = [pearson(score, changes)]
    over.append(pearson(*(np.take_along_axis(of, chosen, -1) for of in (score, changes))))
    return float(over[0].mean()), float(over[1].mean())


def inflation() -> pd.DataFrame:
    """Of each of TRUE: absolute changes that are normal (changes of one sign), half normal (normal
    changes about 0, folded), or those that a model's table prints."""
    printed = _changes().change.abs().groupby(_changes().model, sort=False)
    normal = np.random.default_rng(0).normal(size=(DRAWS, max(printed.size())))
    worlds = {
        "of one sign": (normal, 0, 1),
        "folded at 0": (np.abs(normal), (2 / np.pi) ** 0.5, (1 - 2 / np.pi) ** 0.5),
    }
    for model, of in printed:
        a = of.to_numpy()
        worlds[model] = (np.broadcast_to(a, normal.shape), a.mean(), a.std())
    rows = [(name, r, *inflate(*world, r)) for name, world in worlds.items() for r in TRUE]
    return pd.DataFrame(rows, columns=["changes", "true", "all", "chosen"])


def undone(inflated: pd.DataFrame) -> pd.DataFrame:
    """Each printed r, and what r over all domains gives it on average, with the model's changes."""
    rows = []
    for row in results.paper("table06_pearson").itertuples():
        curve = inflated[inflated.changes == row.model]
        over_all = np.interp(row.pearson_mean, curve.chosen, curve["all"])
        rows.append((row.model, row.metric, row.pearson_mean, over_all))
    return pd.DataFrame(rows, columns=["model", "metric", "printed", "all"])


# --- the picture -------------------------------------------------------------------------------

MARKERS = {"sts_act": "o", "sts_icl": "s"}


def _colours(numbers: Numbers) -> dict[str, tuple]:
    return dict(zip(numbers.undone.model.unique(), PALETTE, strict=False))


def paper_numbers(numbers: Numbers, run: Run) -> tuple[Figure, str]:
    """What noise, few domains and the choice of domains leave of the paper's numbers."""
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.1), width_ratios=(1, 1.1, 1))
    for draw, axis in zip((_reliability, _correlations, _inflation), axes, strict=True):
        draw(axis, numbers, _colours(numbers))
    handles = [Line2D([], [], color=c, lw=3, label=m) for m, c in _colours(numbers).items()]
    look = {"color": "0.3", "ms": 5}
    for metric, marker in MARKERS.items():
        handles.append(Line2D([], [], ls="", marker=marker, label=METRIC_NAMES[metric], **look))
    handles.append(Line2D([], [], label=f"without {EXTREME}", color="0.3", ls="--"))
    figure.legend(handles=handles, frameon=False, loc="outside upper center", ncols=len(handles))
    return figure, (
        "Computed from the paper's printed numbers, not from a run. a: reliability of its absolute "
        "changes if a share of answers flips, each domain evaluated once (dotted: 0.5). b: its r "
        "over 8 domains and, where Fig 3 can be read off, without engineering; Fisher's 95%. c: "
        "mean r over 8 domains chosen by the outcome; markers: printed r."
    )


def _reliability(axis: Axes, numbers: Numbers, colours: dict) -> None:
    for (model, domains), of in numbers.reliability.groupby(["model", "domains"], sort=False):
        ls = "-" if domains == "all" else "--"
        axis.plot(100 * of.share, of.reliability, color=colours[model], ls=ls)
    axis.axhline(TESTABLE, color=CHANCE_COLOUR, lw=0.8, ls=":")
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)
    axis.set(title="a", xlabel="answers that flip (% of questions)", ylim=(-0.5, 1))
    axis.set(ylabel="reliability of the |change|", xticks=100 * np.array(SHARES))


def _correlations(axis: Axes, numbers: Numbers, colours: dict) -> None:
    table = numbers.correlations.query("source != 'read off'")  # as printed, but for the reading
    cells = list(table[["metric", "model"]].drop_duplicates().itertuples(index=False, name=None))
    for row in table.itertuples():
        whole = row.source == "printed"
        place = cells.index((row.metric, row.model)) + (0 if whole else 0.28)
        look = {"fmt": MARKERS[row.metric], "color": colours[row.model], "ms": 5, "capsize": 2}
        look |= {} if whole else {"mfc": "white"}
        bar = axis.errorbar(row.r, place, xerr=[[row.r - row.low], [row.high - row.r]], **look)
        bar.lines[2][0].set_linestyle("-" if whole else "--")
    axis.axvline(0, color="0.8", lw=0.8, zorder=0)
    names = [f"{model.split('-')[0]} {METRIC_NAMES[metric]}" for metric, model in cells]
    axis.set_yticks(range(len(cells)), names)
    axis.invert_yaxis()
    axis.set(title="b", xlabel="r with |change|", xlim=(-0.6, 1.02))


def _inflation(axis: Axes, numbers: Numbers, colours: dict) -> None:
    curves = numbers.inflation.groupby("changes")
    for name, ls in (("of one sign", "-"), ("folded at 0", "--")):
        curve = curves.get_group(name)
        axis.plot(curve["all"], curve.chosen, color="0.3", ls=ls, label=f"changes {name}")
    axis.plot([0, 1], [0, 1], color=CHANCE_COLOUR, ls=":", lw=0.8, label="no inflation")
    for row in numbers.undone.itertuples():
        look = {"marker": MARKERS[row.metric], "color": colours[row.model], "ls": "", "ms": 5}
        axis.plot(row.all, row.printed, **look)
    axis.legend(frameon=False, loc="lower right", handlelength=1.5)
    axis.set(title="c", xlabel="mean r over all 14 domains", xlim=(0, 1), ylim=(0, 1.02))
    axis.set_ylabel("mean r over the chosen 8")


RESULTS = (Result(paper_numbers, "The paper's own numbers: what they can carry"),)
