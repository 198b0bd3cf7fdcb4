"""The rows of a source, one at a time: JSON lines, CSV, parquet, or anything iterable."""

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
    for n, row in rows:
        total += 1
        if len(kept) < limit:
            kept.append((n, row))
        elif (slot := rng.randrange(total)) < limit:
            kept[slot] = (n, row)
    return sorted(kept, key=lambda item: item[0]), total


def rows(source, name: str) -> Iterator[tuple[int, object]]:
    """(row or line number from 1, row), one at a time; a row of JSON lines is not parsed yet.

    Raises ValueError, in one line, for what is no source and for a file that can't be read.
    """
    if not isinstance(source, str | Path):
        if not isinstance(source, Iterable):
            of = "a corpus name, a file, a datasets.Dataset or a list of pairs"
            raise ValueError(f"{name} is no source: give {of}")
        return enumerate(source, 1)
    path, kind = Path(source), Path(source).suffix.lower()
    if not path.is_file():
        known = ", ".join(corpora.names())
        raise ValueError(f"{name!r} is neither a file nor a corpus: the corpora are {known}")
    readers = {".jsonl": _lines, ".ndjson": _lines, ".csv": _csv, ".parquet": _parquet}
    if kind not in readers:
        ends = f"its name ends in {kind or 'nothing'!r}"
        raise ValueError(f"{name}: {ends}; give .jsonl, .csv or .parquet")
    return readers[kind](path, name)


def _lines(path: Path, name: str) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        yield from ((n, line) for n, line in enumerate(file, 1) if line.strip())


def _csv(path: Path, name: str) -> Iterator[tuple[int, dict]]:
    with path.open("rb") as file:
        lines = (_text(line, f"{name}, row {n}") for n, line in enumerate(file, 1))
        reader, header, first = csv.reader(lines, strict=True), None, 1  # a row's first line
        try:
            for cells in reader:
                if header is None:
                    header = cells
                elif cells and len(cells) != len(header):
                    wrong = "more" if len(cells) > len(header) else "fewer"
                    raise csv.Error(f"{wrong} fields than the {len(header)} columns of the header")
                elif cells:
                    yield reader.line_num, dict(zip(header, cells, strict=True))
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


def parsed(raw, where: str) -> Mapping:
    """A row as a mapping of columns, cells of arrays as lists and NaN as nothing."""
    if isinstance(raw, bytes):
        raw = _json(raw, where)
    is_list = isinstance(raw, Sequence) and not isinstance(raw, str)
    if is_list and raw and all(map(is_turn, raw)):
        raw = {"messages": raw}
    if isinstance(raw, Mapping):
        return {column: _plain(value) for column, value in raw.items()}
    if is_list and len(raw) == 2:
        return dict(zip(("question", "answer"), map(_plain, raw), strict=True))
    shown = f"{where} is {str(raw)[:40]!r}"
    raise ValueError(f"{shown}, neither columns nor a (question, answer) pair")


def _json(raw: bytes, where: str):
    try:
        return json.loads(_text(raw, where))
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({error.msg}): write one object a line") from None
    except RecursionError:
        mend = "write one object with columns a line"
        raise ValueError(f"{where} is nested too deeply: {mend}") from None


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
