"""ModelWrapper: a model or pipeline, put into Ray's object store once, and loaded from there by any number of
workers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import ray

from . import core, errors, image
from .graph import pipeline
from .stores import connection, objects
from .tasks import calls, kept, standin

T = TypeVar("T")

Mode = Literal["actor", "task"]
# of each model the image, in task mode with the names of its methods that were asked for
ModelInfo = Mapping[str, "ray.ObjectRef[Any] | tuple[ray.ObjectRef[Any], set[str]]"]


@dataclass(frozen=True)
class Outline:
    """What a wrapper itself knows of what it wraps; everything else is in the image.

    Attributes:
        image: the image in the object store.
        class_name: name of the wrapped object's class.
        interface: in task mode, the wrapped object's methods.
        lease: in the process that wrapped the object, in task mode.
        claim: on the image, in this process.
    """

    image: ray.ObjectRef[Any]
    class_name: str
    interface: standin.Interface | None = None
    lease: kept.Lease | None = field(default=None, compare=False, repr=False)
    claim: connection.Claim = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "claim", connection.Claim(self.image))

    def __reduce__(self) -> tuple[Any, ...]:
        self.claim.require("Pickling a wrapper")
        return Outline, (self.image, self.class_name, self.interface)


class ModelWrapper(Generic[T]):
    """A model or pipeline in Ray's object store, one copy for all workers of a node.

    The wrapper is small and can be pickled: pass it to actors, tasks, Ray Data (``fn_constructor_kwargs``) or Ray Serve
    (``.bind(wrapper)``), and call `load` there. The image stays in the store as long as the wrapper, a copy of it or
    something loaded from it is alive, and the process that made it.

    Example:
        >>> wrapper = ModelWrapper.from_model(pipeline, mode="actor")
        >>> class InferenceActor:
        ...     def __init__(self, model_wrapper):
        ...         self.pipeline = model_wrapper.load()
        ...     def __call__(self, batch):
        ...         return self.pipeline(batch)
        >>> ds.map_batches(InferenceActor, fn_constructor_kwargs={"model_wrapper": wrapper}, concurrency=4)
    """

    def __init__(
        self,
        skeleton: Outline,
        model_info: ModelInfo,
        is_standalone_module: bool = False,
        mode: Mode = "actor",
    ) -> None:
        """See `from_model`, which makes wrappers, and `deserialize`, which takes these very arguments."""
        _require_mode(mode)
        if not isinstance(skeleton, Outline):
            raise TypeError(
                f"skeleton must be what ModelWrapper.serialize() gave, not a {type(skeleton).__qualname__}; "
                "use ModelWrapper.from_model to wrap a model"
            )
        self._skeleton = skeleton
        self._model_info = dict(model_info)
        self._is_standalone_module = is_standalone_module
        self._mode: Mode = mode
        core.preload()  # in a worker, the wrapper arrives some time before it is asked to load

    @classmethod
    def from_model(
        cls,
        model_or_pipeline: T,
        mode: Mode = "actor",
        model_attr_names: Sequence[str] | None = None,
        method_names: Sequence[str] | None = None,
    ) -> ModelWrapper[T]:
        """Put a model or pipeline into the object store.

        Args:
            model_or_pipeline: an ``nn.Module``, or any object that holds some, wherever they hang. All tensors in CPU
                memory.
            mode: ``"actor"``: workers call `load`. ``"task"``: `load` gives a stand-in, as `for_tasks` does.
            model_attr_names: the pipeline's attributes to name in `model_refs`; found if None. Sharing is not limited
                to them.
            method_names: in task mode, methods to offer beside the public ones, such as private ones.

        Returns:
            The wrapper. The model itself is not changed and no longer needed.

        Raises:
            ValueError: an unknown mode, a name in ``model_attr_names`` that is no attribute (`NotAModelError`), or one
                in ``method_names`` that is no method (`NotAMethodError`).
            RayNotInitializedError: there is no connection to Ray, and ``RAY_ENABLE_AUTO_CONNECT=0`` forbids to start
                one, as Ray's own calls would.
            ForkedProcessError: in a process that was forked from one that uses Ray.
            StoreTooSmallError: the image does not fit into this node's store; nothing was copied.
            UnpicklableError: something in the pipeline cannot be pickled; the message has its path.
            DeviceError: a tensor is not in CPU memory; the message has its path.
        """
        _require_mode(mode)
        connection.ensure("Wrapping a model")
        standalone = isinstance(model_or_pipeline, pipeline.Model)
        models = pipeline.models(model_or_pipeline, model_attr_names, private=mode == "task")
        _require_methods([model_or_pipeline, *models.values()], method_names or ())
        built = image.build(
            model_or_pipeline, "model" if standalone else "pipeline", pipeline.named_tensors(model_or_pipeline)
        )
        reference = objects.put(built.parts, built.carried, built.size)
        wrapped = type(model_or_pipeline)
        if mode == "task":
            described = standin.interface(model_or_pipeline, method_names or ())
            outline = Outline(reference, wrapped.__qualname__, described, kept.Lease(reference.binary()))
            chosen = method_names or (calls.CALL,)
            info: ModelInfo = {
                name: (reference, {method for method in chosen if hasattr(model, method)})
                for name, model in models.items()
            }
        else:
            outline, info = Outline(reference, wrapped.__qualname__), dict.fromkeys(models, reference)
        wrapper = _restored(cls, outline, info, standalone, mode)
        if wrapped.__doc__:
            wrapper.__doc__ = f"{cls.__doc__}\n\nWrapped class documentation:\n{wrapped.__doc__}"
        wrapper.__annotations__ = dict(getattr(wrapped, "__annotations__", {}))
        return wrapper

    @classmethod
    def for_tasks(cls, model_or_pipeline: T, method_names: Sequence[str] | None = None) -> T:
        """Put a model or pipeline into the object store, and call it in Ray tasks.

        The result has the methods of what was wrapped, and each call of one runs as a single Ray task on a node that
        has the weights; a worker loads the pipeline at its first call and keeps it for the next ones.

        Example:
            >>> wrapped = ModelWrapper.for_tasks(pipeline)
            >>> result = wrapped(data)  # waits
            >>> reference = wrapped.encode.remote(data)  # does not wait; each method has .remote, .options, .map
            >>> results = list(wrapped.map(batches, progress=True))

        Args:
            model_or_pipeline, method_names: as in `from_model`.

        Returns:
            A `ray_zerocopy.tasks.standin.StandIn`, which says more about ``remote``, ``options`` and ``map``.

        Raises:
            as `from_model`.
        """
        wrapper = cls.from_model(model_or_pipeline, "task", method_names=method_names)
        return wrapper.load()

    def load(self, prefault: bool = False, timeout: float | None = None) -> T:
        """Rebuild the model or pipeline in this process, over the one copy of its weights on this node.

        Each call gives an object of its own. Its weights are writable, and a write stays in this process: the
        pages written become private memory, all others stay shared (see `isolation`). In task mode nothing is loaded
        here: the result is what `for_tasks` gives.

        Args:
            prefault: fill the page tables now (several threads), so that the first forward does not have to.
            timeout: seconds in which the image has to be on this node; None: without end.

        Raises:
            ForkedProcessError: this process was forked from one that uses Ray.
            ImageLostError: the image is no longer in the store, or `ray.shutdown` has been called in this process.
            LoadTimeoutError: the time is over.
            ClassNotFoundError: a class of the pipeline cannot be imported here.
            ImageError: the stored bytes are not a sound image.
        """
        outline = self._skeleton
        outline.claim.require("Loading a model")
        if outline.interface is not None:
            made: T = standin.stand_in(standin.StandIn, outline.image, outline.interface, outline.lease)
            return made
        memory, carried = objects.get(outline.image, timeout)
        loaded: T = image.load(memory, carried)
        if prefault:
            core.prefault(core.address(memory), memory.nbytes)
        return loaded

    async def load_async(self, prefault: bool = False, timeout: float | None = None) -> T:
        """As `load`, in a thread: an event loop, such as that of an async actor, goes on meanwhile."""
        return await asyncio.to_thread(self.load, prefault, timeout)

    @property
    def model_refs(self) -> dict[str, ray.ObjectRef[Any]]:
        """The name of each model of the pipeline (``"model"`` for a bare module) and the object that holds it.

        All models of a pipeline are in one image, so all names have the same reference."""
        return {name: info[0] if isinstance(info, tuple) else info for name, info in self._model_info.items()}

    def serialize(self) -> dict[str, Any]:
        """The wrapper as a dictionary that `deserialize` takes.

        Its keys are ``skeleton``, ``model_info``, ``is_standalone_module`` and ``mode``.
        """
        return {
            "skeleton": self._skeleton,
            "model_info": dict(self._model_info),
            "is_standalone_module": self._is_standalone_module,
            "mode": self._mode,
        }

    @classmethod
    def deserialize(
        cls,
        skeleton: Outline,
        model_info: ModelInfo,
        is_standalone_module: bool = False,
        mode: Mode = "actor",
    ) -> ModelWrapper[T]:
        """Undo `serialize`: ``ModelWrapper.deserialize(**wrapper.serialize())``."""
        return _restored(cls, skeleton, model_info, is_standalone_module, mode)

    def __reduce__(self) -> tuple[Any, ...]:
        # without the documentation taken from the wrapped class, which can be longer than everything else
        fields = self._skeleton, self._model_info, self._is_standalone_module, self._mode
        return _restored, (type(self), *fields)

    def __repr__(self) -> str:
        names = ", ".join(self._model_info)
        return f"{type(self).__name__}({self._skeleton.class_name}, mode={self._mode!r}, models=[{names}])"


def _restored(
    cls: type[ModelWrapper[T]], skeleton: Outline, model_info: ModelInfo, is_standalone_module: bool, mode: Mode
) -> ModelWrapper[T]:
    wrapper = cls.__new__(cls)
    ModelWrapper.__init__(wrapper, skeleton, model_info, is_standalone_module, mode)
    return wrapper


def _require_mode(mode: object) -> None:
    if mode not in ("actor", "task"):
        raise ValueError(
            f"mode is {mode!r}; it must be 'actor' (workers call .load()) or 'task' (calls run as Ray tasks)"
        )


def _require_methods(parts: Sequence[Any], names: Sequence[str]) -> None:
    for name in names:
        if name not in (calls.CALL, "forward") and not any(callable(getattr(part, name, None)) for part in parts):
            raise errors.NotAMethodError(
                f"method_names has {name!r}, which is a method neither of this {type(parts[0]).__qualname__} nor of "
                f"one of its models; it has {pipeline.method_names(parts[0])}"
            )
