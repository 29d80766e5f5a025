"""Whether a class or function that is found by its name is the one that was wrapped.

Code of a library does not change under its users' feet. A module of the user's own does: it is edited, reloaded in a
notebook, wrapped again, and a worker that imported it before goes on with the old code. So what comes from such modules
is stamped with a digest of its code, and a process that finds other code says so.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Iterator
from typing import Any

from . import names

_CONSTANTS = (int, float, complex, bool, str, bytes, type(None), type(...))


def stamp(found: Any) -> bytes | None:
    """The digest of a class or function, None if its code is no user's own: of a library, or not from a file."""
    if not names.is_users(found.__module__):
        return None
    digest = hashlib.blake2b(digest_size=8)
    for part in found.__mro__ if isinstance(found, type) else (found,):
        if names.is_users(part.__module__):
            for name, code in _codes(part):
                digest.update(repr((name, _described(code))).encode())
    return digest.digest()


def _codes(part: Any) -> Iterator[tuple[str, types.CodeType]]:
    if isinstance(part, types.FunctionType):
        yield part.__name__, part.__code__
        return
    for name, value in sorted(vars(part).items(), key=lambda item: item[0]):
        for function in _functions(value):
            yield name, function.__code__


def _functions(value: Any) -> Iterator[types.FunctionType]:
    for function in names.functions_in(value):
        yield function
        yield from _functions(getattr(function, "__wrapped__", None))


def _described(code: types.CodeType) -> Any:
    """What a function does, without where it stands."""
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, [_constant(each) for each in code.co_consts]


def _constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return _described(value)
    if isinstance(value, tuple):
        return [_constant(each) for each in value]
    if isinstance(value, frozenset):  # whose order is another one in each process
        return sorted(repr(_constant(each)) for each in value)
    return value if isinstance(value, _CONSTANTS) else type(value).__name__
