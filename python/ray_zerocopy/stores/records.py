"""What is known of named images, and the table in which it outlives the keeper.

The table is Ray's internal key-value store, which lives as long as the cluster: one entry a name.

Relied upon, tried with ray 2.60: `ray.experimental.internal_kv`. tests/test_named.py fails when it goes.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Tuple

from ray.experimental import internal_kv

TABLE = b"ray_zerocopy"
_PREFIX = b"model\0"

Key = Tuple[str, str]  # namespace, name


@dataclass(frozen=True)
class Source:
    """How an image comes into the keeper's ownership.

    Attributes:
        call: a pickled function of no arguments but ``references`` that gives an `objects.Outgoing` and a report, a
            dictionary of `About`'s fields to replace.
        references: what the call needs from the store; they are not kept.
        options: Ray's options for the task.
        path: entries of ``sys.path`` that the call's imports may need.
        repeatable: whether the call can be made again when the image is lost.
        pieces: instead of a call: a `client.Pieces`, an image that has arrived through Ray Client.
    """

    call: bytes = b""
    references: list[Any] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    path: tuple[str, ...] = ()
    repeatable: bool = False
    pieces: Any = None


@dataclass(frozen=True)
class About:
    """What is known of an image.

    Attributes:
        wrapper: what a wrapper knows, for `wrappers` alone: pickled, and never unpickled by the keeper.
        class_name: name of the wrapped object's class.
        nbytes: length of the image in bytes.
        tensors: number of named tensors.
        maker: the process that made it, in words.
        bound: the process with which it ends, ``worker:<id>:<node>`` or ``job:<id>``; None if detached.
    """

    wrapper: bytes = b""
    class_name: str = ""
    nbytes: int = 0
    tensors: int = 0
    maker: str = ""
    bound: str | None = None

    def report(self) -> dict[str, Any]:
        """What is known where the image is made: see `Source.call`."""
        return {name: getattr(self, name) for name in ("wrapper", "class_name", "nbytes", "tensors")}


@dataclass
class Version:
    """One version of a named model.

    Attributes:
        number: from 1.
        token: tells it from any other version of any other model, also of one with the same name and number.
        about: see `About`.
        made: seconds since 1970.
        source: how to make the image again, if one can.
        image: its reference; None: lost, or to be made again.
        reason: why it is lost.
    """

    number: int
    token: str
    about: About
    made: float
    source: Source | None = None
    image: Any = None
    reason: str = ""

    @property
    def state(self) -> str:
        """``"ready"``, ``"made on demand"`` or ``"lost"``."""
        if self.image is not None:
            return "ready"
        return "lost" if self.source is None else "made on demand"


# --- the table ---------------------------------------------------------------------------------------


def _row(key: Key) -> bytes:
    return _PREFIX + "\0".join(key).encode()


def put(key: Key, version: Version) -> None:
    """Write what must be known of a version again after a restart; its image is not among it."""
    fields = {**version.__dict__, "about": version.about.__dict__, "image": None}
    fields["source"] = version.source and {**version.source.__dict__, "references": []}
    internal_kv._internal_kv_put(_row(key), pickle.dumps(fields), namespace=TABLE)


def delete(key: Key) -> None:
    """Forget a name."""
    internal_kv._internal_kv_del(_row(key), namespace=TABLE)


def any_names() -> bool:
    """Whether any model has a name, as the table says: it can be asked without a keeper."""
    return bool(internal_kv._internal_kv_list(_PREFIX, namespace=TABLE))


def restored() -> Iterator[tuple[Key, Version]]:
    """All that was put and not deleted, without images."""
    for row in internal_kv._internal_kv_list(_PREFIX, namespace=TABLE):
        data = internal_kv._internal_kv_get(row, namespace=TABLE)
        if data is None:
            continue
        fields = pickle.loads(data)
        fields["about"] = About(**fields["about"])
        fields["source"] = fields["source"] and Source(**fields["source"])
        namespace, name = row[len(_PREFIX) :].decode().split("\0")
        yield (namespace, name), Version(**fields)
