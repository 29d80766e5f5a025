"""What a file of weights holds, without its bytes: a model file's index, or the header of a .safetensors file.

No code of the file runs, and neither torch nor Ray is needed.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import core, errors
from .failures import Failed

_MAGIC = b"\x89RZC\r\n\x1a\n"
_HEADER = 100 << 20  # bytes: more than that, safetensors itself refuses
_SAFETENSORS = "safetensors"
_TORCH = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint", "C": "complex"}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file.

    Attributes:
        name: its key.
        dtype: torch's name without the prefix.
        shape: its sizes.
        nbytes: of its elements.
        persistent: whether ``state_dict`` has it.
        base: the other file in which it lies, counted as the file itself counts them; None: it lies in this one.
        place: the base (-1: none) and the part of it that it lies in, the byte there at which it begins, and its end.
    """

    name: str
    dtype: str
    shape: list[int]
    nbytes: int
    persistent: bool
    base: int | None
    place: tuple[int, int, int, int]


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        path, nbytes: the file.
        format: ``model file`` or ``safetensors``.
        version: of that format; None for safetensors, which has none.
        about: what the writer has said of it: class, models, metadata.
        tensors: in the file's order.
        shared: names of those that have bytes in common, or each with one that has.
    """

    path: str
    nbytes: int
    format: str
    version: int | None
    about: dict[str, Any]
    tensors: list[Tensor]
    shared: list[list[str]]

    def totals(self) -> dict[str, tuple[int, int, int]]:
        """By dtype: number of tensors, of elements, and bytes; shared ones count once, for the first that has them."""
        found: dict[str, tuple[int, int, int]] = {}
        inside, reached = (-1, -1), 0
        for tensor in sorted(self.tensors, key=lambda tensor: tensor.place):
            *_, begin, end = tensor.place
            where = tensor.place[:2]
            if where != inside:
                inside, reached = where, 0
            fresh = min(tensor.nbytes, max(0, end - max(begin, reached)))  # a tensor with gaps spans more than it has
            reached = max(reached, end)
            count, elements, nbytes = found.get(tensor.dtype, (0, 0, 0))
            found[tensor.dtype] = count + 1, elements + _elements(tensor.shape), nbytes + fresh
        return dict(sorted(found.items(), key=lambda item: -item[1][2]))


def is_model_file(path: str) -> bool:
    """Whether a file begins as an image does; a folder does not. Raises OSError."""
    if os.path.isdir(path):
        return False
    with open(path, "rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def read(path: str) -> Contents:
    """What a file holds.

    Raises:
        Failed: it is neither a model file nor one of safetensors.
        ImageError: a model file that is damaged.
        OSError: it cannot be read.
    """
    if is_model_file(path):
        return _of_model_file(path)
    return _of_safetensors(path)


def _of_model_file(path: str) -> Contents:
    from ..stores import files

    file = files.opened(path)
    with open(path, "rb") as head:
        version = int.from_bytes(head.read(12)[8:], "little")
    tensors = [_of_entry(entry) for entry in file.index()]
    return Contents(os.fspath(path), file.nbytes, "model file", version, dict(file.about), tensors, _shared(tensors))


def _of_entry(entry: dict[str, Any]) -> Tensor:
    width = item_size(entry["dtype"])
    begin, reach = entry["offset"], 0
    if all(entry["shape"]):
        reach = 1 + sum((length - 1) * step for length, step in zip(entry["shape"], entry["stride"]))
    return Tensor(
        entry["name"],
        entry["dtype"],
        entry["shape"],
        _elements(entry["shape"]) * width,
        entry["persistent"],
        entry.get("base"),
        (entry.get("base", -1), entry["segment"], begin, begin + reach * width),
    )


def _of_safetensors(path: str) -> Contents:
    nbytes = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        file.seek(0)
        head = np.frombuffer(file.read(8 + (length if length <= _HEADER else 0)), np.uint8)
    try:
        header = json.loads(core.safetensors(core.address(head), head.nbytes, nbytes))
    except errors.ImageError as error:
        if isinstance(error, errors.ForeignImageError) or not path.endswith("." + _SAFETENSORS):
            raise Failed(f"{path} is neither a model file of ray-zerocopy nor a .safetensors file") from error
        raise Failed(f"{path}: {error}") from error
    tensors = []
    for each in header["tensors"]:
        begin, end = each["begin"], each["end"]
        place = (-1, 0, begin, end)
        tensors.append(Tensor(each["name"], _torchs(each["dtype"]), each["shape"], end - begin, True, None, place))
    return Contents(path, nbytes, _SAFETENSORS, None, {"metadata": header["metadata"]}, tensors, _shared(tensors))


def _shared(tensors: list[Tensor]) -> list[list[str]]:
    groups: list[list[str]] = []
    inside, end = (-1, -1), 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.place):
        *_, begin, last = tensor.place
        where = tensor.place[:2]
        if begin == last:
            continue
        if groups and where == inside and begin < end:
            groups[-1].append(tensor.name)
            end = max(end, last)
        else:
            groups.append([tensor.name])
            inside, end = where, last
    return [group for group in groups if len(group) > 1]


def item_size(dtype: str) -> int:
    """Bytes of an element, from the bits in a dtype's name: ``float8_e4m3fn``, ``bool``, ``float4_e2m1fn_x2``."""
    bits = re.search(r"\d+", dtype)
    return max(1, int(bits.group()) // 8) if bits else 1


def _torchs(dtype: str) -> str:
    """torch's name for a dtype of safetensors: ``bfloat16`` for ``BF16``."""
    letters = re.match(r"(BF|F|I|U|C)(\d.*)", dtype)
    return _TORCH[letters.group(1)] + letters.group(2).lower() if letters else dtype.lower()


def _elements(shape: list[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
