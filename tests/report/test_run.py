"""The whole sequence of notebooks on `tiny`, as a user runs it."""

import contextlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from unittest import mock

import jupytext
import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from safetensors.numpy import load_file
from tiny_runs import KINDS, PRODUCTS, command, finished, same_numbers, wait_for, without_control

from sts_utils import config, store
from sts_utils.report import page, run

slow = pytest.mark.slow


def kill_when_there_is(pattern: str, runs: Path, process: subprocess.Popen) -> None:
    """SIGKILL to the process and the notebooks' kernels as soon as `pattern` is in the store."""
    wait_for(pattern, runs, process)
    parent = psutil.Process(process.pid)
    for one in [parent, *parent.children(recursive=True)]:
        one.kill()
    process.communicate()
    assert process.returncode == -9


@slow
def test_every_figure_table_and_notebook_is_written(reproduced):
    out, said = reproduced
    assert sorted(p.name for p in (out / "figures/tiny").iterdir()) == sorted(PRODUCTS)
    assert all(p.stat().st_size > 0 for p in (out / "figures/tiny").iterdir())
    notebooks = sorted(p.stem for p in (out / "runs/notebooks/tiny").glob("*.ipynb"))
    assert notebooks == list(run.STAGES)
    assert str(out / "figures/tiny") in said and str(out / "runs/notebooks/tiny") in said


@slow
def test_executed_notebooks_are_clean(reproduced):
    for path in (reproduced[0] / "runs/notebooks/tiny").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code if cell.source)
        outputs = [o for cell in code for o in cell.outputs]
        assert outputs and not [o for o in outputs if o.output_type == "error"]
        assert not [o for o in outputs if o.get("name") == "stderr"]
        assert notebook.cells[-1].outputs[0].text.strip()  # each says at its end what it did


@slow
def test_again_nothing_is_computed(reproduced):
    start = time.time()
    said, _ = finished(command(reproduced[0], "reproduce", "--profile", "tiny"))
    assert said.count("done before") == len(run.STAGES)
    assert time.time() - start < 60


@slow
def test_a_deleted_figure_comes_back(reproduced):
    figure = reproduced[0] / "figures/tiny/fig3.png"
    before = figure.read_bytes()
    figure.unlink()
    said, _ = finished(command(reproduced[0], "reproduce", "--profile", "tiny"))
    assert said.count("done before") == len(run.STAGES) - 1
    assert figure.read_bytes() == before


def test_code_that_changes_while_a_notebook_runs_is_no_stage(profile, monkeypatch):
    """What was executed is not what its key says."""
    monkeypatch.setattr(run, "_execute", lambda *_: None)
    recipe = {"code": "as it was"}
    with pytest.raises(ValueError, match="03_score: the project's code or data changed during it"):
        run._stage("03_score", profile, {}, recipe)
    assert not store.path("stage-03_score", recipe).exists()


#: Whether to kill at every kind of artifact that a run makes (by hand).
EVERY_KIND = os.environ.get("STS_FAULTS") == "all"


@slow
@pytest.mark.timeout(7200 if EVERY_KIND else 2000)
def test_whatever_goes_wrong_it_resumes_and_ends_in_the_same_tables(reproduced, small_disk):
    """The disk full at three moments, a kill, every file of the store damaged, a kernel killed, and
    two runs at once to the end: bit for bit the tables of a run that nothing befell.

    `STS_FAULTS=all` kills at every kind of artifact that a run makes (by hand, 14 minutes).
    """
    runs, told = small_disk / "runs", (small_disk, "reproduce", "--profile")
    stages = "01_extract", "04_finetune", "05_evaluate", "06_plot"
    told += (without_control(small_disk, *stages),)
    end_without_room("features-domain-*", small_disk, command(*told))
    kinds = ["trained-*"]
    if EVERY_KIND:
        of = (p.name.rpartition("-")[0] for p in (reproduced[0] / "runs").glob("*-*"))
        kinds = [f"{kind}-*" for kind in sorted({*of}) if kind not in CONTROL_KINDS]
    for pattern in kinds:
        if not list(runs.glob(pattern)):
            kill_when_there_is(pattern, runs, command(*told))
    assert harm(runs) > 100
    end_without_room("performance-*", small_disk, command(*told))
    *_, missed = sorted(runs.glob("performance-*"), key=os.path.getmtime)
    for made in (missed, *runs.glob("stage-0[56]*")):
        shutil.rmtree(made)
    process = command(*told)
    wait_for(missed.name, runs, process)
    kernel_of(process).kill()
    assert "its kernel was killed" in failure(process)
    end_without_room("stage-05*", small_disk, command(*told))
    for process in [command(*told), command(*told)]:
        finished(process)
    same_numbers(reproduced[0], small_disk, control=False)
    assert not list(runs.glob(".*"))  # nothing half-written


#: Artifacts that the control alone makes, which is left out where faults are tried.
CONTROL_KINDS = ("features-control", "gradients", "probe", "stage-07_control")


def failure(process: subprocess.Popen) -> str:
    """The one line that a run ends with that fails."""
    _, said = process.communicate(timeout=800)
    assert process.returncode and "Traceback" not in said, said[-3000:]
    line = said.strip().splitlines()[-1]
    assert line.startswith("error: "), said[-3000:]
    return line


def end_without_room(pattern: str, folder: Path, process: subprocess.Popen) -> None:
    """The disk of `folder` is full once `pattern` is in the store: the run says so and ends."""
    wait_for(pattern, folder / "runs", process)
    if not os.path.ismount(folder):
        warnings.warn("no disk may be mounted here: a full one is not tried", stacklevel=1)
        return finished(process)
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(2**20)):
            pass
    assert "the disk is full: free some space below" in failure(process)
    ballast.unlink()


def harm(runs: Path) -> int:
    """Flip a byte of every other file of the store, cut one off the rest; how many files."""
    files = [file for file in sorted(runs.glob("*-*/**/*")) if file.is_file()]
    for number, file in enumerate(files):
        data = file.read_bytes()
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        file.write_bytes(flipped if number % 2 else data[:-1])
    return len(files)


def kernel_of(process: subprocess.Popen) -> psutil.Process:
    """The kernel of the notebook that a run is at."""
    children = psutil.Process(process.pid).children(recursive=True)
    (kernel,) = (one for one in children if "ipykernel_launcher" in " ".join(one.cmdline()))
    return kernel


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own that is soon full, where one may be mounted."""
    words = ["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(tmp_path)]
    mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0
    yield tmp_path
    if mounted:
        subprocess.run(["umount", "-l", str(tmp_path)], check=False)


@slow
def test_tables_hold_what_the_artifacts_hold(reproduced):
    """The changes and r of Tables 2-4 and 6, from the stored answers and sums, by hand."""
    figures, runs = reproduced[0] / "figures/tiny", reproduced[0] / "runs"
    changes = changes_of(runs)
    table = pd.read_csv(figures / "tables2_4.csv").query("domains == 'mmlu-test'")
    by_hand = 100 * sum(changes.values()) / 2
    ours = table.set_index("domain").sort_index()["gold_loglik change"]
    np.testing.assert_allclose(ours, by_hand.sort_index(), rtol=1e-4)
    chosen = "source == 'ours' and selection == 'all' and change == 'absolute'"
    rows = pd.read_csv(figures / "table6.csv").query(f"{chosen} and domains == 'mmlu-test'")
    rows = rows.set_index("metric")
    for metric, field in (("sts_act", "h"), ("sts_icl", "dh2")):
        scores = {seed: scores_of(runs, seed, field) for seed in (0, 1)}
        rs = [scores[seed].corr(changes[seed].abs()) for seed in (0, 1)]
        assert rows.r_mean[metric] == pytest.approx(np.mean(rs), rel=1e-4)
        r = sum(scores.values()).corr(sum(changes.values()).abs())
        assert rows.r[metric] == pytest.approx(r, rel=1e-4)
        assert rows.low[metric] < r < rows.high[metric]


def changes_of(runs: Path) -> dict[int, pd.Series]:
    """Each seed's change of the gold text's log-likelihood by domain."""
    gold = {}
    for path in runs.glob("performance-*"):
        frame, model = pd.read_parquet(path / "table.parquet"), recipe(path)["trained"]
        if frame.domain.nunique() == 14 and (not model or (runs / model).exists()):  # no control's
            how = recipe(runs / model) if model else {}
            kind = "rl" if "grpo" in how else how.get("train", "before")
            gold[kind, how.get("seed")] = frame.set_index(["id", "domain"]).gold_loglik
    assert len(gold) == 6  # before, two seeds, another training set, Fig 6's SFT and RL
    before = gold["before", None]
    return {s: (gold["gsm-symbolic", s] - before).groupby("domain").mean() for s in (0, 1)}


def scores_of(runs: Path, seed: int, field: str, n: int = 20) -> pd.Series:
    """Each domain's mean over tokens of `field`, summed over the n most shifted features."""
    train = {"sae": "random-8x", "seed": seed, "train": "gsm-symbolic"}
    (sums,) = sums_of(runs, "features-train-*", train).values()
    dims = np.argsort(-sums["dh2"].sum(0))[:n]
    of = {"sae": "random-8x", "seed": seed, "domains": "mmlu-test"}
    domains = sums_of(runs, "features-domain-*", of)
    scores = {d: sums[field][:, dims].sum() / sums["n"].sum() for d, sums in domains.items()}
    return pd.Series(scores)


def sums_of(runs: Path, pattern: str, kept: dict) -> dict[str, dict[str, np.ndarray]]:
    """Domain (None for a training set) -> its stored arrays, of the recipes that hold `kept` and
    read the query."""
    made = {path: {"place": "query"} | recipe(path) for path in runs.glob(pattern)}
    kept = kept | {"place": "query"}
    chosen = {p: r.get("domain") for p, r in made.items() if r.items() >= kept.items()}
    return {domain: load_file(p / "arrays.safetensors") for p, domain in chosen.items()}


def recipe(path: Path) -> dict:
    return json.loads((path / "made.json").read_text())["recipe"]


@slow
def test_claims_follow_the_rule(reproduced):
    """Each verdict, from the interval in claims.csv; and the page shows every claim."""
    figures = reproduced[0] / "figures/tiny"
    claims = pd.read_csv(figures / "claims.csv")
    text = html.unescape((figures / "index.html").read_text(encoding="utf-8"))
    assert set(claims.figure) <= {result.name for result in page.RESULTS}
    sides = pd.read_csv(store.DATA / "paper/claims.csv").set_index("claim").side
    for row in claims.itertuples():
        low, high = (-row.high, -row.low) if sides[row.claim] == "below" else (row.low, row.high)
        expected = "agrees" if low > 0 else "does not" if high < 0 else "inconclusive"
        assert row.verdict == ("not testable" if row.reliability < 0.5 else expected)
        assert row.statistic in text


@slow
def test_only_the_figures_asked_for(tmp_path):
    """FIGURES= writes those alone, and a notebook that computes at need trains no model for Tables
    7 and 8; side by side the base run is computed whole."""
    words = "reproduce", "--profile", "tiny", "--figures", "table7 table8"
    _, err = finished(command(tmp_path, *words))
    assert "IPKernelApp" not in err
    written = {p.name for p in (tmp_path / "figures/tiny").iterdir()}
    assert written == {f"{name}.{kind}" for name in ("table7", "table8") for kind in KINDS["table"]}
    runs = tmp_path / "runs"
    assert not list(runs.glob("trained-*")) and not list(runs.glob("performance-*"))


@slow
def test_a_notebook_runs_by_papermill_from_the_project_s_root(reproduced, tmp_path):
    out = tmp_path / "out.ipynb"
    words = [Path(sys.executable).parent / "papermill", "notebooks/03_score.ipynb", out]
    words += ["-p", "PROFILE", "tiny"]
    environment = os.environ | {"STS_OUT": str(reproduced[0])}
    done = subprocess.run(words, env=environment, cwd=store.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert nbformat.read(out, as_version=4).cells[-1].outputs[0].text.strip()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--profile", "tiny", "--seeds", "x"), "error: SEEDS='x': give whole numbers"),
        (("--profile", "tiny", "--seeds", "-1,2"), "error: SEEDS='-1,2': give whole numbers"),
        (
            ("--profile", "tiny", "--figures", "fig8"),
            "error: FIGURES holds 'fig8': choose from fig1a fig1b",
        ),
        (
            ("--profile", "tiny", "--figures", "control_gains"),
            "error: FIGURES holds 'control_gains': choose from fig1a fig1b",
        ),
    ],
)
def test_bad_input_is_one_line_and_a_failure(capsys, arguments, line):
    with mock.patch.dict(os.environ):
        assert run.main(["reproduce", *arguments]) == 2
    assert capsys.readouterr().err.startswith(line)


@slow
def test_bad_input_ends_the_process_with_one_line(tmp_path):
    process = command(tmp_path, "reproduce", "--profile", "smoll")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("error: unknown profile 'smoll': choose from")


def test_where_nothing_can_be_written_the_variable_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    for out in (Path("/proc/none"), tmp_path / "file"):
        monkeypatch.setattr(run, "RUNS", out / "runs")
        with pytest.raises(ValueError, match=r"/runs can't be written \(.*\): set STS_OUT to a "):
            run.reproduce("tiny", config.load("tiny"))


@pytest.mark.parametrize("name", run.DOCUMENTED)
def test_each_notebook_matches_its_source(name):
    source = jupytext.read(run.NOTEBOOKS / f"{name}.py")
    executed = nbformat.read(run.NOTEBOOKS / f"{name}.ipynb", as_version=4)
    cells = [[(c.cell_type, c.source) for c in n.cells] for n in (source, executed)]
    assert cells[0] == cells[1]


def test_nothing_unpickles_or_runs_remote_code():
    bad = r"import pickle|torch\.load\(|trust_remote_code\s*=\s*True|allow_pickle=True|joblib\.load"
    folders = ("sts_utils", "notebooks", "benchmarks")
    files = [path for folder in folders for path in (store.ROOT / folder).rglob("*.py")]
    assert len(files) > 50
    assert not [f for f in files if re.search(bad, f.read_text(encoding="utf-8"))]
