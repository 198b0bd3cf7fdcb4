"""The notebooks in order: papermill runs them, nbconvert makes the pages of a run."""

import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
import nbformat
import papermill
from jinja2 import DictLoader
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter

from sts_utils import models
from sts_utils.config import Profile
from sts_utils.store import FIGURES, ROOT, RUNS

NOTEBOOKS = ROOT / "notebooks"
CONTROL, MATRIX, CENTRAL = "16_control", "17_matrix", "06_plot"
#: In the order in which they run: the central one gathers the claims of all.
STAGES = (
    *("01_extract", "02_shift_detect", "03_score", "04_finetune", "05_evaluate"),
    *("07_moved", "08_training_sets", "09_saes", "10_baselines", "11_mixtures"),
    *("12_reinforcement", "13_selective", "14_labels", "15_paper_numbers", CONTROL, MATRIX),
    CENTRAL,
)
CELL_SECONDS = 6 * 3600  #: A cell that takes longer hangs: an error, not a night.
#: Rendered for readers too: how the SAEs were trained, and a prediction.
OTHERS = ("00_train_saes", "predict")
#: nbconvert's own page, with the code folded and links to the other pages.
PAGE = """{% extends 'lab/index.html.j2' %}
{% block body_header %}{{ super() }}
<style>body { max-width: 60rem; margin: 0 auto; padding: 0 1rem; overflow-wrap: anywhere; }
.jp-OutputArea-output, table { max-width: 100%; overflow-x: auto; } img { max-width: 100%; }
nav a { display: inline-block; margin-right: 1rem; } summary { opacity: .6; cursor: pointer; }
.jp-InputPrompt, .jp-OutputPrompt { display: none; }</style>
<nav>{% for name in resources.pages %}<a href="{{ name }}.html">{{ name }}</a>{% endfor %}</nav>
{% endblock %}
{% block input_group %}<details><summary>code</summary>{{ super() }}</details>{% endblock %}"""


def stages(p: Profile) -> list[str]:
    """The profile's own; or all but the matrix, and the control if no set asks of other domains."""
    left_out = {MATRIX} | (set() if any(other.domains for other in p.others) else {CONTROL})
    asked = p.stages or [s for s in STAGES if s not in left_out]
    return [s for s in STAGES if s in asked]


def execute(name: str, parameters: Mapping, out: Path) -> Path:
    """Run one notebook from its source; its executed pair lies in the folder `out`. Raises
    ValueError where its kernel died, and papermill's error where a cell failed."""
    out.mkdir(parents=True, exist_ok=True)
    how = {"kernel_name": "python3", "cwd": str(NOTEBOOKS), "progress_bar": False}
    how |= {"stderr_file": sys.stderr, "extra_arguments": ["--log-level=ERROR"]}  # cells' bars
    how |= {"execution_timeout": CELL_SECONDS}
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source.ipynb"
        nbformat.write(jupytext.read(NOTEBOOKS / f"{name}.py"), source)
        try:
            notebook = papermill.execute_notebook(source, None, dict(parameters), **how)
        except DeadKernelError:
            why = "its kernel was killed (too little memory?): start again, what is done is kept"
            raise ValueError(f"{name}: {why}") from None
    # without what running left: the injected cell, bars, warnings, times, ids
    cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    for number, cell in enumerate(cells):
        cell.id = f"{name}-{number}"
        cell.metadata = {"tags": tags} if (tags := cell.metadata.get("tags")) else {}
        if cell.cell_type == "code":
            shown = [o for o in cell.outputs if o.get("name") != "stderr"]  # a bar is a dead widget
            cell.outputs = [o for o in shown if "widget-view" not in str(o.get("data"))]
    notebook.cells, meta = cells, notebook.metadata
    keep = ("kernelspec", "language_info", "jupytext")
    notebook.metadata = {k: meta[k] for k in keep if k in meta}
    nbformat.write(notebook, out / f"{name}.ipynb")
    return out / f"{name}.ipynb"


def page(executed: Path, target: Path, others: list[str]) -> None:
    """The executed notebook as a page, its pictures inside, with links to `others` beside it."""
    loader = [DictLoader({"page.html.j2": PAGE})]
    exporter = HTMLExporter(template_file="page.html.j2", extra_loaders=loader)
    html, _ = exporter.from_filename(str(executed), {"pages": others})
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(html, encoding="utf-8")


def run(p: Profile, name: str) -> list[Path]:
    """Every notebook of a profile, loaded by its `name`, and its page in figures/<profile>/; the
    last, the central one where it is run, is index.html. On a CPU two run at a time: half of each
    one's time is a kernel that starts. A GPU may have room for the models of one alone."""
    asked, place = stages(p), RUNS / "notebooks" / p.name
    parameters = {"PROFILE": name, "SEEDS": ",".join(map(str, p.seeds))}

    def made(stage: str) -> Path:
        print(f"[{asked.index(stage) + 1}/{len(asked)}] {stage}", flush=True)
        return execute(stage, parameters, place)

    with ThreadPoolExecutor(1 if models.device() == "cuda" else 2) as pool:
        done = [*pool.map(made, asked[:-1]), made(asked[-1])]
    links = {"index": done[-1]} | dict(zip(asked[:-1], done[:-1], strict=True))
    for link, executed in links.items():
        page(executed, FIGURES / p.name / f"{link}.html", list(links))
    return done
