"""From where an image is to what is in it."""

from __future__ import annotations

import logging
import time
from typing import Any

from .. import errors, image
from ..core import Bytes
from ..graph.skeleton import Imports
from . import connection, metrics, objects
from .named import Name
from .objects import Reference

_log = logging.getLogger("ray_zerocopy")


def load(
    place: Reference | Name, timeout: float | None = None, verify: bool = False, single: int | None = None
) -> tuple[Any, Bytes]:
    """Rebuild a model or pipeline over the memory of its image, where no other process sees a write.

    The object stays pinned in the store, and the mapping stays, as long as the memory or anything made of it lives. It
    keeps its bytes when this process disconnects from Ray.

    Args:
        place: where the image is.
        timeout: seconds to wait until it is on this node; None: without end.
        verify: compare all bytes with the image's checksums first.
        single: as in `image.load`.

    Returns:
        The object, and the memory of its image, which lives as long.

    Raises:
        RayClientError: this process has no store.
        ImageLostError: the connection has ended meanwhile.
        others as ``place.fetch``, `objects.received` and `image.load`.
    """
    incoming, number = _fetched(place, timeout, "Loading a model")
    key = (place.namespace, place.name) if isinstance(place, Name) else ("", "")
    start = time.perf_counter()
    memory, isolation, carried = objects.received(incoming, number)
    if verify:
        image.verify(memory)
    imports = Imports() if _log.isEnabledFor(logging.INFO) else None
    whole = image.load(memory, carried, objects.SMALL if isolation == "read-only" else 0, imports, single)
    seconds = time.perf_counter() - start
    metrics.loaded(key, seconds, memory)
    if imports is not None:
        packages = f" ({', '.join(sorted(imports.packages))})" if imports.packages else ""
        _log.info(
            f"loaded a {type(whole).__qualname__} from {place}: {memory.nbytes:,} bytes in "
            f"{1e3 * (seconds - imports.seconds):.1f} ms, and {imports.seconds:.1f} s of imports{packages}"
        )
    return whole, memory


def verify(place: Reference | Name, timeout: float | None = None) -> None:
    """Compare all bytes of an image with its checksums, without unpickling it.

    Raises:
        as `load` and `image.verify`.
    """
    memory, _, _ = objects.received(*_fetched(place, timeout, "Verifying a model"))
    image.verify(memory)


def _fetched(place: Reference | Name, timeout: float | None, action: str) -> tuple[Any, int]:
    """What Ray gives for an image, and the number of the connection in which it does."""
    if connection.is_client():
        raise errors.RayClientError(action)
    number = connection.number()
    return place.fetch(timeout), number
