"""This node: how its store's memory can be mapped, and on what pages it lies."""

from __future__ import annotations

import contextlib
import functools
from typing import Any, NamedTuple, overload

import numpy as np
import ray

from .. import core, settings
from ..core import Bytes
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
    modes = {mapping.mode for mapping in _mappings_of(loaded, "isolation")}
    if core.READ_ONLY in modes:
        return "read-only"
    return "copy-on-write" if core.COPY_ON_WRITE in modes else "copy"


def _mappings_of(loaded: Any, function: str) -> list[core.Mapping]:
    """Those in which tensors of a model or pipeline lie.

    Raises:
        TypeError: there is no model in it; ``function`` is who was asked.
    """
    from ..graph import pipeline  # with torch

    if next(pipeline.named_models(loaded), None) is None:
        raise TypeError(
            f"a {type(loaded).__qualname__} holds no model: {function}() takes what ModelWrapper.load() gave, or "
            "nothing"
        )
    addresses = []
    for _, tensor, _ in pipeline.named_tensors(loaded):
        with contextlib.suppress(NotImplementedError, RuntimeError):  # a tensor without a storage
            addresses.append(tensor.untyped_storage().data_ptr())
    return _mappings_at(addresses)


def _mappings_at(addresses: list[int]) -> list[core.Mapping]:
    return [mapping for mapping in core.mappings() if any(map(mapping.holds, addresses))]


@overload
def huge_pages(loaded: None = None) -> bool: ...


@overload
def huge_pages(loaded: Any) -> float: ...


def huge_pages(loaded: Any = None) -> bool | float:
    """How much of a model lies on huge pages (of 2 MiB instead of 4 KiB), or whether this node's store does: a first
    forward is quicker there, since next to no page tables have to be filled.

    Args:
        loaded: a model or pipeline that was loaded here, from the store or from a file, or a wrapper, whose memory is
            looked at without unpickling. The page tables of it are filled first. None: the store is asked about.

    Returns:
        For a model, from 0 to 1: the part of its shared memory that is on huge pages; 0 if it has none, being small.
        Without one, whether what is put into this node's store will be.

    Raises:
        TypeError: ``loaded`` holds no model.
        RayNotInitializedError, RayClientError: this process has no store, and that is asked about.
        Exception: as `ModelWrapper.load`, for a wrapper.
    """
    if loaded is not None:
        memories = wrapped_memory(loaded)
        if memories is None:
            return _huge_part(_mappings_of(loaded, "huge_pages"))
        return _huge_part(_mappings_at([core.address(memory) for memory in memories]))
    objects.require_store("Asking for huge pages")
    probe = np.ones(16 << 20, np.uint8)
    stored = np.asarray(ray.get(ray.put(probe)))
    stored.max()  # only pages that were touched are mapped
    address = core.address(stored)
    return _mapped([range(address, address + 1)]).huge > 0


def store_file() -> str | None:
    """The file that this node's store lies in, as the system has it; None where it does not tell.

    Raises:
        RayNotInitializedError, RayClientError: this process has no store, which is asked.
    """
    objects.require_store("Asking for the store's file")
    stored = np.asarray(ray.get(ray.put(np.ones(1 << 20, np.uint8))))
    address = core.address(stored)
    return _mapped([range(address, address + 1)]).file or None


@functools.singledispatch
def wrapped_memory(wrapper: Any) -> list[Bytes] | None:
    """The memory of what a wrapper holds; None: it is no wrapper. `wrappers`, which imports this, knows what is one."""
    return None


def _huge_part(mappings: list[core.Mapping]) -> float:
    ranges = [mapping.addresses() for mapping in mappings]
    for each in ranges:
        core.prefault(each.start, len(each))
    found = _mapped(ranges)
    return found.huge / found.resident if found.resident else 0.0


class _Mapped(NamedTuple):
    """What the system says of mappings: the file behind the last one, bytes that are in the page tables, and those of
    them on huge pages."""

    file: str = ""
    resident: int = 0
    huge: int = 0


_HUGE = {"ShmemPmdMapped:", "FilePmdMapped:", "AnonHugePages:"}  # the last one: written to since


def _mapped(ranges: list[range]) -> _Mapped:
    """The mappings that touch ranges of memory; nothing where the system does not tell."""
    inside, found = False, _Mapped()
    with contextlib.suppress(OSError), open("/proc/self/smaps") as lines:
        for line in lines:
            name, *values = line.split(maxsplit=5)
            if not name.endswith(":"):
                low, high = (int(part, 16) for part in name.split("-"))
                inside = any(low < each.stop and each.start < high for each in ranges)
                if inside and len(values) > 4:
                    found = found._replace(file=values[4].strip())
            elif inside and name == "Rss:":
                found = found._replace(resident=found.resident + (int(values[0]) << 10))
            elif inside and name in _HUGE:
                found = found._replace(huge=found.huge + (int(values[0]) << 10))
    return found
