"""The worker's side of a call: the task itself, which runs one method of the pipeline in an image.

A worker keeps what it has loaded from an image (see `kept`), so that only the first call there loads.

Relied upon, tried with ray 2.10 and 2.60: while a task runs, ``OMP_NUM_THREADS`` is the number of its CPUs, unless it
was set by somebody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
from collections.abc import AsyncGenerator, Iterator
from typing import Any, Tuple

import torch

from .. import errors
from ..graph import exported
from ..stores import connection, loading
from ..stores.loading import Place
from . import kept

CALL = "__call__"

Call = Tuple[bytes, Tuple[str, ...], str, bool]  # key of the image, path of the part, method, fresh

here = kept.Kept()  # what this process keeps
connection.before_end(here.clear)  # or it would become private memory, for nobody


def loaded(place: Place, call: Call) -> Any:
    """What is in an image: kept here, or loaded now."""
    key, _, _, fresh = call

    def load() -> Any:
        return loading.load(place)[0]

    return load() if fresh else here.get(key, load)


def _called(place: Place, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    _, path, name, _ = call
    whole = loaded(place, call)
    part = functools.reduce(getattr, path, whole)
    if isinstance(part, torch.export.ExportedProgram) and name == CALL:  # which cannot be called itself
        part = exported.module_of(part)
    result = (part if name == CALL else getattr(part, name))(*args, **kwargs)
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    if result is whole or result is part:
        raise errors.TaskStateError(
            f"{name} returned the {type(part).__qualname__} itself, which would be copied, weights and all. If it "
            "changes the pipeline, do that before it is wrapped; return results only."
        )
    return result


@contextlib.contextmanager
def _threads() -> Iterator[None]:
    """Compute with as many threads as this task has CPUs.

    Torch itself decides once in a process, by the task in which it is imported there.
    """
    before = torch.get_num_threads()
    try:
        # as torch reads them
        text = os.environ.get("MKL_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS", "")
        wanted = int(text) if text.isdecimal() else before
        if wanted not in (0, before):
            torch.set_num_threads(wanted)
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def run_call(place: Place, call: Call, /, *args: Any, **kwargs: Any) -> Any:
    """A task: one call of a method of the pipeline in an image, of which the place comes as an argument."""
    try:
        with _threads():
            return _called(place, call, args, kwargs)
    finally:
        here.finished(call[0])


def stream_call(place: Place, call: Call, /, *args: Any, **kwargs: Any) -> Iterator[Any]:
    """A task: one call of a method that yields."""
    try:
        with _threads():
            items = _called(place, call, args, kwargs)
            # Ray sends statistics in, which a `yield from` would pass on; a range's iterator, say, cannot take them
            for item in _driven(items) if inspect.isasyncgen(items) else items:  # noqa: UP028
                yield item
    finally:
        here.finished(call[0])


def _driven(items: AsyncGenerator[Any, Any]) -> Iterator[Any]:
    loop = asyncio.new_event_loop()
    try:
        while True:
            yield loop.run_until_complete(items.__anext__())
    except StopAsyncIteration:
        return
    finally:
        loop.close()


# Under names of their own, so that Ray's pickle takes the functions by reference.
task = connection.remote(run_call)
streaming_task = connection.remote(stream_call)
