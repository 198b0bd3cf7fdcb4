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
        inside = sorted(p for p in path.rglob("*") if kind(p)) if path.is_dir() else [path]
        if not inside or not kind(inside[0]):
            said = f"no file of {', '.join(KINDS)}, packed by gzip or not"
            raise ValueError(f"{said}; corpora: {', '.join(corpora.TABLE)}")
        yield from chain.from_iterable(map(_rows, inside))
    elif isinstance(source, Dataset | IterableDataset):
        decoded = [n for n, f in (source.features or {}).items() if hasattr(f, "decode")]
        for part in source.remove_columns(decoded).with_format("arrow").iter(1000):  # no images
            yield from part.to_struct_array()
    elif isinstance(source, list) and source and all(isinstance(x, Path) for x in source):
        yield from chain.from_iterable(map(_rows, source))
    else:
        yield from source


def _rows(path: Path) -> Iterator:
    how, opened = {"encoding": "utf-8-sig"}, gzip.open if path.name.endswith(".gz") else open
    if (which := kind(path)) == ".parquet":
        for part in ParquetFile(path).iter_batches(1000):
            yield from part.to_struct_array()
    elif which in (".arrow", ".feather"):
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file if file.read(6) == b"ARROW1" else pa.ipc.open_stream
            file.seek(0)
            for part in reader(file).read_all().to_batches(1000):
                yield from part.to_struct_array()
    elif which in (".csv", ".tsv"):
        with opened(path, "rt", **how) as file:
            header = file.readline()
        how |= {"sep": max(",;\t|", key=header.count), "chunksize": 1000}
        for part in pd.read_csv(path, dtype=str, keep_default_na=False, **how):
            if not isinstance(part.index, pd.RangeIndex):  # pandas would shift the columns
                raise ValueError(f"a row has more fields than the header's {part.shape[1]}")
            yield from part.to_dict("records")
    else:  # pandas would make a date of "2020-01-01", and 1.0 of 1
        with opened(path, "rt", **how) as lines:
            yield from (which == ".json" and _array(lines)) or lines


def _array(file) -> list | None:
    """The rows of a JSON file that is one array, or an object that holds it; None of lines."""
    try:
        whole = json.load(file)
    except json.JSONDecodeError:
        file.seek(0)
        return None
    named = whole if isinstance(whole, dict) else {}
    return next(
        (named[k] for k in ("data", "rows", "examples") if k in named), (named and [named]) or whole
    )
