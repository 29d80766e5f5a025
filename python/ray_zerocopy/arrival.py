"""What stands first in the pickle of a wrapper or stand-in: whether the process where it arrives has this package.

Without it, all that one would read there is "No module named 'ray_zerocopy'".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ADVICE = (
    "Each process that loads or calls a model needs the package ray-zerocopy: install its wheel on every node, or "
    "bring it with the job, by ray.init(runtime_env={'pip': ['/path/to/ray_zerocopy-....whl']}) or "
    "runtime_env={'py_modules': [ray_zerocopy]} (docs/clusters.md). Not by its name alone: until this version is "
    "published, that brings an older package."
)

# An expression, evaluated where the pickle is loaded: of functions, pickle carries only the names.
_IF_HERE = (
    "getattr((__import__('importlib.util', fromlist='_').find_spec('ray_zerocopy') or (_ for _ in ()).throw("
    "ModuleNotFoundError('No module named \\'ray_zerocopy\\' in %s on %s. ' % (__import__('sys').executable, "
    "__import__('os').uname().nodename) + {advice!r}, name='ray_zerocopy'))) "
    "and __import__('importlib').import_module({module!r}), {name!r})"
)


class Arrival:
    """In the place of a function of this package, for what ``__reduce__`` returns."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._expression = _IF_HERE.format(advice=ADVICE, module=function.__module__, name=function.__name__)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        # with names of its own: those of whoever unpickles would be gathered, and kept as long as their function runs
        return eval, (self._expression, {})
