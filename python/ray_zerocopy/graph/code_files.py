"""Libraries of compiled models in files of this node: one folder for each, shared by all processes that use it.

The system's loader takes a library from a file, and its pages are shared by the processes that load the same one. The
folder is named by the digest of what is in it::

    <temporary folder>/ray-zerocopy-code-<user id>/<digest>/...    its files
                                                   <digest>.lock   locked by who uses them, and by who writes them

It is removed by the last process that uses it; if that is killed, by the next one that loads a compiled model.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from io import FileIO
from typing import Any, Tuple

import numpy as np

from .. import errors, locks

PATIENCE = 60.0  # seconds for another process to write a library
_LOCK, _PARTIAL = ".lock", ".partial"

# A file: its length in bytes, and the pieces of it with their offsets; what is between them is zero.
File = Tuple[int, "Sequence[tuple[int, np.ndarray[Any, Any]]]"]


def placed(name: str, files: Mapping[str, File], user: Any) -> str:
    """The folder in which files lie, as long as some process uses them.

    Args:
        name: their `digest`.
        files: by name.
        user: the folder is kept while this is alive.

    Raises:
        FileError: they could not be written.
    """
    root = os.path.join(tempfile.gettempdir(), f"ray-zerocopy-code-{os.geteuid()}")
    folder, path = os.path.join(root, name), os.path.join(root, name + _LOCK)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(root, 0o700)
        why = locks.distrusted(root)
        if why is not None:
            raise errors.FileError(root, f"compiled code cannot be kept here: {why}")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            lock = FileIO(path, "a")
            if locks.alone(lock) and os.fstat(lock.fileno()).st_nlink and not os.path.exists(folder):
                _write(root, folder, files)
            # a lock is not made a shared one in one step, but nobody else removes a folder that was just written
            if locks.shared(lock) and os.fstat(lock.fileno()).st_nlink and os.path.exists(folder):
                weakref.finalize(user, _left, os.getpid(), lock, path, folder)
                _tidy(root)
                return folder
            lock.close()
            time.sleep(0.01)
    except OSError as cause:
        if isinstance(cause, errors.FileError):
            raise
        raise errors.FileError(
            root,
            f"compiled code cannot be written here: {cause.strerror or cause}. Make room, or set TMPDIR to another "
            "folder of this node before the process starts",
            cause.errno,
        ) from cause
    raise errors.FileError(folder, f"another process has been writing compiled code here for {PATIENCE:g} s")


def digest(files: Mapping[str, File]) -> str:
    """By which files are known: of their names and bytes."""
    made = hashlib.blake2b(digest_size=16)
    for name, (length, pieces) in sorted(files.items()):
        made.update(f"{name}\0{length}\0".encode())
        for offset, piece in pieces:
            made.update(f"{offset}\0{piece.nbytes}\0".encode())
            made.update(piece.data)
    return made.hexdigest()


def _write(root: str, folder: str, files: Mapping[str, File]) -> None:
    partial = os.path.join(root, secrets.token_hex(8) + _PARTIAL)
    os.mkdir(partial, 0o700)
    try:
        for name, (length, pieces) in files.items():
            with open(os.path.join(partial, os.path.basename(name)), "wb") as file:
                for offset, piece in pieces:
                    file.seek(offset)
                    file.write(piece.data)
                file.truncate(length)
        os.rename(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _tidy(root: str) -> None:
    """Remove what killed processes have left."""
    for name in os.listdir(root):
        path = os.path.join(root, name)
        with contextlib.suppress(OSError):
            if name.endswith(_LOCK):
                with locks.exclusive(path) as idle:
                    if idle:
                        shutil.rmtree(path[: -len(_LOCK)], ignore_errors=True)
                        os.unlink(path)
            elif name.endswith(_PARTIAL) and time.time() - os.stat(path).st_mtime > 2 * PATIENCE:
                shutil.rmtree(path, ignore_errors=True)


def _left(pid: int, lock: FileIO, path: str, folder: str) -> None:
    """A user is gone: the last one removes the folder."""
    with contextlib.suppress(OSError), lock:
        # a forked process has the same lock, by which it would take it from the one that uses the folder
        if pid == os.getpid() and locks.alone(lock) and os.fstat(lock.fileno()).st_nlink:
            shutil.rmtree(folder, ignore_errors=True)
            os.unlink(path)
