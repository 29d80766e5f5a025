"""Every environment variable of this package, read and checked here (docs/settings.md lists them).

Each is read when it is used, so that ``os.environ`` and Ray's ``runtime_env`` can set it at any time before.
"""

from __future__ import annotations

import difflib
import os
from typing import Literal, NamedTuple

from . import errors

Isolation = Literal["copy-on-write", "read-only", "copy"]

_PREFIX = "RAY_ZEROCOPY_"
ISOLATION = "RAY_ZEROCOPY_ISOLATION"
KEPT_MODELS = "RAY_ZEROCOPY_KEPT_MODELS"
KEPT_BYTES = "RAY_ZEROCOPY_KEPT_BYTES"
KEPT_SECONDS = "RAY_ZEROCOPY_KEPT_SECONDS"
NODE_FILES = "RAY_ZEROCOPY_NODE_FILES"
NODE_FILES_BYTES = "RAY_ZEROCOPY_NODE_FILES_BYTES"
COMPILE_TURNS = "RAY_ZEROCOPY_COMPILE_TURNS"

VARIABLES = (ISOLATION, KEPT_MODELS, KEPT_BYTES, KEPT_SECONDS, NODE_FILES, NODE_FILES_BYTES, COMPILE_TURNS)


def in_force() -> dict[str, str]:
    """The variables of this package that are set in this process, with their values, unchecked."""
    return {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}


def unknown() -> dict[str, str]:
    """Variables that are set, look like one of these and are none, each with the one that comes nearest, or nothing."""
    found = {}
    for name in sorted(set(os.environ) - set(VARIABLES)):
        near = difflib.get_close_matches(name.upper(), VARIABLES, 1, 0.8)  # without its case: only that may be wrong
        if near or name.startswith(_PREFIX):
            found[name] = near[0] if near else ""
    return found


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
        _number(KEPT_MODELS, 8),
        _number(KEPT_BYTES, 2 << 30),
        _number(KEPT_SECONDS, 300),
    )


class NodeFiles(NamedTuple):
    """Where images of the store are kept as files, too.

    Attributes:
        folder: an absolute path.
        nbytes: that all of them may have.
    """

    folder: str
    nbytes: int


def node_files() -> NodeFiles | None:
    """What is asked for; None: no such files.

    Raises:
        SettingError: the folder's path is not absolute, or the bound is not a number.
    """
    folder = os.environ.get(NODE_FILES, "")
    if not folder:
        return None
    if not os.path.isabs(folder):
        raise errors.SettingError(f"{NODE_FILES}={folder!r} is not an absolute path; it takes that of a folder")
    return NodeFiles(os.path.normpath(folder), _number(NODE_FILES_BYTES, 64 << 30))


def compile_turns() -> bool:
    """Whether processes of a node are to take turns at ``torch.compile``.

    Raises:
        SettingError: it is neither on nor off.
    """
    text = os.environ.get(COMPILE_TURNS, "")
    if text not in ("", "0", "1"):
        raise errors.SettingError(f"{COMPILE_TURNS}={text!r} is unknown; it takes 1 (on) or 0 (off)")
    return text == "1"


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise errors.SettingError(f"{variable}={text!r} is not a number; it takes an integer of at least 0")
    return value
