"""How figures, tables and claims look, how claims are judged, and the files they leave."""

import fcntl
import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import yaml
from IPython.core.pylabtools import print_figure
from IPython.display import HTML, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm
from statsmodels.stats.multitest import multipletests

from sts_utils.cache import versions
from sts_utils.config import Profile
from sts_utils.stats import Correlation, Estimate
from sts_utils.store import DATA, FIGURES

PALETTE = sns.color_palette("colorblind", 7)  #: Colour-blind safe.
SAE_COLOUR, RAW_COLOUR, CHANCE_COLOUR = PALETTE[0], PALETTE[1], "0.5"
METRIC_NAMES = {"sts_act": r"$\mathrm{STS}_{act}$", "sts_icl": r"$\mathrm{STS}_{ICL}$"}
MEASURES = yaml.safe_load((DATA / "measures.yaml").read_text(encoding="utf-8"))
FAMILIES = yaml.safe_load((DATA / "families.yaml").read_text(encoding="utf-8"))
FAMILY = {category: name for name, of in FAMILIES.items() for category in of["categories"]}
MEASURE_NAMES, SHORT_NAMES = ({k: m[n] for k, m in MEASURES.items()} for n in ("name", "axis"))
SEARCH = """<input placeholder="show rows with …" oninput="for (const row of
this.nextElementSibling.tBodies[0].rows) row.hidden = !row.textContent.toLowerCase().includes(
this.value.toLowerCase())">"""  #: Before a table, in pages and in JupyterLab.
LOOK = {"pdf.fonttype": 42, "figure.dpi": 120, "savefig.dpi": 200, "axes.titlesize": 9}
LOOK |= {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
sns.set_theme(context="paper", style="ticks", rc=LOOK | {"figure.constrained_layout.use": True})


def setting(p: Profile) -> str:
    """What every caption states of the run: model, SAE, the corpora read, seeds, the paper's."""
    e, s = p.evaluation, p.sft
    written = f", of answers written behind {e.shots} examples," if e.mode == "generation" else ""
    return (
        f"Model {p.model}, SAE {p.sae} on the residual stream after block {p.layer}; training set "
        f"{p.train} (SFT on at most {s.examples} examples, {s.epochs} epoch(s), batch {s.batch}); "
        f"domains from {p.domains}, demonstrations from {p.demonstrations}; {len(p.seeds)} "
        f"seed(s), one where said; N = {p.top_n}; definition {p.definition}, alignment "
        f"{p.alignment}. Performance is {MEASURE_NAMES[e.measure]}{written} on at most "
        f"{e.questions} questions a domain. Features read in {p.dtype}, SFT in {s.dtype}, "
        f"performance in {e.dtype}, torch {versions()['torch']}. The paper: 7–9B models, LIMO, "
        "MMLU-Pro 5-shot chain-of-thought accuracy."
    )


def paper(name: str) -> pd.DataFrame:
    """A table of the paper's own numbers, e.g. paper("table06_pearson")."""
    return pd.read_csv(DATA / "paper" / f"{name}.csv")


def bars(estimates: Iterable[Estimate]) -> np.ndarray:
    """[2, n] lengths of the intervals below and above the values, as matplotlib's yerr."""
    return np.array([[e.value - e.low, e.high - e.value] for e in estimates]).T.clip(0)


def r_points(axis: Axes, rows: dict, rotate: int = 0) -> None:
    """Each metric's r with its interval, a group of them a row of `rows`: label -> metric -> r."""
    metrics = list(next(iter(rows.values())))
    for i, metric in enumerate(metrics):
        x = np.arange(len(rows)) + 0.16 * (i - (len(metrics) - 1) / 2)
        rs = [row[metric] for row in rows.values()]
        look = {"fmt": "os^D"[i], "color": PALETTE[i], "label": METRIC_NAMES.get(metric, metric)}
        axis.errorbar(x, [r.value for r in rs], yerr=bars(rs), ms=5, capsize=2, **look)
    axis.axhline(0, color="0.8", lw=0.8, zorder=0)
    align = "right" if rotate else "center"
    axis.set_xticks(range(len(rows)), list(rows), rotation=rotate, ha=align)
    axis.set(ylabel="r with |change|", ylim=(-1.05, 1.05), xlim=(-0.5, len(rows) - 0.5))


def hovering(figure: Figure) -> HTML | Figure:
    """A figure whose points have words (their gid) says them where it is pointed at: spots of HTML
    over the picture. Where a notebook is not trusted the spots go, and the picture stays."""
    points, spots = figure.findobj(lambda artist: artist.get_gid()), ""
    if not points:
        return figure
    png = print_figure(figure, bbox_inches=None, dpi=200, base64=True)
    for point in points:
        pixels = point.get_transform().transform(point.get_xydata()[0])
        x, y = 100 * figure.transFigure.inverted().transform(pixels)
        where = f"position: absolute; left: {x:.2f}%; top: {100 - y:.2f}%; width: 1.6%"
        where += "; aspect-ratio: 1; transform: translate(-50%, -50%)"
        spots += f'<i title="{html.escape(point.get_gid())}" style="{where}"></i>'
    box = f"position: relative; max-width: {figure.get_figwidth() * figure.dpi:.0f}px"
    picture = f'<img src="data:image/png;base64,{png}" style="display: block; width: 100%">{spots}'
    return HTML(f'<div style="{box}">{picture}</div>')


def worded(column: str) -> str:
    """A column's name as a reader has it: measures by their names, no underscores."""
    for key, measure in MEASURES.items():
        column = column.replace(key, measure["column"])
    return column.replace("_", " ")


def numbers(e: Estimate) -> dict[str, float]:
    """The cells of an estimate in a table."""
    return {"value": e.value, "low": e.low, "high": e.high}


def shown(table: pd.DataFrame) -> HTML:
    """A table as notebooks show it: whole texts, no row numbers; of more than 30 rows at most 300,
    with a box to search them."""
    with pd.option_context("display.max_colwidth", None):
        rows = table.head(300).round(3).to_html(index=False, na_rep="", border=0)
    return HTML(rows if len(table) <= 30 else SEARCH + rows)


def publish(p: Profile, name: str, thing: Figure | pd.DataFrame, caption: str) -> None:
    """Save a figure (pdf, png) or table (csv, md, tex) with its caption (txt), and show it."""
    table = isinstance(thing, pd.DataFrame)
    display(shown(thing.rename(columns=worded)) if table else hovering(thing))
    display(Markdown(f"**{caption}**"))
    path, whole = FIGURES / p.name / name, f"{caption} {setting(p)}"
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = {"txt": f"{caption}\n{setting(p)}\n"}
    if not table:
        thing.savefig(f"{path}.pdf", metadata={"CreationDate": None})
        thing.savefig(f"{path}.png", metadata={"Software": None})
        plt.close(thing)
    else:
        thing.to_csv(f"{path}.csv", index=False, float_format="%.6g")
        texts["md"] = f"{whole}\n\n{thing.to_markdown(index=False, floatfmt='.3g')}\n"
        said = "".join("\\" + c if c in "&%$#_{}" else c for c in whole)
        how = {"index": False, "na_rep": "", "escape": True, "float_format": "%.3f"}
        texts["tex"] = thing.to_latex(caption=said, label=f"tab:{name}", **how)
    for kind, text in texts.items():
        path.with_name(f"{name}.{kind}").write_text(text, encoding="utf-8")


class Claim(NamedTuple):
    """A claim of the paper or ours, by its id in data/paper/claims.csv, and what decides it;
    `paper`: what the paper found, if one claim has several statistics of its own."""

    id: str
    statistic: str
    estimate: Estimate | Correlation
    paper: str | None = None


def verdict(low: float, high: float, side: str = "above", size: float = np.nan) -> str:
    """What an interval says of a claim that its statistic is above (or below) 0, by `size` in the
    paper; "weaker": whatever its sign, it is not as large as that."""
    if side == "below":
        low, high, size = -high, -low, -size
    if 0 < low <= high or low <= high < 0:
        return "agrees" if low > 0 else "does not"
    return "weaker" if high < size else "inconclusive"


def p_value(e: Estimate | Correlation) -> float:
    """Two-sided, by the half of the 95% interval towards 0: below 0.05 where it leaves 0 out."""
    half = abs(e.value - (e.low if e.value > 0 else e.high))
    return float(2 * norm.sf(norm.ppf(0.975) * abs(e.value) / half)) if half > 0 else np.nan


def corrected(claims: pd.DataFrame) -> pd.Series:
    """The verdicts that hold at 5% of error over all statistics of the paper's claims (Holm)."""
    family = (claims.paper != "not reported") & (claims.verdict != "not testable")
    lost = family & claims.verdict.isin(["agrees", "does not"])
    if family.any():
        lost[family] &= ~multipletests(claims.p[family].fillna(1), method="holm")[0]
    return claims.verdict.mask(lost, "inconclusive")


def judge(p: Profile, made: Sequence[Claim]) -> None:
    """Judge claims by their 95% intervals, unless their outcome is mostly noise. The verdicts are
    shown and take the place of these claims' earlier ones in figures/<profile>/claims.csv."""
    claims, rows, path = paper("claims").set_index("id"), [], FIGURES / p.name / "claims.csv"
    for id, statistic, e, theirs in made:
        known, testable = claims.loc[id], getattr(e, "testable", True)
        found = verdict(e.low, e.high, known.side, known["size"]) if testable else "not testable"
        row = {"id": id, "figure": known.figure, "claim": known.claim, "statistic": statistic}
        about = {"p": getattr(e, "p", p_value(e)), "reliability": getattr(e, "reliability", np.nan)}
        rows.append(row | numbers(e) | about | {"paper": theirs or known.paper, "verdict": found})
    if not rows:
        return
    table = new = pd.DataFrame(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # another notebook judges at the same time
        if path.stat().st_size:
            empty = {"reliability": [""], "p": [""]}
            before = pd.read_csv(path, keep_default_na=False, na_values=empty)
            table = pd.concat([before[~before.id.isin(new.id)], new])
        table = table.sort_values("id", key=claims.index.get_indexer, kind="stable")
        table["corrected"] = corrected(table)
        table.to_csv(path, index=False, float_format="%.6g")
    display(shown(new[["verdict", "claim", "statistic", "value", "low", "high"]]))
