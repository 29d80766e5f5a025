"""What a stand-in does by way of the cluster when its process is connected through Ray Client.

Ray Client refuses tasks that stream, so an actor in the cluster, one for a connection, starts them and hands on
their items. And where another process loads the pipeline to read an attribute, a task looks at it in the cluster and
tells models and methods from values, which stay there.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import ray
from ray.util.client import ray as client_api

from ..stores import connection

if TYPE_CHECKING:
    from .calls import Call
    from .standin import Interface

METHOD = "method"

_numbers = itertools.count()
_relays: list[tuple[Any, Any]] = []  # the connection, and its relay


def look(place: Any, call: Call, target: Any, /) -> Interface | str | None:
    """A task: what an attribute of a pipeline is, a model (its interface), a method (`METHOD`), or a value (None)."""
    from . import calls, standin  # with torch, which the relay does without

    key, path, name, _ = call
    try:
        part = functools.reduce(getattr, path, calls.loaded(place, call))
        found = standin.attribute(target, part, name)
        if isinstance(found, standin.Method):
            return METHOD
        return standin.interface(getattr(part, name)) if isinstance(found, standin.StandIn) else None
    finally:
        calls.here.finished(key)


def _streamed(place: Any, call: Call, /, *args: Any, **kwargs: Any) -> Iterator[Any]:
    from . import calls  # with torch, which the relay does without

    for item in calls.stream_call(place, call, *args, **kwargs):  # noqa: UP028  see `calls.stream_call`
        yield item


class Relay:
    """An actor that starts streaming tasks for a client, and gives it their items one after the other."""

    def __init__(self) -> None:
        self._streams: dict[int, Any] = {}

    async def start(self, stream: int, options: dict[str, Any], references: list[Any], call: Call, kwargs: Any) -> None:
        self._streams[stream] = _streaming_task.options(**options).remote(
            references[0], call, *references[1:], **kwargs
        )

    async def next(self, stream: int) -> tuple[bool, Any]:
        """Whether there is another item, and the item."""
        try:
            reference = await self._streams[stream].__anext__()
        except StopAsyncIteration:
            return False, None
        return True, await reference

    async def end(self, stream: int) -> None:
        self._streams.pop(stream, None)


look_task = connection.remote(look, num_cpus=0)
_streaming_task = connection.remote(_streamed)
_relay = connection.remote(Relay, num_cpus=0)


class Streaming:
    """In the place of a streaming task, with a ``remote`` that gives an iterator over references."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    def remote(self, place: Any, call: Call, /, *args: Any, **kwargs: Any) -> Iterator[Any]:
        worker = client_api.get_context().client_worker
        if not _relays or _relays[0][0] is not worker:
            _relays[:] = [(worker, _relay.remote())]
        relay, stream = _relays[0][1], next(_numbers)
        # nested, so that they arrive as references
        ray.get(relay.start.remote(stream, self._options, [place, *args], call, kwargs))
        return _items(relay, stream)


def _items(relay: Any, stream: int) -> Iterator[Any]:
    try:
        while True:
            more, item = relay.next.options(num_returns=2).remote(stream)
            try:
                ended = not ray.get(more)
            except Exception:  # which the item raises too
                yield item
                return
            if ended:
                return
            yield item
    finally:
        with contextlib.suppress(Exception):  # the connection may have ended
            relay.end.remote(stream)
