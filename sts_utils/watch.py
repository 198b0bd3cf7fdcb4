"""Processes that end with the one that started them, even where that is killed outright."""

import subprocess

#: Waits until its starter is gone, which closes its input, and sends a signal to what it is told.
SCRIPT = 'read _; signal=$1; shift; kill -s "$signal" -- "$@" 2>/dev/null'


def watch(signal: str, *ids: int) -> subprocess.Popen:
    """A process that sends `signal` (KILL, TERM) to the processes `ids`, or to the group of a
    negative one, when this process is gone; killed, it lets them live."""
    told = ["sh", "-c", SCRIPT, "sh", signal, *map(str, ids)]
    return subprocess.Popen(told, stdin=subprocess.PIPE, start_new_session=True)
