"""This node: how its store's memory can be mapped, and on what pages it lies."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import ray

from .. import core, settings
from ..settings import Isolation
from . import objects


def isolation(loaded: Any = None) -> Isolation:
    """How this process is kept from writing into the weights of others.

    Args:
        loaded: a model or pipeline that was loaded here: how that one is. None: how the next one will be.

    Returns:
        ``"copy-on-write"``: loaded weights are writable, and a written page becomes this process's own.
        ``"read-only"``: the machine does not let the store's memory be mapped a second time (or
        ``RAY_ZEROCOPY_ISOLATION=read-only`` asks for it): a write to loaded weights ends this process. Tensors of at
        most 65,536 bytes are copies, and writable.
        ``"copy"``: all of it is this process's own memory: not Linux, a machine that refuses read-only mappings too, or
        a model of less than some 100 KB, which Ray keeps outside of shared memory.

    Raises:
        TypeError: ``loaded`` holds no model.
        RayNotInitializedError, RayClientError: this process has no store, which is asked.
        IsolationError: ``RAY_ZEROCOPY_ISOLATION`` is unknown or cannot be had.
    """
    if loaded is not None:
        return _isolation_of(loaded)
    return next_isolation()[0]


def next_isolation() -> tuple[Isolation, str]:
    """How the next model that is loaded here will be isolated, and why it is not copy-on-write, if it is not.

    Raises:
        as `isolation`.
    """
    objects.require_store("Asking for the isolation mode")
    probe = np.zeros(1 << 20, np.uint8)  # large enough to get into shared memory
    incoming: Any = ray.get(ray.put(objects.Outgoing([probe], [], probe.nbytes)))
    start = objects.address_of(incoming.buffers[0])
    try:
        _, mode, refused = objects.map_again(core.Mapping(), start, probe.nbytes)
    except core.Unsupported:
        return "copy", "not possible on this system"
    except core.NotShared:
        return "copy", "Ray has handed over memory of this process's own"
    asked = f"{settings.ISOLATION} asks for it" if mode == "read-only" else ""
    return mode, asked if refused is None else str(refused)


def _isolation_of(loaded: Any) -> Isolation:
    from ..graph import pipeline  # with torch

    if next(pipeline.named_models(loaded), None) is None:
        raise TypeError(
            f"a {type(loaded).__qualname__} holds no model: isolation() takes what ModelWrapper.load() gave, or nothing"
        )
    modes: set[int] = set()
    mappings = core.mappings()
    for _, tensor, _ in pipeline.named_tensors(loaded):
        with contextlib.suppress(NotImplementedError, RuntimeError):  # a tensor without a storage
            address = tensor.untyped_storage().data_ptr()
            modes.update(mapping.mode for mapping in mappings if mapping.holds(address))
    if core.READ_ONLY in modes:
        return "read-only"
    return "copy-on-write" if core.COPY_ON_WRITE in modes else "copy"


def huge_pages() -> bool:
    """Whether this node's store lies on huge pages (of 2 MiB instead of 4 KiB): a first forward is quicker there,
    since next to no page tables have to be filled.

    Raises:
        RayNotInitializedError, RayClientError: this process has no store, which is asked.
    """
    objects.require_store("Asking for huge pages")
    probe = np.ones(16 << 20, np.uint8)
    stored = np.asarray(ray.get(ray.put(probe)))
    stored.max()  # only pages that were touched are mapped
    return _mapped(core.address(stored))[1] > 0


def store_file() -> str | None:
    """The file that this node's store lies in, as the system has it; None where it does not tell.

    Raises:
        RayNotInitializedError, RayClientError: this process has no store, which is asked.
    """
    objects.require_store("Asking for the store's file")
    stored = np.asarray(ray.get(ray.put(np.ones(1 << 20, np.uint8))))
    return _mapped(core.address(stored))[0] or None


def _mapped(address: int) -> tuple[str, int]:
    """The file of the shared mapping around an address, and how many of its bytes are mapped as huge pages; nothing
    where the system does not tell."""
    inside, file = False, ""
    with contextlib.suppress(OSError), open("/proc/self/smaps") as lines:
        for line in lines:
            name, *values = line.split(maxsplit=5)
            if not name.endswith(":"):
                low, high = (int(part, 16) for part in name.split("-"))
                inside = low <= address < high
                if inside and len(values) > 4:
                    file = values[4].strip()
            elif inside and name == "ShmemPmdMapped:":
                return file, int(values[0]) << 10
    return "", 0
