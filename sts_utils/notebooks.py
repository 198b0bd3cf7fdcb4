"""The notebooks in order: papermill runs them, nbconvert makes the pages of a run."""

import contextlib
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from importlib.metadata import version
from pathlib import Path

import jupytext
import nbformat
import papermill
from jinja2 import FileSystemLoader
from latex2mathml.converter import convert as mathml
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from papermill.exceptions import PapermillExecutionError

from sts_utils import models
from sts_utils.batches import cpu_threads
from sts_utils.config import Profile
from sts_utils.store import DATA, FIGURES, ROOT, RUNS

NOTEBOOKS = ROOT / "notebooks"
CONTROL, MATRIX, CENTRAL = "16_control", "17_matrix", "06_plot"
#: In the order in which they run: the central one gathers the claims of all.
STAGES = sorted(file.stem for file in NOTEBOOKS.glob("[01][0-9]_*.py") if file.stem[:2] != "00")
STAGES.append(STAGES.pop(STAGES.index(CENTRAL)))
CELL_SECONDS = 6 * 3600  #: A cell that takes longer hangs: an error, not a night.
OTHERS = ("00_train_saes", "predict")  #: Rendered too: how SAEs were trained, a prediction.
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$", re.S)


def stages(p: Profile) -> list[str]:
    """The profile's own; or all but the matrix, and the control if no set asks of other domains."""
    left_out = {MATRIX} | (set() if any(other.domains for other in p.others) else {CONTROL})
    asked = p.stages or [s for s in STAGES if s not in left_out]
    return [s for s in STAGES if s in asked]


def execute(name: str, parameters: Mapping, out: Path) -> Path:
    """Run one notebook from its source; its executed pair lies in the folder `out`. Raises
    ValueError, in one line, where a cell failed or its kernel died."""
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
        except PapermillExecutionError as error:
            trace = RUNS / "last-error.txt"
            with contextlib.suppress(OSError):  # of a full disk
                trace.write_text("\n".join(error.traceback), encoding="utf-8")
            said = f"{error.ename}: {error.evalue}".splitlines()[0].rstrip(": ")
            raise ValueError(f"{name}: {said} (whole trace: {trace})") from None
    # without what running left: the injected cell, bars, warnings, times, ids
    cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    for number, cell in enumerate(cells):
        cell.id = f"{name}-{number}"
        cell.metadata = {"tags": tags} if (tags := cell.metadata.get("tags")) else {}
        if cell.cell_type == "code":
            shown = [o for o in cell.outputs if o.get("name") != "stderr"]  # a bar is a dead widget
            cell.outputs = [o for o in shown if "widget-view" not in str(o.get("data"))]
    notebook.cells, kept = cells, {"kernelspec", "language_info", "jupytext"}
    notebook.metadata = {k: notebook.metadata[k] for k in sorted(kept & notebook.metadata.keys())}
    nbformat.write(notebook, out / f"{name}.ipynb")
    return out / f"{name}.ipynb"


def page(executed: Path, target: Path, others: list[str], about: str = "") -> None:
    """The executed notebook as a page, its pictures and formulas inside, nothing read from the net,
    with links to `others` beside it."""
    notebook = nbformat.read(executed, as_version=4)
    for cell in (cell for cell in notebook.cells if cell.cell_type == "markdown"):
        cell.source = FORMULA.sub(
            lambda m: mathml(m[1] or m[2], display="block" if m[1] else "inline"), cell.source
        ).replace("](../", "](../../")  # a link beside notebooks/, from figures/<profile>/
    loader = FileSystemLoader(DATA)  # nbconvert's page in our frame and look
    exporter = HTMLExporter(template_file="page.html.j2", extra_loaders=[loader])
    more = {"pages": others, "about": about, "metadata": {"name": executed.stem}}
    more["css"] = (DATA / "page.css").read_text(encoding="utf-8")
    html, _ = exporter.from_notebook_node(notebook, more)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(html, encoding="utf-8")


def provenance(p: Profile, began: float, missing: Sequence[str]) -> str:
    """What a page says of itself: the code, day, machine and time; what is still to come."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    code = f"commit {commit}" if commit else f"version {version('sts_utils')}"
    said = f"Profile {p.name}, domains {p.domains}, seeds {', '.join(map(str, p.seeds))}; {code}; "
    said += f"{date.today()}, {cpu_threads()} cores of {platform.machine()}, {models.device()}, "
    said += f"{(time.time() - began) / 60:.0f} min in this start"
    return said + (f". Still to come: {', '.join(missing)}" if missing else "")


def parts(p: Profile) -> list[Profile]:
    """The run in parts, first results first: the scores (01 to 03), Fig 3 (to 06), all."""
    asked = stages(p)
    early = dict.fromkeys(tuple(s for s in asked if s[:2] <= last) for last in ("03", "06"))
    early = [names for names in early if names and len(names) < len(asked)]
    return [*(p.model_copy(update={"stages": names}) for names in early), p]


def run(part: Profile, p: Profile, name: str, done: dict[str, Path], began: float) -> None:
    """Execute the notebooks of a part of profile `p` (loaded by its `name`) that are not `done`,
    and its last one; make a page of all done in figures/<profile>/, the last as index.html. On a
    CPU two run at a time: half of each one's time is a kernel that starts. A GPU may hold one."""
    asked = stages(part)
    parameters = {"PROFILE": name, "SEEDS": ",".join(map(str, p.seeds))}

    def make(stage: str) -> None:
        print(f"[{stages(p).index(stage) + 1}/{len(stages(p))}] {stage}", flush=True)
        done[stage] = execute(stage, parameters, RUNS / "notebooks" / p.name)

    with ThreadPoolExecutor(1 if models.device() == "cuda" else 2) as pool:
        list(pool.map(make, [stage for stage in asked[:-1] if stage not in done]))
    make(asked[-1])
    links = {"index": asked[-1]} | {stage: stage for stage in asked[:-1]}
    about = provenance(p, began, [stage for stage in stages(p) if stage not in done])
    for link, stage in links.items():
        page(done[stage], FIGURES / p.name / f"{link}.html", list(links), about)
