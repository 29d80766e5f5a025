"""Where in an object graph something hangs, as a user would write it: ``pipeline.encoder.inner.lock``."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

from . import names


class Refused(TypeError):
    """A failure over a part as such: what is inside of it does not matter."""

    def __init__(self, part: Any, text: str) -> None:
        super().__init__(text)
        self.part = part


def blame(root: Any, name: str, failure: Callable[[Any], Exception | None]) -> tuple[str, Any, Exception | None]:
    """Follow a failure down to the smallest part of an object graph that shows it by itself.

    Args:
        root: the object that fails.
        name: what to call it.
        failure: gives the exception that an object causes by itself, or None.

    Returns:
        The path of the part, the part, and its exception.
    """
    path, part, cause, seen = name, root, failure(root), {id(root)}
    while True:
        if isinstance(cause, Refused) and cause.part is part:
            return path, part, cause
        for label, child in children_and_code(part):
            if id(child) in seen:
                continue
            seen.add(id(child))
            error = failure(child)
            if error is not None:
                path, part, cause = joined(path, label), child, error
                break
        else:
            return path, part, cause


class _Whole(str):
    """A label that says by itself where something is, whatever holds it."""

    __slots__ = ()


def joined(path: str, label: str) -> str:
    """The path of a child."""
    return str(label) if isinstance(label, _Whole) else path + label


def children_and_code(parent: Any) -> Iterator[tuple[str, Any]]:
    """The parts of an object, and the code and its globals that travel with it since no other process can import it."""
    yield from children(parent)
    if isinstance(parent, type):
        for name, value in vars(parent).items():
            for function in names.functions_in(value):
                yield _Whole(f"{parent.__qualname__}.{name}"), function
    elif isinstance(parent, types.FunctionType):
        if names.travels(parent) and not names.is_librarys(parent):
            defaults = [*(parent.__defaults__ or ()), *(parent.__kwdefaults__ or {}).values()]
            yield from ((" -> a default", value) for value in defaults)
            for name in _global_names(parent.__code__):
                if name in parent.__globals__:
                    yield f" -> {name}", parent.__globals__[name]
    elif names.travels(type(parent)):
        yield _Whole(type(parent).__qualname__), type(parent)


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def children(parent: Any) -> Iterator[tuple[str, Any]]:
    """The parts of an object with their labels: attributes, items, what a function or a partial has bound."""
    if isinstance(parent, dict):
        for key, value in parent.items():
            yield f"[{key!r}]", value
    elif isinstance(parent, (list, tuple)):
        for position, value in enumerate(parent):
            yield f"[{position}]", value
    elif isinstance(parent, (set, frozenset)):
        for value in parent:
            yield "{...}", value
    elif isinstance(parent, functools.partial):
        yield ".func", parent.func
        yield from ((f".args[{i}]", value) for i, value in enumerate(parent.args))
        yield from ((f".keywords[{key!r}]", value) for key, value in parent.keywords.items())
    elif isinstance(parent, types.MethodType):
        yield ".__self__", parent.__self__
    elif isinstance(parent, types.FunctionType):
        for variable, cell in zip(parent.__code__.co_freevars, parent.__closure__ or ()):
            try:
                yield f".<{variable}>", cell.cell_contents
            except ValueError:  # the variable has no value yet
                continue
    elif isinstance(parent, torch.export.ExportedProgram):
        yield from ((f".{name}", getattr(parent, name)) for name in ("state_dict", "constants", "example_inputs"))
    elif not isinstance(parent, (type, types.ModuleType, torch.Tensor, torch.jit.ScriptModule)):
        yield from _attributes(parent)


def _attributes(parent: Any) -> Iterator[tuple[str, Any]]:
    own = dict(getattr(parent, "__dict__", {}))
    if isinstance(parent, torch.nn.Module):
        # a module's submodules, parameters and buffers are attributes to whoever wrote it
        for group in ("_modules", "_parameters", "_buffers"):
            own.update(own.pop(group, {}))
    for base in type(parent).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__") and hasattr(parent, slot):
                own.setdefault(slot, getattr(parent, slot))
    for label, value in own.items():
        yield f".{label}", value
