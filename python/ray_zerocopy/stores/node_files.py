"""Node files: an image of the store that lies in a file of this node too, which its processes map instead.

A file lies on huge pages where the store does not (see `disk`), and who has mapped it does not pin the store's copy. It
is on wherever ``RAY_ZEROCOPY_NODE_FILES`` names a folder. In there, each session of Ray has one of its own::

    <boot id>-<session>/<fingerprint>.rzc     an image
                        <object id>.key       a link to one; named-<object id>.key if the object has a name
                        <fingerprint>.lock    held by who writes the image; as long as what is yet to be written
                        failed                why nobody tries to write here, for a while

The boot is in the name because files are written without waiting for the disk: after a crash of the machine they may
hold anything. Files are never changed, only removed: who has one mapped keeps it, and holds a shared lock on it, by
which others know not to remove it.

Whatever fails here is no error: the store's memory is used, and a warning says once in a process what to change.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import mmap
import os
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from .. import core, errors, locks, reading, settings
from ..core import Bytes
from . import connection, disk, files, named, records

_log = logging.getLogger("ray_zerocopy")

SMALLEST = 2 << 20  # bytes: no huge page fits into less, so the store's memory is as good
PATIENCE = 5.0  # seconds for which a disk may be slow
SLOWEST = 50 << 20  # bytes a second: waiting for less is worse than the store's memory
RETRY = 600.0  # seconds until a folder that could not be written to is tried again
_PIECE = 16 << 20
_LOOKS = 100  # in a millisecond each
_ASKING = 2.0  # seconds for the keeper to answer

_IMAGE, _KEY, _LOCK, _FAILED = ".rzc", ".key", ".lock", "failed"
_NAMED = "named-"
_FILE = re.compile(rf"([0-9a-f]{{32}}){re.escape(_IMAGE)}")
_SESSION = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-([\w.-]+)", re.ASCII)


class _Unusable(Exception):
    """Node files cannot be had, for a reason that the message says, with what to change."""


def key(object_id: str, has_name: bool) -> str:
    """What an image is found under."""
    return (_NAMED if has_name else "") + object_id


def chosen() -> Folder | None:
    """Where the files of this session are; None: they are not asked for, or cannot be had.

    Raises:
        SettingError, IsolationError: a variable has a value that it does not take.
        RayNotInitializedError: this process is not connected to Ray.
    """
    asked = settings.node_files()
    if asked is None:
        return None
    try:
        if settings.isolation() == "read-only":
            raise _Unusable(f"they can be written to, which {settings.ISOLATION}=read-only forbids. Set one of them")
        return Folder(asked.folder, asked.nbytes, f"{_boot()}-{connection.session()}")
    except (_Unusable, OSError) as cause:
        _warn_of(asked.folder, str(cause))
        return None


@dataclass(frozen=True)
class Folder:
    """The node files of one session.

    Attributes:
        root: the folder that was asked for.
        limit: bytes that all files there may have, of this user's other sessions too.
        name: of the folder in there that is this session's.
    """

    root: str
    limit: int
    name: str

    def __post_init__(self) -> None:
        if not _SESSION.fullmatch(self.name):
            raise _Unusable(f"this session of Ray has an unexpected name, {self.name!r}")

    @property
    def path(self) -> str:
        return os.path.join(self.root, self.name)

    def find(self, key: str) -> list[Bytes] | None:
        """An image, and those that it shares blocks with, mapped copy-on-write; None: not all of them are here.

        Args:
            key: see `key`.

        Raises:
            ForkedProcessError, CoreUnavailableError: the Go core cannot be used in this process.
        """
        try:
            self._require_trusted()
            match = _FILE.fullmatch(os.readlink(self._at(key + _KEY)))
            found = self._mapped(match[1]) if match else None
            if found is None:
                return None
            whole = [found]
            for fingerprint in reading.base_fingerprints(found):
                found = self._mapped(fingerprint)
                if found is None:
                    return None
                whole.append(found)
            return whole
        except (_Unusable, OSError):  # `keep` says it
            return None

    def keep(self, keys: Sequence[str], memories: Sequence[Bytes]) -> list[Bytes] | None:
        """Write an image, and those that it shares blocks with, and map them; what is here already is not written.

        Args:
            keys: of the image and of each of the others.
            memories: of the same.

        Returns:
            The memory of the files; None: they are not to be had.

        Raises:
            as `find`.
        """
        size = sum(memory.nbytes for memory in memories)
        if size < SMALLEST:
            return None
        try:
            names = [core.fingerprint(core.address(memory), memory.nbytes) for memory in memories]
        except errors.ImageError:  # whoever loads it will say so
            return None
        if any(reading.header(memory).version < 2 for memory in memories):  # its fingerprint is not that of the data
            return None
        try:
            if size > self.limit:
                raise _Unusable(self._too_small(size, 0))
            self._prepare()
            kept = []
            for name, memory in zip(names, memories):
                found = self._mapped(name)
                if found is None:
                    found = self._written(name, memory)
                if found is None:
                    return None
                kept.append(found)
            for each, name in zip(keys, names):  # now: they lead to the whole family
                self._link(each, name)
        except (_Unusable, OSError) as cause:
            _warn_of(self.root, str(cause))
            return None
        return kept

    def remove(self, memories: Sequence[Bytes]) -> None:
        """Remove the files of images whose bytes turned out to be others than those that were put."""
        for memory in memories:
            with contextlib.suppress(OSError):
                os.unlink(self._at(core.fingerprint(core.address(memory), memory.nbytes) + _IMAGE))

    # --- reading ---

    def _at(self, name: str) -> str:
        return os.path.join(self.path, name)

    def _require_trusted(self) -> None:
        """Raise unless nobody else can put images here, which are unpickled."""
        why = locks.distrusted(self.path)
        if why is not None:
            raise _Unusable(why)

    def _mapped(self, fingerprint: str) -> Bytes | None:
        """An image, if it is here; a file that is not the one that was written is removed."""
        path = self._at(fingerprint + _IMAGE)
        with contextlib.suppress(FileNotFoundError), FileIO(path) as file:
            for _ in range(_LOOKS):
                if locks.shared(file):
                    break
                time.sleep(0.001)  # somebody looks whether it is in use
            else:
                return None
            if not os.fstat(file.fileno()).st_nlink:
                return None
            memory = _sound(file.fileno(), fingerprint)
            if memory is None:
                os.unlink(path)
                return None
            with contextlib.suppress(OSError):
                os.utime(file.fileno())  # `_make_room` goes by it
            return memory
        return None

    # --- writing ---

    def _prepare(self) -> None:
        for path in (self.root, self.path):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        self._require_trusted()

    def _written(self, fingerprint: str, memory: Bytes) -> Bytes | None:
        """The file of an image, written by this process or meanwhile by another one; None: that one is still at it."""
        with self._writing(fingerprint, memory.nbytes) as mine:
            if not mine:
                return None
            found = self._mapped(fingerprint)
            if found is not None:
                return found
            self._require_not_failed()
            self._make_room(memory.nbytes, fingerprint + _LOCK)
            since = time.perf_counter()
            try:
                disk.write(self._at(fingerprint + _IMAGE), _paced(memory), durable=False)
            except (_Unusable, errors.FileError) as cause:
                with contextlib.suppress(OSError):
                    Path(self._at(_FAILED)).write_text(str(cause))
                raise
            milliseconds = 1e3 * (time.perf_counter() - since)
            _log.info(f"wrote a file of {memory.nbytes:,} bytes in {self.root!r} in {milliseconds:.1f} ms")
            return self._mapped(fingerprint)

    def _require_not_failed(self) -> None:
        path = Path(self._at(_FAILED))
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime < RETRY:
                raise _Unusable(path.read_text())
            path.unlink()

    @contextlib.contextmanager
    def _writing(self, fingerprint: str, nbytes: int) -> Iterator[bool]:
        """Be the only one that writes an image; False: another one is, for longer than it takes."""
        path = self._at(fingerprint + _LOCK)
        end = time.monotonic() + PATIENCE + nbytes / SLOWEST
        while True:
            with FileIO(path, "a") as file:
                if locks.alone(file) and os.fstat(file.fileno()).st_nlink:
                    try:
                        file.truncate(nbytes)  # takes no room; `_make_room` of others counts it
                        yield True
                    finally:
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(path)
                    return
            if time.monotonic() > end:
                yield False
                return
            time.sleep(0.01)

    def _link(self, key: str, fingerprint: str) -> None:
        target, path = fingerprint + _IMAGE, self._at(key + _KEY)
        with contextlib.suppress(OSError):
            if os.readlink(path) == target:
                return
        new = self._at(f".{secrets.token_hex(8)}{_KEY}")
        os.symlink(target, new)
        with contextlib.suppress(FileNotFoundError):  # `_tidy` of another process took it for one that was left
            os.replace(new, path)

    # --- making room ---

    def _make_room(self, nbytes: int, lock: str) -> None:
        """Remove what nobody uses, least recently used first, until a file of ``nbytes`` fits.

        Args:
            lock: the one that this process holds for it.

        Raises:
            _Unusable: it does not, whatever is removed. Then nothing is.
        """
        sessions = self._sessions()
        self._tidy()
        entries = list(itertools.chain.from_iterable(_entries(path) for path in sessions))
        reserved = sum(entry.size for entry in entries if entry.is_lock and entry.name != lock and not entry.idle())
        images = [entry for entry in entries if not entry.is_lock]
        used = sum(entry.size for entry in images) + reserved
        about = os.statvfs(self.root)
        free = about.f_bavail * about.f_frsize - reserved
        missing = max(used + nbytes - self.limit, nbytes - free)
        if missing <= 0:
            return
        idle = [entry for entry in sorted(images) if entry.idle()]
        if missing > sum(entry.size for entry in idle):
            in_use = used - sum(entry.size for entry in idle)
            if used + nbytes - self.limit >= missing:
                raise _Unusable(self._too_small(nbytes, in_use))
            raise _Unusable(
                f"a file of {nbytes:,} bytes does not fit on this disk, which has {free:,} free: make room, or choose "
                "another folder"
            )
        for entry in idle:
            if missing <= 0:
                return
            if entry.removed():
                missing -= entry.size

    def _too_small(self, nbytes: int, in_use: int) -> str:
        return (
            f"{nbytes:,} bytes do not fit into the {self.limit:,} that all files may have, {in_use:,} of which are in "
            f"use: set {settings.NODE_FILES_BYTES} to more"
        )

    def _sessions(self) -> list[str]:
        """The folders of this user's sessions that go on, once those of others are removed."""
        found, running = [self.path], None
        for name in os.listdir(self.root):
            match, path = _SESSION.fullmatch(name), os.path.join(self.root, name)
            if not match or name == self.name or os.lstat(path).st_uid != os.geteuid():
                continue
            if running is None:
                running = _raylets()
            if match[1] == _boot() and any(match[2] in command for command in running):
                found.append(path)
            else:
                _remove_session(path)
        return found

    def _tidy(self) -> None:
        """Remove links that lead nowhere, those of named models that are gone, and what killed writers have left."""
        asked, alive = False, None
        for name in os.listdir(self.path):
            path = self._at(name)
            if name.endswith(_KEY):
                gone = name.startswith(".") or not os.path.exists(path)
                if not gone and name.startswith(_NAMED):
                    if not asked:
                        asked, alive = True, _named_objects()
                    gone = alive is not None and name[len(_NAMED) : -len(_KEY)] not in alive
                if gone:
                    with contextlib.suppress(OSError):
                        os.unlink(path)
            elif name.endswith((_LOCK, disk.PARTIAL)):
                locks.remove_idle(path)


class _Entry(NamedTuple):
    """A file, in the order in which they are given up: those that no link leads to first."""

    linked: bool
    used: float
    size: int
    folder: str
    name: str

    @property
    def is_lock(self) -> bool:
        return self.name.endswith(_LOCK)

    def idle(self) -> bool:
        """Whether no process has it mapped, or holds it as a lock."""
        with contextlib.suppress(OSError), locks.exclusive(os.path.join(self.folder, self.name)) as alone:
            return alone
        return False

    def removed(self) -> bool:
        """Whether it could be removed, since no process has it mapped."""
        return locks.remove_idle(os.path.join(self.folder, self.name))


def _entries(folder: str) -> Iterator[_Entry]:
    names = os.listdir(folder)
    linked = set()
    for name in names:
        if name.endswith(_KEY):
            with contextlib.suppress(OSError):
                linked.add(os.readlink(os.path.join(folder, name)))
    for name in names:
        if name.endswith((_IMAGE, _LOCK)):
            with contextlib.suppress(OSError):
                about = os.lstat(os.path.join(folder, name))
                yield _Entry(name in linked, about.st_mtime, about.st_size, folder, name)


def _remove_session(path: str) -> None:
    """Remove the folder of a session, as far as nobody uses what is in there."""
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            each = os.path.join(path, name)
            if name.endswith((_IMAGE, _LOCK, disk.PARTIAL)):
                locks.remove_idle(each)
        if not any(name.endswith((_IMAGE, _LOCK, disk.PARTIAL)) for name in os.listdir(path)):
            shutil.rmtree(path, ignore_errors=True)


def _sound(descriptor: int, fingerprint: str) -> Bytes | None:
    """A file that is locked, mapped with its lock, if it is the image with this fingerprint."""
    length = os.fstat(descriptor).st_size
    if length < reading.HEADER_SIZE:
        return None
    # A mapping holds the lock by itself, but not where its file is another one than was opened (overlayfs). Python's
    # has a descriptor of its own, for the same lock, and closes it without running Python code.
    lock = mmap.mmap(descriptor, 1, access=mmap.ACCESS_READ)
    memory = disk.mapping_of(descriptor, length, lock)
    with contextlib.suppress(errors.ImageError):
        if files.checked(memory) == fingerprint:
            return memory
    return None


def _paced(memory: Bytes) -> Iterator[Bytes]:
    """The parts of an image, for a disk that takes them fast enough."""
    start = time.monotonic()
    for offset in range(0, memory.nbytes, _PIECE):
        yield memory[offset : offset + _PIECE]
        seconds, done = time.monotonic() - start, min(offset + _PIECE, memory.nbytes)
        if seconds > PATIENCE and done < min(memory.nbytes, seconds * SLOWEST):
            raise _Unusable(
                f"its disk has taken {done:,} bytes in {seconds:.1f} s, which is slow: choose a folder on a faster one"
            )


@functools.lru_cache(maxsize=None)
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _raylets() -> list[str]:
    """The command lines of the raylets of this machine, in which their sessions stand."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                command = Path("/proc", name, "cmdline").read_bytes()
                if b"raylet" in command.split(b"\0", 1)[0]:
                    found.append(command.decode(errors="replace"))
    return found


def _named_objects() -> set[str] | None:
    """The ids of the objects of all named models; None: nobody can say."""
    with contextlib.suppress(Exception):  # whatever Ray says: it is only asked for the sake of order
        return {row["object_id"] for row in named.ask("list", timeout=_ASKING)} if records.any_names() else set()
    return None


_warned = False


def _warn_of(folder: str, why: str) -> None:
    """Once in a process."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"models that are loaded in this process lie in the memory of Ray's store, and not in files of {folder!r} "
            f"({settings.NODE_FILES}): {why}.",
            errors.NodeFilesWarning,
            stacklevel=2,
        )
