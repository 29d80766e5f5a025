"""Files that processes lock: by a shared lock, what is in use; by an exclusive one, what somebody writes or removes.

The locks are those of ``flock``: they go with the process that holds them, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from io import FileIO


def shared(file: FileIO) -> bool:
    """Lock a file as one that is in use, if that can be done at once. (A `FileIO` is closed whenever a signal's
    exception comes; a descriptor may be lost then.)"""
    return _locked(file, fcntl.LOCK_SH)


def alone(file: FileIO) -> bool:
    """Lock a file as the only process that uses it, if that can be done at once."""
    return _locked(file, fcntl.LOCK_EX)


def _locked(file: FileIO, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def exclusive(path: str) -> Iterator[bool]:
    """Whether this is the only process that uses a file; no other one begins to, meanwhile."""
    with FileIO(path) as file:
        yield alone(file)


def remove_idle(path: str) -> bool:
    """Remove a file that no process uses; whether that was done."""
    with contextlib.suppress(OSError), exclusive(path) as idle:
        if idle:
            os.unlink(path)
            return True
    return False


def distrusted(folder: str) -> str | None:
    """Why others than this user could put something into a folder; None: nobody can.

    Raises:
        OSError: it cannot be looked at.
    """
    root = os.path.dirname(folder)
    above, about = os.stat(root), os.lstat(folder)
    if above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
        return f"everybody may rename what is in {root!r}: chmod o-w, or chmod +t"
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o022:
        return f"{folder!r} is not a folder that this user alone can write to: remove it"
    return None
