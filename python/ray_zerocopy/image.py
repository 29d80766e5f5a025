"""An image: one contiguous run of bytes that holds a model or pipeline (docs/format.md describes it to the byte).

Python hands addresses and lengths to the Go core, which plans the layout, writes the head and checks it again when an
image is loaded. The weights themselves are never touched here: they go from where torch keeps them into the store.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import struct
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.parameter import is_lazy

from . import core, errors
from .core import Bytes
from .graph import skeleton, tensors
from .graph.private import PrivateBytes

_HEADER = struct.Struct("<8sIIQQQQQQQQI44x")
_F = TypeVar("_F", bound="Callable[..., Any]")  # quoted: not to be subscripted before Python 3.9
_TABLES = _HEADER.size  # the segment table starts here, the block table follows
_ROW = 16


@dataclass
class Image:
    """An image that is about to be stored.

    Attributes:
        parts: the head, then the segments, in order; most segments are views of the model's own memory.
        carried: object references and actor handles that travel beside the image.
        size: length in bytes once the parts lie one after the other, each at a multiple of 64.
        owners: what keeps the memory behind ``parts`` alive.
        tensors: number of tensors in the index.
        blocks: number of blocks of memory: of storages, arrays and other buffers. Skeletons of parts (see `build`)
            follow.
        private: what a process that loads it holds by itself.
    """

    parts: list[Bytes]
    carried: list[Any]
    size: int
    owners: list[Any]
    tensors: int
    blocks: int
    private: PrivateBytes


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
def build(root: Any, name: str, named: Iterable[tuple[str, torch.Tensor, bool]], parts: Sequence[Any] = ()) -> Image:
    """Make the image of an object, without copying any large block of bytes.

    Args:
        root: a model, a pipeline, or any object.
        name: what errors call it.
        named: name, tensor and whether ``state_dict`` has it, for the index.
        parts: of the object, each of which can be loaded by itself, too.

    Raises:
        UnpicklableError, DeviceError: as `skeleton.dump`.
    """
    with tensors.outside_of_modes():
        apart = skeleton.dump(root, name, parts)
    count = len(apart.blocks)
    blocks = np.array(apart.blocks, np.int64).reshape(count, 2)
    offsets = np.zeros(count, np.int64)
    table = np.zeros((count + 1, 3), np.int64)
    segments = table[: core.plan(core.address(blocks), count, core.address(offsets), core.address(table))]

    entries = _index(named, apart, blocks, offsets, segments)
    index = json.dumps({"tensors": entries}, separators=(",", ":"))
    data = np.frombuffer(apart.data, np.uint8)
    size = core.head_size(len(segments), core.address(blocks), count, data.nbytes, len(index))
    head = np.zeros(size, np.uint8)
    core.encode_head(
        core.address(head),
        size,
        core.address(segments),
        len(segments),
        core.address(blocks),
        core.address(offsets),
        count,
        core.address(data),
        data.nbytes,
        index,
    )

    views = [head]
    for source, offset, length in segments.tolist():
        if source:
            views.append(core.view(source, length, None))
        else:
            packed = np.zeros(length, np.uint8)
            core.pack(core.address(blocks), count, core.address(offsets), offset, core.address(packed), length)
            views.append(packed)
    end = int(segments[-1, 1] + segments[-1, 2]) if len(segments) else 0
    return Image(views, apart.carried, size + end, apart.owners, len(entries), apart.parts, apart.private)


@_collector_paused
def load(
    memory: Bytes,
    carried: list[Any],
    copied: int = 0,
    imports: skeleton.Imports | None = None,
    single: int | None = None,
) -> Any:
    """Rebuild the object of an image over its memory, which stays alive as long as a tensor of the object does.

    Args:
        memory: the whole image.
        carried: what travelled beside it.
        copied: blocks of up to so many bytes are copied, and the others are used where they lie.
        imports: as in `skeleton.load`.
        single: the block with the skeleton of a part: that part only.

    Raises:
        ForeignImageError, ImageVersionError, DamagedImageError: the bytes are not a sound image.
        ClassNotFoundError: a class of the object cannot be imported in this process.
    """
    core.check_head(core.address(memory), memory.nbytes, memory.nbytes)
    _, _, _, _, head_size, segments, blocks, start, length, *_ = _HEADER.unpack_from(memory)
    rows = np.frombuffer(memory, np.uint64, 2 * blocks, _TABLES + _ROW * segments).reshape(blocks, 2)
    offsets, sizes = rows.T.tolist()
    whole = memoryview(memory)
    data = whole[head_size:]
    if single is not None:
        if single >= blocks:
            raise errors.DamagedImageError(f"a part in block {single} of {blocks}")
        few = _Blocks(data, offsets, sizes, copied)
        with tensors.outside_of_modes():
            return skeleton.load(few[single], few, carried, imports)
    parts = [data[offset : offset + size] for offset, size in zip(offsets, sizes)]
    if copied:
        parts = [memoryview(bytearray(part)) if len(part) <= copied else part for part in parts]
    with tensors.outside_of_modes():
        return skeleton.load(whole[start : start + length], parts, carried, imports)


class _Blocks(typing.Sequence[memoryview]):
    """The blocks of an image, of which a part needs few."""

    def __init__(self, data: memoryview, offsets: list[int], sizes: list[int], copied: int) -> None:
        self._data, self._offsets, self._sizes, self._copied = data, offsets, sizes, copied

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, row: Any) -> Any:
        part = self._data[self._offsets[row] : self._offsets[row] + self._sizes[row]]
        return memoryview(bytearray(part)) if len(part) <= self._copied else part


def verify(memory: Bytes) -> None:
    """Compare all bytes of an image with its checksums.

    Raises:
        DamagedImageError: they differ; it names the first tensor that does.
        ImageVersionError: version 1 of the format has no checksums of the data.
        ForeignImageError: the bytes are no image.
    """
    row = core.verify(core.address(memory), memory.nbytes)
    if row < 0:
        return
    _, _, _, _, head_size, segments, _, _, _, index, length, _ = _HEADER.unpack_from(memory)
    starts = np.frombuffer(memory, np.uint64, 2 * segments, _TABLES).reshape(segments, 2)[:, 0].tolist()
    start, size = np.frombuffer(memory, np.uint64, 2, _TABLES + _ROW * (segments + row)).tolist()
    entries = json.loads(memory[index : index + length].tobytes())["tensors"]
    names = [
        entry["name"]
        for entry in entries
        if entry["segment"] >= 0 and 0 <= starts[entry["segment"]] + entry["offset"] - start < size
    ]
    what = f"tensor {names[0]!r}" if names else "something that is no named tensor"
    if len(names) > 1:
        what += f" and {len(names) - 1} that share its memory"
    raise errors.DamagedImageError(
        f"the bytes of {what} (block {row}, {size:,} bytes at {head_size + start:,}) are not those that were put"
    )


def _index(
    named: Iterable[tuple[str, torch.Tensor, bool]],
    apart: skeleton.Skeleton,
    blocks: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    segments: npt.NDArray[np.int64],
) -> list[dict[str, Any]]:
    starts, lengths = segments[:, 1], blocks[:, 1].tolist()
    places = np.searchsorted(starts, offsets, side="right") - 1
    in_segment = (offsets - starts[places]).tolist() if len(segments) else [0] * len(lengths)
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
        entries.append(
            {
                "name": name,
                "dtype": str(tensor.dtype).replace("torch.", ""),
                "shape": list(tensor.shape),
                "stride": list(tensor.stride()),
                "segment": -1 if empty else int(places[row]),
                "offset": 0 if empty else in_segment[row] + first - begin,
                "persistent": persistent,
            }
        )
    return entries
