"""The report: one page with ranking, sureness, features and mixture; the table beside it."""

import base64
import io
import json
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from sts_utils.prediction.scores import SCORES

if TYPE_CHECKING:
    from sts_utils.prediction.prediction import Prediction


def write(
    prediction: "Prediction", folder: str | Path, budget: int | None = None, features: int = 10
) -> list[Path]:
    """Write index.html (self-contained), table.csv, table.parquet and, with a budget,
    mixture.jsonl; returns their paths."""
    folder = Path(folder)
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("index.html", "table.csv", "table.parquet")]
    paths[0].write_text(html(prediction, budget, features), encoding="utf-8")
    prediction.table.to_csv(paths[1], index=False)
    prediction.table.to_parquet(paths[2], index=False)
    mixture = folder / "mixture.jsonl"
    mixture.unlink(missing_ok=True)  # of an earlier report
    if budget is not None and (rows := prediction.mixture(budget)):
        lines = [f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows]
        mixture.write_text("".join(lines), encoding="utf-8")
        paths.append(mixture)
    return paths


def html(prediction: "Prediction", budget: int | None = None, features: int = 10) -> str:
    """The page, self-contained: ranking, how sure, features, mixture."""
    figure, png = plot(prediction), io.BytesIO()
    figure.savefig(png, format="png", dpi=150)
    plt.close(figure)
    picture = base64.b64encode(png.getvalue()).decode()
    rows, explained = prediction.table.to_dict("records"), prediction.explain(features)
    advice = prediction.advice(budget).to_dict("records") if budget is not None else None
    made = {"plot": picture, "rows": rows, "explained": explained, "advice": advice}
    return macros().page(p=prediction, scores=list(SCORES), budget=budget, **made)


@cache
def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    escape = jinja2.select_autoescape(["html.jinja"])
    blocks = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    return jinja2.Environment(loader=loader, autoescape=escape, **blocks)


def macros():
    """The macros of page.html.jinja; whatever they are given is escaped."""
    return _templates().get_template("page.html.jinja").module


def told(name: str, **values) -> list[str]:
    """The lines of a text template."""
    return _templates().get_template(f"{name}.txt.jinja").render(**values).splitlines()


def plot(prediction: "Prediction") -> Figure:
    """Every score with its interval, domains in the order of the chosen one."""
    table, ranking = prediction.table[::-1], prediction.score
    names = [ranking, *(s for s in SCORES if s != ranking and table[s].notna().any())]
    size = (2.2 + 2.2 * len(names), 1.1 + 0.22 * len(table))
    grid = {"sharey": True, "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(1, len(names), figsize=size, **grid)
    for axis, name in zip(axes[0], names, strict=True):
        reach = [table[name] - table[f"{name}_low"], table[f"{name}_high"] - table[name]]
        style = {"fmt": "o", "capsize": 2, "color": "C0" if name == ranking else "0.55"}
        axis.errorbar(table[name], range(len(table)), xerr=np.maximum(reach, 0), **style)
        axis.set(xlabel=name, title="ranks by this" if name == ranking else None)
    axes[0, 0].set_yticks(range(len(table)), [d.replace("$", r"\$") for d in table.domain])
    return figure


def check_folder(folder: Path) -> None:
    """Raise ValueError where a report can't be written."""
    above = next(f for f in (folder, *folder.absolute().parents) if f.exists())
    if not above.is_dir():
        raise ValueError(f"{above} is a file: give a folder to write the report to")
    if not os.access(above, os.W_OK):
        raise ValueError(f"{above} can't be written: give another folder for the report")
