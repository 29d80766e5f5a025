"""What of a pipeline each process holds by itself: the bytes of the pickle, and where many of them hang."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

from . import paths

# One chunk that a pickler writes is a single object's if it is larger than what the pickler collects before it writes.
_LARGE = 256 << 10
_NOTABLE = 1 << 20  # bytes of such objects from which on it is told where they hang
_SHOWN = 5

BOUND = 32 << 20  # bytes from which on a put warns


class PrivateBytes(int):
    """A number of bytes, and where most of them hang.

    Attributes:
        paths: of the parts that hold the most, such as ``pipeline.table``, each with its bytes. Empty where there is
            nothing large.
    """

    paths: dict[str, int]

    def __new__(cls, value: int = 0, paths: dict[str, int] | None = None) -> PrivateBytes:
        made = super().__new__(cls, value)
        made.paths = dict(paths or {})
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return PrivateBytes, (int(self), self.paths)

    def __str__(self) -> str:
        held = ", ".join(f"{path}: {size:,}" for path, size in self.paths.items())
        return f"{int(self):,} bytes" + (f" ({held})" if held else "")


class Stream(io.BytesIO):
    """What a pickle is written to.

    Attributes:
        large: bytes that came from single large objects.
    """

    large = 0

    def write(self, data: Any) -> int:
        """As any stream's."""
        if len(data) >= _LARGE:
            self.large += len(data)
        return super().write(data)


def private_bytes(root: Any, name: str, total: int, large: int, size: Callable[[Any], int]) -> PrivateBytes:
    """What of an object is private.

    Args:
        root: the object.
        name: what to call it.
        total: its private bytes.
        large: those of them that are in large objects.
        size: gives the private bytes of a part.
    """
    found: dict[str, int] = {}
    if large >= _NOTABLE:
        with contextlib.suppress(Exception):  # objects may answer in any way when they are asked for their parts
            _look(root, name, total, size, total // 16, found, set())
    most = sorted(found.items(), key=lambda item: -item[1])[:_SHOWN]
    return PrivateBytes(total, dict(most))


def _look(
    part: Any, path: str, own: int, size: Callable[[Any], int], least: int, found: dict[str, int], seen: set[int]
) -> None:
    seen.add(id(part))
    inside = [
        (label, child, bytes_there)
        for label, child in paths.children_and_code(part)
        if id(child) not in seen and (bytes_there := size(child)) >= least
    ]
    if sum(bytes_there for _, _, bytes_there in inside) < own // 2:  # it is what the part makes of itself
        found[path] = own
        return
    for label, child, bytes_there in inside:
        _look(child, paths.joined(path, label), bytes_there, size, least, found, seen)
