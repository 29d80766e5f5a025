"""An image: one contiguous run of bytes that holds a model or pipeline (docs/format.md describes it to the byte).

Python hands addresses and lengths to the Go core, which plans the layout, writes the head and checks it again when an
image is loaded. The weights themselves are never touched here: they go from where torch keeps them into the store.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from . import collector, core, reading
from .core import Bytes
from .graph import skeleton, tensors
from .graph.private import PrivateBytes


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


@collector.paused
def build(
    root: Any,
    name: str,
    named: Iterable[tuple[str, torch.Tensor, bool]],
    parts: Sequence[Any] = (),
    about: Callable[[int, PrivateBytes, list[int]], dict[str, Any]] | None = None,
    bases: Sequence[Bytes] = (),
) -> Image:
    """Make the image of an object, without copying any large block of bytes.

    Args:
        root: a model, a pipeline, or any object.
        name: what errors call it.
        named: name, tensor and whether ``state_dict`` has it, for the index.
        parts: of the object, each of which can be loaded by itself, too.
        about: what the image shall say of itself, given `Image.blocks`, `Image.private` and `Image.bases`.
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
    )

    def text(used: list[int]) -> str:
        return json.dumps(about(apart.parts, apart.private, used), separators=(",", ":")) if about else ""

    views, size, used, shared = _laid_out(contents, bases, text)
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
    opened = reading.Opened(memory, old)
    head = opened.header
    blocks = np.array(
        [(core.address(np.frombuffer(block, np.uint8)) if block else 0, len(block)) for block in opened.blocks()],
        np.int64,
    ).reshape(head.block_count, 2)
    entries = []
    for entry in reading.index(memory):
        row, begin = opened.row_of(entry)
        known = (entry[key] for key in ("name", "dtype", "shape", "stride", "persistent"))
        entries.append(_Entry._make((*known, row, begin)))
    text = reading.about_text(memory)
    contents = _Contents(memory[head.skeleton_offset :][: head.skeleton_size], blocks, entries)
    return _laid_out(contents, bases, lambda used: about(text, used) if about else text, (memory, old))[:2]


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
    """

    skeleton: Bytes
    blocks: core.Rows
    entries: list[_Entry]


def _laid_out(
    contents: _Contents, bases: Sequence[Bytes], about: Callable[[list[int]], str], owner: Any = None
) -> tuple[list[Bytes], int, list[int], int]:
    """The parts of an image, its length in bytes, the numbers of the bases that have blocks of it, and the bytes of
    those blocks, which are left out."""
    blocks, count = contents.blocks, len(contents.blocks)
    sums = core.sums(blocks)
    shared, used = _shared(blocks, sums, bases)
    bases = [bases[number] for number in used]
    rows = reading.rows(bases)
    own = blocks * (shared == 0)[:, None] if bases else blocks  # what is shared takes no room
    offsets = np.zeros(count, np.int64)
    table = np.zeros((count + 1, 3), np.int64)
    segments = table[: core.plan(core.address(own), count, core.address(offsets), core.address(table))]
    if bases:
        offsets = np.where(shared < 0, shared, offsets)
    index = json.dumps({"tensors": _index(contents.entries, offsets, segments, bases)}, separators=(",", ":"))
    views = [core.encode_head(segments, blocks, offsets, contents.skeleton, sums, rows, index, about(used))]
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
    shared = core.share(blocks, sums, reading.rows(bases))
    numbers = shared >> 48 & 0x7FFF
    used, places = np.unique(numbers[shared < 0], return_inverse=True)
    shared[shared < 0] += (places.reshape(-1) - numbers[shared < 0]) << 48
    return shared, used.tolist()


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
    in_bases = [reading.starts(base) for base in bases]
    places = offsets.tolist()
    made = []
    for entry in entries:
        segment, offset, base = -1, 0, None
        if entry.row >= 0:
            at = places[entry.row]
            if at < 0:
                base, at = reading.place_in_base(at)
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
