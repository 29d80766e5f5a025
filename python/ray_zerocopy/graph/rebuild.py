"""The functions that images name by module path: what a skeleton's pickle calls to put an object together again.

**No name here ever changes**, nor what a function takes: an image may outlive the release that wrote it. What needs
another shape gets a name of its own.

Private names of torch used here, tried with 2.4 and 2.15: `torch.storage.TypedStorage(wrap_storage=, _internal=)`,
`Tensor._backward_hooks`, `_post_accumulate_grad_hooks` and `_make_subclass`, `torch._utils._set_obj_state`,
`parametrize._inject_new_class` and `_inject_property`,
`torch._C.DeserializationStorageContext`, `PyTorchFileReader`, `_import_ir_module_from_package`, `CompilationUnit`,
`ScriptObject`, `torch.jit._recursive.wrap_cpp_module`,
`torch._export.serde.serialize.ExportedProgramDeserializer`, and the texts of torch's errors about what is not
registered. `tests/test_roundtrip.py`, `tests/test_torchscript.py` and `tests/test_exported.py` fail when one goes.
"""

from __future__ import annotations

import functools
import importlib
import io
import math
import re
import sys
import threading
import types
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, Union, cast

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.fx.node import map_aggregate
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils import parametrize
from torch.storage import TypedStorage, UntypedStorage

from .. import errors
from . import sources, stamps

if TYPE_CHECKING:
    from .compiled_model import CompiledModel

_C: Any = torch._C  # typed in part

M = TypeVar("M")

# What the loader puts where a skeleton has left a storage out.
Item = Union[UntypedStorage, memoryview]


def _itself(item: Any) -> Any:
    """What the loader put into a slot, where the object graph holds just that."""
    return item


def _as_it_was(module: str, name: str, stamp: bytes) -> Any:
    """A class or function of a user's own module, by name."""
    found = _found(importlib.import_module(module), name)
    here = (module, name, stamp)
    if here not in _compared:
        _compared.add(here)
        if stamps.stamp(found) not in (None, stamp):
            warnings.warn(
                f"{module}.{name} is other code in this process (of {sys.modules[module].__file__}) than where "
                "the model was wrapped: the module was edited after one of the two had imported it. This process goes "
                "on with what it has imported. Start new workers: new actors, or for calls of a stand-in "
                "wrapped.options(runtime_env={'env_vars': {'EDITED': '1'}}), another value each time; reload the "
                "module before you wrap if it is the driver that has old code.",
                errors.StaleCodeWarning,
                stacklevel=2,
            )
    return found


_compared: set[tuple[str, str, bytes]] = set()


def _found(module: Any, name: str) -> Any:
    found = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise AttributeError(f"Can't get attribute {name!r} on {module!r}") from None
    return found


def _globals_of(module: str) -> dict[str, Any]:
    """Of a library, for a function that was made inside of one of its own."""
    return vars(importlib.import_module(module))


def _from_sources(module: str, name: str, carried: dict[str, str]) -> Any:
    """A class or function of downloaded code, which travels with the model."""
    loaded, same = sources.module_of(module, carried)
    if not same and (module, name, b"") not in _compared:
        _compared.add((module, name, b""))
        warnings.warn(
            f"{module} is other code in this process (of {loaded.__file__}) than where the model was wrapped: another "
            "version of it was downloaded here. This process goes on with what it has; load the model in another one.",
            errors.StaleCodeWarning,
            stacklevel=2,
        )
    return _found(loaded, name)


# --- arguments -------------------------------------------------------------------------------------
#
# They come from the bytes of an image, and may be anything. Most are left to torch, whose errors say enough; what it
# would crash over, or allocate by, is checked here.


def _damaged(text: str) -> errors.DamagedImageError:
    return errors.DamagedImageError(f"skeleton: {text}")


def _storage(item: Any, shape: tuple[int, ...]) -> UntypedStorage:
    """The storage for a tensor of a shape."""
    if type(item) is not UntypedStorage:
        raise _damaged(f"a tensor over a {type(item).__qualname__}")
    if not item.nbytes() and 0 not in shape:  # which torch would make larger; all others have the size they have
        raise _damaged(f"a tensor of shape {shape} over an empty storage")
    return item


# --- tensors and arrays ----------------------------------------------------------------------------


def _dense_tensor(item: Item, dtype: torch.dtype, shape: tuple[int, ...], requires_grad: bool) -> torch.Tensor:
    if type(item) is memoryview:
        tensor = torch.frombuffer(item, dtype=dtype)
        if len(shape) != 1:
            # to as many elements: sets shape and strides and, unlike view(), leaves no base behind
            tensor.resize_(shape)
        elif tensor.shape != shape:
            raise _damaged(f"a tensor of shape {shape} over {len(item)} bytes")
    else:
        tensor = torch.empty((0,), dtype=dtype).set_(_storage(item, shape), 0, shape)  # type: ignore[call-overload]
    if requires_grad:
        tensor.requires_grad = True
    return tensor


def _dense_parameter(item: Item, dtype: torch.dtype, shape: tuple[int, ...], requires_grad: bool) -> torch.Tensor:
    tensor = _dense_tensor(item, dtype, shape, requires_grad)
    tensor.__class__ = torch.nn.Parameter  # as torch itself does to a lazy parameter; Parameter(tensor) makes another
    return tensor


def _dense_parameter_with(
    item: Item, dtype: torch.dtype, shape: tuple[int, ...], requires_grad: bool, attributes: dict[str, Any]
) -> torch.Tensor:
    tensor = _dense_parameter(item, dtype, shape, requires_grad)
    tensor.__dict__.update(attributes)
    return tensor


def _parameter(cls: type, data: torch.Tensor, requires_grad: bool) -> torch.Tensor:
    """One of a class of somebody's own."""
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Parameter) and isinstance(data, torch.Tensor)):
        raise _damaged(f"a parameter of class {cls!r} over a {type(data).__qualname__}")
    return torch.Tensor._make_subclass(cls, data, requires_grad)


def _lazy(cls: Any, requires_grad: bool, device: str, dtype: torch.dtype) -> torch.Tensor:
    """A parameter or buffer of a lazy module, which has no shape yet."""
    if not (isinstance(cls, type) and issubclass(cls, (UninitializedParameter, UninitializedBuffer))):
        raise _damaged(f"a lazy tensor of class {cls!r}")
    made: Any = cls
    lazy: torch.Tensor = made(requires_grad, device, dtype)
    return lazy


def _set_extras(tensor: torch.Tensor, extras: tuple[Any, Any, Any, Any]) -> None:
    """What hangs on a tensor: attributes, hooks, hooks for after a gradient is accumulated, names of dimensions."""
    attributes, hooks, accumulated, names = extras
    if attributes:
        torch._utils._set_obj_state(tensor, attributes)
    for given in (hooks, accumulated):
        if given and not isinstance(given, dict):
            raise _damaged(f"a {type(given).__qualname__} as a tensor's hooks")
    if hooks:
        tensor._backward_hooks = hooks
    if accumulated:
        tensor._post_accumulate_grad_hooks = accumulated
    if names:
        old: Any = tensor  # torch has had names until 2.14 or so
        with torch.no_grad():
            old.rename_(*names)


def _strided_tensor(
    storage: UntypedStorage,
    dtype: torch.dtype,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    parameter: bool,
    requires_grad: bool,
    hooks: Any,
) -> torch.Tensor:
    tensor = torch.empty((0,), dtype=dtype).set_(_storage(storage, shape), offset, shape, stride)
    if parameter:
        tensor.__class__ = torch.nn.Parameter
    if requires_grad:
        tensor.requires_grad = True
    if hooks:
        if not isinstance(hooks, dict):
            raise _damaged(f"a {type(hooks).__qualname__} as a tensor's hooks")
        tensor._backward_hooks = hooks
    return tensor


def typed_storage(item: UntypedStorage, dtype: torch.dtype) -> TypedStorage:
    """A `TypedStorage` in the object graph, or in the description of a tensor that is not plain."""
    return TypedStorage(wrap_storage=item, dtype=dtype, _internal=True)


def _tensor_v3(
    storage: TypedStorage | UntypedStorage,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    requires_grad: bool,
    hooks: Any,
    dtype: torch.dtype,
    metadata: dict[str, Any] | None = None,
) -> torch.Tensor:
    untyped = storage._untyped_storage if isinstance(storage, TypedStorage) else storage
    tensor = _strided_tensor(untyped, dtype, offset, shape, stride, False, requires_grad, hooks)
    if metadata:
        torch._utils.set_tensor_metadata(tensor, metadata)
    return tensor


def _sparse_tensor(layout: torch.layout, data: tuple[Any, ...]) -> torch.Tensor:
    """As torch's own, which also puts each tensor into a list that keeps it, and all its image, for ever.

    The indices are checked: torch reads and writes wherever they point to."""
    if layout is torch.sparse_coo:
        indices, values, size, coalesced = data
        return torch.sparse_coo_tensor(
            indices, values.detach(), size, is_coalesced=coalesced, check_invariants=True, requires_grad=False
        )
    compressed, plain, values, size = data
    return torch.sparse_compressed_tensor(
        compressed, plain, values.detach(), size, layout=layout, check_invariants=True, requires_grad=False
    )


def _sparse_leaf(layout: torch.layout, data: tuple[Any, ...]) -> torch.Tensor:
    return _sparse_tensor(layout, data).requires_grad_()


def _quantized_tensor(
    storage: TypedStorage,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    quantizer: tuple[Any, ...],
    requires_grad: bool,
    hooks: Any,
) -> torch.Tensor:
    scheme, scale, zero_point, *axis = quantizer
    if type(storage) is not TypedStorage or (math.prod(shape) > storage._size() and 0 not in stride):
        raise _damaged(f"a quantized tensor of shape {shape} over a {type(storage).__qualname__}")
    if scheme == torch.per_tensor_affine:
        tensor = torch._empty_affine_quantized(shape, scale=scale, zero_point=zero_point, dtype=storage.dtype)
    else:
        tensor = torch._empty_per_channel_affine_quantized(
            shape, scales=scale, zero_points=zero_point, axis=axis[0], dtype=storage.dtype
        )
    return tensor.set_(storage, offset, shape, stride).requires_grad_(requires_grad)


def _array_of(cls: type, array: Any) -> Any:
    """An array of a class of somebody's own over the memory of another."""
    if not (isinstance(cls, type) and issubclass(cls, np.ndarray) and isinstance(array, np.ndarray)):
        raise _damaged(f"an array of class {cls!r} over a {type(array).__qualname__}")
    return array.view(cls)


def _strided_array(
    memory: Any, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> Any:
    return np.ndarray(shape, dtype, memory, offset, strides)  # which looks whether it lies in that memory


def _no_objects(dtype: np.dtype[Any]) -> Any:
    return np.empty(0, dtype)


def _overlap(dtype: np.dtype[Any]) -> bool:
    """Whether fields of records lie in each other."""
    if dtype.subdtype is not None:
        return _overlap(dtype.subdtype[0])
    end = 0
    fields = [dtype.fields[name] for name in dtype.names or ()] if dtype.fields else []  # not by title, once more
    for field in sorted(fields, key=lambda each: each[1]):
        if field[1] < end or _overlap(field[0]):
            return True
        end = field[1] + field[0].itemsize
    return False


def _set_objects(made: Any, state: tuple[tuple[int, ...], list[Any], bool]) -> None:
    """Fill an array of Python objects, or of records that have some."""
    shape, items, writeable = state
    if type(items) is not list or not made.dtype.hasobject or math.prod(shape) != len(items):
        raise _damaged(f"an array of shape {shape} with other contents")
    if _overlap(made.dtype):  # NumPy would take the bytes of one field for a pointer of another
        raise _damaged(f"an array of records with objects whose fields overlap: {made.dtype!r}")
    made.resize(len(items), refcheck=False)
    for index, item in enumerate(items):
        made[index] = item
    made.shape = shape
    made.flags.writeable = bool(writeable)


def _transposed(dense: np.ndarray[Any, Any], axes: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return dense.transpose(axes)


def _dtype(text: str) -> np.dtype[Any]:
    if type(text) is not str:
        raise _damaged(f"a dtype of a {type(text).__name__}")
    return np.dtype(text)


def _dtype_of_state(arguments: tuple[Any, ...], state: tuple[Any, ...]) -> np.dtype[Any]:
    """A structured dtype, or one of another library's. NumPy believes what a state says; it is checked here."""
    made: Any = np.dtype(*arguments)
    kinds: tuple[Any, ...] = (int, str, (tuple, type(None)), (tuple, type(None)), (dict, type(None)), int, int, int)
    sound = type(state) is tuple and len(state) in (8, 9) and all(map(isinstance, state, kinds))
    if not sound:
        raise _damaged("a dtype of a state that is none")
    _, _, sub, names, fields, size, _, flags = state[:8]
    inner: list[tuple[Any, int]] = []
    if sub is not None:
        base, shape = sub
        shape = shape if type(shape) is tuple else (shape,)
        if not all(type(length) is int and length >= 0 for length in shape) or not isinstance(base, np.dtype):
            raise _damaged("a dtype of a state that is none")
        inner = [(base, base.itemsize * (math.prod(shape) - 1))]
    if (names is None) != (fields is None) or set(names or ()) - set(fields or ()):
        raise _damaged("a dtype with fields of other names")
    for field in (fields or {}).values():
        if not isinstance(field[0], np.dtype) or type(field[1]) is not int or field[1] < 0:
            raise _damaged("a dtype with a field that is none")
        inner.append((field[0], field[1]))
    if inner:
        if any(offset + part.itemsize > size for part, offset in inner):
            raise _damaged(f"a dtype of {size} bytes with a field that is longer")
    elif size not in (-1, made.itemsize):
        raise _damaged(f"a dtype of {made.itemsize} bytes and of {size}")
    if bool(flags & 1) != any(part.hasobject for part, _ in inner or [(made, 0)]):
        raise _damaged("a dtype that mistakes bytes for objects")
    made.__setstate__(state)
    return cast("np.dtype[Any]", made)


# --- what pickle refuses ---------------------------------------------------------------------------


def _cached_property(function: Any) -> Any:
    return functools.cached_property(function)


def _cached_function(function: Any, maxsize: int | None, typed: bool) -> Any:
    """With an empty cache."""
    return functools.lru_cache(maxsize, typed)(function)


class _Gone:
    """What a weak reference pointed to that was dead already."""


def _reference(target: Any = None) -> Any:
    if target is None:
        return weakref.ref(_Gone())
    return weakref.WeakMethod(target) if isinstance(target, types.MethodType) else weakref.ref(target)


def _set_attributes(made: Any, state: Any) -> None:
    """As pickle would, without asking the object itself for anything."""
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    if attributes:
        made.__dict__.update(attributes)
    for name, value in (slots or {}).items():
        object.__setattr__(made, name, value)


class _ScriptFunction:
    """A function of TorchScript. Torch loads one as a module, whose forward has lost the defaults."""

    def __init__(self, archive: np.ndarray[Any, Any], defaults: tuple[tuple[str, bool, Any], ...]) -> None:
        self._archive, self._defaults = archive, defaults
        unit = _C.CompilationUnit()
        self._run = _C.import_ir_module_from_buffer(unit, archive.tobytes(), None, {}, False)._get_method("forward")
        self.graph, self.code = self._run.graph, self._run.code

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for name, has, value in self._defaults[len(args) :]:
            if has:
                kwargs.setdefault(name, value)
        return self._run(*args, **kwargs)

    def __reduce__(self) -> Any:
        return _ScriptFunction, (self._archive, self._defaults)


def _loguru(options: tuple[Any, ...]) -> Any:
    """This process's logger of loguru, with the options of another's."""
    logger: Any = importlib.import_module("loguru").logger
    return logger if options == logger._options else type(logger)(logger._core, *options)


def _proxy(target: Any = None) -> Any:
    return weakref.proxy(_Gone() if target is None else target)


def _operator(name: str, overload: str | None = None) -> Any:
    """One of ``torch.ops``, whose library must have been imported."""
    namespace, _, plain = name.partition("::")
    try:
        packet = getattr(getattr(torch.ops, namespace), plain)
        return packet if overload is None else getattr(packet, overload or "default")
    except AttributeError:
        raise AttributeError(f"Can't get attribute {name!r} on torch.ops: its library registers it") from None


# --- modules ---------------------------------------------------------------------------------------


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
        attributes.update(zip(self.names, values))
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


def _set_more(module: Any, state: tuple[Any, Any, dict[str, Any], tuple[Any, bool, Any] | None, str | None]) -> None:
    """A state, set as pickle would or by one of the above, what is in slots, how the module was compiled, and which
    library wants to know of it."""
    set_state, inner, slots, how, library = state
    if set_state is not None:
        set_state(module, inner)
    elif inner is not None:
        module.__setstate__(inner)
    for name, value in slots.items():
        object.__setattr__(module, name, value)
    if how is not None:
        module._compiled_call_impl = _compiled(module._call_impl, *how)
    if library == "transformers":
        _register_outputs(module)


def _register_outputs(model: Any) -> None:
    """As the constructor of a model of transformers does: without it, ``output_hidden_states=True`` gives None."""
    for home in ("transformers.utils.output_capturing", "transformers.utils.generic"):
        registry: Any = getattr(sys.modules.get(home), "_CAN_RECORD_REGISTRY", None)
        if registry is not None:
            key = str(model.__class__) if type(registry) is dict else model  # transformers before 5, and since
            registry[key] = model._can_record_outputs
            return


def _compiled(target: Any, backend: Any, fullgraph: bool, dynamic: bool | None) -> Any:
    """What torch.compile gives of a function or a module, which is compiled when it is called."""
    import torch._dynamo

    compiled: Any = torch._dynamo.optimize(backend=backend, nopython=fullgraph, dynamic=dynamic)
    return compiled(target)


def _initialized(cls: type[torch.nn.Module]) -> torch.nn.Module:
    """A module that has nothing but what every module has."""
    made = cls.__new__(cls)
    torch.nn.Module.__init__(made)
    return made


class _FxNode:
    """Stands for a node among the arguments of another."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return _FxNode, (self.number,)


def _fx_graph(tracer_cls: Any, tracer_extras: Any, codegen: Any, nodes: list[tuple[Any, ...]]) -> Any:
    graph = fx.Graph(tracer_cls=tracer_cls, tracer_extras=tracer_extras)
    made: list[fx.Node] = []

    def numbered(argument: Any) -> Any:
        return made[argument.number] if isinstance(argument, _FxNode) else argument

    for op, name, target, args, kwargs, kind, meta in nodes:
        arguments: Any = map_aggregate(args, numbered)
        named: Any = map_aggregate(kwargs, numbered)
        node = graph.create_node(op, target, arguments, named, name, kind)
        node.meta.update(meta)
        made.append(node)
    graph.set_codegen(codegen)
    return graph


def _fx_module(cls: type[fx.GraphModule], name: str) -> fx.GraphModule:
    made: fx.GraphModule = cls.__new__(cls)  # which makes it a class of its own
    type(made).__name__ = name
    return made


def _set_fx_state(module: Any, state: dict[str, Any]) -> None:
    module.__dict__.update(state)
    module.graph = state["_graph"]  # which belongs to it from now on, and is compiled


# --- TorchScript -----------------------------------------------------------------------------------


def _script_module(archive: np.ndarray[Any, Any], storages: list[UntypedStorage]) -> torch.jit.ScriptModule:
    if not isinstance(archive, np.ndarray) or any(type(storage) is not UntypedStorage for storage in storages):
        raise _damaged(f"a TorchScript module in a {type(archive).__qualname__}")
    context = _C.DeserializationStorageContext()
    for number, storage in enumerate(storages):
        context.add_storage(f"{number}.storage", torch.empty((0,), dtype=torch.uint8).set_(storage))
    reader = _C.PyTorchFileReader(io.BytesIO(archive.data))
    try:
        module = _C._import_ir_module_from_package(_C.CompilationUnit(), reader, context, None, "0")
    except RuntimeError as cause:
        unknown = re.search(r"Unknown (?:builtin op|custom class|type name)[^\w]*([\w:.]+)", str(cause))
        if unknown is None:
            raise
        library = unknown[1].replace("__torch__.torch.classes.", "", 1).split(":")[0].split(".")[0]
        raise errors.ClassNotFoundError.unregistered("TorchScript module", unknown[1], library) from cause
    wrapped: torch.jit.ScriptModule = torch.jit._recursive.wrap_cpp_module(module)
    return wrapped


def _generator(device: torch.device, seed: int, offset: int | None, state: torch.Tensor) -> torch.Generator:
    """A generator of random numbers, in one step: torch dies of one whose state is no such tuple."""
    made = torch.Generator(device)
    made.__setstate__((int(seed), None if offset is None else int(offset), state))
    return made


def _script_object(state: Any, name: str) -> Any:
    """An object of a custom class, in one step: torch dies of one that is used before it has its state."""
    made = _C.ScriptObject.__new__(_C.ScriptObject)
    try:
        made.__setstate__((state, name))
    except RuntimeError as cause:
        if "not known to the runtime" not in str(cause):
            raise
        short = str(name).replace("__torch__.torch.classes.", "", 1)
        raise errors.ClassNotFoundError.unregistered("pipeline", short, short.split(".")[0]) from cause
    return made


# --- exported programs -----------------------------------------------------------------------------

# torch keeps the serializer and the deserializer that are at work in variables of the process
one_at_a_time = threading.Lock()

_UNREGISTERED = re.compile(
    r"(?:failed to resolve |Unsupported target type for node Node\(target=')torch\.ops\.([\w.]+)"
    r"|Deserializing (\S+) in pytree|namedtuple class (\S+) because"
)


def _program(
    description: Any, state_dict: dict[str, Any], constants: dict[str, Any], example_inputs: tuple[Any, ...] | None
) -> ExportedProgram:
    from torch._export.serde.serialize import ExportedProgramDeserializer

    def program() -> ExportedProgram:
        with one_at_a_time:
            return ExportedProgramDeserializer().deserialize(description, state_dict, constants, example_inputs)

    return registered("exported program", program)


def _compiled_model(*stored: Any) -> CompiledModel:
    from .compiled_model import restored

    return restored(*stored)


def registered(user: str, make: Callable[[], M]) -> M:
    """What a function makes that may need operators, or types of inputs and outputs, of libraries: those are imported.

    Raises:
        ClassNotFoundError: one is not to be had.
    """
    tried: set[str] = set()
    while True:
        try:
            return make()
        except Exception as cause:
            unknown = _unregistered(cause)
            if unknown is None:
                raise
            # a type of a library's own is registered by its module, whose name is in that of the type
            if unknown in tried or not _imported(unknown.rpartition(".")[0]):
                library = unknown.split(".")[0]
                raise errors.ClassNotFoundError.unregistered(user, unknown, library) from cause
            tried.add(unknown)


def _imported(module: str) -> bool:
    """Whether a module could be imported, or a package that it names."""
    while module:
        try:
            importlib.import_module(module)
            return True
        except ModuleNotFoundError:
            module = module.rpartition(".")[0]
        except Exception:
            return False
    return False


def _unregistered(error: BaseException | None) -> str | None:
    """The operator, or type of inputs or outputs, that torch did not find."""
    for each in chain(error):
        found = _UNREGISTERED.search(str(each))
        if found:
            return found[1] or found[2] or found[3]
    return None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
