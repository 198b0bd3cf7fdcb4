"""The stages in order: papermill runs the notebooks, each once for a profile, seeds and code."""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import jupytext
import nbformat
import papermill
import torch
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from sts_utils import config, corpora, store
from sts_utils.config import Profile
from sts_utils.prediction import command as predict
from sts_utils.report import page
from sts_utils.runs import recipes, samples
from sts_utils.runs.check import prepare
from sts_utils.scale import check, cost, fetch, plan
from sts_utils.store import DATA, FIGURES, ROOT, RUNS

PACKAGE = ROOT / "sts_utils"
NOTEBOOKS = ROOT / "notebooks"
CONTROL = "16_control"
STAGES = ("01_extract", "02_shift_detect", "03_score", "04_finetune", "05_evaluate", "06_plot")
STAGES += (CONTROL,)
#: Rendered for readers; how the SAEs were trained and a prediction are no part of a run.
DOCUMENTED = ("00_train_saes", *STAGES, "predict")

#: For the notebooks' processes: glibc gives large tensors back to the system and asks for them
#: again at every step, and the page faults took a quarter of a fine-tuning step on two cores.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**36),
    "MALLOC_TOP_PAD_": str(2**28),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def reproduce(
    name: str, profile: Profile, figures: str | None = None, stages: tuple = STAGES
) -> list[Path]:
    """Run the stages of `profile`, loaded by its `name`, that are not done yet; returns the
    executed notebooks.

    `figures` ("fig3 table6"): make these alone, and compute the base run and what they need.
    Otherwise everything, and the report page at the end.

    A stage is done when its executed notebook is in the store for this profile, these seeds, this
    notebook and this code, and the figures and tables that it wrote are still as it wrote them.
    """
    page.chosen(figures)
    for folder in (RUNS, FIGURES):
        store.check_writable(folder, store.MEND)
    store.clear_abandoned()
    prepare(profile)
    asked = [s for s in profile.stages or stages if s != CONTROL or profile.runs_control]
    parameters = {"PROFILE": name, "SEEDS": ",".join(map(str, profile.seeds))}
    if figures is not None:
        asked, parameters = ["06_plot"], parameters | {"FIGURES": figures}
    given = {s: {} if s == "predict" else parameters for s in asked}  # it has settings of its own
    recipes = {stage: _recipe(stage, profile, told) for stage, told in given.items()}
    if not all(_products_intact(store.path(f"stage-{s}", of)) for s, of in recipes.items()):
        _side_by_side(profile, whole=figures is None)
    executed = []
    for number, (stage, recipe) in enumerate(recipes.items(), 1):
        print(f"[{number}/{len(asked)}] {stage}: ", end="", flush=True)
        executed.append(_stage(stage, profile, given[stage], recipe))
    if figures is None:
        page.write(profile)
    return executed


def _side_by_side(profile: Profile, whole: bool) -> None:
    """Compute all that the notebooks will read over Ray, where there is room for several processes
    (`executor: auto`) or it is asked for; otherwise they compute at need."""
    workers = check.workers(profile)
    several = workers > 1 and find_spec("ray") is not None
    if profile.executor == "ray" or (profile.executor == "auto" and several):
        over = profile.model_copy(update={"executor": "ray"})
        print(f"computing, {workers} processes of this machine side by side", flush=True)
        steps, hours = plan.everything(over, whole), lambda step: cost.cost(step).gpu_hours
        plan.compute(over, steps, workers=workers, weight=hours)


def _recipe(name: str, profile: Profile, parameters: dict) -> dict:
    """What an executed notebook depends on."""
    data = (path for kept in ("*.yaml", "paper/*.csv", "labels/*.csv") for path in DATA.glob(kept))
    if name == "predict":
        data = (*data, DATA / "example.jsonl", *(ROOT / "figures" / "control").glob("*.csv"))
    files = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.jinja"), NOTEBOOKS / f"{name}.py", *data]
    code = {path.relative_to(ROOT).as_posix(): store.file_hash(path) for path in sorted(files)}
    saes = {profile.sae, *chain.from_iterable(profile.sweep.model_dump().values())}
    read = {name: recipes.sae_content(name) for name in saes}
    read |= {name: corpora.content(name) for name in samples.corpora_of(profile)}
    read["model"] = recipes.model_content(profile.model, profile.revision)
    of = {"code": code, "profile": profile.model_dump(), "read": read}
    return of | {"figures": parameters.get("FIGURES")}


def _stage(name: str, profile: Profile, parameters: dict, recipe: dict) -> Path:
    """The executed notebook of a stage: as it was done before, or done now."""
    folder, start = store.path(f"stage-{name}", recipe), time.time()
    if not _products_intact(folder):
        shutil.rmtree(folder, ignore_errors=True)
    done = folder.exists()
    print("done before" if done else "running", flush=True)

    def make(out: Path) -> None:
        _execute(name, parameters, FIGURES / profile.name, out)
        if _recipe(name, profile, parameters) != recipe:
            raise ValueError(f"{name}: the project's code or data changed during it: start again")

    executed = store.folder(f"stage-{name}", recipe, make) / f"{name}.ipynb"
    if not done:
        print(f"{name}: {time.time() - start:.0f} s", flush=True)
    target = RUNS / "notebooks" / profile.name / executed.name
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(executed, target))


def _execute(name: str, parameters: dict, figures: Path, folder: Path) -> None:
    """Run one notebook into `folder`, and note which files it wrote in `figures`."""
    start, executed = time.time(), folder / f"{name}.ipynb"
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / f"{name}.ipynb"
        nbformat.write(jupytext.read(NOTEBOOKS / f"{name}.py"), source)
        how = {"kernel_name": "python3", "progress_bar": False}
        how |= {"cwd": str(NOTEBOOKS)} if name == "predict" else {}  # where its example lies
        how |= {"stderr_file": sys.stderr}  # the notebook's progress bars, not the kernel's notes
        how |= {"extra_arguments": ["--log-level=ERROR"]}
        try:
            papermill.execute_notebook(source, executed, parameters, **how)
        except DeadKernelError:
            why = "its kernel was killed (too little memory?): start again, what is done is kept"
            raise ValueError(f"{name}: {why}") from None
    tidy(executed)
    written = [f for f in figures.rglob("*") if f.is_file() and f.stat().st_mtime >= start]
    products = {f.relative_to(FIGURES).as_posix(): store.file_hash(f) for f in sorted(written)}
    (folder / "products.json").write_text(json.dumps(products, indent=1))


def _products_intact(folder: Path) -> bool:
    try:
        products = json.loads((folder / "products.json").read_text())
        return all(store.file_hash(FIGURES / file) == made for file, made in products.items())
    except (OSError, ValueError):
        return False


def tidy(path: Path) -> None:
    """Strip what running left in a notebook: the injected cell, bars, warnings, times, ids."""
    notebook = nbformat.read(path, as_version=4)
    cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    for number, cell in enumerate(cells):
        cell.id = f"{path.stem}-{number}"
        cell.metadata = {"tags": tags} if (tags := cell.metadata.get("tags")) else {}
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    notebook.cells = cells
    keep = ("kernelspec", "language_info", "jupytext")
    notebook.metadata = {k: notebook.metadata[k] for k in keep if k in notebook.metadata}
    nbformat.write(notebook, path)


def main(arguments: list[str] | None = None) -> int:
    """The command line: `python -m sts_utils reproduce --profile smol --seeds 0,1,2`."""
    which, seeds = (argparse.ArgumentParser(add_help=False) for _ in range(2))
    which.add_argument("--profile", default="smol", help="a name in profiles/, or a YAML file")
    seeds.add_argument("--seeds", help="like 0,1,2; the profile's own if left out")
    parser = argparse.ArgumentParser(prog="python -m sts_utils")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, told, run, options in (
        ("reproduce", "run the notebooks that are not done yet", _run, [which, seeds]),
        ("render", "run them and refresh the committed notebooks", _run, [which, seeds]),
        ("check", "can this machine run it, and at what cost?", check.run, [which, seeds]),
        ("fetch", "put what it needs from the hub into a folder", fetch.run, [which]),
    ):
        commands.add_parser(name, help=told, parents=options).set_defaults(run=run, figures=None)
    add = commands.choices["reproduce"].add_argument
    add("--figures", help='like "fig3 table6"; everything if left out')
    add, mirror = commands.choices["fetch"].add_argument, os.environ.get("STS_MIRROR")
    add("--folder", default=mirror, help="the mirror; $STS_MIRROR if left out")
    add("--list", action="store_true", help="only say what it needs and has")
    predict.add_parser(commands)
    given = []
    for word in sys.argv[1:] if arguments is None else arguments:
        if given and given[-1] == "--seeds":  # "-1,2" is a value, if a wrong one, and no option
            given[-1] += f"={word}"
        else:
            given.append(word)
    chosen = parser.parse_args(given)
    try:
        return chosen.run(chosen)
    except (ValueError, OSError) as error:
        print(f"error: {store.FULL if store.is_full(error) else error}", file=sys.stderr)
        return 2
    except PapermillExecutionError as error:
        trace = RUNS / "last-error.txt"
        with contextlib.suppress(OSError):  # of a full disk
            trace.write_text("\n".join(error.traceback), encoding="utf-8")
        said = f"{error.ename}: {error.evalue.splitlines()[0]} (whole trace: {trace})"
        print(f"error: {said}", file=sys.stderr)
        return 1


def _run(chosen: argparse.Namespace) -> int:
    """The commands `reproduce` and `render`."""
    names = config.groups().get(chosen.profile, (chosen.profile,))
    profiles = {name: config.load(name, chosen.seeds) for name in names}
    # beside a GPU what a loaded model leaves in main memory must go back
    variables = {"TQDM_MININTERVAL": "5"} | ({} if torch.cuda.is_available() else ALLOCATOR)
    for variable, value in variables.items():
        os.environ.setdefault(variable, value)
    os.environ["STS_EXECUTOR"] = "local"  # of the notebooks: what Ray has to do is done before
    rendering = chosen.command == "render"
    for profile in profiles.values():
        planned = cost.table(profile, whole=chosen.figures is None)
        if found := check.problems(profile, planned):
            raise ValueError(f"can't run {profile.name}: {'; '.join(found)}")
    for name, profile in profiles.items():
        stages = DOCUMENTED if rendering else STAGES
        executed = reproduce(name, profile, chosen.figures, stages)
        for path in executed if rendering else ():  # beside their sources, to be committed
            shutil.copy(path, NOTEBOOKS / path.name)
        print(f"figures and tables: {FIGURES / profile.name}")
        print(f"executed notebooks: {executed[0].parent}")
    return 0
