"""What a process keeps of the pipelines that it has loaded for calls, so that a second call loads nothing.

Bounded by number, by the private memory that the process has taken since the first, and by the time since the last
use; and a pipeline goes when its image is no longer in use, so that the store gets its memory back. Whether it is,
a process learns from a *lease*: an entry in a small table that all processes of the cluster share, which the process
that wrapped the pipeline removes when its own last reference goes.

Relied upon, tried with ray 2.40 and 2.60: the table, `ray.experimental.internal_kv`. Where it does not answer, only
the other bounds hold.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import queue
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.experimental import internal_kv

from .. import settings
from ..stores import connection
from ..stores.metrics import private_bytes

_LOOKS = 1.0, 5.0  # seconds between two looks at what is kept: at first, and when nothing has changed for long
_NAMESPACE = b"ray_zerocopy"


@dataclass
class _Entry:
    ready: threading.Lock = field(default_factory=threading.Lock)
    loaded: Any = None
    used: float = 0.0


class Kept:
    """The pipelines that this process keeps, by the id of their image.

    Its bounds are settings, read from the environment of the process when it loads:
    ``RAY_ZEROCOPY_KEPT_MODELS`` (8), ``RAY_ZEROCOPY_KEPT_BYTES`` (2 GiB of private memory; the one in use always
    stays) and ``RAY_ZEROCOPY_KEPT_SECONDS`` (300).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._start = 0  # private memory of this process before anything was kept
        self._watching = False

    def get(self, key: bytes, load: Callable[[], Any]) -> Any:
        """The pipeline of an image, loaded if it is not kept; of two threads that ask at once, one loads.

        Args:
            key: id of the image.
            load: loads it.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
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
        models, size = settings.kept_models(), settings.kept_bytes()
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
        if start:
            threading.Thread(target=self._look, name="ray_zerocopy.kept", daemon=True).start()

    def _look(self) -> None:
        wait = _LOOKS[0]
        while True:
            time.sleep(wait)
            dropped = []
            now, seconds = time.monotonic(), settings.kept_seconds()
            for key, used in [(key, entry.used) for key, entry in list(self._entries.items())]:
                if now - used > wait and (now - used > seconds or not in_use(key)):
                    dropped.append(self.drop(key))
            wait = _LOOKS[0] if dropped else min(1.5 * wait, _LOOKS[1])
            _collect(dropped)
            with self._lock:
                if not self._entries:
                    self._watching = False
                    return


def _collect(dropped: list[Any]) -> None:
    if dropped:
        dropped.clear()
        gc.collect()  # a pipeline may refer to itself, and holds the store's memory until it is gone


# --- leases ------------------------------------------------------------------------------------------


class Lease:
    """Says to all processes that an image is in use, until it is no longer referred to, or until the process that
    made it ends or disconnects from Ray."""

    def __init__(self, key: bytes) -> None:
        with _leases.lock:
            if _leases.pid != os.getpid():
                _leases.pid = os.getpid()
                threading.Thread(target=_leases.release, name="ray_zerocopy.leases", daemon=True).start()
        internal_kv._internal_kv_put(key, b"", namespace=_NAMESPACE)
        self._end = weakref.finalize(self, _leases.end, key, os.getpid(), connection.number())
        self._end.atexit = False
        _leases.held.add(key)


class _Leases:
    def __init__(self) -> None:
        self.lock, self.pid = threading.Lock(), 0
        self.held: set[bytes] = set()
        self.ended: queue.SimpleQueue[tuple[bytes, int]] = queue.SimpleQueue()

    def end(self, key: bytes, pid: int, number: int) -> None:
        if pid == os.getpid():  # and not in a forked child
            # by a thread of its own: the garbage collector may be anywhere when it comes to this, and the table is far
            self.ended.put((key, number))

    def release(self) -> None:
        while True:
            key, number = self.ended.get()
            if number == connection.number():  # keys repeat: in a later connection it may be another image's
                self._release(key)

    def _release(self, key: bytes) -> None:
        self.held.discard(key)
        with contextlib.suppress(Exception):  # the cluster may be gone, and the table with it
            if ray.is_initialized():
                internal_kv._internal_kv_del(key, namespace=_NAMESPACE)

    def release_all(self) -> None:
        if self.pid == os.getpid():
            for key in list(self.held):
                self._release(key)


_leases = _Leases()
atexit.register(_leases.release_all)  # after Ray's own, so it runs before
connection.before_end(_leases.release_all)


def in_use(key: bytes) -> bool:
    """Whether an image is still referred to by the process that put it, as far as one knows."""
    try:
        return bool(internal_kv._internal_kv_exists(key, namespace=_NAMESPACE))
    except Exception:  # the cluster is ending, or the table does not answer
        return True
