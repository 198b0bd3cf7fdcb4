"""Figures, tables and claims: how they look, how they are judged, and their files."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Literal, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import HTML, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sts_utils.config import Profile
from sts_utils.examples import DOMAINS
from sts_utils.stats import TESTABLE, Correlation, Estimate
from sts_utils.store import DATA, FIGURES, versions

#: Colour-blind safe; one of MMLU-Pro's domains has the same colour and marker in every figure.
PALETTE = sns.color_palette("colorblind", 7)


def styles(domains: Sequence[str]) -> dict[str, tuple]:
    """Domain -> (colour, marker), two rounds of the palette."""
    return {d: (PALETTE[i % 7], "oD"[i // 7 % 2]) for i, d in enumerate(domains)}


STYLES = styles(DOMAINS)
SAE_COLOUR, RAW_COLOUR, CHANCE_COLOUR = PALETTE[0], PALETTE[1], "0.5"
METRIC_NAMES = {"sts_act": r"$\mathrm{STS}_{act}$", "sts_icl": r"$\mathrm{STS}_{ICL}$"}
MEASURE_NAMES = {
    "gold_probability": "the probability of the gold option among the options",
    "gold_loglik": "the log-likelihood a token of the gold option",
    "gold_log_odds": "the log-odds of the gold option against the others",
    "accuracy": "accuracy",
}
#: On an axis, with × 100 for what are no points.
SHORT_NAMES = {
    "gold_probability": "P(gold), points",
    "gold_loglik": "log P(gold) a token × 100",
    "gold_log_odds": "log-odds of gold × 100",
    "accuracy": "accuracy, points",
}

sns.set_theme(
    context="paper",
    style="ticks",
    rc={
        "pdf.fonttype": 42,
        "figure.dpi": 120,
        "savefig.dpi": 200,
        "axes.titlesize": 9,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
    },
)


class Result(NamedTuple):
    """A figure or table: `draw` makes (it, its caption), and its name is the function's."""

    draw: Callable
    title: str
    kind: Literal["figure", "table"] = "figure"
    notebook: str = "06_plot"

    @property
    def name(self) -> str:
        return self.draw.__name__


def setting(profile: Profile) -> str:
    """What every caption states of the run: model, SAE, the corpora read, seeds, the paper's."""
    p, e, s = profile, profile.evaluation, profile.sft
    sets = [p, p.also] if p.also else [p]
    domains = " and ".join(of.domains for of in sets)
    demonstrations = " and ".join(of.demonstrations for of in sets)
    written = f", of answers written behind {e.shots} examples," if e.mode == "generation" else ""
    return (
        f"Model {p.model}, SAE {p.sae} on the residual stream after block {p.layer}; training set "
        f"{p.train} (SFT on at most {s.examples} examples, {s.epochs} epoch(s), batch {s.batch}); "
        f"domains from {domains}, demonstrations from {demonstrations}; {len(p.seeds)} seed(s), "
        f"one where said; N = {p.top_n}; definition {p.definition}, alignment {p.alignment}. "
        f"Performance is {MEASURE_NAMES[e.measure]}{written} on at most {e.questions} questions a "
        f"domain. Features read in {p.dtype}, SFT in {s.dtype}, performance in {e.dtype}, torch "
        f"{versions()['torch']}. The paper: 7–9B models, LIMO, MMLU-Pro 5-shot chain-of-thought "
        "accuracy."
    )


def paper(name: str) -> pd.DataFrame:
    """A table of the paper's own numbers, e.g. paper("table06_pearson")."""
    return pd.read_csv(DATA / "paper" / f"{name}.csv")


# --- pictures and tables -----------------------------------------------------------------------


def bars(estimates: Iterable[Estimate]) -> np.ndarray:
    """[2, n] lengths of the intervals below and above the values, as matplotlib's yerr."""
    return np.array([[e.value - e.low, e.high - e.value] for e in estimates]).T.clip(0)


def r_points(axis: Axes, rows: Mapping[str, Mapping[str, Estimate]], rotate: int = 0) -> None:
    """Each metric's r with its interval, a group of them a row of `rows`: label -> metric -> r."""
    metrics = list(next(iter(rows.values())))
    for i, metric in enumerate(metrics):
        x = np.arange(len(rows)) + 0.16 * (i - (len(metrics) - 1) / 2)
        of = [row[metric] for row in rows.values()]
        look = {"fmt": "os^D"[i], "color": PALETTE[i], "ms": 5, "capsize": 2}
        label = METRIC_NAMES.get(metric, metric)
        axis.errorbar(x, [e.value for e in of], yerr=bars(of), label=label, **look)
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)
    axis.set_xticks(
        range(len(rows)), list(rows), rotation=rotate, ha="right" if rotate else "center"
    )
    axis.set(ylabel="r with |change|", ylim=(-1.05, 1.05), xlim=(-0.5, len(rows) - 0.5))


def r_panel(
    title: str, rows: Mapping, label: str, what: str, theirs: str, rotate: int = 0
) -> tuple[Figure, str] | None:
    """A panel of Fig 4, `r_points` of `rows`, and its caption; None where there are no rows."""
    if not rows:
        return None
    figure, axis = plt.subplots(figsize=(3.4, 2.6))
    r_points(axis, rows, rotate)
    axis.set_xlabel(label)
    if len(axis.containers) > 1:
        figure.legend(frameon=False, loc="outside upper center", ncols=len(axis.containers))
    return figure, (
        f"{title}. r of score and absolute change over {what}; bars: 95% intervals, "
        f"other domains drawn. The paper: {theirs}."
    )


def numbers(e: Estimate) -> dict[str, float]:
    """The cells of an estimate in a table."""
    return {"value": e.value, "low": e.low, "high": e.high}


def shown(table: pd.DataFrame) -> HTML:
    """A table as notebooks show it: whole texts, no row numbers, nothing where a number is not."""
    with pd.option_context("display.max_colwidth", None):
        return HTML(table.round(3).to_html(index=False, na_rep="", border=0))


def show(name: str, thing: Figure | pd.DataFrame, caption: str, setting: str, run: str) -> None:
    """`save` a figure or table, and show it with its caption."""
    save(name, thing, caption, setting, run)
    display(shown(thing) if isinstance(thing, pd.DataFrame) else thing)
    display(Markdown(f"**{caption}**"))


def save(name: str, thing: Figure | pd.DataFrame, caption: str, setting: str, run: str) -> None:
    """Write a figure (pdf, png) or a table (csv, md, tex) into figures/<run>/, and as txt its
    caption; after it, in a line of its own, the run's `setting`."""
    folder = FIGURES / run
    folder.mkdir(parents=True, exist_ok=True)
    whole = f"{caption} {setting}"
    if isinstance(thing, Figure):
        thing.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
        thing.savefig(folder / f"{name}.png", metadata={"Software": None})
        plt.close(thing)
    else:
        thing.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
        body = thing.to_markdown(index=False, floatfmt=".3g")
        (folder / f"{name}.md").write_text(f"{whole}\n\n{body}\n", encoding="utf-8")
        latex = thing.style.hide(axis="index").format(precision=3, na_rep="", escape="latex")
        latex = latex.format_index(escape="latex", axis=1)
        text = latex.to_latex(caption=_latex(whole), label=f"tab:{name}", hrules=True)
        (folder / f"{name}.tex").write_text(text, encoding="utf-8")
    (folder / f"{name}.txt").write_text(f"{caption}\n{setting}\n", encoding="utf-8")


def _latex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join("\\" + c if c in "&%$#_{}" else c for c in text)


# --- claims ------------------------------------------------------------------------------------

VERDICTS = ("agrees", "does not", "inconclusive", "not testable")
RULE = (
    "A claim's statistic has a 95% interval: Fisher's of a correlation over domains, of a "
    "difference of such by leaving out each domain in turn, F's of a ratio of variances, else a "
    "bootstrap over questions (variants of a template together), seeds or random draws. The run "
    "agrees with the claim when the interval lies on the claim's side, does not when it lies on "
    "the other, is inconclusive when it holds both, and a correlation is not testable when less "
    f"than {TESTABLE:.0%} of the variance of its outcome is signal. Where the paper's column says "
    "'not reported' the claim is ours, not the paper's. A claim with several statistics agrees "
    "when all of them do, and does not when any does not. The rule judges claims, not digits: the "
    "run may be of another scale than the paper's."
)


class Claim(NamedTuple):
    """A statement, the paper's or ours, in the words of data/paper/claims.csv, and what decides it.

    `paper`: what the paper found, if one claim has several statistics of its own.
    """

    figure: str
    claim: str
    statistic: str
    estimate: Estimate | Correlation
    paper: str | None = None


@cache
def _claims() -> pd.DataFrame:
    """Claim -> what the paper found, and on which side of 0 the statistic speaks for it."""
    return paper("claims").fillna("").set_index("claim")


def verdict(low: float, high: float, side: Literal["above", "below"] = "above") -> str:
    """Which of VERDICTS an interval gives a claim that its statistic is above (or below) 0."""
    if side not in ("above", "below"):
        raise ValueError(f"side is 'above' or 'below', not {side!r}")
    if side == "below":
        low, high = -high, -low
    if 0 < low <= high:
        return "agrees"
    return "does not" if low <= high < 0 else "inconclusive"


def judged(claims: Iterable[Claim]) -> pd.DataFrame:
    """Every statistic with its 95% interval, its outcome's reliability and verdict; a row each."""
    rows = []
    for c in claims:
        said, e = _claims().loc[c.claim], c.estimate
        share = getattr(e, "reliability", np.nan)
        found = "not testable" if share < TESTABLE else verdict(e.low, e.high, said.side)
        row = {"figure": c.figure, "claim": c.claim, "statistic": c.statistic} | numbers(e)
        row |= {"reliability": share, "paper": said.paper if c.paper is None else c.paper}
        rows.append(row | {"verdict": found})
    return pd.DataFrame(rows)


def by_claim(table: pd.DataFrame) -> pd.DataFrame:
    """One row a claim of the rows of `judged`: figure, claim, statistics (how many), verdict."""

    def of(verdicts: pd.Series) -> str:
        found = set(verdicts)
        if "does not" in found:
            return "does not"
        return found.pop() if len(found) == 1 else "inconclusive"

    groups = table.groupby(["figure", "claim"], sort=False).verdict
    return groups.agg(statistics="size", verdict=of).reset_index()


def save_claims(table: pd.DataFrame, run: str) -> None:
    """Write the verdicts as figures/<run>/claims.csv, which the report page reads."""
    table.to_csv(FIGURES / run / "claims.csv", index=False, float_format="%.6g")
