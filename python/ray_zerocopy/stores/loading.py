"""From what Ray gives for an image to what is in it."""

from __future__ import annotations

import time
from typing import Any

from .. import image
from ..core import Bytes
from . import metrics, objects
from .named import Name


def loaded(incoming: Any, source: object) -> tuple[Any, Bytes]:
    """Rebuild a model or pipeline.

    Args:
        incoming: what Ray gave for its image's reference.
        source: the image as wrappers know it, for what is recorded of the load.

    Returns:
        The object, and the memory of its image, which lives as long.

    Raises:
        as `objects.received` and `image.load`.
    """
    start = time.perf_counter()
    memory, carried = objects.received(incoming)
    whole = image.load(memory, carried)
    key = (source.namespace, source.name) if isinstance(source, Name) else ("", "")
    metrics.loaded(key, time.perf_counter() - start, memory)
    return whole, memory
