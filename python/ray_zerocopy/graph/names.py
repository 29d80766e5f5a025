"""Which classes and functions another process finds by their names, and which have to travel by value."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import site
import sys
import sysconfig
import types
from collections.abc import Iterator
from typing import Any

_LIBRARIES = tuple(
    {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
    }
)
_OURS = __name__.partition(".")[0]
_known: set[str] = set()  # modules that were found; what is not found is looked for again


def is_found(obj: Any) -> bool:
    """Whether a class or function is what its module has under its name, in this process."""
    module = getattr(obj, "__module__", None) or ""
    if module not in sys.modules and module.partition(".")[0] in sys.modules:
        # a public name that nobody has imported: NumPy's classes call themselves numpy.rec.recarray and so on
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    found: Any = sys.modules.get(module)
    if found is None or getattr(found, "__name__", "") == "__main__":
        return False
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is obj


def functions_in(value: Any) -> Iterator[types.FunctionType]:
    """The functions behind what a class has under a name."""
    if isinstance(value, property):
        for each in (value.fget, value.fset, value.fdel):
            yield from functions_in(each)
    elif isinstance(value, (staticmethod, classmethod)):
        yield from functions_in(value.__func__)
    elif isinstance(value, functools.cached_property):
        yield from functions_in(value.func)
    elif isinstance(value, types.FunctionType):
        yield value


def travels(code: Any) -> bool:
    """Whether a class or function is pickled with its code."""
    return not (is_found(code) and can_import(code.__module__))


def is_users(module: str | None) -> bool:
    """Whether a module is a user's own: from a file, and of no library."""
    loaded = sys.modules.get(module or "")
    if loaded is None or module == "__main__" or str(module).partition(".")[0] == _OURS:
        return False
    file = getattr(loaded, "__file__", None)
    # pytest rewrites the modules of tests while they are imported, and only in its own process
    rewritten = type(getattr(loaded, "__loader__", None)).__module__.startswith("_pytest")
    return bool(file) and not rewritten and not str(file).startswith(_LIBRARIES)


def is_librarys(function: Any) -> bool:
    """Whether a function that was made inside of another one belongs to a library's module, and its globals do."""
    module = function.__module__
    loaded = sys.modules.get(module or "")
    if loaded is None or module == "__main__" or function.__globals__ is not vars(loaded):
        return False
    return str(getattr(loaded, "__file__", None)).startswith(_LIBRARIES) and can_import(module)


def can_import(module: str) -> bool:
    """Whether a fresh process with this one's ``sys.path`` could import a module that is loaded here.

    Libraries make modules while they run, of templates or of code that was downloaded, and scripts load files that are
    on no path. A module is taken for one that can be imported unless it comes from a source file and no importer finds
    it: what has no file (parts of extensions, ``six.moves``) comes with the import of something else.
    """
    loaded = sys.modules.get(module)
    if module in _known or loaded is None:
        return True
    spec = getattr(loaded, "__spec__", None)
    top, _, _ = module.partition(".")
    if spec is None:
        found = top != module and can_import(top)
    elif not (spec.has_location and str(spec.origin).endswith(".py")) or spec.name != module:
        found = True
    else:
        found = _find(module) or not os.path.exists(spec.origin or "")  # in an archive, perhaps
    if found:
        _known.add(module)
    return found


def _find(module: str) -> bool:
    parent, _, _ = module.rpartition(".")
    path = None
    if parent:
        path = getattr(sys.modules.get(parent), "__path__", None)
        if path is None or not can_import(parent):
            return False
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        try:
            if find is not None and find(module, path, None) is not None:
                return True
        except Exception:  # it is somebody else's, and may expect to be asked in another way
            return True
    return False
