"""Objects that pickle refuses and that can be described all the same: by what they refer to, or by name.

Private names of torch used here, tried with 2.4 and 2.15: `torch._ops.OpOverload` and `OpOverloadPacket`.
`tests/test_special.py` fails when one goes.
"""

from __future__ import annotations

import copyreg
import functools
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from . import fx, names, rebuild


def _cached_property(value: functools.cached_property[Any]) -> Any:
    # before Python 3.12 with a lock
    state = {name: part for name, part in vars(value).items() if name not in ("lock", "func")}
    return rebuild._cached_property, (value.func,), state


def _cached_function(value: Any) -> Any:
    # by its name it would be looked for in the worker's own main module
    if not names.travels(value):
        return NotImplemented
    maxsize, typed = value.cache_info().maxsize, False
    if hasattr(value, "cache_parameters"):  # since Python 3.9
        typed = value.cache_parameters()["typed"]
    return rebuild._cached_function, (value.__wrapped__, maxsize, typed)


def _reference(value: weakref.ref[Any]) -> Any:
    target = value()
    return rebuild._reference, () if target is None else (target,)


def _method(value: weakref.WeakMethod[Any]) -> Any:
    method = value()
    return rebuild._reference, () if method is None else (method,)


def _proxy(value: Any) -> Any:
    try:
        target = value.__repr__.__self__
    except ReferenceError:
        target = None
    return rebuild._proxy, () if target is None else (target,)


def _weak_set(value: weakref.WeakSet[Any]) -> Any:
    return weakref.WeakSet, (list(value),)


def _weak_dictionary(value: Any) -> Any:
    return type(value), (dict(value),)


def _overload(value: Any) -> Any:
    return rebuild._operator, (value._schema.name, value._overloadname)


def _packet(value: Any) -> Any:
    return rebuild._operator, (value._qualified_op_name,)


def _script_function(value: Any) -> Any:
    arguments = value.schema.arguments
    defaults = tuple((each.name, each.has_default_value(), each.default_value) for each in arguments)
    return rebuild._ScriptFunction, (np.frombuffer(value.save_to_buffer(), np.uint8), defaults)


def forwarding(obj: Any) -> Any:
    """What pickle's ``reducer_override`` returns for an object whose class forwards unknown attributes
    (``__getattr__``), to the model that it holds perhaps.

    Pickle asks the object, and not its class, how it wants to be pickled and restored. The former is answered by the
    model, the latter before there is one to forward to. So the class is asked here.
    """
    cls = type(obj)
    if not hasattr(cls, "__getattr__") or isinstance(obj, (type, types.ModuleType)):
        return NotImplemented
    plain: Any = object  # or mypy takes the two for different things by their annotations
    if (
        cls.__reduce_ex__ is not plain.__reduce_ex__
        or cls.__reduce__ is not plain.__reduce__
        or hasattr(cls, "__getnewargs_ex__")
    ):
        return NotImplemented
    arguments = cls.__getnewargs__(obj) if hasattr(cls, "__getnewargs__") else ()
    getstate = getattr(cls, "__getstate__", None)
    if getstate is not None and getstate is not getattr(object, "__getstate__", None):
        state = getstate(obj)
    else:
        if not (arguments or isinstance(obj, (list, dict))) and _has_more(cls):
            return NotImplemented
        slots = slots_of(obj)
        attributes = _attribute(obj, "__dict__")
        attributes = None if attributes is _UNSET else attributes
        state = (attributes, slots) if slots else attributes or None
    items = iter(obj) if isinstance(obj, list) else None
    entries = iter(obj.items()) if isinstance(obj, dict) else None
    reduced = copyreg.__newobj__, (cls, *arguments), state, items, entries  # type: ignore[attr-defined]
    return reduced if hasattr(cls, "__setstate__") else (*reduced, rebuild._set_attributes)


def _has_more(cls: type) -> bool:
    """Whether instances hold something in C that is neither an attribute nor a slot: Python refuses to pickle such."""
    pointers = bool(cls.__dictoffset__) + bool(cls.__weakrefoffset__) + len(copyreg._slotnames(cls))  # type: ignore[attr-defined]
    return cls.__basicsize__ > object.__basicsize__ + pointers * tuple.__itemsize__


_UNSET = object()


def slots_of(obj: Any) -> dict[str, Any]:
    """What an object keeps in ``__slots__``, as far as they are set: by itself, and not by what it forwards to."""
    own: list[str] = copyreg._slotnames(type(obj))  # type: ignore[attr-defined]
    return {name: value for name in own if (value := _attribute(obj, name)) is not _UNSET}


def _attribute(obj: Any, name: str) -> Any:
    try:
        return object.__getattribute__(obj, name)
    except AttributeError:
        return _UNSET


def is_loguru(obj: Any) -> bool:
    """Whether something is a logger of loguru, which every process has one of."""
    return type(obj).__module__ == "loguru._logger" and hasattr(obj, "_options")


# What pickle's ``reducer_override`` returns, by class. What a weak reference points to is part of the graph, and gone
# after loading if nothing else there holds it.
def _generator(obj: torch.Generator) -> Any:
    _, (device,), state = obj.__reduce__()
    return rebuild._generator, (device, *state)


KINDS: dict[type, Callable[[Any], Any]] = {
    functools.cached_property: _cached_property,
    functools._lru_cache_wrapper: _cached_function,
    weakref.ref: _reference,
    weakref.WeakMethod: _method,
    weakref.ProxyType: _proxy,
    weakref.CallableProxyType: _proxy,
    weakref.WeakSet: _weak_set,
    weakref.WeakKeyDictionary: _weak_dictionary,
    weakref.WeakValueDictionary: _weak_dictionary,
    torch.Generator: _generator,
    torch.fx.Graph: fx.reduce_graph,
    torch.jit.ScriptFunction: _script_function,
    torch._ops.OpOverload: _overload,
    torch._ops.OpOverloadPacket: _packet,
}
