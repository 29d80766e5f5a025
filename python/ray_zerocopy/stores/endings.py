"""Word that an image is no longer in use, for processes that keep what they have loaded from it.

A process asks once for each image, and is answered when there is something to say: by the keeper about named images,
and about others by an actor of the job that made them (see `tasks.leases`). What that costs grows with the images that
end, and not with the processes that wait or the time they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

NAMESPACE = "ray_zerocopy"  # of the actors, in Ray's terms

VERSION = b"version\0"  # how the keys of named images begin

CALLS = 100_000  # that may be open in one of the actors at a time: `max_concurrency`

# For how long a question stays open: who asked may have ended, and nobody says so.
_SECONDS = 3600.0


class Endings:
    """In an asyncio actor: those who wait for an image's end."""

    def __init__(self, ended: Callable[[bytes], bool]) -> None:
        self._ended = ended
        self._changed: asyncio.Event | None = None  # made where it is waited for: Python 3.8 binds it to the loop

    def tell(self) -> None:
        """Have those who wait look again."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def wait(self, key: bytes) -> bool:
        """Whether an image has ended, once it has; or False after an hour, for whoever still asks to ask again."""
        end = asyncio.get_running_loop().time() + _SECONDS
        while not self._ended(key):
            left = end - asyncio.get_running_loop().time()
            if self._changed is None:
                self._changed = asyncio.Event()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except asyncio.TimeoutError:
                return False
        return True
