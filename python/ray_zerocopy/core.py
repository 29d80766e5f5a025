"""The only import of the Go extension: loaded on first use, guarded against forks, its errors mapped.

A process that was forked after the Go runtime had started must not call into it: the runtime's threads do not
exist there and the call can hang for ever. So every call compares the process id with that of the process that loaded
the extension (0.15 us; `os.register_at_fork` would miss forks made by C code).

Addresses and lengths go in as integers; the caller keeps the memory alive during the call.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import itertools
import os
import sys
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from . import errors

Bytes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]  # of as many columns as are said

ALIGNMENT = 64  # of what is stored, in bytes

COPY_ON_WRITE = 1
READ_ONLY = 2

_extension: ModuleType | None = None
_pid = 0


class NotShared(Exception):
    """The address does not lie in a shared mapping: it is this process's own memory already."""


class Unsupported(Exception):
    """This operating system cannot map the store's memory a second time."""


class Scarce(errors.MappingError):
    """This process has no descriptor or no memory left for a mapping, now."""


_ERRORS: dict[str, Callable[[str], Exception]] = {
    "foreign": errors.ForeignImageError,
    "version": errors.ImageVersionError,
    "damaged": errors.DamagedImageError,
    "base": errors.BaseImageError,
    "private": NotShared,
    "unsupported": Unsupported,
    "scarce": Scarce,
    "nofile": errors.MappingError,
    "system": errors.MappingError,
}


def _load() -> ModuleType:
    global _extension, _pid
    if _extension is not None:
        raise errors.ForkedProcessError("calling the Go core")
    _require_descriptors()
    try:
        extension = importlib.import_module("ray_zerocopy._gozc")
    except ImportError as cause:
        raise errors.CoreUnavailableError(
            f"the compiled core ray_zerocopy._gozc cannot be loaded ({cause}). It belongs to one kind of "
            "processor, and a checkout has it only when built: run `pip install` with the wheel for this machine "
            "(ray_zerocopy-...-cp38-abi3-....whl), or `pip install .` in a checkout (a C compiler is needed), with the "
            f"interpreter that runs this program, {sys.executable}."
        ) from cause
    _extension, _pid = extension, os.getpid()
    return extension


def _require_descriptors() -> None:
    """Raise unless this process can open as many files as importing the extension takes: the Go runtime opens some for
    itself then, and would end the process where it cannot."""
    opened: list[int] = []
    try:
        for _ in range(4):
            opened.append(os.dup(opened[0]) if opened else os.open(os.devnull, os.O_RDONLY))
    except OSError as cause:
        raise Scarce(
            f"this process cannot open the few files that loading the Go core takes ({cause}): it has too many open, "
            "or its limit is too low (ulimit -n)"
        ) from cause
    finally:
        for descriptor in opened:
            os.close(descriptor)


def forked() -> bool:
    """Whether this process was forked from one that had loaded the extension, so that it cannot be called here."""
    return _pid not in (0, os.getpid())


def preload() -> None:
    """Import the extension now: the Go runtime needs some milliseconds, and starts beside whatever else is done.

    Whatever is wrong with it is left to the first call.
    """
    if _extension is None:
        with contextlib.suppress(errors.CoreUnavailableError, Scarce):
            _load()


def _call(name: str, *arguments: int | str) -> Any:
    extension = _extension if _pid == os.getpid() and _extension is not None else _load()
    try:
        return getattr(extension, "gozc_" + name)(*arguments)
    except RuntimeError as cause:
        code, _, text = str(cause).partition(": ")
        raise _ERRORS.get(code, errors.CoreError)(text if code in _ERRORS else str(cause)) from None


def address(array: npt.NDArray[Any]) -> int:
    """Where an array's first byte lies."""
    return int(array.__array_interface__["data"][0])


class _Memory:
    """Bytes at an address, for NumPy's array interface; ``owner`` keeps them alive."""

    def __init__(self, address: int, length: int, owner: Any) -> None:
        self.__array_interface__ = {"data": (address, False), "shape": (length,), "typestr": "|u1", "version": 3}
        self.owner = owner


def view(address: int, length: int, owner: Any) -> Bytes:
    """A writable array over ``length`` bytes at ``address`` that keeps ``owner`` alive."""
    return np.asarray(_Memory(address, length, owner))


def format_version() -> int:
    """The version of the image format that is written."""
    return int(_call("FormatVersion"))


def plan(blocks: int, count: int, offsets: int, segments: int) -> int:
    """Lay ``count`` blocks out in segments.

    Args:
        blocks: address of ``count`` rows of two int64: address and length of a block.
        count: number of blocks.
        offsets: address of room for ``count`` int64: each block's offset in the data.
        segments: address of room for ``count + 1`` rows of three int64: a segment's source address (0: packed from
            small blocks), offset in the data and length.

    Returns:
        The number of segments.
    """
    return int(_call("Plan", blocks, count, offsets, segments))


def pack(blocks: int, count: int, offsets: int, segment_offset: int, destination: int, length: int) -> None:
    """Copy the blocks that lie in the packed segment into its buffer of ``length`` bytes at ``destination``."""
    _call("Pack", blocks, count, offsets, segment_offset, destination, length)


def sums(blocks: Rows) -> Rows:
    """Read blocks of memory, on all processors, for their checksums: one for each 16 MiB that a block begins.

    Args:
        blocks: rows of address and length.
    """
    count = int(_call("CountSums", address(blocks), len(blocks)))
    found = np.zeros(count, np.int64)
    _call("Sums", address(blocks), len(blocks), address(found), count)
    return found


def share(blocks: Rows, sums: Rows, bases: Rows) -> Rows:
    """Find the blocks whose bytes lie in other images already.

    Args:
        blocks: rows of address and length.
        sums: what `sums` gives for them.
        bases: rows of address and length, one for each whole image.

    Returns:
        For each block a negative number, which says where in which base it lies (the offset in the block table), or 0.

    Raises:
        ImageVersionError: a base of version 1, which has no checksums.
    """
    offsets = np.zeros(len(blocks), np.int64)
    _call(
        "Share",
        address(blocks),
        len(blocks),
        address(sums),
        len(sums),
        address(bases),
        len(bases),
        address(offsets),
    )
    return offsets


def encode_head(
    segments: Rows, blocks: Rows, offsets: Rows, skeleton: Bytes, sums: Rows, bases: Rows, index: str, about: str
) -> Bytes:
    """The head of an image.

    Args:
        segments: what `plan` has written.
        blocks: rows of address and length.
        offsets: of the blocks, from `plan` and `share`.
        skeleton: the bytes of the skeleton.
        sums: what `sums` gives for the blocks.
        bases: the images that blocks are shared with, as for `share`.
        index, about: JSON texts in ASCII.
    """
    counts = len(segments), len(blocks), skeleton.nbytes, len(index), len(sums), len(about), len(bases)
    head = np.zeros(int(_call("HeadSize", *counts)), np.uint8)
    _call(
        "EncodeHead",
        address(head),
        head.nbytes,
        address(segments),
        len(segments),
        address(blocks),
        address(offsets),
        len(blocks),
        address(skeleton),
        skeleton.nbytes,
        address(sums),
        len(sums),
        address(bases),
        len(bases),
        index,
        about,
    )
    return head


def check_head(head: int, length: int, image_size: int, bases: Rows | None = None) -> int:
    """Validate the head of an image.

    Args:
        head: address of the head.
        length: bytes that may be read there.
        image_size: bytes of the whole image at hand, data included.
        bases: the images that it shares blocks with, as for `share`, in the order of its head; None: they are not at
            hand, and not to be checked.

    Returns:
        The number of blocks.

    Raises:
        ForeignImageError, ImageVersionError, DamagedImageError: the bytes are not a sound image.
        BaseImageError: ``bases`` are others than those of the image.
    """
    at, count = (0, -1) if bases is None else (address(bases), len(bases))
    return int(_call("CheckHead", head, length, image_size, at, count))


def verify(memory: int, length: int, bases: Rows) -> int:
    """Compare the data of an image, ``length`` bytes at ``memory``, and what it shares with its bases (as for
    `check_head`), with the checksums in its head.

    Returns:
        The row of the first block whose bytes are not those that were written; -1 if all are.

    Raises:
        ImageVersionError: an image of version 1, which has no checksums of its data.
        others as `check_head`.
    """
    return int(_call("Verify", memory, length, address(bases), len(bases)))


def index(head: int, length: int) -> str:
    """The index of named tensors, as validated JSON."""
    return str(_call("Index", head, length))


def fingerprint(head: int, length: int) -> str:
    """What tells an image from all others, 32 hexadecimal digits: a hash of its head, with the checksums of its data.

    Raises:
        ForeignImageError, ImageVersionError, DamagedImageError: these bytes do not begin with the head of one.
    """
    return str(_call("Fingerprint", head, length))


def safetensors(head: int, length: int, file_size: int) -> str:
    """The header of a safetensors file, checked, as JSON: the same keys whatever the file's own looks like.

    ``metadata`` holds strings; ``tensors`` stand in the order of the data, each with ``name``, ``dtype`` (the format's
    name), ``shape``, ``begin`` and ``end``, in bytes from the start of the data; ``data`` is where in the file that is.

    Args:
        head: address of the file's first byte.
        length: bytes that may be read there; the header has to be among them.
        file_size: bytes of the whole file.

    Raises:
        ForeignImageError, DamagedImageError: the bytes are not a sound file.
    """
    return str(_call("Safetensors", head, length, file_size))


def check_pickle(address: int, length: int) -> int:
    """Walk through ``length`` bytes of a pickle, without unpickling: no number in it lies about its length.

    Returns:
        How many out-of-band buffers it asks for.

    Raises:
        DamagedImageError: it is no pickle of protocol 5.
    """
    return int(_call("CheckPickle", address, length))


_munmap = ctypes.CDLL(None).munmap
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.py_object]  # the last one is for the weak reference


class Mapping:
    """What `map` maps, unmapped with the last reference to this.

    No Python code runs then: a signal's exception (Ctrl-C) that came in it would be lost, and the mapping left behind
    for good. So what the last reference leads to is the system's function itself, which is given the two words that
    the Go core has written. It does no harm in a forked child, which must not call Go, but has mappings of its own;
    and it fails where nothing was mapped, the length being 0.
    """

    def __init__(self) -> None:
        self._words = (ctypes.c_int64 * 2)()  # address and length
        self.mode = 0  # COPY_ON_WRITE or READ_ONLY, once something is mapped
        base, length = ctypes.c_void_p.from_buffer(self._words), ctypes.c_size_t.from_buffer(self._words, 8)
        for key, reference in list(_mappings.items()):
            if reference() is None:
                _mappings.pop(key, None)
        _mappings[next(_numbers)] = weakref.ref(self, functools.partial(_munmap, base, length))

    def map(self, address: int, length: int, raylet: int, mode: int) -> int:
        """Map the shared memory at ``address`` a second time, `COPY_ON_WRITE` or `READ_ONLY`.

        Args:
            address: start of the bytes in a shared mapping of this process.
            length: number of bytes.
            raylet: process id of this node's raylet, which holds the store's file open, or 0 if unknown.
            mode: `COPY_ON_WRITE` or `READ_ONLY`.

        Returns:
            The address of the same bytes in the new mapping.

        Raises:
            NotShared: ``address`` is in this process's own memory.
            Unsupported: not on this operating system.
            Scarce: this process has no descriptor or memory left.
            MappingError: the store's file cannot be found or opened, or the system refused the mapping.
        """
        self.mode = mode
        return int(_call("Map", address, length, raylet, mode, ctypes.addressof(self._words)))

    def map_file(self, descriptor: int, length: int) -> int:
        """Map the first ``length`` bytes of an open file, copy-on-write. The descriptor can be closed afterwards.

        Returns:
            The address.

        Raises:
            Scarce, MappingError: as `map`.
            Unsupported: not on this operating system.
        """
        self.mode = COPY_ON_WRITE
        return int(_call("MapFile", descriptor, length, ctypes.addressof(self._words)))

    def holds(self, address: int) -> bool:
        """Whether an address lies in what is mapped."""
        return 0 <= address - self._words[0] < self._words[1]

    def addresses(self) -> range:
        """The addresses of what is mapped."""
        return range(self._words[0], self._words[0] + self._words[1])

    def detach(self) -> None:
        """Make what is mapped, if anything, this process's own, whatever is written to the store from then on.

        Takes as much private memory as the mapping is long. Other threads may use it meanwhile.

        Raises:
            MappingError: the system refused it, or has not enough memory; the bytes may still be the store's.
        """
        if self._words[1]:
            _call("Detach", ctypes.addressof(self._words), self.mode)


_mappings: dict[int, weakref.ref[Mapping]] = {}
_numbers = itertools.count()


def mappings() -> list[Mapping]:
    """Those that are still referred to."""
    return [mapping for reference in list(_mappings.values()) if (mapping := reference()) is not None]


def failpoint(place: str = "", number: int = 0, errno: int = 0) -> int:
    """Have system calls of the Go core fail, for tests: the one with this number (from 1; 0: each) at a place ("": at
    any) with this error number, or, with an error number of 0, none any more.

    Places are named after their system calls: open, read, fstat, fcntl, ioctl, mmap, mremap, mprotect, madvise.

    Returns:
        How many calls have come by since the last time.
    """
    return int(_call("Failpoint", place, number, errno))


def prefault(address: int, length: int) -> None:
    """Fill the page tables for ``length`` bytes at ``address`` on several threads."""
    _call("Prefault", address, length)
