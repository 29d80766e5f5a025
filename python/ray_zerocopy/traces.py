"""What the traceback of an exception holds: the local variables of every function that it went through.

A notebook keeps the last exception, and so do programs that gather failures. None of them means to keep a model.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing_extensions import ParamSpec

    P = ParamSpec("P")
R = TypeVar("R")


def holds_nothing(function: Callable[P, R]) -> Callable[P, R]:
    """Have an exception that leaves a function hold nothing of what the function, and whatever it called, worked on."""

    @functools.wraps(function)
    def outermost(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            del args, kwargs
            _clear(error)
            raise

    return outermost


def _clear(error: BaseException) -> None:
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)  # those that have ended: not of who called the function
            if isinstance(one, AttributeError) and getattr(one, "obj", None) is not None:
                one.obj = None  # what has no such attribute
            left += [one.__cause__, one.__context__]
