"""Functions that test_ray.py runs as calls in Ray's workers."""

import os
import signal
from pathlib import Path

from sts_utils import store


def killed_once(folder):
    """Dies as if the machine had, the first time; the second time it leaves an artifact."""
    marker = Path(folder) / "first"
    if not marker.exists():
        marker.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    store.folder("killed-once", {}, lambda out: (out / "pid").write_text(str(os.getpid())))


def counted(folder, name):
    """An artifact that notes each time it is made."""

    def make(out):
        with (Path(folder) / name).open("a") as file:
            file.write("made\n")
        (out / "value").write_text(name)

    store.folder("counted", {"name": name}, make)


def seen(folder, *names):
    """What the worker's variables are."""
    (Path(folder) / "seen").write_text(" ".join(os.environ.get(name, "-") for name in names))


def wrong(profile, seed):
    """Fails as bad input does."""
    raise ValueError("corpus 'x' is empty: choose another\nsecond line")
