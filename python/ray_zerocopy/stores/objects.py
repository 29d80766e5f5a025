"""All knowledge of Ray's object store: put, get, pin, sizes, and the private mapping of what was got.

Ray writes the out-of-band buffers of one `ray.put` straight from their addresses into the store (one copy), one after
the other, each buffer of at least 2048 bytes at a multiple of 64, and lets several threads copy each buffer of more
than 1 MiB. So an image, handed over as head and segments, lies in the store in one piece. A worker sees it in a
mapping that every process of the node shares, writable in fact if not in name; so what `get` gives out is a second
mapping of the same pages, copy-on-write.

Relied upon, tried with ray 2.40 and 2.60: the layout just described (checked at every get, with a copy as the way
out), `RAY_RAYLET_PID` in a worker's environment (a hint only), and, only for texts and a warning,
`available_resources_per_node` and `get_memory_info_reply`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import time
import warnings
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
from ray.exceptions import ObjectLostError, ObjectStoreFullError, OutOfDiskError, ReferenceCountingAssertionError

from .. import core, errors, settings
from ..core import Bytes
from . import connection


def put(parts: list[Bytes], carried: list[Any], size: int) -> ray.ObjectRef[Any]:
    """Store an image: one copy, from where its parts lie (through Ray Client, in pieces; see `client`).

    Args:
        parts: head and segments; each starts at the end of the one before, rounded up to a multiple of 64.
        carried: object references and actor handles to keep with it.
        size: length of the whole in bytes.

    Raises:
        RayNotInitializedError, ForkedProcessError: as `connection.ensure`.
        StoreTooSmallError: before anything is copied.
        StoreFullError: the store and the disk behind it are full of what is in use.
    """
    connection.ensure("Putting a model into the object store")
    if connection.is_client():
        from . import client  # which imports this

        return client.put(parts, carried, size)
    leaving = outgoing(parts, carried, size)
    try:
        with _watched(size):
            return ray.put(leaving)
    except (ObjectStoreFullError, OutOfDiskError) as cause:
        raise errors.StoreFullError(size) from cause


def outgoing(parts: list[Bytes], carried: list[Any], size: int, owner: Any = None) -> Outgoing:
    """An image as a task returns it, once this node's store was seen to be large enough; arguments as `put`.

    Raises:
        StoreTooSmallError: it is not.
    """
    require_room(size)
    return Outgoing(list(_pieces(parts)), carried, size, owner)


_LOADING = "Loading a model"
_log = logging.getLogger("ray_zerocopy")

# Bytes up to which what a model holds is copied where its memory is read-only: what a forward writes to is smaller as a
# rule (counters, running means, positions).
SMALL = 64 << 10


class Reference(connection.Claim):
    """An image without a name: it ends with its last reference, or the process that put it.

    Attributes:
        key: what processes keep a loaded pipeline under, and ask by whether it is in use.
    """

    def __init__(self, reference: ray.ObjectRef[Any]) -> None:
        super().__init__(reference)
        self.key: bytes = reference.binary()

    def give_back(self) -> None:
        """Give up all references of this process to the image, whoever holds them. Raises as `require`."""
        self.require("Releasing a model")
        for pin in connection.pins():
            if pin == self:
                pin.release()

    def reference(self, timeout: float | None = None) -> ray.ObjectRef[Any]:
        """Ray's reference. Raises as `require`."""
        self.require("Using the reference of an image")
        reference: ray.ObjectRef[Any] = self._held
        return reference

    def fetch(self, timeout: float | None = None) -> Any:
        """What is in the store.

        Args:
            timeout: seconds to wait until the object is on this node; None: without end.

        Raises:
            ForkedProcessError: it belongs to the process that this one was forked from.
            ImageLostError: the object is gone, or it belongs to an earlier connection.
            LoadTimeoutError: the time is over.
        """
        self.require(_LOADING)
        try:
            return connection.fetch(self._held, timeout, still_waiting)
        except (ObjectLostError, ReferenceCountingAssertionError) as cause:
            raise lost(cause) from cause

    def __reduce__(self) -> Any:
        self.require("Pickling a wrapper")
        return Reference, (self._held,)

    def __str__(self) -> str:
        return f"object {self.key.hex()}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def still_waiting(seconds: float) -> None:
    """Say in the log that an image has not come yet."""
    _log.warning(
        f"still waiting, after {seconds:.0f} s, for a model's image to come to this node. The node that has it may be "
        f"busy or lost; or it was spilled to disk, and this node's store has no room for it while the objects "
        "in it are held: `ray memory` shows by whom. load(timeout=...) ends the waiting."
    )


def require_store(action: str) -> None:
    """Raise unless this process can read from a store of this node."""
    connection.require_ray(action)
    if connection.is_client():
        raise errors.RayClientError(action)


def lost(cause: Exception) -> errors.ImageLostError:
    """The error for Ray's that the image is gone."""
    return errors.ImageLostError(
        f"the model's image is no longer in the object store ({type(cause).__name__}). An object belongs to the "
        "process that put it: it goes when that process ends, or when the last wrapper that refers to it is gone. "
        "Give it a name, and it outlives whoever made it: ModelWrapper.from_model(model, name=..., "
        "lifetime='detached'). Or wrap it in a process that outlives its users, and keep the wrapper."
    )


def received(incoming: Any, number: int, only_read: bool = False) -> tuple[Bytes, settings.Isolation, list[Any]]:
    """An image's memory, how it is kept apart from that of others, and what was carried with it.

    Args:
        incoming: what Ray gave for the image's reference.
        number: that of the connection in which it did.
        only_read: whether nobody gets hold of the memory who might write: it is Ray's own mapping then, of which
            this process may have used all pages before.

    Raises:
        ForeignImageError: it is no image.
        ImageLostError: the connection has ended meanwhile.
        IsolationError: the isolation asked for cannot be had.
    """
    if not isinstance(incoming, _Incoming):
        raise errors.ForeignImageError(
            f"the object in the store is a {type(incoming).__qualname__}, not an image of ray-zerocopy"
        )
    with connection.during(number, _LOADING):
        return *_own(incoming, only_read), incoming.carried


# --- in the store ------------------------------------------------------------------------------------


# Ray starts six threads for each buffer of more than 1 MiB, which takes as long as copying 2 MB. Below this size a
# segment is quicker written in pieces of up to 1 MiB (BERT-base: 28 ms against 34); the more buffers, though, the
# longer every get takes (0.5 us each), and for larger segments the threads are worth their start.
_PIECEWISE = 4 << 20
_PIECE = 1 << 20


def _pieces(parts: list[Bytes]) -> Iterator[Bytes]:
    for part in parts:
        step = _PIECE if part.nbytes < _PIECEWISE else part.nbytes
        for start in range(0, part.nbytes, step):
            yield part[start : start + step]


class Outgoing:
    """An image on its way into the store, by `ray.put` or as what a task returns.

    Attributes:
        buffers: its parts, as in `put`, or pieces of them.
        carried: as in `put`.
        size: length of the whole in bytes.
        owner: what keeps the buffers' memory alive until Ray has written it.
    """

    def __init__(self, buffers: list[Bytes], carried: list[Any], size: int, owner: Any = None) -> None:
        self._buffers, self._carried, self._size, self._owner = buffers, carried, size, owner

    def __reduce__(self) -> Any:
        return _Incoming, (self._carried, self._size, *map(pickle.PickleBuffer, self._buffers))


class _Incoming:
    def __init__(self, carried: list[Any], size: int, *buffers: Any) -> None:
        self.carried, self.size, self.buffers = carried, size, buffers


def address_of(buffer: Any) -> int:
    return core.address(np.frombuffer(buffer, np.uint8))


def _own(incoming: _Incoming, only_read: bool) -> tuple[Bytes, settings.Isolation]:
    """The image in memory that nobody else sees what is written to: the store's pages mapped once more, or a copy."""
    first, last = incoming.buffers[0], incoming.buffers[-1]
    start = address_of(first)
    if address_of(last) + memoryview(last).nbytes == start + incoming.size:  # Ray Client gives bytearrays
        if only_read:
            return core.view(start, incoming.size, incoming.buffers), "read-only"
        mapping = _PinnedMapping(first)
        with contextlib.suppress(core.NotShared, core.Unsupported):
            address, isolation, refused = map_again(mapping, start, incoming.size)
            if refused is not None:
                _warn_of(isolation, refused)
            if isolation != "copy":
                return core.view(address, incoming.size, mapping), isolation
    # A small object never was in shared memory, and what this process holds of it is shared between its own gets.
    copy = np.empty(incoming.size, np.uint8)
    end = 0
    for buffer in incoming.buffers:
        part = np.frombuffer(buffer, np.uint8)
        offset = -(-end // 64) * 64
        end = offset + part.nbytes
        copy[offset:end] = part
    return copy, "copy"


class _PinnedMapping(core.Mapping):
    """A private mapping of the store's memory, and the object pinned in the store, until its end."""

    def __init__(self, buffer: Any) -> None:
        super().__init__()
        self._pin = connection.Pin(buffer)

    def detach(self) -> None:
        """Need the store no longer: from now on the memory is this process's own."""
        super().detach()
        self._pin.release()


@connection.before_end
def _detach_all() -> None:
    """Before this process disconnects: Ray gives up all that it has pinned, and the store may write there again."""
    for mapping in core.mappings():
        mapping.detach()


def map_again(
    mapping: core.Mapping, start: int, size: int
) -> tuple[int, settings.Isolation, errors.MappingError | None]:
    """Map copy-on-write, or read-only where the machine refuses that, or not at all where it refuses both.

    Returns:
        The address (0: not mapped), the isolation, and why it is not copy-on-write, if that was not asked for.

    Raises:
        IsolationError: what was asked for cannot be had.
        MappingError: this process has no descriptor or memory left for a mapping now, which is no reason to do without
            one for as long as the model lives.
        NotShared, Unsupported: as `core.Mapping.map`.
    """
    raylet = int(os.environ.get("RAY_RAYLET_PID", 0))
    asked = settings.isolation()
    refused = None
    if asked != "read-only":
        try:
            return mapping.map(start, size, raylet, core.COPY_ON_WRITE), "copy-on-write", None
        except core.Scarce:
            raise
        except errors.MappingError as cause:
            refused = _unless_asked(asked, cause)
    try:
        return mapping.map(start, size, raylet, core.READ_ONLY), "read-only", refused
    except core.Scarce:
        raise
    except errors.MappingError as cause:
        return 0, "copy", _unless_asked(asked, cause)


def _unless_asked(asked: str, cause: errors.MappingError) -> errors.MappingError:
    if asked:
        raise errors.IsolationError(f"{settings.ISOLATION}={asked} cannot be had in this process: {cause}") from cause
    return cause


_warned: set[str] = set()


def _warn_of(isolation: settings.Isolation, refused: errors.MappingError) -> None:
    """Once in a process."""
    if isolation not in _warned:
        _warned.add(isolation)
        what = {
            "read-only": "can only be read, and a write to them ends this process (all but the small ones, up to "
            f"{SMALL:,} bytes, which are copies)",
            "copy": "are copies, and take this process's own memory",
        }[isolation]
        warnings.warn(
            f"the weights of models that are loaded in this process {what}: this machine does not let the object "
            f"store's memory be mapped copy-on-write ({refused}). For that, this process must run as the same user and "
            "in the same PID namespace as the raylet, with /proc mounted and not hidden. To be content with read-only "
            f"weights, set {settings.ISOLATION}=read-only; to have an error instead, {settings.ISOLATION}="
            "copy-on-write.",
            errors.IsolationWarning,
            stacklevel=2,
        )


# --- sizes -------------------------------------------------------------------------------------------

_capacities: dict[str, int] = {}  # per node; a store never changes its size, and asking takes a millisecond


def room() -> tuple[int | None, int | None]:
    """Bytes of this node's store, and those of them that are free; None where Ray does not tell."""
    node = ray.get_runtime_context().get_node_id()
    return dict(_stores()).get(node), _free(node)


def spilled() -> int:
    """Bytes of the cluster's stores that went to disk, ever; 0 where Ray does not tell."""
    return _on_disk()[0]


def require_room(size: int) -> None:
    """Raise if the store cannot hold so much: this node's, or through Ray Client that of the client's driver."""
    node = ray.get_runtime_context().get_node_id()
    if node not in _capacities:
        _capacities.update(_stores())
    capacity = _capacities.get(node)
    if capacity is not None and size > capacity:
        raise errors.StoreTooSmallError(size, capacity, _free(node))


def _stores() -> Iterator[tuple[str, int]]:
    for node in ray.nodes():
        if "object_store_memory" in node["Resources"]:
            yield node["NodeID"], int(node["Resources"]["object_store_memory"])


_WATCHED = 16 << 20  # bytes; of a smaller image nobody notices that it went to disk
_PATIENCE = 1.0  # seconds; Ray moves objects to disk some time after a put
_looks = 3  # left in this process that take so long
_recent: deque[tuple[float, int]] = deque(maxlen=100)  # when, and bytes: of puts that Ray's figures may not have yet


@contextlib.contextmanager
def _watched(size: int) -> Iterator[None]:
    """Warn, once in a process, if something goes to disk because an image comes into the store."""
    global _looks
    node = ray.get_runtime_context().get_node_id()
    free = _free(node) if _looks and size >= _WATCHED else None
    now = time.monotonic()
    recent = sum(size for when, size in _recent if now - when < _PATIENCE)
    _recent.append((now, size))
    # Ray begins at 80% (its `object_spilling_threshold`)
    if free is None or free - recent - size >= 0.25 * _capacities.get(node, 0):
        yield
        return
    before, _ = _on_disk()
    yield
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        moved, full = _on_disk()
        if moved > before:
            _looks = 0
            warnings.warn(
                f"an image of {size:,} bytes came into an object store that was nearly full, so Ray has put something "
                "on disk: objects that are not in use now, or the image itself where all are in use. All goes on "
                "working, but what lies on disk is read from there. Drop wrappers that are needed no longer (del, "
                "release()), delete named models, or start Ray with a larger object_store_memory.",
                errors.StoreOverflowWarning,
                stacklevel=2,
            )
        if moved > before or not full:
            return
        time.sleep(0.05)
    _looks = max(0, _looks - 1)


def _on_disk() -> tuple[int, bool]:
    """Bytes of the cluster's stores that went to disk: spilled ones (ever), and those beyond their capacity. And
    whether Ray may be about to spill some."""
    try:
        from ray._private.internal_api import get_memory_info_reply, get_state_from_address

        state = get_state_from_address(ray.get_runtime_context().gcs_address)
        stats = get_memory_info_reply(state, timeout_seconds=2).store_stats
        used, capacity = stats.object_store_bytes_used, stats.object_store_bytes_avail
        return int(stats.spilled_bytes_total + max(0, used - capacity)), used > 0.8 * capacity
    except Exception:  # private functions, and only for a warning
        return 0, False


def _free(node: str) -> int | None:
    try:
        from ray._private.state import available_resources_per_node

        return int(available_resources_per_node()[node]["object_store_memory"])
    except Exception:  # a private function, and only for the text of an error or a warning
        return None
