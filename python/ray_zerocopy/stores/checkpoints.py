"""Safetensors files: read as tensors over a mapping of the file, and written tensor by tensor.

What a file has to be is checked by the Go core (gozc/internal/safetensors). Shards are those of an index file as
transformers writes it: a JSON object whose ``weight_map`` says which file has a tensor.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from .. import core, errors
from ..core import Bytes
from ..graph import tensors as graph
from . import disk

WHOLE = "model.safetensors"  # in a folder
INDEX = WHOLE + ".index.json"

_MAX_HEADER = 100_000_000  # bytes, of a file that other readers take
_METADATA = "__metadata__"
_FEW = 5  # names in an error

# The format's dtypes and torch's, in the order in which tensors stand in a file; none that this torch does not have.
_NAMES = {
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
    "F32": "float32",
    "U32": "uint32",
    "I32": "int32",
    "BF16": "bfloat16",
    "F16": "float16",
    "U16": "uint16",
    "I16": "int16",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I8": "int8",
    "U8": "uint8",
    "F4": "float4_e2m1fn_x2",
    "BOOL": "bool",
}
_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, of_torch) for name, of_torch in _NAMES.items() if hasattr(torch, of_torch)
}
_PACKED = "F4"  # two values in a byte: torch counts bytes, the format counts values


# --- reading ---------------------------------------------------------------------------------------


def read(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, each over its own bytes in a copy-on-write mapping of its file. One that a
    shard has and the index does not name is left out.

    Args:
        path: of a file, of the index of several (``model.safetensors.index.json``), or of a folder with one of these.

    Raises:
        CheckpointError: a file is missing or does not check out, or this torch has no such dtype.
        others as `disk.mapped`.
    """
    place = _found(os.fspath(path))
    if place.endswith(".json"):
        return _read_shards(place)
    return dict(_read_file(place))


def _found(path: str) -> str:
    """The file to begin with."""
    if not os.path.isdir(path):
        return path
    for name in (WHOLE, INDEX):
        if os.path.exists(os.path.join(path, name)):
            return os.path.join(path, name)
    others = sorted(name for name in os.listdir(path) if name.endswith(".safetensors"))
    there = f"; it has {_listed(others)}: name the one that you mean" if others else ""
    raise errors.CheckpointError(path, f"there is neither {WHOLE} nor {INDEX} in this folder{there}")


def _read_file(path: str) -> Iterator[tuple[str, torch.Tensor]]:
    memory = disk.mapped(path)
    try:
        header = json.loads(core.safetensors(core.address(memory), memory.nbytes, memory.nbytes))
    except errors.ImageError as cause:
        raise errors.CheckpointError(path, str(cause)) from None
    with graph.outside_of_modes():
        for entry in header["tensors"]:
            part = memory[header["data"] + entry["begin"] : header["data"] + entry["end"]]
            yield entry["name"], _tensor(path, entry, part)


def _tensor(path: str, entry: dict[str, Any], memory: Bytes) -> torch.Tensor:
    name, shape = entry["name"], entry["shape"]
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise errors.CheckpointError(path, f"tensor {name!r} is {entry['dtype']}, which this torch has no dtype for")
    if entry["dtype"] == _PACKED:
        if not shape or shape[-1] % 2:
            text = f"tensor {name!r} is {_PACKED} of shape {shape}, and torch packs two values of the last dimension"
            raise errors.CheckpointError(path, text)
        shape = [*shape[:-1], shape[-1] // 2]
    if core.address(memory) % dtype.itemsize:
        memory = memory.copy()
    try:
        return graph.tensor_over(memoryview(memory), dtype, tuple(shape))
    except (RuntimeError, OverflowError, TypeError) as cause:  # dimensions that torch cannot count, beside one of 0
        raise errors.CheckpointError(path, f"tensor {name!r} has shape {shape[:16]}: {cause}") from cause


def _read_shards(index: str) -> dict[str, torch.Tensor]:
    wanted: dict[str, list[str]] = {}
    for name, shard in _weight_map(index).items():
        wanted.setdefault(shard, []).append(name)
    folder = os.path.dirname(index)
    lost = sorted(shard for shard in wanted if not os.path.exists(os.path.join(folder, shard)))
    if lost:
        files = f"{len(lost)} of the {len(wanted)} files that it names"
        raise errors.CheckpointError(index, f"{files} are not beside it: {_listed(lost)}")
    found: dict[str, torch.Tensor] = {}
    homes: dict[str, str] = {}
    for shard, names in wanted.items():
        tensors = dict(_read_file(os.path.join(folder, shard)))
        absent = [name for name in names if name not in tensors]
        if absent:
            text = f"it says that {shard!r} has {_listed(absent)}, which that file has not"
            raise errors.CheckpointError(index, text)
        for name in tensors:
            if name in homes:
                raise errors.CheckpointError(index, f"both {homes[name]!r} and {shard!r} have a tensor {name!r}")
            homes[name] = shard
        found.update((name, tensors[name]) for name in names)
    return found


def _weight_map(index: str) -> dict[str, str]:
    with disk.opened(index) as (descriptor, length):
        if length > _MAX_HEADER:
            raise errors.CheckpointError(index, f"an index of {length:,} bytes, expected at most {_MAX_HEADER:,}")
        with open(descriptor, "rb", closefd=False) as file:
            text = file.read()
    try:
        weight_map = json.loads(text, object_pairs_hook=_once)["weight_map"]
        shards = {name: _plain(shard) for name, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        what = cause if isinstance(cause, ValueError) else "no object with a weight_map from names to files"
        raise errors.CheckpointError(index, f"this is no index of shards: {what}") from None
    return shards


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, each of whose keys occurs once."""
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise ValueError(f"the key {key!r} occurs twice")
        made[key] = value
    return made


def _plain(shard: Any) -> str:
    """A file's name, which leads nowhere else than to the folder of the index."""
    if not isinstance(shard, str) or shard in ("", ".", "..") or {"/", "\\", "\0", os.sep} & set(shard):
        raise ValueError(f"{shard!r} is no plain name of a file beside it")
    return shard


# --- writing ---------------------------------------------------------------------------------------


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, tensor by tensor; whoever looks sees all of it, or what was there before.

    Tensors that are the same elements of the same memory are written once, under the name that sorts first. The others'
    names stand in the metadata, each with that name, as safetensors' own ``save_model`` has it.

    Args:
        path: of the file.
        tensors: by name. Those that are not contiguous, or not in CPU memory, are copied one at a time.
        metadata: strings that the file holds beside them.

    Raises:
        CheckpointError: a tensor or a name that the format cannot hold.
        others as `disk.write`.
    """
    path = os.fspath(path)
    notes = {} if metadata is None else dict(metadata)
    for key, value in notes.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise errors.CheckpointError(path, f"metadata has {key!r}: {value!r}, expected strings")
    kept: dict[Any, tuple[int, str, torch.Tensor]] = {}
    for name, place in sorted((name, _checked(path, name, tensor)) for name, tensor in tensors.items()):
        tensor = tensors[name]
        same = _elements(tensor) or name
        if same in kept:
            notes.setdefault(name, kept[same][1])
        else:
            kept[same] = place, name, tensor
    ordered = sorted(kept.values(), key=lambda each: each[:2])
    disk.write(path, _parts(path, _head(path, ordered, notes), [(name, tensor) for _, name, tensor in ordered]))


_PLACES = {dtype: (place, name) for place, (name, dtype) in enumerate(_DTYPES.items())}


def _checked(path: str, name: Any, tensor: Any) -> int:
    """Where tensors of its dtype stand in a file, of one that the format can hold."""
    if not isinstance(name, str) or name == _METADATA:
        raise errors.CheckpointError(path, f"no tensor can have the name {name!r}")
    if not isinstance(tensor, torch.Tensor):
        raise errors.CheckpointError(path, f"{name!r} is a {type(tensor).__qualname__}, and the format holds tensors")
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
        kind = "on the meta device" if tensor.is_meta else f"quantized or nested, or {tensor.layout}"
        raise errors.CheckpointError(path, f"tensor {name!r} is {kind}, and the format holds dense tensors with values")
    if tensor.dtype not in _PLACES:
        dtypes = ", ".join(str(dtype).replace("torch.", "") for dtype in _DTYPES.values())
        own = str(tensor.dtype).replace("torch.", "")
        raise errors.CheckpointError(path, f"tensor {name!r} is {own}, and the format holds {dtypes}")
    place, of_format = _PLACES[tensor.dtype]
    if of_format == _PACKED and not tensor.shape:
        raise errors.CheckpointError(path, f"tensor {name!r} is two packed values without a dimension to count them in")
    return place


def _elements(tensor: torch.Tensor) -> Any:
    """The same for tensors that are the same elements of the same memory; None for one without."""
    if not tensor.numel():
        return None
    with contextlib.suppress(RuntimeError):  # of a subclass without memory, which `graph.bytes_of` refuses
        layout = tensor.device, tensor.dtype, tensor.shape, tensor.stride(), tensor.is_conj(), tensor.is_neg()
        return (tensor.data_ptr(), *layout)
    return None


def _head(path: str, ordered: list[tuple[int, str, torch.Tensor]], notes: dict[str, str]) -> bytes:
    """The header's length, and the header."""
    header: dict[str, Any] = {_METADATA: notes} if notes else {}
    end = 0
    for place, name, tensor in ordered:
        of_format = list(_DTYPES)[place]
        shape, begin = list(tensor.shape), end
        if of_format == _PACKED:
            shape[-1] *= 2
        end += tensor.numel() * tensor.itemsize
        header[name] = {"dtype": of_format, "shape": shape, "data_offsets": [begin, end]}
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as cause:
        text_of = f"a name or the metadata has {cause.object[cause.start]!r}, which is no character"
        raise errors.CheckpointError(path, text_of) from None
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER:
        raise errors.CheckpointError(path, f"its header has {len(text):,} bytes, and readers take {_MAX_HEADER:,}")
    return len(text).to_bytes(8, "little") + text


def _parts(path: str, head: bytes, tensors: list[tuple[str, torch.Tensor]]) -> Iterator[Any]:
    yield head
    for name, tensor in tensors:
        try:
            address, length, owner = graph.bytes_of(tensor)
        except (ValueError, RuntimeError) as cause:
            raise errors.CheckpointError(path, f"tensor {name!r} cannot be written: {cause}") from None
        if length:
            yield core.view(address, length, owner)


def _listed(names: list[str]) -> str:
    more = len(names) - _FEW
    return ", ".join(map(repr, names[:_FEW])) + (f" and {more} more" if more > 0 else "")
