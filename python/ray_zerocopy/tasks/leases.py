"""Leases: who wrapped a pipeline for calls holds one as long as somebody may call it.

When a lease ends, an actor of the job is told, and tells the workers that keep the pipeline (see `stores.endings`). It
ends with the job, and so do the job's workers: nothing is left of a driver that was killed.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import queue
import threading
import weakref
from concurrent.futures import Future
from typing import Any

import ray

from ..stores import connection, endings, keeper


class Leases:
    """An actor, one for a job: hears which images ended, and tells who waits for that."""

    def __init__(self) -> None:
        self._ended: set[bytes] = set()
        self._endings = endings.Endings(self._ended.__contains__)

    async def end(self, key: bytes) -> None:
        """An image is no longer in use."""
        self._ended.add(key)
        self._endings.tell(key)

    async def ended(self, key: bytes) -> bool:
        """See `endings.Endings.wait`."""
        return await self._endings.wait(key)


_actor = connection.remote(Leases, num_cpus=0, max_concurrency=endings.CALLS)


def _name(job: str) -> str:
    return f"leases {job}"


class Lease:
    """Says to the processes that keep what they loaded from an image that it is in use, until the last reference to
    this goes."""

    def __init__(self, key: bytes) -> None:
        # no Python code at its end, where a signal's exception would be lost
        ending = functools.partial(_news.put, (key, True, os.getpid(), connection.number()))
        _held[next(_numbers)] = weakref.ref(self, ending)
        _serve()
        _news.put((key, False, os.getpid(), connection.number()))


def end(key: bytes) -> None:
    """Say so now, whoever still holds a lease."""
    _serve()
    _news.put((key, True, os.getpid(), connection.number()))


_held: dict[int, weakref.ref[Lease]] = {}
_numbers = itertools.count()
_news: queue.SimpleQueue[tuple[bytes, bool, int, int]] = queue.SimpleQueue()
_lock, _pid = threading.Lock(), 0


def _serve() -> None:
    """Have a thread of this process tell the actor: the last reference may go anywhere, and the actor is far."""
    global _pid
    with _lock:
        if _pid != os.getpid():
            _pid = os.getpid()
            threading.Thread(target=_tell, name="ray_zerocopy.leases", daemon=True).start()


def _tell() -> None:
    actor, of = None, ("", 0)
    while True:
        key, ended, pid, number = _news.get()
        for gone in [each for each, lease in list(_held.items()) if lease() is None]:
            del _held[gone]
        if pid != os.getpid() or number != connection.number():  # of the parent; of a connection that has ended
            continue
        with contextlib.suppress(Exception):  # the connection may end at any moment
            if not ray.is_initialized():
                continue
            job = _job(key)
            if actor is None or of != (job, number):
                actor = _actor.options(name=_name(job), namespace=endings.NAMESPACE, get_if_exists=True).remote()
                of = job, number
            if ended:
                actor.end.remote(key)


# --- in the processes that keep ----------------------------------------------------------------------


def ending(key: bytes) -> Future[bool] | None:
    """When an image is no longer in use: a future that is done then, whether with True or because whoever would say so
    has ended; with False, it is time to ask again. None: there is nobody to ask.

    Args:
        key: of the image.
    """
    name = keeper.NAME if endings.is_named(key) else _name(_job(key))
    try:
        actor: Any = ray.get_actor(name, endings.NAMESPACE)
    except Exception:  # none of this name; the cluster is ending
        return None
    future: Future[bool] = actor.ended.remote(key).future()
    return future


def _job(key: bytes) -> str:
    """The job of the process that put an object: an object's id begins with that of a task, which ends with its job."""
    return key[20:24].hex()
