"""The report, the command line and the notebook."""

import base64
import json
from dataclasses import replace
from html.parser import HTMLParser

import jupytext
import pandas as pd
import papermill
import pytest
from tiny_sets import HTML, questions

from sts_utils import store
from sts_utils.report import run


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.seen, self.text = [], ""
        self.feed(page)

    def handle_data(self, text):
        self.text += text

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_report_is_self_contained_and_escaped(found, tmp_path):
    stats = [{HTML if d == "code" else d: of[d] for d in of} for of in found.domain_stats]
    asked = {HTML if d == "code" else d: of for d, of in found.questions.items()}
    hostile = replace(found, source=HTML, notes=(HTML,), domain_stats=stats, questions=asked)
    paths = hostile.write(tmp_path / "report", budget=10, features=3)
    assert [p.name for p in paths] == ["index.html", "table.csv", "table.parquet", "mixture.jsonl"]
    page = paths[0].read_text(encoding="utf-8")
    parsed = Tags(page)
    tags = parsed.seen
    assert not [t for t, _ in tags if t in ("script", "link", "b")]
    (image,) = [a["src"] for t, a in tags if t == "img"]
    kind, _, png = image.partition(",")
    assert kind == "data:image/png;base64" and base64.b64decode(png).startswith(b"\x89PNG")
    assert parsed.text.count(HTML) >= 4  # the source, a domain, a note, a row of the mixture
    assert len(found.limits()) == 7 and all(said in parsed.text for said in found.limits())
    assert pd.read_parquet(paths[2]).equals(hostile.table)
    assert len([json.loads(line) for line in paths[3].open()]) == 10
    assert not (
        hostile.write(tmp_path / "report")[0].parent / "mixture.jsonl"
    ).exists()  # no stale one
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"can't be written \(Not a directory\): give a folder"):
        found.write(tmp_path / "file")


def command(*words):
    tiny = [
        "--model",
        "tiny",
        "--sae",
        "random-8x",
        "--dtype",
        "float32",
        "--shots",
        "2",
        "--queries",
        "4",
    ]
    return run.main(["predict", *tiny, "--n", "20", "--seeds", "0", *words])


def test_command_line(tmp_path, capsys):
    (tmp_path / "my.jsonl").write_text(
        "".join(
            f"{json.dumps({'ask': q, 'say': a})}\n"
            for q, a in ((row["question"], row["answer"]) for row in questions("train"))
        )
    )
    for name in ("apples", "pears"):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(f"{json.dumps(row)}\n" for row in questions(name))
        )
    out = tmp_path / "report"
    files = [str(tmp_path / f"{name}.jsonl") for name in ("apples", "pears")]
    named = ["--columns", "question=ask", "answer=say"]
    done = command(
        "--train",
        str(tmp_path / "my.jsonl"),
        *named,
        "--domains",
        *files,
        "--out",
        str(out),
        "--budget",
        "7",
    )
    assert done == 0
    said = capsys.readouterr().out
    assert (
        "apples" in said
        and "The ranking rests on 2 domains" in said
        and str(out / "index.html") in said
    )
    assert sum(1 for _ in (out / "mixture.jsonl").open()) == 7
    assert command("--train", str(tmp_path / "my.jsonl")) == 2
    assert capsys.readouterr().err.startswith("error: ")
    for words, said in (
        (["--seeds", "a"], "--seeds 'a': give whole"),
        (["--seeds", "-1,2"], "--seeds '-1,2': give whole"),
        (["--probe", "1"], "probe is 1: give 2 or more steps"),
        (["--out", "/proc/none/report"], "/proc/none/report can't be written"),
        (["--budget", "0"], "budget is 0"),
        (
            ["--out", str(tmp_path / "my.jsonl")],
            "can't be written (Not a directory): give a folder",
        ),
        (
            ["--out", str(tmp_path / "my.jsonl" / "report")],
            "can't be written (Not a directory): give a folder",
        ),
        (["--columns", "ask"], "columns 'ask': give role=column"),
        (["--domains", "a=x.csv", "a=y.csv"], "a=x.csv a=y.csv: a name is there twice"),
    ):
        assert command(*words) == 2
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_notebook_runs_under_papermill(tmp_path):
    source = tmp_path / "predict.ipynb"
    jupytext.write(jupytext.read(store.ROOT / "notebooks/predict.py"), source)
    given = {"MODEL": "tiny", "SAE": "random-8x", "SEEDS": [0], "QUERIES": 4, "N": 20, "PROBE": 2}
    given |= {"DOMAINS": {"code": "code-io", "health": "pubmedqa"}}
    how = {"kernel_name": "python3", "cwd": str(store.ROOT / "notebooks"), "progress_bar": False}
    how |= {"execution_timeout": 90}
    try:
        done = papermill.execute_notebook(source, tmp_path / "done.ipynb", given, **how)
    except TimeoutError:  # about one run in five the widgets' cell ends and its end is not heard
        done = papermill.execute_notebook(source, tmp_path / "done.ipynb", given, **how)
    outputs = [o for cell in done.cells if cell.cell_type == "code" for o in cell.outputs]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert any("application/vnd.jupyter.widget-view+json" in o.get("data", {}) for o in outputs)
    assert not [o for o in outputs if o.output_type == "error"]
