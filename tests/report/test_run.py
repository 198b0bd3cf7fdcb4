"""The whole sequence of notebooks on `tiny`, as a user runs it."""

import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import nbformat
import pandas as pd
import pytest

from sts_utils import store
from sts_utils.report import page as report
from sts_utils.report import run

KINDS = {"figure": ("pdf", "png", "txt"), "table": ("csv", "md", "tex", "txt")}
PRODUCTS = [f"{item.name}.{kind}" for item in report.ORDER for kind in KINDS[item.kind]]
PRODUCTS += ["claims.csv", "index.html", "REPRODUCTION.md", "scores.csv"]
#: What only the full control has: its design half, and doses.
FULL = ("control_design", "control_sizes", "control_doses")
PRODUCTS = [name for name in PRODUCTS if not name.startswith(FULL)]


def command(out: Path, *arguments: str, **more) -> subprocess.Popen:
    environment = os.environ | {"STS_OUT": str(out)}
    return subprocess.Popen(
        [sys.executable, "-m", "sts_utils", *arguments], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=store.ROOT, **more,
    )  # fmt: skip


def finished(process) -> tuple[str, str]:
    out, err = process.communicate(timeout=800)
    assert process.returncode == 0, err[-3000:]
    return out, err


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """One uninterrupted run, and where it wrote."""
    out = tmp_path_factory.mktemp("reproduced")
    said, _ = finished(command(out, "reproduce", "--profile", "tiny"))
    return out, said


def test_every_figure_table_and_notebook_is_written(reproduced):
    out, said = reproduced
    assert sorted(p.name for p in (out / "figures/tiny").iterdir()) == sorted(PRODUCTS)
    assert all(p.stat().st_size > 0 for p in (out / "figures/tiny").iterdir())
    notebooks = sorted(p.stem for p in (out / "runs/notebooks/tiny").glob("*.ipynb"))
    assert notebooks == list(run.STAGES)
    assert str(out / "figures/tiny") in said and str(out / "runs/notebooks/tiny") in said


def test_executed_notebooks_are_clean(reproduced):
    for path in (reproduced[0] / "runs/notebooks/tiny").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        assert all(
            cell.execution_count
            for cell in notebook.cells
            if cell.cell_type == "code" and cell.source
        )
        outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
        assert outputs and not [
            o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"
        ]
        assert notebook.cells[-1].outputs[0].text.strip()  # each says at its end what it did


def test_again_nothing_is_computed(reproduced):
    start = time.time()
    said, _ = finished(command(reproduced[0], "reproduce", "--profile", "tiny"))
    assert said.count("done before") == len(run.STAGES)
    assert time.time() - start < 60


def test_a_deleted_figure_comes_back(reproduced):
    figure = reproduced[0] / "figures/tiny/fig3.png"
    before = figure.read_bytes()
    figure.unlink()
    said, _ = finished(command(reproduced[0], "reproduce", "--profile", "tiny"))
    assert said.count("done before") == len(run.STAGES) - 1
    assert figure.read_bytes() == before


def test_killed_anywhere_it_resumes_and_ends_in_the_same_tables(reproduced, tmp_path):
    """SIGKILL to the whole process group at several moments, then a run to the end, bit for bit."""
    for delay in (15, 35, 55):
        process = command(tmp_path, "reproduce", "--profile", "tiny", start_new_session=True)
        try:
            process.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    finished(command(tmp_path, "reproduce", "--profile", "tiny"))
    for name in PRODUCTS:
        if name.endswith((".csv", ".txt")):
            expected = (reproduced[0] / "figures/tiny" / name).read_bytes()
            assert (tmp_path / "figures/tiny" / name).read_bytes() == expected, name


def test_tables_hold_what_the_artifacts_hold(reproduced):
    """Table 6's r, recomputed from the stored tables with scipy alone."""
    from scipy import stats as scipy_stats

    figures = reproduced[0] / "figures/tiny"
    runs = reproduced[0] / "runs"
    frames = {}
    for path in runs.glob("performance-*"):
        frame, model = pd.read_parquet(path / "table.parquet"), recipe(path)["trained"]
        if frame.domain.nunique() == 14:
            how = recipe(runs / model) if model else {}
            frames["before" if not model else how.get("train", "rl"), how.get("seed")] = frame
    assert len(frames) == 5  # before, two seeds, another training set, reinforcement learning
    table = pd.read_csv(figures / "tables2_4.csv")
    assert len(table) == 14
    change = table.set_index("domain")["gold_probability change"]
    before, after = frames["before", None], [frames["gsm-symbolic", seed] for seed in (0, 1)]
    by_hand = (
        sum(f.set_index("id").gold_probability for f in after) / 2
        - before.set_index("id").gold_probability
    )
    by_hand = 100 * by_hand.groupby(before.set_index("id").domain).mean()
    pd.testing.assert_series_equal(
        change.sort_index(), by_hand.sort_index(), check_names=False, rtol=1e-4
    )
    r = pd.read_csv(figures / "table6.csv").query("source == 'ours' and selection == 'all'")
    assert r.r.between(-1, 1).all() and (r.r_low <= r.r_high).all()
    assert scipy_stats.pearsonr(change, change).statistic == pytest.approx(1)


def recipe(path: Path) -> dict:
    return json.loads((path / "made.json").read_text())["recipe"]


def test_claims_follow_the_rule(reproduced):
    """Each verdict, from the interval in claims.csv; and the page shows every claim."""
    figures = reproduced[0] / "figures/tiny"
    claims = pd.read_csv(figures / "claims.csv")
    page = (figures / "index.html").read_text(encoding="utf-8")
    assert set(claims.figure) <= {item.name for item in report.ORDER}
    for row in claims.itertuples():
        below = "slope" in row.statistic or "range of r" in row.statistic
        low, high = (-row.high, -row.low) if below else (row.low, row.high)
        assert row.verdict == ("agrees" if low > 0 else "does not" if high < 0 else "inconclusive")
        assert html.escape(row.statistic) in page or row.statistic in html.unescape(page)


def test_only_the_figures_asked_for(tmp_path):
    """FIGURES= computes what those need and nothing else: no model is trained for Tables 7 and 8."""
    finished(command(tmp_path, "reproduce", "--profile", "tiny", "--figures", "table7 table8"))
    written = {p.name for p in (tmp_path / "figures/tiny").iterdir()}
    assert written == {f"{name}.{kind}" for name in ("table7", "table8") for kind in KINDS["table"]}
    assert not list((tmp_path / "runs").glob("trained-*")) and not list(
        (tmp_path / "runs").glob("performance-*")
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--profile", "smoll"), "error: unknown profile 'smoll' (did you mean 'smol'?)"),
        (("--profile", "tiny", "--seeds", "x"), "error: SEEDS='x': give whole numbers"),
        (
            ("--profile", "tiny", "--figures", "fig8"),
            "error: FIGURES holds 'fig8': choose from fig1a fig1b",
        ),
    ],
)
def test_bad_input_is_one_line_and_a_failure(tmp_path, arguments, line):
    process = command(tmp_path, "reproduce", *arguments)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.strip().splitlines()[-1].startswith(line) and "Traceback" not in err


def test_each_notebook_matches_its_source():
    for name in run.DOCUMENTED:
        source = jupytext.read(run.NOTEBOOKS / f"{name}.py")
        executed = nbformat.read(run.NOTEBOOKS / f"{name}.ipynb", as_version=4)
        assert [(c.cell_type, c.source) for c in source.cells] == [
            (c.cell_type, c.source) for c in executed.cells
        ], name


def test_nothing_unpickles_or_runs_remote_code():
    bad = re.compile(
        r"import pickle|torch\.load\(|trust_remote_code\s*=\s*True|allow_pickle=True|joblib\.load"
    )
    files = [*store.ROOT.glob("sts_utils/*.py"), *store.ROOT.glob("notebooks/*.py")]
    assert files and not [f for f in files if bad.search(f.read_text(encoding="utf-8"))]
