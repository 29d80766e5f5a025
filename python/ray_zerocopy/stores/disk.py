"""Files of weights: written as a whole or not at all, and mapped where no other process sees a write.

A file that was written with large ``write`` calls lies in large folios of the page cache on file systems that have
them (xfs, and ext4 since Linux 6.16), and a private mapping of the whole file is then mapped as huge pages; Ray's
store in the same folder is not, since its pages come into being by faults.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from .. import core, errors
from ..core import Bytes

_PIECE = 16 << 20  # bytes of one write: larger ones are no faster, and Ctrl-C waits for one
_FOLIO = 2 << 20  # bytes of a huge page, and of the largest folio there is in the page cache
PARTIAL = ".partial"


# --- reading -------------------------------------------------------------------------------------------


class _FileMapping(core.Mapping):
    """A private mapping of a file; it needs no connection to Ray.

    Attributes:
        held: what lives as long.
    """

    def __init__(self, held: Any = None) -> None:
        super().__init__()
        self.held = held

    def detach(self) -> None:
        """Nothing: what is mapped does not end with a connection to Ray."""


def mapped(path: str | os.PathLike[str]) -> Bytes:
    """A file, mapped copy-on-write as long as the array or a view of it is alive.

    Raises:
        FileNotFoundError, PermissionError and other OSErrors: it cannot be opened.
        FileError: it is empty, or no regular file.
        MappingError: the system refuses to map it.
        CoreUnavailableError, ForkedProcessError: the Go core cannot be used in this process.
    """
    with opened(path) as (descriptor, length):
        return mapping_of(descriptor, length)


def mapping_of(descriptor: int, length: int, held: Any = None) -> Bytes:
    """The first ``length`` bytes of an open file as `mapped` gives them; ``held`` lives as long."""
    mapping = _FileMapping(held)
    return core.view(mapping.map_file(descriptor, length), length, mapping)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[tuple[int, int]]:
    """A descriptor of a regular file that is not empty, and the file's length in bytes; closed in the end.

    Raises:
        as `mapped`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # of a pipe, or one would wait for a writer
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise errors.FileError(os.fspath(path), "this is no regular file, which alone can be mapped")
        if not about.st_size:
            raise errors.FileError(os.fspath(path), "this file is empty")
        yield descriptor, about.st_size
    finally:
        os.close(descriptor)


# --- writing -------------------------------------------------------------------------------------------


def write(path: str | os.PathLike[str], parts: Iterable[Any], durable: bool = True) -> None:
    """Write a file, one part after the other: whoever looks sees the file that was there before, if any, or all of the
    new one, whatever happens to this process or this machine. The file can only be read: a write into it would change
    the weights of those who have it mapped.

    Args:
        path: of the file; one that exists is replaced, and who has it open keeps it.
        parts: buffers. They can be made one by one: no two are needed at a time.
        durable: wait until it is on the disk.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
        IsADirectoryError: the path is a folder.
        FileError: the disk is full, or fails, or the folder cannot be written to. Nothing is left of the new file.
    """
    target = os.path.abspath(os.fspath(path))
    folder, name = os.path.split(target)
    if os.path.isdir(target):
        raise IsADirectoryError(errno.EISDIR, "a folder, where a file is to be written", target)
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", folder) from None
    try:
        with _partial(folder, at, name) as (descriptor, partial):
            for piece in _gathered(parts):
                _write(descriptor, piece)
            os.fchmod(descriptor, 0o444)
            if durable:
                os.fsync(descriptor)
            _give_name(descriptor, partial, at, name)
        if durable:
            os.fsync(at)
    except errors.RayZeroCopyError:
        raise
    except OSError as cause:
        raise errors.FileError(target, _why(cause, folder), cause.errno) from cause
    finally:
        os.close(at)


def _why(cause: OSError, folder: str) -> str:
    text = f"it could not be written ({cause.strerror}), and nothing is left of it"
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        text += f". Make room in {folder!r}, or choose another folder"
    return text


def _gathered(parts: Iterable[Any]) -> Iterator[Bytes]:
    """What is written at a time: all of it begins at multiples of 2 MiB, as large folios do, wherever parts end."""
    rest, filled = np.empty(_FOLIO, np.uint8), 0
    for part in parts:
        left = np.frombuffer(part, np.uint8)
        if filled:
            some = left[: _FOLIO - filled]
            rest[filled : filled + some.nbytes] = some
            filled, left = filled + some.nbytes, left[some.nbytes :]
            if filled == _FOLIO:
                yield rest
                filled = 0
        end = left.nbytes // _FOLIO * _FOLIO
        for start in range(0, end, _PIECE):
            yield left[start : min(start + _PIECE, end)]
        if end < left.nbytes:
            filled = left.nbytes - end
            rest[:filled] = left[end:]
    if filled:
        yield rest[:filled]


def _write(descriptor: int, piece: Bytes) -> None:
    # of memory that is not in the page tables yet, Linux copies less at a time, into smaller folios
    with contextlib.suppress(errors.RayZeroCopyError):
        core.prefault(core.address(piece), piece.nbytes)
    while piece.nbytes:
        piece = piece[os.write(descriptor, piece) :]


@contextlib.contextmanager
def _partial(folder: str, at: int, name: str) -> Iterator[tuple[int, str]]:
    """A file to be written to, and its name; one without a name, which ends with this process, where the file system
    has such files."""
    _remove_left(at, name)
    flags = os.O_WRONLY | os.O_CLOEXEC
    try:
        descriptor, partial = os.open(folder, flags | os.O_TMPFILE, 0o600), ""
    except OSError as cause:
        if cause.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL):
            raise
        partial = _new_name(name)
        descriptor = os.open(partial, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=at)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # `_remove_left` goes by it
        yield descriptor, partial
    except BaseException:
        if partial:
            with contextlib.suppress(OSError):
                os.unlink(partial, dir_fd=at)
        raise
    finally:
        os.close(descriptor)


def _new_name(name: str) -> str:
    return f".{name[:200]}.{secrets.token_hex(8)}{PARTIAL}"


def _remove_left(at: int, name: str) -> None:
    """Remove what a writer of this file that was killed has left."""
    for each in os.listdir(at):
        if not each.startswith(f".{name[:200]}.") or not each.endswith(PARTIAL):
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(each, os.O_RDONLY | os.O_CLOEXEC, dir_fd=at)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(each, dir_fd=at)
            finally:
                os.close(descriptor)


def _give_name(descriptor: int, partial: str, at: int, name: str) -> None:
    if not partial:
        unnamed = f"/proc/self/fd/{descriptor}"
        with contextlib.suppress(FileExistsError):
            os.link(unnamed, name, dst_dir_fd=at)
            return
        partial = _new_name(name)
        os.link(unnamed, partial, dst_dir_fd=at)
    try:
        os.replace(partial, name, src_dir_fd=at, dst_dir_fd=at)
    except BaseException:
        os.unlink(partial, dir_fd=at)
        raise
