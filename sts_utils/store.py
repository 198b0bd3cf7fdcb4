"""Folders of the project, and files that are written whole or not at all."""

import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
from safetensors import SafetensorError

PACKAGE = Path(__file__).resolve().parent
#: What is read and where is written: a clone; or what a wheel carries of it, and the home folder.
ROOT = HOME = PACKAGE.parent
if (PACKAGE / "files").is_dir():
    ROOT, HOME = PACKAGE / "files", Path.home() / ".cache/crystal-ball"
DATA, CACHE = ROOT / "data", HOME / "data/cache"
#: What runs write; `STS_OUT` puts it in another folder (another disk, a test's own).
RUNS, FIGURES = HOME / "data/runs", HOME / "figures"
if out := os.environ.get("STS_OUT"):
    os.environ["STS_OUT"] = out = os.path.abspath(out)  # for processes started elsewhere
    RUNS, FIGURES = Path(out) / "runs", Path(out) / "figures"


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
    own = f"{uuid.uuid4().hex[:8]}@{platform.node()}.{os.getpid()}"
    scratch = folder.with_name(f".{folder.name}.{own}")
    try:
        scratch.mkdir(parents=True)
        yield scratch
        os.replace(scratch, folder)
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)  # safetensors says it in words alone
        if number == errno.ENOSPC or f"(os error {errno.ENOSPC})" in str(error):
            raise ValueError(f"the disk is full: free some space below {RUNS}") from None
        if number not in (errno.ENOTEMPTY, errno.EEXIST) or not folder.exists():
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
    """Raise ValueError, in one line that ends in `mend`, where `folder` (new or not) is closed."""
    above = next(f for f in (folder, *folder.absolute().parents) if f.exists())
    try:
        with tempfile.TemporaryDirectory(dir=above):
            pass
    except OSError as error:
        raise ValueError(f"{folder} can't be written ({error.strerror}): {mend}") from None


def watch(signal: str, *ids: int) -> subprocess.Popen:
    """A process that outlives this one, even killed, and then, or when left as a context, sends
    `signal` (KILL, TERM) to the processes `ids`, or to the group of a negative one."""
    script = 'read _; signal=$1; shift; kill -s "$signal" -- "$@" 2>/dev/null'
    words = ["sh", "-c", script, "sh", signal, *map(str, ids)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)
