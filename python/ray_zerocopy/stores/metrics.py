"""What this package tells Ray's metrics (docs/observing.md lists the names). Ray puts ``ray_`` before each name.

A load takes little more than a millisecond, and recording one number in Ray up to some tens of microseconds. So a load
only leaves a note, and a thread records the notes later, together with the process's private memory. The thread lives
while something that was loaded does; there is none, and no note, in processes that Ray does not collect metrics from:
those that are not connected, use Ray Client, or were forked from one that is connected.

Relied upon, tried with ray 2.60: a gauge keeps being reported after it was set once, and an instrument can be
used in the next connection to Ray. tests/test_metrics.py fails when that changes.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any, Tuple

from ray.util.metrics import Counter, Gauge, Histogram

from .. import errors
from . import connection

# seconds from a load to the first record, and between two looks at the process later
_FIRST, _EVERY = 1.0, 10.0

# seconds; a model of some tensors takes 0.3 ms, one that first has to import its libraries some seconds
_BOUNDS = [0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]

Key = Tuple[str, str]  # namespace, name


class Loads:
    """The loads of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._notes: deque[tuple[Key, float, weakref.ref[Any]]] = deque()
        self._held: list[weakref.ref[Any]] = []
        self._running = False
        self._recording = threading.Lock()

    def note(self, key: Key, seconds: float, memory: Any) -> None:
        """Something was loaded.

        Args:
            key: its namespace and name; two empty strings if it has none.
            seconds: how long that took.
            memory: what lives as long as what was loaded.
        """
        self._notes.append((key, seconds, weakref.ref(memory)))
        if not self._running:
            self._start()

    def _start(self) -> None:
        with self._lock:
            if self._running:
                return
            if not _connected():
                self._notes.clear()
                return
            self._running = True
        threading.Thread(target=self._run, name="ray_zerocopy.metrics", daemon=True).start()

    def _run(self) -> None:
        wait = _FIRST
        while True:
            time.sleep(wait)
            wait = _EVERY
            with self._recording, contextlib.suppress(Exception):  # whatever fails here is no reason to disturb anybody
                self._record()
            if self._held:
                continue
            with self._lock:
                self._running = False
                if not self._notes:  # a load that leaves a note after this looks sees that nothing runs
                    return
                self._running = True

    def at_exit(self) -> None:
        """Let the thread not be in Ray's libraries when the process takes them down."""
        self._recording.acquire(timeout=1.0)

    def _record(self) -> None:
        notes = [self._notes.popleft() for _ in range(len(self._notes))]
        self._held = [held for held in [*self._held, *(note[2] for note in notes)] if held() is not None]
        if not _connected():
            return
        loads, seconds, memory = _of_processes()
        for (namespace, name), taken, _ in notes:
            loads.inc(1, {"namespace": namespace, "name": name})
            seconds.observe(taken)
        memory.set(private_bytes() if self._held else 0, {"pid": str(os.getpid())})


def loaded(key: Key, seconds: float, memory: Any) -> None:
    """See `Loads.note`."""
    _loads.note(key, seconds, memory)


def private_bytes() -> int:
    """This process's anonymous memory; 0 where the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/self/status") as lines:
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:")), 0)
    return 0


class Names:
    """The named models, as their keeper knows them."""

    def __init__(self) -> None:
        self._shown: set[tuple[Key, str]] = set()

    def show(self, versions: Iterable[tuple[Key, str, int]]) -> None:
        """Say what there is now.

        Args:
            versions: of each version of each model: namespace and name, state, and bytes of the image that there is.
        """
        with contextlib.suppress(Exception):  # the names matter more
            self._show(list(versions))

    def _show(self, versions: list[tuple[Key, str, int]]) -> None:
        models, nbytes = _of_names()
        counts = dict.fromkeys(self._shown, 0)  # Ray has no way to end a series: what is gone says 0
        sizes = {key: 0 for key, _ in self._shown}
        for key, state, size in versions:
            counts[key, state] = counts.get((key, state), 0) + 1
            sizes[key] = sizes.get(key, 0) + size
        for ((namespace, name), state), count in counts.items():
            models.set(count, {"namespace": namespace, "name": name, "state": state})
        for (namespace, name), size in sizes.items():
            nbytes.set(size, {"namespace": namespace, "name": name})
        self._shown = {(key, state) for key, state, _ in versions}


# --- inside ------------------------------------------------------------------------------------------


def _connected() -> bool:
    try:
        connection.require_ray("Recording metrics")
    except errors.RayZeroCopyError:
        return False
    return not connection.is_client()


@functools.lru_cache(maxsize=None)
def _of_processes() -> tuple[Counter, Histogram, Gauge]:
    return (
        Counter("zerocopy_loads", "Models and pipelines loaded.", ("namespace", "name")),
        Histogram(
            "zerocopy_load_seconds",
            "Seconds from having the image in this node's store to having the model.",
            _BOUNDS,
        ),
        Gauge(
            "zerocopy_private_bytes",
            "Anonymous memory of a process that has loaded a model; 0 once it holds none.",
            ("pid",),
        ),
    )


@functools.lru_cache(maxsize=None)
def _of_names() -> tuple[Gauge, Gauge]:
    return (
        Gauge("zerocopy_models", "Versions of a named model.", ("namespace", "name", "state")),
        Gauge("zerocopy_model_bytes", "Bytes of a named model, in each store that holds it.", ("namespace", "name")),
    )


_loads = Loads()


def _forget() -> None:
    """In a forked child: the thread is not there, and its lock may be held."""
    global _loads
    _loads = Loads()


os.register_at_fork(after_in_child=_forget)
atexit.register(lambda: _loads.at_exit())  # after Ray's own, so it runs before
