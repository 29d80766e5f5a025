"""An image: one contiguous run of bytes that holds a model or pipeline (docs/format.md describes it to the byte).

Python hands addresses and lengths to the Go core, which plans the layout, writes the head and checks it again when an
image is loaded. The weights themselves are never touched here: they go from where torch keeps them into the store.
"""

from __future__ import annotations

import bisect
import functools
import gc
import json
import os
import struct
import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from . import core, errors
from .core import Bytes
from .graph import skeleton, tensors
from .graph.private import PrivateBytes

_HEADER = struct.Struct("<8sIIQQQQQQQQI4xQQQQQ")
_F = TypeVar("_F", bound="Callable[..., Any]")  # quoted: not to be subscripted before Python 3.9
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


@dataclass
class Image:
    """An image that is about to be stored.

    Attributes:
        parts: the head, then the segments, in order; most segments are views of the model's own memory.
        carried: object references and actor handles that travel beside the image. Whoever stores an image with bases
            adds their references.
        size: length in bytes once the parts lie one after the other, each at a multiple of 64.
        owners: what keeps the memory behind ``parts`` alive.
        tensors: number of tensors in the index.
        blocks: number of blocks of memory: of storages, arrays and other buffers. Skeletons of parts (see `build`)
            follow.
        private: what a process that loads it holds by itself.
        bases: the numbers of those given that have blocks of it.
        shared: bytes of those blocks.
    """

    parts: list[Bytes]
    carried: list[Any]
    size: int
    owners: list[Any]
    tensors: int
    blocks: int
    private: PrivateBytes
    bases: list[int]
    shared: int


_paused = False


def _collector_paused(function: _F) -> _F:
    """Keep Python's cyclic garbage collector from running during a function.

    A model is thousands of objects made in one go, none of which is garbage yet. The collector would run every few
    hundred of them (gc.get_threshold()), and now and then over everything in the process, which takes longer than all
    the rest of a load. After the pause it runs once for all of them.
    """

    @functools.wraps(function)
    def paused(*args: Any, **kwargs: Any) -> Any:
        global _paused
        if not gc.isenabled():  # by the user, or by another thread that is in here
            return function(*args, **kwargs)
        try:  # as it stands: Python looks for signals after a call, and between this and a context manager's own code
            _paused = True
            gc.disable()
            return function(*args, **kwargs)
        finally:
            _paused = False
            gc.enable()

    return cast(_F, paused)


def _resume() -> None:
    """In a forked child: the thread that has paused the collector is not there to end the pause."""
    if _paused:
        gc.enable()


os.register_at_fork(after_in_child=_resume)


@_collector_paused
def build(
    root: Any,
    name: str,
    named: Iterable[tuple[str, torch.Tensor, bool]],
    parts: Sequence[Any] = (),
    about: Callable[[int, PrivateBytes], dict[str, Any]] | None = None,
    bases: Sequence[Bytes] = (),
) -> Image:
    """Make the image of an object, without copying any large block of bytes.

    Args:
        root: a model, a pipeline, or any object.
        name: what errors call it.
        named: name, tensor and whether ``state_dict`` has it, for the index.
        parts: of the object, each of which can be loaded by itself, too.
        about: what the image shall say of itself, given `Image.blocks` and `Image.private`.
        bases: other images, whole. Blocks whose bytes one of them has are left out.

    Raises:
        UnpicklableError, DeviceError: as `skeleton.dump`.
        ImageVersionError: a base of version 1.
    """
    with tensors.outside_of_modes():
        apart = skeleton.dump(root, name, parts)
    blocks = np.array(apart.blocks, np.int64).reshape(len(apart.blocks), 2)
    contents = _Contents(
        np.frombuffer(apart.data, np.uint8),
        blocks,
        _entries(named, apart),
        json.dumps(about(apart.parts, apart.private), separators=(",", ":")) if about else "",
    )
    views, size, used, shared = _laid_out(contents, bases)
    return Image(
        views,
        apart.carried,
        size,
        apart.owners,
        len(contents.entries),
        apart.parts,
        apart.private,
        used,
        shared,
    )


def again(
    memory: Bytes,
    old: Sequence[Bytes],
    bases: Sequence[Bytes] = (),
    about: Callable[[str, list[int]], str] | None = None,
) -> tuple[list[Bytes], int]:
    """The parts, and the length in bytes, of an image with the same content and other bases.

    Args:
        memory: the whole image, and ``old`` its bases; the parts keep them alive.
        bases: those of the new one.
        about: makes its JSON text of that of the old one, and of the numbers of the bases that have blocks of it.

    Raises:
        ForeignImageError, ImageVersionError, DamagedImageError, BaseImageError: as `load`.
    """
    opened = _Opened(memory, old)
    head = opened.header
    blocks = np.array(
        [(core.address(np.frombuffer(block, np.uint8)) if block else 0, len(block)) for block in opened.blocks()],
        np.int64,
    ).reshape(head.block_count, 2)
    entries = []
    for entry in opened.index():
        row, begin = opened.row_of(entry)
        known = (entry[key] for key in ("name", "dtype", "shape", "stride", "persistent"))
        entries.append(_Entry._make((*known, row, begin)))
    text = opened.about()
    contents = _Contents(memory[head.skeleton_offset :][: head.skeleton_size], blocks, entries, text)
    return _laid_out(contents, bases, about and (lambda used: about(text, used)), (memory, old))[:2]


class _Entry(NamedTuple):
    """A tensor of the index; ``row`` is the block in which it lies, -1 for one without elements, and ``begin`` the byte
    there at which its first element does."""

    name: str
    dtype: str
    shape: list[int]
    stride: list[int]
    persistent: bool
    row: int
    begin: int


@dataclass
class _Contents:
    """What an image is made of, before it is laid out.

    Attributes:
        skeleton: its bytes.
        blocks: rows of address and length.
        entries: of the index.
        about: a JSON text.
    """

    skeleton: Bytes
    blocks: core.Rows
    entries: list[_Entry]
    about: str


def _laid_out(
    contents: _Contents, bases: Sequence[Bytes], about: Callable[[list[int]], str] | None = None, owner: Any = None
) -> tuple[list[Bytes], int, list[int], int]:
    """The parts of an image, its length in bytes, the numbers of the bases that have blocks of it, and the bytes of
    those blocks, which are left out."""
    blocks, count = contents.blocks, len(contents.blocks)
    sums = core.sums(blocks)
    shared, used = _shared(blocks, sums, bases)
    bases = [bases[number] for number in used]
    rows = _rows(bases)
    own = blocks * (shared == 0)[:, None] if bases else blocks  # what is shared takes no room
    offsets = np.zeros(count, np.int64)
    table = np.zeros((count + 1, 3), np.int64)
    segments = table[: core.plan(core.address(own), count, core.address(offsets), core.address(table))]
    if bases:
        offsets = np.where(shared < 0, shared, offsets)
    index = json.dumps({"tensors": _index(contents.entries, offsets, segments, bases)}, separators=(",", ":"))
    text = about(used) if about else contents.about
    views = [core.encode_head(segments, blocks, offsets, contents.skeleton, sums, rows, index, text)]
    for source, offset, length in segments.tolist():
        if source:
            views.append(core.view(source, length, owner))
        else:
            packed = np.zeros(length, np.uint8)
            core.pack(core.address(own), count, core.address(offsets), offset, core.address(packed), length)
            views.append(packed)
    end = int(segments[-1, 1] + segments[-1, 2]) if len(segments) else 0
    return views, views[0].nbytes + end, used, int(blocks[shared < 0, 1].sum())


def _shared(blocks: core.Rows, sums: core.Rows, bases: Sequence[Bytes]) -> tuple[core.Rows, list[int]]:
    """For each block its offset in a base, a negative number, or 0; and the numbers of the bases that are needed, which
    are counted anew in the offsets."""
    if not bases:
        return np.zeros(len(blocks), np.int64), []
    shared = core.share(blocks, sums, _rows(bases))
    numbers = shared >> 48 & 0x7FFF
    used, places = np.unique(numbers[shared < 0], return_inverse=True)
    shared[shared < 0] += (places.reshape(-1) - numbers[shared < 0]) << 48
    return shared, used.tolist()


def _rows(bases: Sequence[Bytes]) -> core.Rows:
    return np.array([(core.address(base), base.nbytes) for base in bases], np.int64).reshape(len(bases), 2)


# --- opening -------------------------------------------------------------------------------------------


class _Opened:
    """A checked image over its memory, and what can be read of it without unpickling.

    Raises:
        ForeignImageError, ImageVersionError, DamagedImageError: the bytes are not a sound image.
        BaseImageError: ``bases`` are others than those that it shares blocks with.
    """

    def __init__(self, memory: Bytes, bases: Sequence[Bytes]) -> None:
        check(memory, bases)
        self.memory, self.bases, self.header = memory, bases, header(memory)
        self.whole = memoryview(memory)
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
        return (None, offset) if offset < _SHARED else _base(offset)

    def skeleton(self) -> memoryview:
        return self.whole[self.header.skeleton_offset :][: self.header.skeleton_size]

    def about(self) -> str:
        """The JSON text in it; empty if there is none."""
        return about_text(self.memory)

    def index(self) -> list[dict[str, Any]]:
        """The entries of the index.

        Raises:
            DamagedImageError: one that lies outside of its segment.
        """
        return index(self.memory)

    def row_of(self, entry: dict[str, Any]) -> tuple[int, int]:
        """The block in which a tensor of the index lies, and the byte in it at which its first element does; -1 for one
        without elements.

        Raises:
            DamagedImageError: no block has it.
        """
        if entry["segment"] < 0 or 0 in entry["shape"]:
            return -1, 0
        base = entry.get("base")
        starts = _starts(self.memory if base is None else self.bases[base])
        if entry["segment"] >= len(starts):
            raise errors.DamagedImageError(
                f"index: {entry['name']!r} lies in segment {entry['segment']}, expected one of {len(starts)}"
            )
        first = starts[entry["segment"]] + entry["offset"]
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


def _base(offset: int) -> tuple[int, int]:
    """The base, and the offset in its data, in the offset of a shared block."""
    return offset >> 48 & 0x7FFF, offset & (1 << 48) - 1


def _starts(memory: Bytes) -> list[int]:
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
    core.check_head(core.address(memory), memory.nbytes, memory.nbytes, _rows(bases))


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


def named_tensors(memory: Bytes, bases: Sequence[Bytes] = ()) -> dict[str, torch.Tensor]:
    """The tensors of an image by name, over its memory. Nothing is unpickled.

    Raises:
        as `load`.
    """
    opened = _Opened(memory, bases)
    storages: dict[int, torch.UntypedStorage] = {}
    found = {}
    with tensors.outside_of_modes():
        for entry in opened.index():
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
            found[entry["name"]] = made
    return found


@_collector_paused
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
    opened = _Opened(memory, bases)
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

    def __init__(self, opened: _Opened, copied: int) -> None:
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
    row = core.verify(core.address(memory), memory.nbytes, _rows(bases))
    if row < 0:
        return
    opened = _Opened(memory, bases)
    length = len(opened.block(row))
    names = []
    for entry in opened.index():
        if opened.begins_in(*opened.row_of(entry), row):
            names.append(entry["name"])
    what = f"tensor {names[0]!r}" if names else "something that is no named tensor"
    if len(names) > 1:
        what += f" and {len(names) - 1} that share its memory"
    raise errors.DamagedImageError(
        f"the bytes of {what} (block {row}, {length:,} bytes{opened.where(row)}) are not those that were put"
    )


# --- the index -----------------------------------------------------------------------------------------


def _entries(named: Iterable[tuple[str, torch.Tensor, bool]], apart: skeleton.Skeleton) -> list[_Entry]:
    lengths = [length for _, length in apart.blocks]
    entries = []
    for name, tensor, persistent in named:
        if is_lazy(tensor) or tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
            continue
        try:
            place = apart.place(tensor)
        except (NotImplementedError, RuntimeError):  # a subclass without a storage of its own
            continue
        if place is None:
            continue
        row, begin = place
        first, end = tensors.extent(tensor)
        empty = first == end
        if not empty and end - begin > lengths[row]:  # resized away (to 0, for example): it holds them no longer
            continue
        dtype, shape, stride = str(tensor.dtype).replace("torch.", ""), list(tensor.shape), list(tensor.stride())
        place = (-1, 0) if empty else (row, first - begin)
        entries.append(_Entry(name, dtype, shape, stride, persistent, *place))
    return entries


def _index(
    entries: list[_Entry], offsets: core.Rows, segments: core.Rows, bases: Sequence[Bytes]
) -> list[dict[str, Any]]:
    starts = segments[:, 1].tolist()
    in_bases = [_starts(base) for base in bases]
    places = offsets.tolist()
    made = []
    for entry in entries:
        segment, offset, base = -1, 0, None
        if entry.row >= 0:
            at = places[entry.row]
            if at < 0:
                base, at = _base(at)
            within = starts if base is None else in_bases[base]
            segment = bisect.bisect(within, at) - 1
            offset = at + entry.begin - within[segment]
        row = {
            "name": entry.name,
            "dtype": entry.dtype,
            "shape": entry.shape,
            "stride": entry.stride,
            "segment": segment,
            "offset": offset,
            "persistent": entry.persistent,
        }
        if base is not None:
            row["base"] = base
        made.append(row)
    return made
