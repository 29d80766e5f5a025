"""Object graph <-> bytes, with every large block of bytes left out.

One pickle (protocol 5) holds the graph. Whatever is large or cannot be pickled into bytes of our own leaves through
the pickle's out-of-band buffers, and comes back through them in the same order:

* the memory of torch storages (see `tensors`), shared by address, so what was shared stays shared;
* TorchScript modules, as archives without tensors (see `torchscript`);
* programs of `torch.export`, as torch describes them, without tensors (see `exported`);
* whatever else offers pickle-5 buffers (NumPy arrays, pandas, pyarrow);
* what pickle refuses and can be described all the same (see `special`, `compiled`, `sources`);
* Ray's object references and actor handles, which Ray must see to keep what they stand for alive: they are *carried*
  beside the image.

The n-th buffer that the pickle asks for is described by the n-th number of a table in front of it (docs/format.md):
``row << 2 | kind``.
"""

from __future__ import annotations

import bisect
import io
import pickle
import sys
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
import torch
from ray import cloudpickle
from ray.actor import ActorHandle
from torch.storage import TypedStorage, UntypedStorage

from .. import core, errors
from . import (
    arrays,
    compiled,
    compiled_model,
    exported,
    modules,
    names,
    rebuild,
    sources,
    special,
    stamps,
    tensors,
    torchscript,
)
from .paths import blame
from .private import PrivateBytes, Stream, private_bytes

STORAGE, MEMORY, CARRIED = 0, 1, 2  # kinds of reference, in the lowest two bits
_CLIENT = "ray.util.client.common"  # Ray Client's handles of actors, actor classes and functions; needs gRPC
_BARE = -1  # a storage of which the bare memory would do, as long as nothing else uses it; never leaves `dump`


@dataclass
class Skeleton:
    """What `dump` makes of an object.

    Attributes:
        data: the reference table and the pickle.
        blocks: address and length in bytes of the memory of each storage and buffer.
        carried: object references and actor handles, to travel beside the image.
        rows: ``UntypedStorage._cdata`` and where in the storage it begins -> row in ``blocks``.
        cuts: ``UntypedStorage._cdata`` of each storage of which little is used -> from where to where, in order.
        slices: ``UntypedStorage._cdata`` -> the bytes that tensors have of it, from and up to.
        whole: ``UntypedStorage._cdata`` of those of which all is used.
        owners: what keeps the blocks' memory alive.
        large: bytes of the pickle that are in large objects.
        archives: bytes of TorchScript's archives, whose constants are copied when they are loaded.
        private: what a process that loads the object holds by itself.
        parts: the row of the first of the blocks that hold the skeletons of single parts, which are the last ones.
    """

    data: bytes = b""
    blocks: list[tuple[int, int]] = field(default_factory=list)
    carried: list[Any] = field(default_factory=list)
    rows: dict[tuple[int, int], int] = field(default_factory=dict)
    cuts: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    slices: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    whole: set[int] = field(default_factory=set)
    owners: list[Any] = field(default_factory=list)
    large: int = 0
    archives: int = 0
    private: PrivateBytes = field(default_factory=PrivateBytes)
    parts: int = 0

    def place(self, tensor: torch.Tensor) -> tuple[int, int] | None:
        """The row in ``blocks`` where a tensor's elements lie, and where in its storage the block begins."""
        key = tensor.untyped_storage()._cdata
        begin = _cut(self.cuts[key], tensors.extent(tensor)[0])[0] if key in self.cuts else 0
        row = self.rows.get((key, begin))
        return None if row is None else (row, begin)


def dump(root: Any, name: str, parts: Sequence[Any] = ()) -> Skeleton:
    """Take an object apart.

    Args:
        root: a model, a pipeline, or any object.
        name: what errors call it.
        parts: of the object, each to be loaded by itself, too. The skeleton of each is a block.

    Raises:
        UnpicklableError: something in it cannot be pickled.
        DeviceError: a tensor in it is not in CPU memory.
    """
    made = Skeleton()
    try:
        skeletons = _skeletons(root, parts, made)
        cuts = _cuts(made)
        if cuts:
            made = Skeleton(cuts=cuts)
            skeletons = _skeletons(root, parts, made)
    except Exception as cause:
        raise _explained(root, name, cause) from cause
    made.parts = len(made.blocks)
    made.private = private_bytes(root, name, *_held(made), _private)
    for each in skeletons:
        made.blocks.append((core.address(each), each.nbytes))
        made.owners.append(each)
    return made


def _held(made: Skeleton) -> tuple[int, int]:
    """Private bytes, and those of them in large objects."""
    return len(made.data) + made.archives, made.large + made.archives


def _private(part: Any) -> int:
    made = Skeleton()
    try:
        made.data = _dumped(part, made)
    except Exception:  # its owner does not hand it out as it is, or the whole could not have been pickled
        return 0
    return _held(made)[0]


def _skeletons(root: Any, parts: Sequence[Any], made: Skeleton) -> list[np.ndarray[Any, Any]]:
    made.data = _dumped(root, made)
    return [np.frombuffer(_dumped(part, made), np.uint8) for part in parts]


def _dumped(root: Any, made: Skeleton) -> bytes:
    pickler = _Pickler(made)
    pickler.dump(root)
    made.large = max(made.large, pickler.stream.large)
    return pickler.finish()


# A storage of which only slices are used is stored whole, unless that would at least double what is stored, by so many
# bytes. What is left out between two slices is at least a page.
_WASTE = 64 << 10
_PAGE = 4096


def _cuts(made: Skeleton) -> dict[int, list[tuple[int, int]]]:
    found = {}
    for key, used in made.slices.items():
        length = made.blocks[made.rows[key, 0]][1]
        pieces: list[tuple[int, int]] = []
        for first, end in sorted(used):
            first -= first % core.ALIGNMENT
            if pieces and first <= pieces[-1][1] + _PAGE:
                first, end = pieces[-1][0], max(end, pieces.pop()[1])
            pieces.append((first, end))
        stored = sum(end - first for first, end in pieces)
        if key not in made.whole and length - stored >= max(_WASTE, stored):
            found[key] = pieces
    return found


def _cut(pieces: list[tuple[int, int]], first: int) -> tuple[int, int]:
    """The piece of a storage that has a byte."""
    return pieces[bisect.bisect(pieces, (first, sys.maxsize)) - 1]


@dataclass
class Imports:
    """What a load had to import.

    Attributes:
        seconds: what it took.
        packages: of the modules.
    """

    seconds: float = 0.0
    packages: set[str] = field(default_factory=set)


def load(data: memoryview, memory: Sequence[memoryview], carried: list[Any], imports: Imports | None = None) -> Any:
    """Put an object together again.

    Args:
        data: `Skeleton.data`, or the block of a part.
        memory: the memory of each block.
        carried: `Skeleton.carried`.
        imports: is told what had to be imported.

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
    pickled = data[start:]
    asked = core.check_pickle(core.address(np.frombuffer(pickled, np.uint8)), len(pickled))
    if asked != count:
        raise errors.DamagedImageError(f"skeleton: a table of {count} references for {asked} buffers")
    try:
        if imports is not None:
            return _Timed(io.BytesIO(pickled), buffers=items, imports=imports).load()
        return pickle.loads(pickled, buffers=items)
    except (errors.RayZeroCopyError, MemoryError):
        raise
    except Exception as cause:
        missing = isinstance(cause, AttributeError) and str(cause).startswith("Can't get attribute")
        if not missing and not isinstance(cause, ImportError):
            if _by_others(cause):
                raise
            raise errors.DamagedImageError(
                f"skeleton: {type(cause).__name__}: {cause}. The bytes are damaged, or a library was another one where "
                "the model was wrapped"
            ) from cause
        raise errors.ClassNotFoundError(
            f"a class or function of the pipeline cannot be imported in this process: {cause}. Install its module "
            "where the workers run, or ship it with ray.init(runtime_env={'py_modules': [...]}) or "
            "{'working_dir': ...}; classes defined in the main script always travel with the pipeline."
        ) from cause


class _Timed(pickle.Unpickler):
    """Says what it imports."""

    def __init__(self, *args: Any, imports: Imports, **options: Any) -> None:
        super().__init__(*args, **options)
        self._imports = imports

    def find_class(self, module: str, name: str) -> Any:
        if module not in sys.modules:
            return self._timed(module, lambda: super(_Timed, self).find_class(module, name))
        found = super().find_class(module, name)
        # what imports a module by itself: the second for those that are globals of classes that travel by value
        if found is rebuild._as_it_was or (name == "subimport" and module.partition(".")[0] in ("ray", "cloudpickle")):
            return lambda package, *rest: self._timed(package, lambda: found(package, *rest))
        return found

    def _timed(self, module: str, importing: Callable[[], Any]) -> Any:
        known, start = module in sys.modules, time.perf_counter()
        try:
            return importing()
        finally:
            if not known:
                self._imports.seconds += time.perf_counter() - start
                self._imports.packages.add(module.partition(".")[0])


_OURS = {
    __name__.partition(".")[0],
    "torch",
    "numpy",
    "ray",
    "cloudpickle",
    "copyreg",
    "collections",
    "enum",
    "functools",
    "",
}


def _by_others(error: Exception) -> bool:
    """Whether code of the pipeline was at work, in a ``__setstate__`` perhaps, when an error was raised in `load`."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] not in _OURS:
            return True
        trace = trace.tb_next
    return False


class _Pickler(cloudpickle.Pickler):
    def __init__(self, made: Skeleton) -> None:
        self.stream = Stream()
        super().__init__(self.stream, protocol=5, buffer_callback=self._buffer)
        self._skeleton = made
        self._references: list[tuple[int, int]] = []
        self._fields: dict[Any, rebuild._Fields] = {}
        self._sources: dict[str, dict[str, str] | None] = {}
        self._slots: dict[int, tuple[int, int]] = {}  # id of a slot -> its reference
        self._slots_alive: list[pickle.PickleBuffer] = []

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) in special.KINDS:  # first, since a proxy is asked for its class by all the others
            return special.KINDS[type(obj)](obj)
        if isinstance(obj, torch.Tensor):
            # before Ray's own reducer, which RAY_ENABLE_ZERO_COPY_TORCH_TENSORS=1 registers for tensors
            return tensors.reduce(obj, self)
        if isinstance(obj, torch.jit.ScriptModule):
            reduced = torchscript.reduce(obj, self.storage_slot)
            self._skeleton.archives += reduced[1][0].nbytes
            return reduced
        if type(obj) is torch.ScriptObject:
            return rebuild._script_object, obj.__getstate__()
        if isinstance(obj, torch.export.ExportedProgram):
            return exported.reduce(obj)
        if compiled.is_compiled(obj) and not (isinstance(obj, types.FunctionType) and names.is_found(obj)):
            return compiled.reduce(obj)
        if isinstance(obj, torch.nn.Module):
            return NotImplemented if type(obj) in self.dispatch_table else modules.reduce(obj, self._fields)
        if isinstance(obj, UntypedStorage):
            return rebuild._itself, (self.storage_slot(obj, False),)
        if isinstance(obj, TypedStorage):
            slot = self.storage_slot(tensors.storage_of(obj), False)
            return rebuild.typed_storage, (slot, obj.dtype)
        if isinstance(obj, (ray.ObjectRef, ActorHandle)) or type(obj).__module__ == _CLIENT:
            self._skeleton.carried.append(obj)
            return rebuild._itself, (self._slot(len(self._skeleton.carried) - 1, CARRIED),)
        if isinstance(obj, np.dtype):
            return arrays.reduce_dtype(obj)
        if isinstance(obj, np.ndarray):
            reduced = arrays.reduce(obj)
            if reduced is not NotImplemented:
                return reduced
        if isinstance(obj, (type, types.FunctionType)):
            return self._code(obj)
        if special.is_loguru(obj):
            return rebuild._loguru, (obj._options,)
        compiled_model.require_no_loader(obj)
        reduced = super().reducer_override(obj)
        if reduced is NotImplemented and type(obj) not in self.dispatch_table:
            reduced = special.forwarding(obj)
        return reduced

    def _code(self, obj: Any) -> Any:
        """A class or a function: by name where another process finds that, and by value otherwise."""
        found = names.is_found(obj)  # first: it imports what cloudpickle would not look for
        reduced = super().reducer_override(obj)
        if reduced is not NotImplemented or not found:
            library = isinstance(obj, types.FunctionType) and names.is_librarys(obj)
            return _in_its_module(obj, reduced) if library else reduced
        module, name = obj.__module__, obj.__qualname__
        package = module.rpartition(".")[0]
        if package not in self._sources:
            self._sources[package] = sources.of(module)
        carried = self._sources[package]
        if carried and module in carried:
            return rebuild._from_sources, (module, name, carried)
        if not names.can_import(module):
            return _by_value(self, obj)
        stamp = stamps.stamp(obj)
        return NotImplemented if stamp is None else (rebuild._as_it_was, (module, name, stamp))

    def finish(self) -> bytes:
        """The reference table and the pickle."""
        uses: dict[int, int] = {}
        for row, kind in self._references:
            if kind in (STORAGE, _BARE):
                uses[row] = uses.get(row, 0) + 1
        table = [
            row << 2 | (kind if kind != _BARE else MEMORY if uses[row] == 1 else STORAGE)
            for row, kind in self._references
        ]
        return b"".join((len(table).to_bytes(4, "little"), np.asarray(table, "<u4").tobytes(), self.stream.getbuffer()))

    def storage_slot(self, storage: UntypedStorage, bare: bool) -> pickle.PickleBuffer:
        storage = tensors.storage_of(storage)
        self._skeleton.whole.add(storage._cdata)
        return self._slot(self._row(storage, 0, storage.nbytes()), _BARE if bare else STORAGE)

    def part_slot(self, storage: UntypedStorage, first: int, end: int) -> tuple[pickle.PickleBuffer, int]:
        made, key = self._skeleton, storage._cdata
        if key in made.cuts:
            begin, stop = _cut(made.cuts[key], first)
        else:
            made.slices.setdefault(key, []).append((first, end))
            begin, stop = 0, storage.nbytes()
        return self._slot(self._row(storage, begin, stop), STORAGE), begin

    def _row(self, storage: UntypedStorage, begin: int, stop: int) -> int:
        key = storage._cdata, begin
        row = self._skeleton.rows.get(key)
        if row is None:
            start = tensors.address(storage) + begin if stop > begin else 0
            row = self._skeleton.rows[key] = self._block(start, stop - begin, storage)
        return row

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


def _by_value(pickler: _Pickler, obj: Any) -> Any:
    """What cloudpickle makes of a class or function that cannot be imported."""
    if isinstance(obj, type):
        return cloudpickle.cloudpickle._dynamic_class_reduce(obj)
    return pickler._dynamic_function_reduce(obj)


class _Globals:
    def __init__(self, module: str) -> None:
        self.module = module

    def __reduce__(self) -> Any:
        return rebuild._globals_of, (self.module,)


def _in_its_module(function: types.FunctionType, reduced: Any) -> Any:
    """What cloudpickle makes of a function, without a copy of the globals: they are those of its library's module."""
    made, (code, _, *rest), (attributes, slots), *more = reduced
    return made, (code, _Globals(function.__module__), *rest), (attributes, {**slots, "__globals__": {}}), *more


# --- errors ----------------------------------------------------------------------------------------


def _explained(root: Any, name: str, cause: Exception) -> errors.RayZeroCopyError:
    if isinstance(cause, RecursionError) or isinstance(cause.__cause__, RecursionError):
        return errors.TooDeepError(name, type(root).__qualname__, sys.getrecursionlimit())

    def failure(part: Any) -> Exception | None:
        try:
            _Pickler(Skeleton()).dump(part)
        except Exception as error:
            return error
        return None

    path, part, error = blame(root, name, failure)
    if isinstance(error, tensors.OffCpuError):
        return errors.DeviceError(path, str(error))
    return errors.UnpicklableError(path, type(part).__qualname__, str(error or cause))
