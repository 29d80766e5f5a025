"""From where an image is to what is in it."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Any, ContextManager, Union

import torch

from .. import errors, reading, settings
from ..core import Bytes
from ..graph import turns
from ..graph.skeleton import Imports
from . import connection, files, metrics, node_files, objects
from .files import File
from .named import Name
from .objects import Reference

_log = logging.getLogger("ray_zerocopy")

Place = Union[Reference, Name, File]


@dataclass
class Fetched:
    """An image in this process, where no other one sees a write.

    Attributes:
        memory: of the image.
        bases: the memory of each image that it shares blocks with.
        carried: what travelled beside it.
        references: of the bases, where they are in the store.
        isolation: how it is kept apart.
        since: when it had arrived, by `time.perf_counter`.
    """

    memory: Bytes
    bases: list[Bytes]
    carried: list[Any]
    references: list[Any]
    isolation: settings.Isolation
    since: float


def fetched(place: Place, timeout: float | None, action: str, verify: bool = False, in_store: bool = False) -> Fetched:
    """Have the memory of an image.

    Args:
        place: where the image is.
        timeout: seconds to wait until it is on this node; None: without end.
        action: what it is for, in errors.
        verify: compare all bytes with its checksums.
        in_store: whether the references of what it shares blocks with are needed, too, and the memory will only be
            read.

    Raises:
        RayClientError: this process has no store.
        ImageLostError: the connection has ended meanwhile.
        others as ``place.fetch``, `objects.received`, `File.mapped` and, with ``verify``, `reading.verify`.
    """
    if isinstance(place, File):
        since = time.perf_counter()
        had = Fetched(*place.mapped(), [], [], "copy-on-write", since)
    elif connection.is_client():
        raise errors.RayClientError(action)
    else:
        kept = None if in_store else node_files.chosen()
        if kept is not None:
            return _from_node(place, timeout, verify, kept)
        had = _from_store(place, timeout, in_store)
    if verify:
        with naming(place):
            reading.verify(had.memory, had.bases)
    return had


def _from_node(place: Reference | Name, timeout: float | None, verify: bool, kept: node_files.Folder) -> Fetched:
    """An image in the files of this node, or in the store where they cannot have it."""
    object_id = place.reference(timeout).hex()  # raises where there is no such image any more
    key, since = node_files.key(object_id, isinstance(place, Name)), time.perf_counter()
    found = kept.find(key)
    if found:
        try:
            if verify:
                reading.verify(found[0], found[1:])
            return Fetched(found[0], found[1:], [], [], "copy-on-write", since)
        except errors.ImageError:
            kept.remove(found)
    had = _from_store(place, timeout)
    if not had.carried:
        keys = [key, *(node_files.key(reference.hex(), False) for reference in had.references)]
        found = kept.keep(keys, [had.memory, *had.bases])
        if found:
            had = Fetched(found[0], found[1:], [], [], "copy-on-write", had.since)
    if verify:
        reading.verify(had.memory, had.bases)
    return had


def _from_store(place: Reference | Name, timeout: float | None, only_read: bool = False) -> Fetched:
    """An image in the store's memory. Raises as `fetched`."""
    number = connection.number()
    incoming, since = place.fetch(timeout), time.perf_counter()
    memory, isolation, carried = objects.received(incoming, number, only_read)
    count = reading.header(memory).base_count if memory.nbytes >= reading.HEADER_SIZE else 0
    if not 0 < count <= len(carried):
        return Fetched(memory, [], carried, [], isolation, since)
    bases = []
    for reference in carried[-count:]:  # see `image.Image.carried`
        try:
            base, apart, _ = objects.received(Reference(reference).fetch(timeout), number, only_read)
        except errors.ImageLostError as cause:
            raise errors.ImageLostError(
                f"an image that {place} shares weights with (share_with=) is lost: {cause}"
            ) from cause
        bases.append(base)
        isolation = apart if apart == "read-only" else isolation
    return Fetched(memory, bases, carried[:-count], carried[-count:], isolation, since)


def naming(place: Place) -> ContextManager[None]:
    """Errors about the bytes of an image name its file."""
    return files.naming(place.path) if isinstance(place, File) else contextlib.nullcontext()


def load(
    place: Place, timeout: float | None = None, verify: bool = False, single: int | None = None
) -> tuple[Any, list[Bytes]]:
    """Rebuild a model or pipeline over the memory of its image, where no other process sees a write.

    The object stays pinned in the store, and the mapping stays, as long as the memory or anything made of it lives. It
    keeps its bytes when this process disconnects from Ray.

    Args:
        place, timeout: as in `fetched`.
        verify: compare all bytes with the image's checksums first.
        single: as in `reading.load`.

    Returns:
        The object, and the memory of its image and of what that shares blocks with, which lives as long.

    Raises:
        as `fetched` and `reading.load`.
    """
    if settings.compile_turns():
        turns.take()
    had = fetched(place, timeout, "Loading a model", verify)
    key = (place.namespace, place.name) if isinstance(place, Name) else ("", "")
    imports = Imports() if _log.isEnabledFor(logging.INFO) else None
    with naming(place):
        small = objects.SMALL if had.isolation == "read-only" else 0
        whole = reading.load(had.memory, had.carried, small, imports, single, had.bases)
    seconds = time.perf_counter() - had.since
    metrics.loaded(key, seconds, had.memory)
    if imports is not None:
        packages = f" ({', '.join(sorted(imports.packages))})" if imports.packages else ""
        _log.info(
            f"loaded a {type(whole).__qualname__} from {place}: {had.memory.nbytes:,} bytes in "
            f"{1e3 * (seconds - imports.seconds):.1f} ms, and {imports.seconds:.1f} s of imports{packages}"
        )
    return whole, [had.memory, *had.bases]


def verify(place: Place, timeout: float | None = None) -> None:
    """Compare all bytes of an image with its checksums, without unpickling it.

    Raises:
        as `fetched` and `reading.verify`.
    """
    fetched(place, timeout, "Verifying a model", verify=True)


def named_tensors(
    place: Place, timeout: float | None = None, verify: bool = False
) -> tuple[list[tuple[dict[str, Any], torch.Tensor]], list[Bytes]]:
    """As `reading.named_tensors`.

    Args:
        place, timeout, verify: as in `load`.

    Returns:
        That, and the memory as `load` gives it.

    Raises:
        as `fetched` and `reading.named_tensors`.
    """
    had = fetched(place, timeout, "Reading a model's tensors", verify)
    with naming(place):
        return reading.named_tensors(had.memory, had.bases), [had.memory, *had.bases]
