"""Word that an image is no longer in use, for processes that keep what they have loaded from it.

A process asks once for each image, and is answered when there is something to say: by the keeper about named images,
and about others by an actor of the job that made them (see `tasks.leases`). What that costs grows with the images that
end, and not with the processes that wait or the time they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

NAMESPACE = "ray_zerocopy"  # of the actors, in Ray's terms

_VERSION = b"version\0"  # how the keys of named images begin

CALLS = 100_000  # that may be open in one of the actors at a time: `max_concurrency`

# For how long a question stays open: who asked may have ended, and nobody says so.
_SECONDS = 3600.0


def key(token: str) -> bytes:
    """The key of a version of a named image; that of any other image is its object's id."""
    return _VERSION + token.encode()


def is_named(key: bytes) -> bool:
    """Whether a key is that of a named image."""
    return key.startswith(_VERSION)


class Endings:
    """In an asyncio actor: those who wait for an image's end. Only they are woken by it."""

    def __init__(self, ended: Callable[[bytes], bool]) -> None:
        self._ended = ended
        self._waiting: dict[bytes, asyncio.Event] = {}

    def tell(self, key: bytes) -> None:
        """An image has ended."""
        event = self._waiting.pop(key, None)
        if event is not None:
            event.set()

    async def wait(self, key: bytes) -> bool:
        """Whether an image has ended, once it has; or False after an hour, for whoever still asks to ask again."""
        if self._ended(key):
            return True
        event = self._waiting.get(key)
        if event is None:
            event = self._waiting[key] = asyncio.Event()
        try:
            await asyncio.wait_for(event.wait(), _SECONDS)
        except asyncio.TimeoutError:
            return False
        return True
