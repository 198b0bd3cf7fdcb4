"""One run of `tiny`, as a user starts it, and what it must leave."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import command, finished
from safetensors.numpy import load_file

from sts_utils import config, notebooks, plan, results, store

FIGURES = "fig1a fig1b fig2a fig2b fig3 fig4a fig4b fig4c fig4d fig4e fig5 fig6 fig7 training"
FIGURES += " paper_numbers control_heat control_aucs score_parts"
TABLES = "table1 tables2_4 reliability table5 table6 table6_points table6_measures table6_variants"
TABLES += " table7 table8 table9 table10 table11 table12 table13 rl_and_sft changes placebos"
TABLES += " control_gains control_design control_judgement control_goals score_parts_table"
PRODUCTS = [f"{name}.{kind}" for name in FIGURES.split() for kind in ("pdf", "png", "txt")]
PRODUCTS += [f"{name}.{kind}" for name in TABLES.split() for kind in ("csv", "md", "tex", "txt")]


def test_every_figure_table_page_and_notebook_is_written(reproduced):
    out, said = reproduced
    stages = notebooks.stages(config.load("tiny"))
    pages = ["index.html", *(f"{s}.html" for s in stages if s != notebooks.CENTRAL)]
    made = sorted(p.name for p in (out / "figures/tiny").iterdir())
    assert made == sorted([*PRODUCTS, *pages, "claims.csv"])
    executed = sorted(p.stem for p in (out / "runs/notebooks/tiny").glob("*.ipynb"))
    assert executed == sorted(stages) and str(out / "figures/tiny") in said
    html = (out / "figures/tiny/index.html").read_text(encoding="utf-8")
    assert html.count("<details>") > 10  # the code is folded, and pages link to each other
    assert 'src="http' not in html and "<math" in html and "Still to come" not in html
    assert re.search(r"domains mmlu-and-benchmarks, seeds 0, 1; (commit|version) \w+", html)
    (nav,) = re.findall(r"<nav>(.*?)</nav>", html, flags=re.S)
    names = set(re.findall('href="(.*?)"', nav))
    assert len(names) > 10 and all((out / "figures/tiny" / name).exists() for name in names)


def test_a_run_shows_its_first_results_first():
    p = config.load("smol")
    scores, central, whole = notebooks.parts(p)
    assert notebooks.stages(scores) == ["01_extract", "02_shift_detect", "03_score"]
    assert notebooks.stages(central)[-1] == "06_plot" and whole is p
    assert not {f.__name__ for calls in plan.rounds(scores) for f, _ in calls} & {"finetuned"}
    assert notebooks.provenance(p, 0.0, ["07_moved"]).endswith("to come: 07_moved")
    assert [len(notebooks.parts(config.load(name))) for name in ("quick", "control")] == [2, 1]


def test_executed_notebooks_are_clean_and_cells_are_short(reproduced):
    for path in (reproduced[0] / "runs/notebooks/tiny").glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code if cell.source)
        outputs = [o for cell in code for o in cell.outputs]
        assert outputs and not [o for o in outputs if o.output_type == "error"]
        assert not [o for o in outputs if o.get("name") == "stderr"]
        tables = [o.data.get("text/html", "") for o in outputs if "data" in o]
        long = [html for html in tables if html.count("<tr") > 34]  # 30 rows and heads
        assert all(html.startswith("<input") for html in long), path.name  # they can be searched


def test_again_nothing_is_computed(reproduced):
    """By `tiny` with one short notebook: all its calls, little to draw."""
    runs, path = reproduced[0] / "runs", reproduced[0] / "short/tiny.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text("{base: tiny, stages: [03_score]}")
    before = {p: p.stat().st_mtime_ns for p in runs.glob("*-*/made.json")}
    finished(command(reproduced[0], "reproduce", "--profile", str(path)))
    assert before == {p: p.stat().st_mtime_ns for p in runs.glob("*-*/made.json")}


def test_a_notebook_that_hangs_or_fails_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(notebooks, "CELL_SECONDS", 2)
    for code, error, said in (
        ("import time; time.sleep(99)", TimeoutError, "timed out"),
        ("assert 0", ValueError, r"^x: AssertionError \(whole trace: "),
    ):
        (tmp_path / "x.py").write_text(f"# %%\n{code}\n")
        with pytest.raises(error, match=said):
            notebooks.execute("x", {}, tmp_path)


def by_papermill(notebook: Path | str, out: Path, store_of: Path) -> list:
    """The cells of a notebook of `tiny`, run as the README has it."""
    words = [Path(sys.executable).parent / "papermill", notebook, out]
    words += ["-p", "PROFILE", "tiny", "-p", "SEEDS", "0,1"]
    environment = os.environ | {"STS_OUT": str(store_of)}
    done = subprocess.run(words, env=environment, cwd=store.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return nbformat.read(out, as_version=4).cells


def test_one_notebook_runs_alone_by_papermill(reproduced, tmp_path):
    assert by_papermill("notebooks/06_plot.ipynb", tmp_path / "out.ipynb", reproduced[0])


def test_what_is_picked_takes_the_place_of_what_was_drawn(reproduced, tmp_path):
    notebook = nbformat.read(notebooks.NOTEBOOKS / "02_shift_detect.ipynb", as_version=4)
    picks = "seed.value = 1; feature.index = 2; box.value = 'two words'; print(feature.value)"
    notebook.cells.append(nbformat.v4.new_code_cell(picks))
    nbformat.write(notebook, changed := tmp_path / "changed.ipynb")
    *cells, last = by_papermill(changed, tmp_path / "out.ipynb", reproduced[0])
    shown = str([cell.get("outputs") for cell in cells])
    picked = last.outputs[0].text.strip()
    assert f"Feature {picked}, seed 1" in shown and f"Feature {picked}, peak" in shown


def test_tables_hold_what_the_artifacts_hold(reproduced):
    """The changes and r of Tables 2-4 and 6, from the stored answers and sums, by hand."""
    figures, runs = reproduced[0] / "figures/tiny", reproduced[0] / "runs"
    changes = changes_of(runs)
    table = pd.read_csv(figures / "changes.csv")
    by_hand = 100 * sum(changes.values()) / 2
    ours = table.set_index("domain").sort_index()["gold_loglik change"]
    np.testing.assert_allclose(ours, by_hand.sort_index(), rtol=1e-4)
    chosen = "source == 'ours' and selection == 'all' and change == 'absolute'"
    rows = pd.read_csv(figures / "table6.csv").query(chosen).set_index("metric")
    for metric, field in (("sts_act", "h"), ("sts_icl", "dh2")):
        scores = {seed: scores_of(runs, seed, field) for seed in (0, 1)}
        rs = [scores[seed].corr(changes[seed].abs()) for seed in (0, 1)]
        assert rows.r_mean[metric] == pytest.approx(np.mean(rs), rel=1e-4)
        r = sum(scores.values()).corr(sum(changes.values()).abs())
        assert rows.r[metric] == pytest.approx(r, rel=1e-4)
        assert rows.low[metric] < r < rows.high[metric]


def recipe(path: Path) -> dict:
    return json.loads((path / "made.json").read_text())["recipe"]


def changes_of(runs: Path) -> dict[int, pd.Series]:
    """Each seed's change of the gold text's log-likelihood by domain."""
    gold, domains = {}, "mmlu-and-benchmarks"
    for path in runs.glob("performance-*"):
        made = recipe(path)
        model, *rest = made["arguments"] + ["None"] * 3
        if made["settings"]["domains"] != domains or rest[:2] != ["None", "None"]:
            continue  # of the control's no model is kept
        tuned = recipe(runs / model) if model.startswith("finetuned") else {}
        if not tuned or tuned["settings"]["train"] == "gsm-symbolic":
            frame = pd.read_parquet(path / "table.parquet").set_index(["id", "domain"])
            gold[int(tuned["arguments"][0]) if tuned else model] = frame.gold_loglik
    none = gold["None"]
    return {s: (gold[s] - none).groupby("domain").mean() for s in (0, 1)}


def scores_of(runs: Path, seed: int, field: str, n: int = 20) -> pd.Series:
    """Each domain's mean over tokens of `field`, summed over the n most shifted features."""
    (train,) = sums_of(runs, "train_features-*", seed, train="gsm-symbolic").values()
    dims = np.argsort(-train["dh2"].sum(0))[:n]
    domains = sums_of(runs, "domain_features-*", seed, domains="mmlu-and-benchmarks")
    return pd.Series({d: x[field][:, dims].sum() / x["n"].sum() for d, x in domains.items()})


def sums_of(runs: Path, pattern: str, seed: int, **settings) -> dict[str, dict[str, np.ndarray]]:
    """First argument (a domain) -> the stored arrays of the main SAE, of a seed."""
    found = {}
    for path in runs.glob(pattern):
        told = recipe(path)
        asked = told["settings"].items() >= (settings | {"place": "query"}).items()
        asked &= told["settings"].get("sts", {}).get("options", True)  # not as the outcome asks
        if asked and told["arguments"][-1] == str(seed):
            name = told["arguments"][0].strip("'")
            found.setdefault(name, load_file(path / "random-8x.safetensors"))
    return found


def test_claims_follow_the_rule(reproduced):
    claims = pd.read_csv(reproduced[0] / "figures/tiny/claims.csv")
    known = results.paper("claims").set_index("id")
    assert set(claims.id) <= set(known.index) and len(set(claims.id)) > 25
    for row in claims.itertuples():
        side, size = known.side[row.id], known["size"][row.id]
        expected = results.verdict(row.low, row.high, side, size)
        if row.verdict == "not testable":
            assert row.reliability == row.reliability
        else:
            assert row.verdict == expected and not row.reliability < 0.5
        assert row.corrected in (row.verdict, "inconclusive")


@pytest.mark.parametrize("name", [*notebooks.STAGES, *notebooks.OTHERS])
def test_each_notebook_matches_its_source_and_has_short_cells(name):
    source = jupytext.read(notebooks.NOTEBOOKS / f"{name}.py")
    executed = nbformat.read(notebooks.NOTEBOOKS / f"{name}.ipynb", as_version=4)
    cells = [[(c.cell_type, c.source) for c in n.cells] for n in (source, executed)]
    assert cells[0] == cells[1]
    assert all(c.source.count("\n") < 26 for c in source.cells if c.cell_type == "code")
    assert all(c.execution_count for c in executed.cells if c.cell_type == "code" and c.source)


def test_nothing_unpickles_or_runs_remote_code():
    bad = r"import pickle|torch\.load\(|trust_remote_code\s*=\s*True|allow_pickle=True|joblib\.load"
    folders = ("sts_utils", "notebooks", "benchmarks")
    files = [path for folder in folders for path in (store.ROOT / folder).rglob("*.py")]
    assert len(files) > 40
    assert not [f for f in files if re.search(bad, f.read_text(encoding="utf-8"))]


def test_bad_input_and_nowhere_to_write_are_one_line_and_a_failure(tmp_path):
    (tmp_path / "file").touch()
    unwritten = r"error: .*/runs can't be written \(.*\): set STS_OUT to a folder"
    for out, arguments, line in (
        (tmp_path, "--profile smoll", "error: unknown profile 'smoll'"),
        (tmp_path, "--profile tiny --seeds x", "error: "),
        (tmp_path / "file", "--profile tiny", unwritten),
    ):
        process = command(out, "reproduce", *arguments.split())
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2 and "Traceback" not in err
        assert re.match(line, err.strip().splitlines()[-1])
