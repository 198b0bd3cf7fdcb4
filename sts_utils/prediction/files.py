"""Rows of people's own files, whatever their format."""

import gzip
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pandas as pd
import pyarrow as pa
from datasets import Dataset, IterableDataset
from pyarrow.parquet import ParquetFile

from sts_utils import corpora

KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather")


def kind(path: str | Path) -> str:
    """Which of KINDS a file is, packed (.gz) or not; "" for none."""
    name = Path(path).name.lower().removesuffix(".gz")
    return next((kind for kind in KINDS if name.endswith(kind)), "")


def rows(source) -> Iterator:
    """The rows of a file, a folder of files, a list of files, a Dataset or a list, one at a time:
    of JSON the line, of CSV columns of text, of Arrow a scalar."""
    if isinstance(source, str | Path):
        path = Path(source)
        source = sorted(p for p in path.rglob("*") if kind(p)) if path.is_dir() else [path]
        if not source or not kind(source[0]):
            said = f"no file of {', '.join(KINDS)}, packed by gzip or not"
            raise ValueError(f"{said}; corpora: {', '.join(corpora.TABLE)}")
    if isinstance(source, list) and source and all(isinstance(x, Path) for x in source):
        yield from chain.from_iterable(map(_rows, source))
    elif isinstance(source, Dataset | IterableDataset):
        decoded = [n for n, f in (source.features or {}).items() if hasattr(f, "decode")]
        for part in source.remove_columns(decoded).with_format("arrow").iter(1000):  # no images
            yield from part.to_struct_array()
    else:
        yield from source


def _rows(path: Path) -> Iterator:
    if (which := kind(path)) in (".parquet", ".arrow", ".feather"):
        if which == ".parquet":
            parts = ParquetFile(path).iter_batches(1000)
        else:
            file = pa.memory_map(str(path))
            reader = pa.ipc.open_file if file.read_at(6, 0) == b"ARROW1" else pa.ipc.open_stream
            parts = reader(file).read_all().to_batches(1000)
        for part in parts:
            yield from part.to_struct_array()
        return
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:  # CSV keeps its \r\n
        if which in (".csv", ".tsv"):
            sep = max(",;\t|", key=file.readline().count)
            file.seek(0)
            parts = pd.read_csv(file, sep=sep, dtype=str, keep_default_na=False, chunksize=1000)
            for part in parts:
                if not isinstance(part.index, pd.RangeIndex):  # pandas would shift the columns
                    raise ValueError(f"a row has more fields than the header's {part.shape[1]}")
                yield from part.to_dict("records")
            return
        whole = None  # pandas would make a date of "2020-01-01", and 1.0 of 1
        try:
            whole = json.load(file) if which == ".json" else None
        except json.JSONDecodeError:  # a row a line
            file.seek(0)
        if isinstance(whole, dict):  # that holds the rows, or is one
            whole = next((whole[k] for k in ("data", "rows", "examples") if k in whole), [whole])
        if not isinstance(whole, list | None):
            raise ValueError(f"{str(whole)[:40]} is no list of rows")
        yield from whole or file
