"""The report: the notebook `predict`, run by papermill and shown without its code."""

import json
import tempfile
from pathlib import Path

import jupytext
import nbformat
import papermill
from nbconvert import HTMLExporter

from sts_utils.store import ROOT, check_writable

MEND = "give a folder to write the report to"
FILES = ("index.html", "table.csv", "table.parquet", "probe.csv", "mixture.jsonl")
#: Seconds that a cell of the notebook may take.
LIMIT = 1800


def write(prediction, folder: Path, budget: int | None = None) -> list[Path]:
    """Write a Prediction's report, tables and mixture; returns the files' paths."""
    check_writable(folder, MEND)
    folder.mkdir(parents=True, exist_ok=True)
    page, csv, parquet, probe, mixture = paths = [folder / name for name in FILES]
    for of_an_earlier_report in paths:
        of_an_earlier_report.unlink(missing_ok=True)
    prediction.table.to_csv(csv, index=False)
    prediction.table.to_parquet(parquet, index=False)
    if prediction.probe:
        prediction.probe.table.to_csv(probe, index=False)
    if budget is not None and (rows := prediction.mixture(budget)):
        lines = [f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows]
        mixture.write_text("".join(lines), encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        record, notebook = Path(scratch) / "prediction.json", Path(scratch) / "predict.ipynb"
        record.write_text(prediction.recorded(), encoding="utf-8")
        nbformat.write(jupytext.read(ROOT / "notebooks/predict.py"), notebook)
        given = {"PREDICTION": str(record), "BUDGET": budget}
        how = {"kernel_name": "python3", "progress_bar": False, "execution_timeout": LIMIT}
        papermill.execute_notebook(notebook, notebook, given, **how)
        render(notebook, page)
    return [path for path in paths if path.exists()]


def render(notebook: Path, page: Path) -> None:
    """An executed notebook as one page, without its code."""
    html, _ = HTMLExporter(exclude_input=True, embed_images=True).from_filename(str(notebook))
    page.write_text(html, encoding="utf-8")
