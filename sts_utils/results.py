"""How figures, tables and claims look, how claims are judged, and the files they leave."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Literal, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import HTML, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sts_utils import corpora
from sts_utils.cache import versions
from sts_utils.config import Profile
from sts_utils.stats import TESTABLE, Correlation, Estimate
from sts_utils.store import DATA, FIGURES

#: Colour-blind safe; one of MMLU-Pro's domains has the same colour and marker in every figure.
PALETTE = sns.color_palette("colorblind", 7)
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

LOOK = {"pdf.fonttype": 42, "figure.dpi": 120, "savefig.dpi": 200, "axes.titlesize": 9}
LOOK |= {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
sns.set_theme(context="paper", style="ticks", rc=LOOK | {"figure.constrained_layout.use": True})


def styles(domains: Sequence[str]) -> dict[str, tuple]:
    """Domain -> (colour, marker), two rounds of the palette."""
    return {d: (PALETTE[i % 7], "oD"[i // 7 % 2]) for i, d in enumerate(domains)}


STYLES = styles(corpora.domains("mmlu-test"))


def setting(p: Profile) -> str:
    """What every caption states of the run: model, SAE, the corpora read, seeds, the paper's."""
    e, s, sets = p.evaluation, p.sft, [p, p.also] if p.also else [p]
    domains, demonstrations = (
        " and ".join(getattr(one, name) for one in sets) for name in ("domains", "demonstrations")
    )
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
        rs = [row[metric] for row in rows.values()]
        look = {"fmt": "os^D"[i], "color": PALETTE[i], "ms": 5, "capsize": 2}
        label = METRIC_NAMES.get(metric, metric)
        axis.errorbar(x, [r.value for r in rs], yerr=bars(rs), label=label, **look)
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)
    axis.set_xticks(
        range(len(rows)), list(rows), rotation=rotate, ha="right" if rotate else "center"
    )
    axis.set(ylabel="r with |change|", ylim=(-1.05, 1.05), xlim=(-0.5, len(rows) - 0.5))


def numbers(e: Estimate) -> dict[str, float]:
    """The cells of an estimate in a table."""
    return {"value": e.value, "low": e.low, "high": e.high}


def shown(table: pd.DataFrame) -> HTML:
    """A table as notebooks show it: whole texts, no row numbers, nothing where a number is not, and
    of more than 30 rows the first; the file has all."""
    with pd.option_context("display.max_colwidth", None):
        html = table.head(30).round(3).to_html(index=False, na_rep="", border=0)
    return HTML(html + (f"<p>… {len(table)} rows</p>" if len(table) > 30 else ""))


def publish(p: Profile, name: str, thing: Figure | pd.DataFrame, caption: str) -> None:
    """Save a figure (pdf, png) or a table (csv, md, tex) into figures/<profile>/ with its caption
    and the run's setting (txt), and show it."""
    display(shown(thing) if isinstance(thing, pd.DataFrame) else thing)
    display(Markdown(f"**{caption}**"))
    folder, whole = FIGURES / p.name, f"{caption} {setting(p)}"
    folder.mkdir(parents=True, exist_ok=True)
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
        escaped = "".join("\\" + c if c in "&%$#_{}" else c for c in whole)
        text = latex.to_latex(caption=escaped, label=f"tab:{name}", hrules=True)
        (folder / f"{name}.tex").write_text(text, encoding="utf-8")
    (folder / f"{name}.txt").write_text(f"{caption}\n{setting(p)}\n", encoding="utf-8")


# --- claims ------------------------------------------------------------------------------------


class Claim(NamedTuple):
    """A claim of the paper or ours, by its id in data/paper/claims.csv, and what decides it.

    `paper`: what the paper found, if one claim has several statistics of its own.
    """

    id: str
    statistic: str
    estimate: Estimate | Correlation
    paper: str | None = None


@cache
def claims() -> pd.DataFrame:
    """Id -> figure, claim in words, what the paper found, and on which side of 0 the statistic
    speaks for it."""
    return paper("claims").fillna("").set_index("id")


def verdict(low: float, high: float, side: Literal["above", "below"] = "above") -> str:
    """What an interval says of a claim that its statistic is above (or below) 0."""
    if side == "below":
        low, high = -high, -low
    if 0 < low <= high:
        return "agrees"
    return "does not" if low <= high < 0 else "inconclusive"


def judged(made: Iterable[Claim]) -> pd.DataFrame:
    """Every statistic with its 95% interval, its outcome's reliability and verdict; a row each."""
    rows = []
    for c in made:
        known, share = claims().loc[c.id], getattr(c.estimate, "reliability", np.nan)
        found = verdict(c.estimate.low, c.estimate.high, known.side)
        row = {"id": c.id, "figure": known.figure, "claim": known.claim, "statistic": c.statistic}
        row |= numbers(c.estimate) | {"reliability": share, "paper": c.paper or known.paper}
        rows.append(row | {"verdict": "not testable" if share < TESTABLE else found})
    return pd.DataFrame(rows)


def judge(p: Profile, made: Sequence[Claim]) -> None:
    """Show the verdicts, and put them in the place of these claims' earlier ones in
    figures/<profile>/claims.csv."""
    if not made:
        return
    table, path = judged(made), FIGURES / p.name / "claims.csv"
    if path.exists():
        before = pd.read_csv(path, keep_default_na=False, na_values={"reliability": [""]})
        table = pd.concat([before[~before.id.isin(table.id)], table])
    order = {id: place for place, id in enumerate(claims().index)}
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = table.sort_values("id", key=lambda ids: ids.map(order), kind="stable")
    ordered.to_csv(path, index=False, float_format="%.6g")
    display(shown(judged(made)[["verdict", "claim", "statistic", "value", "low", "high"]]))


def by_claim(table: pd.DataFrame) -> pd.DataFrame:
    """One row a claim of the rows of `judged`: figure, claim, statistics (how many), verdict."""

    def summed(verdicts: pd.Series) -> str:
        found = set(verdicts)
        if "does not" in found:
            return "does not"
        return found.pop() if len(found) == 1 else "inconclusive"

    groups = table.groupby(["figure", "claim"], sort=False).verdict
    return groups.agg(statistics="size", verdict=summed).reset_index()
