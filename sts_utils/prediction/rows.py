"""The rows of a source, one at a time: JSON lines, CSV, parquet, or anything iterable."""

import contextlib
import csv
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet

from sts_utils import corpora


def sample(rows: Iterable, limit: int, seed: int) -> tuple[list, int]:
    """(at most `limit` of `rows` in their order, how many there are): a reservoir sample."""
    rng, kept, total = random.Random(seed), [], 0
    for total, row in enumerate(rows, 1):
        if len(kept) < limit:
            kept.append(row)
        elif (slot := rng.randrange(total)) < limit:
            kept[slot] = row
    return sorted(kept, key=lambda row: row[0]), total


def rows(source, name: str) -> Iterator[tuple[int, object]]:
    """(row or line number from 1, row), one at a time; a row of JSON lines is not parsed yet.

    Raises ValueError, in one line, for what is no source and for a file that can't be read.
    """
    if not isinstance(source, str | Path):
        if not isinstance(source, Iterable):
            raise ValueError(f"{name} is no source: give a corpus, a file, a Dataset or a list")
        return enumerate(source, 1)
    path, kind, found = Path(source), Path(source).suffix.lower(), False
    with contextlib.suppress(OSError):  # of a name that is too long
        found = path.is_file()
    if not found:
        known = ", ".join(corpora.names())
        raise ValueError(f"{name!r} is neither a file nor a corpus: the corpora are {known}")
    readers = {".jsonl": _lines, ".ndjson": _lines, ".csv": _csv, ".parquet": _parquet}
    if kind not in readers:
        raise ValueError(f"{name} ends in {kind!r}; give .jsonl, .csv or .parquet")
    return readers[kind](path, name)


def _lines(path: Path, name: str) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        yield from ((n, line) for n, line in enumerate(file, 1) if line.strip())


def _csv(path: Path, name: str) -> Iterator[tuple[int, dict]]:
    with path.open("rb") as file:
        lines = (_text(line, f"{name}, row {n}") for n, line in enumerate(file, 1))
        reader, first = csv.DictReader(lines, strict=True), 1  # a row's first line
        try:
            header = reader.fieldnames or ()
            wide = len(header)
            if twice := [column for column in header if header.count(column) > 1]:
                raise csv.Error(f"column {twice[0]!r} is there twice: rename one")
            first = reader.line_num + 1
            for row in reader:
                if None in row or None in row.values():
                    wrong = "more" if None in row else "fewer"
                    raise csv.Error(f"{wrong} fields than the {wide} columns of the header")
                yield reader.line_num, row
                first = reader.line_num + 1
        except csv.Error as error:
            open_quote = "end of data" in str(error) or "limit" in str(error)
            near = " (a quote that is not closed?)" if open_quote else ""
            raise ValueError(f"{name}, row {first}: {error}{near}") from None


def _parquet(path: Path, name: str) -> Iterator[tuple[int, dict]]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=256)
            yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{name} can't be read as parquet: {str(error).splitlines()[0]}") from None


def parsed(raw, where: str) -> dict:
    """A row as columns, cells of arrays as lists and NaN as None. Raises ValueError for others."""
    if read := isinstance(raw, bytes):
        try:
            raw = json.loads(_text(raw, where))
        except json.JSONDecodeError as error:
            said = f"{where} is not JSON ({error.msg})"
            raise ValueError(f"{said}: write one object a line") from None
        except RecursionError:
            raise ValueError(f"{where} is nested too deeply: write one object a line") from None
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        if raw and all(map(is_turn, raw)):
            raw = {"messages": raw}
        elif len(raw) == 2:
            raw = dict(zip(("question", "answer"), raw, strict=True))
    if not isinstance(raw, Mapping):
        shown = f"{where} is {str(raw)[:40]!r}"
        mend = "of a DataFrame give .to_dict('records'), of a DatasetDict one split"
        mend = "write one object a line" if read else mend
        raise ValueError(f"{shown}, neither columns nor a (question, answer) pair: {mend}")
    return {str(column): _plain(value) for column, value in raw.items()}


def _text(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{raw[error.start]:02x}"
        raise ValueError(f"{where} is not UTF-8 ({byte}): save the file as UTF-8") from None


def _plain(value):
    value = value.tolist() if hasattr(value, "tolist") else value  # pandas and numpy
    return None if isinstance(value, float) and value != value else value


def is_turn(value) -> bool:
    """Whether a value is a turn of a chat."""
    return isinstance(value, Mapping) and bool({"role", "from"} & value.keys())
