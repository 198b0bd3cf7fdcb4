"""Functions that test_ray.py runs as calls in Ray's workers."""

import os
import signal
from pathlib import Path

from sts_utils.cache import cached


@cached("model", folder=True)
def killed_once(profile, folder, *, out):
    """Dies as if the machine had, the first time; the second time it leaves an artifact."""
    marker = Path(folder) / "first"
    if not marker.exists():
        marker.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    (out / "pid").write_text(str(os.getpid()))


@cached("model", folder=True)
def counted(profile, folder, name, *, out):
    """An artifact that notes each time it is made."""
    with (Path(folder) / name).open("a") as file:
        file.write("made\n")
    (out / "value").write_text(name)


def seen(folder, *names):
    """What the worker's variables are."""
    (Path(folder) / "seen").write_text(" ".join(os.environ.get(name, "-") for name in names))


def wrong(profile, seed):
    """Fails as bad input does."""
    raise ValueError("corpus 'x' is empty: choose another\nsecond line")
