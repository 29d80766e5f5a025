"""A bar for what takes long: on stderr, and only if somebody watches.

What it shows is done in one call each, so the bar goes by what the system counts for this process meanwhile.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, ContextManager

_EVERY = 0.2  # seconds


def mapped(text: str, nbytes: int) -> ContextManager[None]:
    """While all of a mapped file is read: how much of it has been touched."""
    return _shown(text, nbytes, lambda: _counted("/proc/self/status", "RssFile:") << 10)


def written(text: str, nbytes: int) -> ContextManager[None]:
    """While a file of about so many bytes is written: how much of it has been."""
    return _shown(text, nbytes, lambda: _counted("/proc/self/io", "wchar:"))


@contextlib.contextmanager
def _shown(text: str, nbytes: int, count: Callable[[], int]) -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return
    import tqdm

    bar = tqdm.tqdm(total=nbytes, desc=text, unit="B", unit_scale=True, unit_divisor=1024, leave=False)
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(bar, ended, count, count()), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        bar.close()


def _watch(bar: Any, ended: threading.Event, count: Callable[[], int], before: int) -> None:
    while not ended.wait(_EVERY):
        done = min(count() - before, bar.total)
        if done > bar.n:  # the system may take pages back meanwhile
            bar.update(done - bar.n)


def _counted(path: str, name: str) -> int:
    """The number on the line of this name; 0 where the system does not tell."""
    with contextlib.suppress(OSError), open(path) as lines:
        return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)
    return 0
