"""Processes that end with the one that started them, even where that is killed outright."""

import subprocess


def watch(signal: str, *ids: int) -> subprocess.Popen:
    """A process that sends `signal` (KILL, TERM) to the processes `ids`, or to the group of a
    negative one, when its input is closed: by leaving it as a context, or when we are gone."""
    script = 'read _; signal=$1; shift; kill -s "$signal" -- "$@" 2>/dev/null'
    words = ["sh", "-c", script, "sh", signal, *map(str, ids)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)
