"""Every environment variable of this package, read and checked here (docs/settings.md lists them).

Each is read when it is used, so that ``os.environ`` and Ray's ``runtime_env`` can set it at any time before.
"""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

from . import errors

Isolation = Literal["copy-on-write", "read-only", "copy"]

ISOLATION = "RAY_ZEROCOPY_ISOLATION"


def isolation() -> str:
    """The isolation asked for: ``"copy-on-write"``, ``"read-only"``, or nothing for the best that the machine can give.

    Raises:
        IsolationError: another value.
    """
    asked = os.environ.get(ISOLATION, "")
    if asked not in ("", "copy-on-write", "read-only"):
        raise errors.IsolationError(
            f"{ISOLATION}={asked!r} is unknown; it takes 'copy-on-write' or 'read-only', "
            "or nothing for the best that the machine can give"
        )
    return asked


class Kept(NamedTuple):
    """What bounds the pipelines that a worker keeps for calls.

    Attributes:
        models: their number.
        nbytes: private memory that the worker may have taken since it loaded the first one.
        seconds: since the last call.
    """

    models: int
    nbytes: int
    seconds: int


def kept() -> Kept:
    """The bounds of what a worker keeps.

    Raises:
        SettingError: one of the variables is not a number.
    """
    return Kept(
        _number("RAY_ZEROCOPY_KEPT_MODELS", 8),
        _number("RAY_ZEROCOPY_KEPT_BYTES", 2 << 30),
        _number("RAY_ZEROCOPY_KEPT_SECONDS", 300),
    )


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise errors.SettingError(f"{variable}={text!r} is not a number; it takes an integer of at least 0")
    return value
