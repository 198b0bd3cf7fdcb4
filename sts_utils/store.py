"""Folders of the project, and files that are written whole or not at all."""

import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
from safetensors import SafetensorError

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
CACHE = DATA / "cache"
if os.environ.get("STS_OUT"):  # the same folder for processes started elsewhere
    os.environ["STS_OUT"] = os.path.abspath(os.environ["STS_OUT"])
#: What runs write; `STS_OUT` puts it in another folder (another disk, a test's own).
OUT = os.environ.get("STS_OUT")
RUNS = Path(OUT) / "runs" if OUT else DATA / "runs"
FIGURES = Path(OUT) / "figures" if OUT else ROOT / "figures"


def digest(value: object) -> str:
    """A short hash of anything JSON can write."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder that becomes `folder` only when the block ends without an error, and there
    is none by then: another process was first. Raises ValueError, in one line, for a full disk."""
    scratch = folder.with_name(
        f".{folder.name}.{uuid.uuid4().hex[:8]}@{platform.node()}.{os.getpid()}"
    )
    try:
        scratch.mkdir(parents=True)
        yield scratch
        os.replace(scratch, folder)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) in (errno.ENOTEMPTY, errno.EEXIST) and folder.exists():
            return
        full = f"(os error {errno.ENOSPC})" in str(error)  # safetensors says so in words alone
        if full or getattr(error, "errno", None) == errno.ENOSPC:
            mend = f"free some space below {RUNS} and start again"
            raise ValueError(f"the disk is full: {mend}") from None
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def clear_abandoned() -> None:
    """Delete what killed processes of this machine left half-written."""
    for folder in (RUNS, CACHE, CACHE / "models"):
        for scratch in folder.glob(f".*@{platform.node()}.*"):
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
