"""Python's cyclic garbage collector, paused."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable
from typing import Any, TypeVar, cast

_F = TypeVar("_F", bound="Callable[..., Any]")  # quoted: not to be subscripted before Python 3.9

_paused = False


def paused(function: _F) -> _F:
    """Keep Python's cyclic garbage collector from running during a function.

    A model is thousands of objects made in one go, none of which is garbage yet. The collector would run every few
    hundred of them (gc.get_threshold()), and now and then over everything in the process, which takes longer than all
    the rest of a load. After the pause it runs once for all of them.
    """

    @functools.wraps(function)
    def during(*args: Any, **kwargs: Any) -> Any:
        global _paused
        if not gc.isenabled():  # by the user, or by another thread that is in here
            return function(*args, **kwargs)
        try:  # as it stands: Python looks for signals after a call, and between this and a context manager's own code
            _paused = True
            gc.disable()
            return function(*args, **kwargs)
        finally:
            _paused = False
            gc.enable()

    return cast(_F, during)


def _resume() -> None:
    """In a forked child: the thread that has paused the collector is not there to end the pause."""
    if _paused:
        gc.enable()


os.register_at_fork(after_in_child=_resume)
