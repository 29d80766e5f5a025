"""Objects that pickle refuses and that can be described all the same: by what they refer to, or by name.

Private names of torch used here, tried with 2.4 and 2.15: `torch._ops.OpOverload` and `OpOverloadPacket`.
`tests/test_special.py` fails when one goes.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import torch

from . import rebuild


def _cached_property(value: functools.cached_property[Any]) -> Any:
    # before Python 3.12 with a lock
    state = {name: part for name, part in vars(value).items() if name not in ("lock", "func")}
    return rebuild._cached_property, (value.func,), state


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


# What pickle's ``reducer_override`` returns, by class. What a weak reference points to is part of the graph, and gone
# after loading if nothing else there holds it.
KINDS: dict[type, Callable[[Any], Any]] = {
    functools.cached_property: _cached_property,
    weakref.ref: _reference,
    weakref.WeakMethod: _method,
    weakref.ProxyType: _proxy,
    weakref.CallableProxyType: _proxy,
    weakref.WeakSet: _weak_set,
    weakref.WeakKeyDictionary: _weak_dictionary,
    weakref.WeakValueDictionary: _weak_dictionary,
    torch._ops.OpOverload: _overload,
    torch._ops.OpOverloadPacket: _packet,
}
