"""The stages in order: papermill runs the notebooks, each once for a profile, seeds and code."""

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
import papermill
from papermill.exceptions import PapermillExecutionError

from sts_utils import config, store
from sts_utils.config import Profile
from sts_utils.engines import ray as executor
from sts_utils.prediction import predict
from sts_utils.report import page as report
from sts_utils.runs import units
from sts_utils.scale import check
from sts_utils.scale import fetch as hub
from sts_utils.store import FIGURES, ROOT, RUNS

PACKAGE = ROOT / "sts_utils"
NOTEBOOKS = ROOT / "notebooks"
STAGES = ("01_extract", "02_shift_detect", "03_score", "04_finetune", "05_evaluate", "06_plot", "07_control")
#: Rendered for readers; how the shipped SAEs were trained and a prediction on own data are no part of a run.
DOCUMENTED = ("00_train_saes", *STAGES, "predict")

#: For the notebooks' processes: glibc gives large tensors back to the system and asks for them again at every step,
#: and the page faults took a quarter of a fine-tuning step on two cores. Without glibc these mean nothing.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36), "MALLOC_TOP_PAD_": str(2**28),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}  # fmt: skip


def reproduce(
    name: str, seeds: str | None = None, figures: str | None = None, stages: tuple[str, ...] = STAGES
) -> list[Path]:
    """Run the stages of profile `name` that are not done yet; returns the executed notebooks.

    `figures` ("fig3 table6"): make these alone, and compute only what they need. Otherwise everything, and the
    report page at the end.

    A stage is done when its executed notebook is in the store for this profile, these seeds, this
    notebook and this package, and the figures and tables that it wrote are still as it wrote them.
    """
    profile = config.load(name, seeds)
    report.chosen(figures)
    units.prepare(profile)
    executor.compute(profile, whole=figures is None)
    stages = tuple(s for s in stages if s in (profile.stages or stages) and (s != "07_control" or profile.runs_control))
    parameters = {"PROFILE": name, "SEEDS": seeds}
    if figures is not None:
        stages, parameters = ("06_plot",), parameters | {"FIGURES": figures}
    executed = []
    for number, stage in enumerate(stages, 1):
        path = _stage_folder(stage, profile, figures)
        label = f"[{number}/{len(stages)}] {stage}"
        if path.exists() and not _products_intact(path):
            shutil.rmtree(path)
        if path.exists():
            print(f"{label}: done before", flush=True)
        else:
            start = time.time()
            print(f"{label}: running", flush=True)
            with store.atomic_folder(path) as scratch:
                given = {} if stage == "predict" else parameters  # it has settings of its own
                _execute(stage, given, FIGURES / profile.name, scratch)
            print(f"{label}: {time.time() - start:.0f} s", flush=True)
        target = RUNS / "notebooks" / profile.name / f"{stage}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path / f"{stage}.ipynb", target)
        executed.append(target)
    if figures is None:
        report.write(profile)
    return executed


def _stage_folder(name: str, profile: Profile, figures: str | None) -> Path:
    package = {p.relative_to(PACKAGE).as_posix(): store.file_hash(p) for p in sorted(PACKAGE.rglob("*.py"))}
    source = store.file_hash(NOTEBOOKS / f"{name}.py")
    recipe = {"notebook": source, "package": package, "profile": profile.model_dump(), "figures": figures}
    recipe["versions"] = store.versions()
    return RUNS / f"stage-{name}-{store.digest(recipe)}"


def _execute(name: str, parameters: dict, figures: Path, folder: Path) -> None:
    """Run one notebook with papermill into `folder`, and note which files it wrote in `figures`."""
    start = time.time()
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / f"{name}.ipynb"
        nbformat.write(jupytext.read(NOTEBOOKS / f"{name}.py"), source)
        papermill.execute_notebook(
            source, folder / f"{name}.ipynb", parameters=parameters, kernel_name="python3", cwd=str(NOTEBOOKS),
            progress_bar=False, log_output=True,
        )  # fmt: skip
    tidy(folder / f"{name}.ipynb", name)
    written = [f for f in figures.rglob("*") if f.is_file() and f.stat().st_mtime >= start]
    products = {f.relative_to(FIGURES).as_posix(): store.file_hash(f) for f in sorted(written)}
    (folder / "products.json").write_text(json.dumps(products, indent=1))


def _products_intact(path: Path) -> bool:
    try:
        products = json.loads((path / "products.json").read_text())
        return all(store.file_hash(FIGURES / file) == expected for file, expected in products.items())
    except (OSError, ValueError):
        return False


def tidy(path: Path, name: str) -> None:
    """Strip what running left in a notebook: the injected cell, bars, warnings, times, random ids."""
    notebook = nbformat.read(path, as_version=4)
    cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    for number, cell in enumerate(cells):
        cell.id = f"{name}-{number}"
        cell.metadata = {"tags": tags} if (tags := cell.metadata.get("tags")) else {}
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    notebook.cells = cells
    keep = ("kernelspec", "language_info", "jupytext")
    notebook.metadata = {k: notebook.metadata[k] for k in keep if k in notebook.metadata}
    nbformat.write(notebook, path)


def render(name: str, seeds: str | None = None) -> None:
    """Run every stage and put the executed notebooks beside their sources, to be committed."""
    for path in reproduce(name, seeds, stages=DOCUMENTED):
        shutil.copy(path, NOTEBOOKS / path.name)


class _Echo(logging.Handler):
    """What a running notebook writes to stderr (its progress bars), straight to the terminal."""

    def emit(self, record):
        text = record.getMessage()
        sys.stderr.write(text if text.startswith(("\r", "\n")) else f"{text}\n")
        sys.stderr.flush()


def main(arguments: list[str] | None = None) -> int:
    """The command line: `python -m sts_utils reproduce --profile smol --seeds 0,1,2`."""
    parser = argparse.ArgumentParser(prog="python -m sts_utils", description=sys.modules["sts_utils"].__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("reproduce", "run the notebooks that are not done yet"),
        ("render", "run them and refresh the committed notebooks"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--profile", default="smol", help="a name in profiles/, or a YAML file")
        command.add_argument("--seeds", default=None, help="like 0,1,2; the profile's own if left out")
        command.set_defaults(run=_run, figures=None)
        if name == "reproduce":
            command.add_argument("--figures", default=None, help='like "fig3 table6"; everything if left out')
    commands.add_parser("profiles", help="list the profiles").set_defaults(run=_list)
    for module in (check, hub, predict):
        module.add_parser(commands)
    chosen = parser.parse_args(arguments)
    try:
        return chosen.run(chosen)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except PapermillExecutionError as error:
        trace = RUNS / "last-error.txt"
        trace.write_text("\n".join(error.traceback), encoding="utf-8")
        print(f"error: {error.ename}: {error.evalue.splitlines()[0]} (whole trace: {trace})", file=sys.stderr)
        return 1


def _list(chosen: argparse.Namespace) -> int:
    """The command `profiles`."""
    for name in config.names():
        print(f"  {name:<12} {config.load(name).about}")
    for name, members in config.groups().items():
        print(f"  {name:<12} {', '.join(members)}")
    return 0


def _run(chosen: argparse.Namespace) -> int:
    """The commands `reproduce` and `render`."""
    os.environ.setdefault("TQDM_MININTERVAL", "5")
    for variable, value in ALLOCATOR.items():
        os.environ.setdefault(variable, value)
    logging.getLogger("papermill").addHandler(_Echo(logging.WARNING))
    logging.getLogger("papermill").setLevel(logging.INFO)
    logging.getLogger("papermill").propagate = False
    for name in config.groups().get(chosen.profile, (chosen.profile,)):
        profile = config.load(name, chosen.seeds)
        if chosen.command == "render":
            render(name, chosen.seeds)
        else:
            reproduce(name, chosen.seeds, chosen.figures)
        print(f"figures and tables: {FIGURES / profile.name}")
        print(f"executed notebooks: {RUNS / 'notebooks' / profile.name}")
    return 0
