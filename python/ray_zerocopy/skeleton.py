"""Object graph <-> bytes, with every large block of bytes left out.

One pickle (protocol 5) holds the graph. Whatever is large or cannot be pickled into bytes of our own leaves through
the pickle's out-of-band buffers, and comes back through them in the same order:

* the memory of torch storages (see `tensors`), shared by address, so what was shared stays shared;
* TorchScript modules, as archives without tensors (see `torchscript`);
* programs of `torch.export`, as torch describes them, without tensors (see `exported`);
* whatever else offers pickle-5 buffers (NumPy arrays, pandas, pyarrow);
* Ray's object references and actor handles, which Ray must see to keep what they stand for alive: they are *carried*
  beside the image.

The n-th buffer that the pickle asks for is described by the n-th number of a table in front of it (docs/format.md):
``row << 2 | kind``.

Private names of torch used here, tried with 2.4 and 2.15: `parametrize._inject_new_class` and `_inject_property`.
`tests/test_roundtrip.py` fails when one goes.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import ray
import torch
from ray import cloudpickle
from ray.actor import ActorHandle
from torch.nn.utils import parametrize
from torch.storage import TypedStorage, UntypedStorage

from . import core, errors, exported, tensors, torchscript
from .paths import blame

STORAGE, MEMORY, CARRIED = 0, 1, 2  # kinds of reference, in the lowest two bits
_BARE = -1  # a storage of which the bare memory would do, as long as nothing else uses it; never leaves `dump`


@dataclass
class Skeleton:
    """What `dump` makes of an object.

    Attributes:
        data: the reference table and the pickle.
        blocks: address and length in bytes of the memory of each storage and buffer.
        carried: object references and actor handles, to travel beside the image.
        rows: ``UntypedStorage._cdata`` -> row in ``blocks``.
        owners: what keeps the blocks' memory alive.
    """

    data: bytes = b""
    blocks: list[tuple[int, int]] = field(default_factory=list)
    carried: list[Any] = field(default_factory=list)
    rows: dict[int, int] = field(default_factory=dict)
    owners: list[Any] = field(default_factory=list)


def dump(root: Any, name: str) -> Skeleton:
    """Take an object apart.

    Args:
        root: a model, a pipeline, or any object.
        name: what errors call it.

    Raises:
        UnpicklableError: something in it cannot be pickled.
        DeviceError: a tensor in it is not in CPU memory.
    """
    pickler = _Pickler()
    try:
        pickler.dump(root)
    except Exception as cause:
        raise _explained(root, name, cause) from cause
    return pickler.finish()


def load(data: memoryview, memory: list[memoryview], carried: list[Any]) -> Any:
    """Put an object together again.

    Args:
        data: `Skeleton.data`.
        memory: the memory of each block.
        carried: `Skeleton.carried`.

    Raises:
        ClassNotFoundError: a class or function cannot be imported in this process.
        DamagedImageError: the references or the pickle do not hold together.
    """
    count = int.from_bytes(data[:4], "little")
    start = 4 + 4 * count
    if len(data) < start:
        raise errors.DamagedImageError(f"skeleton: a table of {count} references in {len(data)} bytes")
    storages: dict[int, UntypedStorage] = {}
    items: list[Any] = []
    for reference in np.frombuffer(data, "<u4", count, 4).tolist():
        row, kind = reference >> 2, reference & 3
        if row >= len(carried if kind == CARRIED else memory) or kind > CARRIED:
            raise errors.DamagedImageError(
                f"skeleton: a reference of kind {kind} to row {row}, where {len(memory)} blocks and "
                f"{len(carried)} carried objects are"
            )
        if kind == MEMORY:
            items.append(memory[row])
        elif kind == CARRIED:
            items.append(carried[row])
        else:
            if row not in storages:
                storages[row] = tensors.storage_over(memory[row])
            items.append(storages[row])
    try:
        return pickle.loads(data[start:], buffers=items)
    except pickle.UnpicklingError as cause:
        raise errors.DamagedImageError(f"skeleton: {cause}") from cause
    except (ImportError, AttributeError) as cause:
        if isinstance(cause, AttributeError) and not str(cause).startswith("Can't get attribute"):
            raise  # the pipeline's own code, in a __setstate__
        raise errors.ClassNotFoundError(
            f"a class or function of the pipeline cannot be imported in this process: {cause}. Install its module "
            "where the workers run, or ship it with ray.init(runtime_env={'py_modules': [...]}) or "
            "{'working_dir': ...}; classes defined in the main script always travel with the pipeline."
        ) from cause


class _Pickler(cloudpickle.Pickler):
    def __init__(self) -> None:
        self._stream = io.BytesIO()
        super().__init__(self._stream, protocol=5, buffer_callback=self._buffer)
        self._skeleton = Skeleton()
        self._references: list[tuple[int, int]] = []
        self._fields: dict[Any, _Fields] = {}
        self._slots: dict[int, tuple[int, int]] = {}  # id of a slot -> its reference
        self._slots_alive: list[pickle.PickleBuffer] = []

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor):
            # before Ray's own reducer, which RAY_ENABLE_ZERO_COPY_TORCH_TENSORS=1 registers for tensors
            return tensors.reduce(obj, self._storage_slot)
        if isinstance(obj, torch.jit.ScriptModule):
            return torchscript.reduce(obj, self._storage_slot)
        if isinstance(obj, torch.export.ExportedProgram):
            return exported.reduce(obj)
        if isinstance(obj, torch.nn.Module):
            return NotImplemented if type(obj) in self.dispatch_table else _reduce_module(obj, self._fields)
        if isinstance(obj, UntypedStorage):
            return _itself, (self._storage_slot(obj, False),)
        if isinstance(obj, TypedStorage):
            slot = self._storage_slot(tensors.storage_of(obj), False)
            return tensors.typed_storage, (slot, obj.dtype)
        if isinstance(obj, (ray.ObjectRef, ActorHandle)):
            self._skeleton.carried.append(obj)
            return _itself, (self._slot(len(self._skeleton.carried) - 1, CARRIED),)
        if type(obj) is np.ndarray:
            reduced = tensors.reduce_array(obj)
            if reduced is not NotImplemented:
                return reduced
        return super().reducer_override(obj)

    def finish(self) -> Skeleton:
        uses: dict[int, int] = {}
        for row, kind in self._references:
            if kind in (STORAGE, _BARE):
                uses[row] = uses.get(row, 0) + 1
        table = [
            row << 2 | (kind if kind != _BARE else MEMORY if uses[row] == 1 else STORAGE)
            for row, kind in self._references
        ]
        parts = len(table).to_bytes(4, "little"), np.asarray(table, "<u4").tobytes(), self._stream.getbuffer()
        self._skeleton.data = b"".join(parts)
        return self._skeleton

    def _storage_slot(self, storage: UntypedStorage, bare: bool) -> pickle.PickleBuffer:
        storage = tensors.storage_of(storage)
        row = self._skeleton.rows.get(storage._cdata)
        if row is None:
            row = self._skeleton.rows[storage._cdata] = self._block(tensors.address(storage), storage.nbytes(), storage)
        return self._slot(row, _BARE if bare else STORAGE)

    def _slot(self, row: int, kind: int) -> pickle.PickleBuffer:
        slot = pickle.PickleBuffer(bytearray())
        self._slots[id(slot)] = row, kind
        self._slots_alive.append(slot)
        return slot

    def _block(self, address: int, length: int, owner: Any) -> int:
        self._skeleton.blocks.append((address, length))
        self._skeleton.owners.append(owner)
        return len(self._skeleton.blocks) - 1

    def _buffer(self, buffer: pickle.PickleBuffer) -> None:
        reference = self._slots.get(id(buffer))
        if reference is None:  # a buffer of somebody else's: a NumPy array's memory, for example
            memory = np.frombuffer(buffer.raw(), np.uint8)
            row = self._block(core.address(memory), memory.nbytes, memory)
            reference = row, MEMORY
        self._references.append(reference)


def _itself(item: Any) -> Any:
    """What the loader put into a slot, where the object graph holds just that."""
    return item


# --- modules ---------------------------------------------------------------------------------------


def _reduce_module(module: torch.nn.Module, known: dict[Any, _Fields]) -> Any:
    cls = type(module)
    if cls.__name__.startswith("Parametrized") and parametrize.is_parametrized(module):
        # torch refuses to pickle these, since their class is made at run time: make it again
        state = dict(module.__dict__)
        names = list(cast(torch.nn.ModuleDict, module.parametrizations))
        return _parametrized, (cls.__bases__[0],), (state, names), None, None, _set_parametrized_state
    if (
        cls.__getstate__ is not torch.nn.Module.__getstate__
        or cls.__reduce_ex__ is not object.__reduce_ex__
        or cls.__reduce__ is not object.__reduce__
        or cls.__new__ is not object.__new__
        or "_backward_pre_hooks" not in module.__dict__  # made by an old torch: let __setstate__ complete it
    ):
        return NotImplemented
    # What object.__reduce_ex__ and the class's __setstate__ would do, but for the ten empty dictionaries of hooks that
    # every module has: they make up most of a pickled module tree, and are quicker made than unpickled.
    state = module.__getstate__()
    empty, values = [], []
    for name, value in state.items():
        if type(value) is OrderedDict and not value:
            empty.append(name)
            value = None
        values.append(value)
    kind = tuple(state), tuple(empty)
    fields = known.get(kind) or known.setdefault(kind, _Fields(*kind))
    set_state = _set_state if cls.__setstate__ is torch.nn.Module.__setstate__ else _set_state_by_class
    return copyreg.__newobj__, (cls,), (fields, tuple(values)), None, None, set_state  # type: ignore[attr-defined]


class _Fields:
    """The names of the attributes that modules of one kind have; those in ``empty`` are empty dictionaries."""

    def __init__(self, names: tuple[str, ...], empty: tuple[str, ...]) -> None:
        # interned, as the names of attributes are: a forward looks them up thousands of times
        self.names = tuple(map(sys.intern, names))
        self.empty = tuple(map(sys.intern, empty))

    def __reduce__(self) -> Any:
        return _Fields, (self.names, self.empty)

    def fill(self, attributes: dict[str, Any], values: tuple[Any, ...]) -> None:
        """Give a module's dictionary its attributes, in order."""
        attributes.update(zip(self.names, values))  # noqa: B905  of equal length; this runs for every module
        for name in self.empty:
            attributes[name] = OrderedDict()


def _set_state(module: torch.nn.Module, state: tuple[_Fields, tuple[Any, ...]]) -> None:
    fields, values = state
    # filled in place and in order: such dictionaries share their keys, and take half the memory and time
    fields.fill(module.__dict__, values)


def _set_state_by_class(module: torch.nn.Module, state: tuple[_Fields, tuple[Any, ...]]) -> None:
    """For a class with a ``__setstate__`` of its own, such as torch's convolutions."""
    fields, values = state
    attributes: dict[str, Any] = {}
    fields.fill(attributes, values)
    module.__setstate__(attributes)


def _parametrized(cls: type[torch.nn.Module]) -> torch.nn.Module:
    return cls.__new__(cls)


def _set_parametrized_state(module: torch.nn.Module, state: tuple[dict[str, Any], list[str]]) -> None:
    attributes, names = state
    module.__dict__.update(attributes)
    parametrize._inject_new_class(module)
    for name in names:
        parametrize._inject_property(module, name)


# --- errors ----------------------------------------------------------------------------------------


def _explained(root: Any, name: str, cause: Exception) -> errors.RayZeroCopyError:
    def failure(part: Any) -> Exception | None:
        try:
            _Pickler().dump(part)
        except Exception as error:
            return error
        return None

    path, part, error = blame(root, name, failure)
    if isinstance(error, tensors.OffCpuError):
        return errors.DeviceError(path, str(error))
    return errors.UnpicklableError(path, type(part).__qualname__, str(error or cause))
