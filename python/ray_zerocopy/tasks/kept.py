"""What a process keeps of the pipelines that it has loaded for calls, so that a second call loads nothing.

Bounded by number, by the private memory that the process has taken since the first, and by the time since the last
use; and a pipeline goes when its image is no longer in use (see `leases`), so that the store gets its memory back.
Where nobody can say whether it is, only the other bounds hold.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .. import settings
from ..stores.metrics import private_bytes
from . import leases

# Seconds between two looks for somebody who can say when an image ends, at first and at last: the process that wrapped
# it may not yet have come to start that actor.
_QUESTIONS = 1.0, 60.0


@dataclass
class _Entry:
    ready: threading.Lock = field(default_factory=threading.Lock)
    loaded: Any = None
    used: float = 0.0
    ending: Any = None  # a future: see `leases.ending`
    asked: float = 0.0
    patience: float = _QUESTIONS[0]


class Kept:
    """The pipelines that this process keeps, by the id of their image.

    Its bounds are settings (`settings.Kept`), read from the environment of the process before each load; the one in
    use always stays.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._start = 0  # private memory of this process before anything was kept
        self._watching, self._wake = False, threading.Event()
        self._bounds = settings.Kept(1, 0, 0)

    def get(self, key: bytes, load: Callable[[], Any]) -> Any:
        """The pipeline of an image, loaded if it is not kept; of two threads that ask at once, one loads.

        Args:
            key: id of the image.
            load: loads it.

        Raises:
            SettingError: a bound is not a number.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self._bounds = settings.kept()
                if not self._entries:
                    self._start = private_bytes()
                entry = self._entries[key] = _Entry()
            entry.used = time.monotonic()
            self._entries.move_to_end(key)
        if entry.loaded is None:
            with entry.ready:
                if entry.loaded is None:
                    try:
                        entry.loaded = load()
                    except BaseException:
                        self.drop(key)
                        raise
            self._watch()
        return entry.loaded

    def finished(self, key: bytes) -> None:
        """A call has ended: see to the bounds, and count the time from now."""
        models, size, _ = self._bounds
        dropped = []
        with self._lock:
            if key in self._entries:
                self._entries[key].used = time.monotonic()
            while len(self._entries) > max(models, 1):
                dropped.append(self._entries.popitem(last=False))
            if models == 0 and key in self._entries:
                dropped.append((key, self._entries.pop(key)))
        while len(self._entries) > 1 and private_bytes() - self._start > size:
            with self._lock:
                dropped.append(self._entries.popitem(last=False))
            _collect(dropped)
        _collect(dropped)

    def drop(self, key: bytes) -> Any:
        """Forget a pipeline; the result holds it for the last time."""
        with self._lock:
            return self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget all pipelines."""
        with self._lock:
            dropped = list(self._entries.values())
            self._entries.clear()
        _collect(dropped)

    def _watch(self) -> None:
        with self._lock:
            start, self._watching = not self._watching, True
        self._wake.set()
        if start:
            threading.Thread(target=self._look, name="ray_zerocopy.kept", daemon=True).start()

    def _look(self) -> None:
        while True:
            self._wake.clear()
            wait = self._sweep()
            with self._lock:
                if not self._entries:
                    self._watching = False
                    return
            self._wake.wait(wait + 0.1)

    def _sweep(self) -> float:
        """Drop what is not to be kept; the seconds until one has to look again."""
        dropped, wait = [], float(self._bounds.seconds)
        for key in list(self._entries):
            left = self._left(key)
            if left > 0:
                wait = min(wait, left)
            else:
                dropped.append(self.drop(key))
        _collect(dropped)
        return wait

    def _left(self, key: bytes) -> float:
        """Seconds for which a pipeline is kept, or until it is to be looked at again. No reference to it is left, as
        the thread would hold it."""
        entry = self._entries.get(key)
        if entry is None:
            return float("inf")
        if self._ended(key, entry):
            return 0
        left = entry.used + self._bounds.seconds - time.monotonic()
        return min(left, entry.patience) if entry.ending is None else left

    def _ended(self, key: bytes, entry: _Entry) -> bool:
        """Whether an image is no longer in use, as far as one knows."""
        if entry.loaded is None:
            return False
        if entry.ending is None and time.monotonic() > entry.asked + entry.patience:
            entry.asked, entry.patience = time.monotonic(), min(2 * entry.patience, _QUESTIONS[1])
            entry.ending = leases.ending(key)
            if entry.ending is not None:
                entry.ending.add_done_callback(lambda _: self._wake.set())
        if entry.ending is None or not entry.ending.done():
            return False
        if entry.ending.exception() is None and not entry.ending.result():  # it is time to ask again
            entry.ending, entry.patience = None, _QUESTIONS[0]
            self._wake.set()
            return False
        return True


def _collect(dropped: list[Any]) -> None:
    if dropped:
        dropped.clear()
        gc.collect()  # a pipeline may refer to itself, and holds the store's memory until it is gone
