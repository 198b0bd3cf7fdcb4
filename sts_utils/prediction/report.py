"""The report: the notebook `predict`, run by papermill and shown without its code."""

import json
import tempfile
from pathlib import Path

from sts_utils import notebooks
from sts_utils.store import check_writable

MEND = "give a folder to write the report to"
FILES = ("index.html", "table.csv", "table.parquet", "probe.csv", "mixture.jsonl")


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
        record = Path(scratch) / "prediction.json"
        record.write_text(prediction.recorded(), encoding="utf-8")
        given = {"PREDICTION": str(record), "BUDGET": budget}
        notebooks.page(notebooks.execute("predict", given, Path(scratch)), page, [])
    return [path for path in paths if path.exists()]
