"""What is in an image that is at hand: rebuilt, or read by name; and what its bytes say of themselves.

Nothing is read before the Go core has checked the head.
"""

from __future__ import annotations

import bisect
import functools
import json
import struct
import sys
import typing
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from . import collector, core, errors
from .core import Bytes
from .graph import skeleton, tensors

_HEADER = struct.Struct("<8sIIQQQQQQQQI4xQQQQQ")
HEADER_SIZE = _HEADER.size
_TABLES = HEADER_SIZE  # the segment table starts here, the block table follows
_ROW = 16
_BASE = struct.Struct("<QQQ")  # fingerprint, low half first, and length in bytes


class Header(NamedTuple):
    """The fields of an image's header, as docs/format.md names them."""

    magic: bytes
    version: int
    byte_order: int
    image_size: int
    head_size: int
    segment_count: int
    block_count: int
    skeleton_offset: int
    skeleton_size: int
    index_offset: int
    index_size: int
    checksum: int
    checksum_offset: int
    checksum_count: int
    about_offset: int
    about_size: int
    base_count: int


def header(memory: Bytes) -> Header:
    """The header of an image that was checked, or is about to be."""
    return Header._make(_HEADER.unpack_from(memory))


def rows(bases: Sequence[Bytes]) -> core.Rows:
    """Address and length of each image, for the Go core."""
    return np.array([(core.address(base), base.nbytes) for base in bases], np.int64).reshape(len(bases), 2)


class Opened:
    """A checked image over its memory, and what can be read of it without unpickling.

    Raises:
        ForeignImageError, ImageVersionError, DamagedImageError: the bytes are not a sound image.
        BaseImageError: ``bases`` are others than those that it shares blocks with.
    """

    def __init__(self, memory: Bytes, bases: Sequence[Bytes]) -> None:
        check(memory, bases)
        self.memory, self.bases, self.header = memory, bases, header(memory)
        self.whole = memoryview(memory)
        self._starts: dict[int | None, list[int]] = {}  # of the segments here (None) and in the bases
        self._datas = [memoryview(base)[header(base).head_size :] for base in bases]
        self._data = self.whole[self.header.head_size :]
        start, count = _TABLES + _ROW * self.header.segment_count, self.header.block_count
        rows = np.frombuffer(memory, np.uint64, 2 * count, start).reshape(count, 2)
        self._offsets, self._sizes = rows.T.tolist()

    def blocks(self) -> list[memoryview]:
        """All blocks."""
        if self.bases:
            return [self.block(row) for row in range(len(self._sizes))]
        data = self._data
        return [data[offset : offset + size] for offset, size in zip(self._offsets, self._sizes)]

    def block(self, row: int) -> memoryview:
        """One of them."""
        base, offset = self._place(row)
        data = self._data if base is None else self._datas[base]
        return data[offset : offset + self._sizes[row]]

    def _place(self, row: int) -> tuple[int | None, int]:
        """The base in which a block lies, if it does, and its offset in the data there."""
        offset = self._offsets[row]
        return (None, offset) if offset < _SHARED else place_in_base(offset)

    def skeleton(self) -> memoryview:
        return self.whole[self.header.skeleton_offset :][: self.header.skeleton_size]

    def row_of(self, entry: dict[str, Any]) -> tuple[int, int]:
        """The block in which a tensor of the index lies, and the byte in it at which its first element does; -1 for one
        without elements.

        Raises:
            DamagedImageError: no block has it.
        """
        if entry["segment"] < 0 or 0 in entry["shape"]:
            return -1, 0
        base = entry.get("base")
        if base not in self._starts:
            self._starts[base] = starts(self.memory if base is None else self.bases[base])
        begins = self._starts[base]
        if entry["segment"] >= len(begins):
            raise errors.DamagedImageError(
                f"index: {entry['name']!r} lies in segment {entry['segment']}, expected one of {len(begins)}"
            )
        first = begins[entry["segment"]] + entry["offset"]
        last = sum((size - 1) * stride for size, stride in zip(entry["shape"], entry["stride"]))
        end = first + (last + 1) * _itemsize(entry["dtype"])
        places = self._sorted.get(base, [])
        at = bisect.bisect(places, (first, sys.maxsize))
        for begin, row in reversed(places[:at]):
            if end <= begin + self._sizes[row]:
                return row, first - begin
        raise errors.DamagedImageError(f"index: {entry['name']!r} lies in no block")

    def begins_in(self, at: int, begin: int, row: int) -> bool:
        """Whether byte ``begin`` of the block ``at`` (-1: none) lies in another one."""
        if at < 0:
            return False
        (base, offset), (other, start) = self._place(at), self._place(row)
        return base == other and 0 <= offset + begin - start < self._sizes[row]

    def where(self, row: int) -> str:
        """Where a block lies, in words."""
        base, offset = self._place(row)
        memory = self.memory if base is None else self.bases[base]
        of = "" if base is None else f" of base {base}"
        return f" at {header(memory).head_size + offset:,}{of}"

    @functools.cached_property
    def _sorted(self) -> dict[int | None, list[tuple[int, int]]]:
        """Of the image (None) and of each base: the offsets of the blocks that lie there, in order, with their rows."""
        found: dict[int | None, list[tuple[int, int]]] = {}
        for row, size in enumerate(self._sizes):
            if size:
                base, offset = self._place(row)
                found.setdefault(base, []).append((offset, row))
        for places in found.values():
            places.sort()
        return found


_SHARED = 1 << 63  # the bit of an offset in the block table that says so


def place_in_base(offset: int) -> tuple[int, int]:
    """The base, and the offset in its data, in the offset of a shared block."""
    return offset >> 48 & 0x7FFF, offset & (1 << 48) - 1


def starts(memory: Bytes) -> list[int]:
    """The offsets of an image's segments."""
    count = header(memory).segment_count
    return cast("list[int]", np.frombuffer(memory, np.uint64, 2 * count, _TABLES)[::2].tolist())


def _itemsize(dtype: str) -> int:
    return cast(torch.dtype, getattr(torch, dtype)).itemsize


def check(memory: Bytes, bases: Sequence[Bytes] = ()) -> None:
    """Check the head of an image, and that its bases are those that it shares blocks with. The data is not read.

    Raises:
        ForeignImageError, ImageVersionError, DamagedImageError, BaseImageError: as `load`.
    """
    core.check_head(core.address(memory), memory.nbytes, memory.nbytes, rows(bases))


def about_text(memory: Bytes) -> str:
    """What an image that was checked says of itself, a JSON text in ASCII; empty if it says nothing.

    Raises:
        DamagedImageError: it is something else.
    """
    head = header(memory)
    text = memory[head.about_offset :][: head.about_size].tobytes()
    try:
        if b"\0" not in text:
            return text.decode("ascii")
    except UnicodeDecodeError:
        pass
    raise errors.DamagedImageError("what the image says of itself is not JSON in ASCII")


def base_fingerprints(memory: Bytes) -> list[str]:
    """The fingerprints of the images that an image, which was checked, shares blocks with, in the order of its head."""
    head = header(memory)
    start = -(-(head.about_offset + head.about_size) // core.ALIGNMENT) * core.ALIGNMENT
    return [
        f"{high:016x}{low:016x}" for low, high, _ in _BASE.iter_unpack(memory[start:][: head.base_count * _BASE.size])
    ]


def index(memory: Bytes) -> list[dict[str, Any]]:
    """The index of an image, as docs/format.md describes it; ``memory`` is its head at least.

    Raises:
        ForeignImageError, ImageVersionError, DamagedImageError: the head, or the index in it, is not sound.
    """
    entries: list[dict[str, Any]] = json.loads(core.index(core.address(memory), memory.nbytes))["tensors"]
    return entries


def named_tensors(memory: Bytes, bases: Sequence[Bytes] = ()) -> list[tuple[dict[str, Any], torch.Tensor]]:
    """The entries of an image's index, each with its tensor over the image's memory. Nothing is unpickled.

    Raises:
        as `load`.
    """
    opened = Opened(memory, bases)
    storages: dict[int, torch.UntypedStorage] = {}
    found = []
    with tensors.outside_of_modes():
        for entry in index(memory):
            row, begin = opened.row_of(entry)
            made = torch.empty(0, dtype=getattr(torch, entry["dtype"]))
            if row < 0:
                made = made.new_empty(entry["shape"])
            else:
                if row not in storages:
                    storages[row] = tensors.storage_over(opened.block(row))
                if begin % made.itemsize:
                    raise errors.DamagedImageError(f"index: {entry['name']!r} begins at byte {begin} of its storage")
                made.set_(storages[row], begin // made.itemsize, entry["shape"], entry["stride"])
            found.append((entry, made))
    return found


@collector.paused
def load(
    memory: Bytes,
    carried: list[Any],
    copied: int = 0,
    imports: skeleton.Imports | None = None,
    single: int | None = None,
    bases: Sequence[Bytes] = (),
) -> Any:
    """Rebuild the object of an image over its memory, which stays alive as long as a tensor of the object does.

    Args:
        memory: the whole image.
        carried: what travelled beside it.
        copied: blocks of up to so many bytes are copied, and the others are used where they lie.
        imports: as in `skeleton.load`.
        single: the block with the skeleton of a part: that part only.
        bases: the images that it shares blocks with, whole.

    Raises:
        ForeignImageError, ImageVersionError, DamagedImageError: the bytes are not a sound image.
        BaseImageError: ``bases`` are other ones.
        ClassNotFoundError: a class of the object cannot be imported in this process.
    """
    opened = Opened(memory, bases)
    if single is not None:
        if single >= opened.header.block_count:
            raise errors.DamagedImageError(f"a part in block {single} of {opened.header.block_count}")
        few = _Blocks(opened, copied)
        with tensors.outside_of_modes():
            return skeleton.load(few[single], few, carried, imports)
    parts = opened.blocks()
    if copied:
        parts = [memoryview(bytearray(part)) if len(part) <= copied else part for part in parts]
    with tensors.outside_of_modes():
        return skeleton.load(opened.skeleton(), parts, carried, imports)


class _Blocks(typing.Sequence[memoryview]):
    """The blocks of an image, of which a part needs few."""

    def __init__(self, opened: Opened, copied: int) -> None:
        self._opened, self._copied = opened, copied

    def __len__(self) -> int:
        return self._opened.header.block_count

    def __getitem__(self, row: Any) -> Any:
        part = self._opened.block(row)
        return memoryview(bytearray(part)) if len(part) <= self._copied else part


def verify(memory: Bytes, bases: Sequence[Bytes] = ()) -> None:
    """Compare all bytes of an image, and those that it shares with its bases, with its checksums.

    Raises:
        DamagedImageError: they differ; it names the first tensor that does.
        ImageVersionError: version 1 of the format has no checksums of the data.
        ForeignImageError: the bytes are no image.
        BaseImageError: ``bases`` are other ones.
    """
    row = core.verify(core.address(memory), memory.nbytes, rows(bases))
    if row < 0:
        return
    opened = Opened(memory, bases)
    length = len(opened.block(row))
    names = [entry["name"] for entry in index(memory) if opened.begins_in(*opened.row_of(entry), row)]
    what = f"tensor {names[0]!r}" if names else "something that is no named tensor"
    if len(names) > 1:
        what += f" and {len(names) - 1} that share its memory"
    raise errors.DamagedImageError(
        f"the bytes of {what} (block {row}, {length:,} bytes{opened.where(row)}) are not those that were put"
    )
