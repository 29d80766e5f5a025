"""What named models there are in the cluster. Imports no torch: who looks has no use for it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from . import named

State = Literal["ready", "made on demand", "lost"]


@dataclass(frozen=True)
class ModelInfo:
    """One version of a named model, as `list_models` found it.

    Attributes:
        name, namespace: as in `ModelWrapper.from_model`.
        version: from 1.
        class_name: name of the wrapped object's class.
        nbytes: length of the image in bytes: what each node that has a copy holds of it once.
        tensors: number of its named tensors.
        nodes: ids (hex) of the nodes whose stores hold a copy. Others fetch one when they load. Empty for images of
            less than about 100 KB, which Ray does not keep in stores.
        age: seconds since this version was published.
        maker: the process that published it, in words.
        detached: True: it stays until it is deleted; False: it ends with the process that published it.
        state: ``"ready"``; ``"made on demand"``: its image was lost, and the next load has it made again;
            ``"lost"``: its image was, and nothing can make it again.
        object_id: the image's object id (hex), as ``ray memory`` and ``ray list objects`` show it; empty unless ready.
    """

    name: str
    namespace: str
    version: int
    class_name: str
    nbytes: int
    tensors: int
    nodes: tuple[str, ...]
    age: float
    maker: str
    detached: bool
    state: State
    object_id: str


def list_models(namespace: str | None = None) -> list[ModelInfo]:
    """The named models of the cluster, oldest first.

    The version before the newest is among them for the few seconds for which it can still be loaded. Models without
    a name are not: nobody but the holders of their wrappers knows them.

    Args:
        namespace: only those in this namespace; None: in all.

    Example:
        >>> for model in ray_zerocopy.list_models():
        ...     print(model.name, model.version, f"{model.nbytes:,} bytes on {len(model.nodes)} nodes")

    Raises:
        RayNotInitializedError, ForkedProcessError: Ray cannot be used in this process.
    """
    models = (_info(row) for row in named.listed())
    return [model for model in models if namespace in (None, model.namespace)]


def _info(row: dict[str, object]) -> ModelInfo:
    known = {field.name: row[field.name] for field in fields(ModelInfo)}
    return ModelInfo(**{**known, "nodes": tuple(row["nodes"])})  # type: ignore[arg-type]
