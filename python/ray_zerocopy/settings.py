"""Every environment variable of this package, read and checked here (docs/settings.md lists them).

Each is read when it is used, so that ``os.environ`` and Ray's ``runtime_env`` can set it at any time before.
"""

from __future__ import annotations

import os
from typing import Literal

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


def kept_models() -> int:
    """How many pipelines a worker keeps for calls."""
    return _number("RAY_ZEROCOPY_KEPT_MODELS", 8)


def kept_bytes() -> int:
    """Private memory, in bytes, that a worker may have taken since it loaded the first pipeline that it keeps."""
    return _number("RAY_ZEROCOPY_KEPT_BYTES", 2 << 30)


def kept_seconds() -> int:
    """Seconds for which a worker keeps a pipeline that is not called."""
    return _number("RAY_ZEROCOPY_KEPT_SECONDS", 300)


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise errors.SettingError(f"{variable}={text!r} is not a number; it takes an integer of at least 0")
    return value
