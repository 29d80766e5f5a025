"""Putting an image through Ray Client (``ray.init("ray://...")``).

The driver is then a process of the cluster, and this one has neither an object store nor a view of one: what is put
is pickled whole, in band, copied some five times on the way, and arrives as so many separate buffers. So an image
travels in pieces, and an actor beside the client's server copies each to its place in one buffer; the image is what
one of the actor's methods returns, and lies in the store as `objects.put` would lay it. This process takes the memory
of a few pieces, the actor that of one image until the image is in the store, and the store no more than the image.

An actor, since a task that is handed all pieces keeps them all in the store until it ends, whether it reads them one
by one or not: 600 MB into a store of 1 GB had Ray write 600 MB of pieces to disk, and the same took as long.

The store's memory belongs to whoever calls `assemble`.

Torch is not imported here: the actor has no use for it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..core import Bytes
from . import connection, objects

_PIECE = 8 << 20  # from 4 to 64 MiB all are as fast, and Ray Client takes four to five times as much memory meanwhile
_UNDERWAY = 2  # pieces that are in the store and not yet copied from there


@dataclass(frozen=True)
class Pieces:
    """An image that has arrived in the cluster, in the memory of an actor. It can be passed to actors and tasks.

    Attributes:
        collector: the actor, which ends when it has been asked for the image, or the last copy of this is gone.
        carried: object references and actor handles that belong to the image.
        size: length of the image in bytes.
    """

    collector: Any
    carried: list[Any]
    size: int

    def start(self) -> tuple[ray.ObjectRef[Any], ray.ObjectRef[None]]:
        """Have the image put into the store, owned by the process that calls this; the second says when it is there."""
        image, done = self.collector.image.options(num_returns=2).remote(self.carried)
        return image, done

    def end(self) -> None:
        """Let go of the actor: handles that a client's server holds can keep it for long."""
        ray.kill(self.collector)


def put(parts: list[Bytes], carried: list[Any], size: int) -> ray.ObjectRef[Any]:
    """As `objects.put`; the image belongs to this client's driver in the cluster, and goes when the connection ends."""
    return assemble(send(parts, carried, size))


def send(parts: list[Bytes], carried: list[Any], size: int) -> Pieces:
    """Send an image to the cluster; arguments as in `objects.put`.

    Raises:
        StoreTooSmallError: before anything is sent; the store is that of the node where the client's server runs.
        ConnectionError: the connection was lost (Ray's). What was sent goes as soon as the server notices.
    """
    objects.require_room(size)
    beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    collector = _collector.options(scheduling_strategy=beside).remote(size)
    underway: deque[Any] = deque()
    try:
        for offsets, views in _cut(parts):
            underway.append(collector.add.remote(offsets, ray.put(views)))
            if len(underway) > _UNDERWAY:
                ray.get(underway.popleft())
        ray.get(list(underway))
    except BaseException:
        with contextlib.suppress(Exception):  # the connection may be what failed
            ray.kill(collector)
        raise
    return Pieces(collector, carried, size)


def assemble(pieces: Pieces) -> ray.ObjectRef[Any]:
    """Put what was sent into the store, once; this waits until it is there.

    Returns:
        The image. It belongs to the process that calls this: a client's driver, or an actor that was given `pieces`.

    Raises:
        RayError: the actor that holds the pieces is gone: it was asked before, or the client's connection has ended.
    """
    image, done = pieces.start()
    ray.get(done)  # not the image itself, which would travel back
    pieces.end()
    return image


def _cut(parts: list[Bytes]) -> Iterator[tuple[list[int], list[Bytes]]]:
    """Views of the parts, and their offsets in the image, in groups of `_PIECE` bytes."""
    offsets: list[int] = []
    views: list[Bytes] = []
    room, end = _PIECE, 0
    for part in parts:
        start = -(-end // 64) * 64
        end = start + part.nbytes
        done = 0
        while done < part.nbytes:
            view = part[done : done + room]
            offsets.append(start + done)
            views.append(view)
            done += view.nbytes
            room -= view.nbytes
            if not room:
                yield offsets, views
                offsets, views, room = [], [], _PIECE
    if views:
        yield offsets, views


class Collector:
    """An actor that puts the pieces of one image together."""

    def __init__(self, size: int) -> None:
        self._memory = np.zeros(size, np.uint8)  # what lies between the parts is zero

    def add(self, offsets: list[int], views: list[Bytes]) -> None:
        for offset, view in zip(offsets, views):
            self._memory[offset : offset + view.nbytes] = view

    def image(self, carried: list[Any]) -> tuple[objects.Outgoing, None]:
        # Ray holds the memory, through the view of it, until it has written it
        return objects.Outgoing([self._memory], carried, self._memory.nbytes), None


_collector = connection.remote(
    Collector, num_cpus=0
)  # under a name of its own, so that Ray's pickle takes the class by reference
