"""What keeps a command from being carried out, said in one line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from .. import errors


class Failed(Exception):
    """The command cannot be carried out; the text is for the user."""


@contextlib.contextmanager
def reported(what: str = "") -> Iterator[list[int]]:
    """Say what went wrong, and with what, in one line, without a traceback. The list's only item is the exit code."""
    code = [0]
    try:
        yield code
    except BrokenPipeError:  # see `__main__.main`
        raise
    except expected() as error:
        text = line(error)
        print(f"ray_zerocopy: {text if what in text else f'{what}: {text}'}", file=sys.stderr)
        code[0] = 1


def line(error: BaseException) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def expected() -> tuple[type[Exception], ...]:
    """The errors that have a cause outside of this package. To be asked for when one has come: only then is it known
    whether Ray, whose import takes seconds, takes part."""
    ray = sys.modules.get("ray.exceptions")
    return (Failed, errors.RayZeroCopyError, ValueError, OSError, *(() if ray is None else (ray.RayError,)))
