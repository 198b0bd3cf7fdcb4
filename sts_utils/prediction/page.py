"""The report: one page with ranking, sureness, features and mixture; the table beside it."""

import base64
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from sts_utils.prediction.scores import SCORES
from sts_utils.store import check_writable

if TYPE_CHECKING:
    from sts_utils.prediction.prediction import Prediction

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=jinja2.select_autoescape(["html.jinja"]),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
MEND = "give a folder to write the report to"
FILES = ("index.html", "table.csv", "table.parquet", "probe.csv", "mixture.jsonl")


def macros():
    """The macros of page.html.jinja; whatever they are given is escaped."""
    return TEMPLATES.get_template("page.html.jinja").module


def told(name: str, **values) -> list[str]:
    """The lines of a text template."""
    return TEMPLATES.get_template(f"{name}.txt.jinja").render(**values).splitlines()


def write(
    prediction: "Prediction", folder: str | Path, budget: int | None = None, features: int = 10
) -> list[Path]:
    """Write index.html (self-contained), table.csv, table.parquet and, where there is one,
    probe.csv, and, with a budget, mixture.jsonl; returns their paths."""
    folder = Path(folder)
    check_writable(folder, MEND)
    folder.mkdir(parents=True, exist_ok=True)
    page, csv, parquet, probe, mixture = paths = [folder / name for name in FILES]
    png = io.BytesIO()
    figure = plot(prediction)
    figure.savefig(png, format="png", dpi=150)
    plt.close(figure)
    shown = {"plot": base64.b64encode(png.getvalue()).decode(), "scores": list(SCORES)}
    html = macros().page(p=prediction, budget=budget, features=features, **shown)
    page.write_text(html, encoding="utf-8")
    prediction.table.to_csv(csv, index=False)
    prediction.table.to_parquet(parquet, index=False)
    for of_an_earlier_report in (probe, mixture):
        of_an_earlier_report.unlink(missing_ok=True)
    if prediction.probe:
        prediction.probe.table.to_csv(probe, index=False)
    if budget is not None and (rows := prediction.mixture(budget)):
        lines = [f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows]
        mixture.write_text("".join(lines), encoding="utf-8")
    return [path for path in paths if path.exists()]


def plot(prediction: "Prediction") -> Figure:
    """Every score with its interval, domains in the order of the chosen one."""
    table, ranking = prediction.table[::-1], prediction.score
    names = [ranking, *(s for s in SCORES if s != ranking and table[s].notna().any())]
    size = (2.2 + 2.2 * len(names), 1.1 + 0.22 * len(table))
    grid = {"sharey": True, "squeeze": False, "layout": "constrained"}
    if prediction.probe:
        size = (size[0] + 2.2, size[1])
    figure, axes = plt.subplots(1, len(names) + bool(prediction.probe), figsize=size, **grid)
    for axis, name in zip(axes[0], names, strict=False):
        reach = [table[name] - table[f"{name}_low"], table[f"{name}_high"] - table[name]]
        style = {"fmt": "o", "capsize": 2, "color": "C0" if name == ranking else "0.55"}
        axis.errorbar(table[name], range(len(table)), xerr=np.maximum(reach, 0), **style)
        axis.set(xlabel=name, title="ranks by this" if name == ranking else None)
    if prediction.probe:
        axis, steps = axes[0, -1], prediction.probe.steps
        found = prediction.probe.table.set_index("domain").reindex(table.domain)
        reach = [found.change - found.change_low, found.change_high - found.change]
        axis.errorbar(found.change, range(len(table)), xerr=reach, fmt="o", capsize=2, color="C1")
        axis.axvline(0, color="0.8", lw=0.8, zorder=0)
        axis.set(xlabel=f"change, {prediction.probe.unit}", title=f"probe, {steps} steps")
    axes[0, 0].set_yticks(range(len(table)), [d.replace("$", r"\$") for d in table.domain])
    return figure
