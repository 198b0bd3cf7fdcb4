"""Artifacts on disk: computed once, written atomically, verified when read.

An artifact is a folder `data/runs/<name>-<key>/` whose `made.json` holds the recipe that made it
(settings, seed, versions) and the SHA-256 of each of its files. The key is a hash of the recipe, so
another recipe is another artifact; a file that does not match its hash is computed again.
"""

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

log = logging.getLogger(__name__)
Arrays = dict[str, np.ndarray]

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
CACHE = DATA / "cache"
for _name in ("STS_OUT", "STS_MIRROR"):  # the same folder for processes started elsewhere
    if os.environ.get(_name):
        os.environ[_name] = os.path.abspath(os.environ[_name])
#: What runs write; `STS_OUT` puts it in another folder (another disk, a test's own).
OUT = os.environ.get("STS_OUT")
RUNS = Path(OUT) / "runs" if OUT else DATA / "runs"
FIGURES = Path(OUT) / "figures" if OUT else ROOT / "figures"
#: What of a large file says which one it is: bytes of a piece and how many, and all of its ends.
PIECE, PIECES, END = 2**14, 2**12, 2**22
#: Bytes of an artifact that are hashed once for all processes: a step over Ray is one of its own.
LARGE = 2**30
#: What `fetch` notes beside the files of a mirror (scale/fetch.py).
FETCHED = "fetched.json"
MEND = "set STS_OUT to a folder that can"
FULL = f"the disk is full: free some space below {RUNS} and start again"


@cache
def versions() -> dict[str, str]:
    """Versions of what computes: part of every recipe."""
    packages = "torch", "transformers", "trl", "sae-lens", "lm-eval", "numpy", "reasoning-gym"
    return {p: importlib.metadata.version(p) for p in packages}


def digest(value: object) -> str:
    """A short hash of anything JSON can write."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content(folder: Path, patterns: Sequence[str]) -> str:
    """A short hash of the files in a folder: their names, sizes, and PIECES of each, which is all
    of one under 64 MB; training changes a matrix everywhere, and the vectors of an SAE lie last."""
    found = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    files = sorted(file for file in found if file.name != FETCHED)
    return _content(tuple(files), _touched(files))


@cache
def _content(files: tuple[Path, ...], touched: tuple[tuple[int, ...], ...]) -> str:
    bits = hashlib.sha256()
    for path, (size, *_) in zip(files, touched, strict=True):
        bits.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            for start in range(0, size, max(PIECE, size // PIECES)):
                file.seek(start)
                bits.update(file.read(PIECE))
            file.seek(max(0, size - END))
            bits.update(file.read())
    return bits.hexdigest()[:12]


def _touched(files: Iterable[Path]) -> tuple[tuple[int, ...], ...]:
    """(size, times and inode) of files: another tuple when one was written."""
    stats = [file.stat() for file in files]
    return tuple((s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for s in stats)


def is_full(error: Exception) -> bool:
    """Whether what failed is a full disk; safetensors says so in words alone."""
    said = f"(os error {errno.ENOSPC})"
    return getattr(error, "errno", None) == errno.ENOSPC or said in str(error)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder that becomes `folder` only when the block ends without an error, and there
    is none by then: another process was first, with the same recipe."""
    owner = f"{platform.node()}.{os.getpid()}"
    scratch = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}@{owner}")
    try:
        scratch.mkdir(parents=True)
        yield scratch
        os.replace(scratch, folder)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) in (errno.ENOTEMPTY, errno.EEXIST) and folder.exists():
            return
        if is_full(error):
            raise ValueError(FULL) from None
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def clear_abandoned() -> None:
    """Delete what killed processes of this machine left half-written in the store."""
    owned = f".*@{platform.node()}.*"
    for scratch in (*RUNS.glob(owned), *CACHE.glob(owned), *(CACHE / "models").glob(owned)):
        if not psutil.pid_exists(int(scratch.name.rpartition(".")[2])):
            shutil.rmtree(scratch, ignore_errors=True)


def check_writable(folder: Path, mend: str) -> None:
    """Raise ValueError, in one line that ends in `mend`, where nothing can be written in `folder`
    (which may not be there yet)."""
    above = next(f for f in (folder, *folder.absolute().parents) if f.exists())
    try:
        with tempfile.TemporaryDirectory(dir=above):
            pass
    except OSError as error:
        raise ValueError(f"{folder} can't be written ({error.strerror}): {mend}") from None


def path(name: str, recipe: Mapping) -> Path:
    """Where the artifact `name` made by `recipe` lies, or will lie."""
    return RUNS / f"{name}-{digest(_whole_recipe(recipe))}"


def _whole_recipe(recipe: Mapping) -> dict:
    return json.loads(json.dumps({**recipe, "versions": versions()}, default=str))


def folder(name: str, recipe: Mapping, make: Callable[[Path], None]) -> Path:
    """The artifact `name` made by `recipe`: found and whole, or made now by `make(folder)`."""
    path_ = path(name, recipe)
    if path_.exists():
        if _whole(path_):
            return path_
        log.warning("%s is damaged: computing it again", path_)
        shutil.rmtree(path_, ignore_errors=True)
    with atomic_folder(path_) as scratch:
        make(scratch)
        files = [file for file in scratch.rglob("*") if file.is_file()]
        hashes = {file.relative_to(scratch).as_posix(): file_hash(file) for file in files}
        made = {"recipe": _whole_recipe(recipe), "files": hashes}
        (scratch / "made.json").write_text(json.dumps(made, indent=1, sort_keys=True))
    return path_


def frame(name: str, recipe: Mapping, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A table, stored as parquet."""

    def make(out: Path) -> None:
        compute().to_parquet(out / "table.parquet", index=False)

    return pd.read_parquet(folder(name, recipe, make) / "table.parquet")


def arrays(name: str, recipe: Mapping, compute: Callable[[], Arrays]) -> Arrays:
    """Named arrays, stored as safetensors."""
    path = folder(name, recipe, lambda out: save_file(compute(), out / "arrays.safetensors"))
    return load_file(path / "arrays.safetensors")


def _whole(path: Path) -> bool:
    """Whether every file of an artifact is there and matches its hash."""
    try:
        hashes = json.loads((path / "made.json").read_text())["files"]
        touched = _touched(path / file for file in hashes)
        note, told = path / "verified.json", json.dumps(touched)
        large = sum(size for size, *_ in touched) > LARGE
        with contextlib.suppress(OSError):
            if large and note.read_text() == told:
                return True
        whole = _matches(path, tuple(hashes.items()), touched)
    except (OSError, ValueError, KeyError):
        return False
    with contextlib.suppress(OSError):
        if large and whole:  # torn or not written, it is only not believed
            note.write_text(told)
    return whole


@cache
def _matches(path: Path, hashes: tuple[tuple[str, str], ...], touched: tuple) -> bool:
    """Whether files have these hashes; a model of gigabytes is read once a process, and again only
    when it was `touched`."""
    return all(file_hash(path / file) == expected for file, expected in hashes)
