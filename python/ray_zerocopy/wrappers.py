"""ModelWrapper: a model or pipeline, put into Ray's object store once, and loaded from there by any number of
workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, cast

import ray
import torch

from . import core, errors, image, pipeline, store

T = TypeVar("T")

Mode = Literal["actor", "task"]
ModelInfo = Mapping[str, "ray.ObjectRef[Any]"]


@dataclass(frozen=True)
class Outline:
    """What a wrapper itself knows of what it wraps; everything else is in the image.

    Attributes:
        image: the image in the object store.
        class_name: name of the wrapped object's class.
    """

    image: ray.ObjectRef[Any]
    class_name: str


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
            mode: ``"actor"``: workers call `load`. (``"task"`` is not part of this version.)
            model_attr_names: the pipeline's attributes to name in `model_refs`; found if None. Sharing is not limited
                to them.
            method_names: for task mode only.

        Returns:
            The wrapper. The model itself is not changed and no longer needed.

        Raises:
            ValueError: an unknown mode, or a name in ``model_attr_names`` that is no attribute (`NotAModelError`).
            RayNotInitializedError: call ``ray.init()`` first.
            StoreTooSmallError: the image does not fit into this node's store; nothing was copied.
            UnpicklableError: something in the pipeline cannot be pickled; the message has its path.
            DeviceError: a tensor is not in CPU memory; the message has its path.
        """
        _require_mode(mode)
        if mode == "task":
            raise _no_tasks("ModelWrapper.from_model(mode='task')")
        store.require_ray("Wrapping a model")
        standalone = isinstance(model_or_pipeline, torch.nn.Module)
        names = pipeline.model_names(model_or_pipeline, model_attr_names, private=False)
        built = image.build(
            model_or_pipeline, "model" if standalone else "pipeline", pipeline.named_tensors(model_or_pipeline)
        )
        reference = store.put(built.parts, built.carried, built.size)
        wrapped = type(model_or_pipeline)
        outline = Outline(reference, wrapped.__qualname__)
        wrapper = _restored(cls, outline, dict.fromkeys(names, reference), standalone, mode)
        if wrapped.__doc__:
            wrapper.__doc__ = f"{cls.__doc__}\n\nWrapped class documentation:\n{wrapped.__doc__}"
        wrapper.__annotations__ = dict(getattr(wrapped, "__annotations__", {}))
        return wrapper

    @classmethod
    def for_tasks(cls, model_or_pipeline: T, method_names: Sequence[str] | None = None) -> T:
        """Not part of this version: raises `NotImplementedYetError`."""
        raise _no_tasks("ModelWrapper.for_tasks")

    def load(self, prefault: bool = False) -> T:
        """Rebuild the model or pipeline in this process, over the one copy of its weights on this node.

        Each call gives an object of its own. Its weights are writable, and a write stays in this process: the
        pages written become private memory, all others stay shared (see `isolation`).

        Args:
            prefault: fill the page tables now (several threads), so that the first forward does not have to.

        Raises:
            RayNotInitializedError, ForkedProcessError: Ray cannot be used in this process.
            ImageLostError: the image is no longer in the store.
            ClassNotFoundError: a class of the pipeline cannot be imported here.
            ImageError: the stored bytes are not a sound image.
        """
        memory, carried = store.get(self._skeleton.image)
        loaded: T = image.load(memory, carried)
        if prefault:
            core.prefault(core.address(memory), memory.nbytes)
        return loaded

    @property
    def model_refs(self) -> dict[str, ray.ObjectRef[Any]]:
        """The name of each model of the pipeline (``"model"`` for a bare module) and the object that holds it.

        All models of a pipeline are in one image, so all names have the same reference."""
        return dict(self._model_info)

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


class JITModelWrapper(ModelWrapper[T]):
    """`ModelWrapper` for TorchScript: a ScriptModule, or a pipeline that holds one.

    `ModelWrapper` takes TorchScript modules too, alone or beside eager ones; this class is for code that wants to be
    told when there is none.
    """

    @classmethod
    def from_model(
        cls,
        model_or_pipeline: T,
        mode: Mode = "actor",
        model_attr_names: Sequence[str] | None = None,
        method_names: Sequence[str] | None = None,
    ) -> JITModelWrapper[T]:
        """As `ModelWrapper.from_model`.

        Raises:
            TypeError: nothing in the pipeline is a TorchScript module.
        """
        if not pipeline.has_torchscript(model_or_pipeline):
            raise TypeError(
                f"this {type(model_or_pipeline).__qualname__} is not, and does not hold, a TorchScript module "
                "(torch.jit.script, torch.jit.trace, torch.jit.load); use ModelWrapper for eager models"
            )
        wrapper = super().from_model(model_or_pipeline, mode, model_attr_names, method_names)
        return cast("JITModelWrapper[T]", wrapper)


class JITActorWrapper(JITModelWrapper[T]):
    """A TorchScript module, or a pipeline that holds one, for Ray actors: wrapped in the driver, loaded in each actor.

    Example:
        >>> wrapper = JITActorWrapper(torch.jit.trace(pipeline, example))
        >>> pipeline = wrapper.load()  # in an actor
    """

    def __init__(self, pipeline_or_script_module: T, model_attr_names: Sequence[str] | None = None) -> None:
        """Put it into the object store; arguments and errors as in `JITModelWrapper.from_model`."""
        made = JITModelWrapper.from_model(pipeline_or_script_module, "actor", model_attr_names)
        self.__dict__.update(made.__dict__)

    @property
    def constructor_kwargs(self) -> dict[str, Any]:
        """What an actor's constructor needs: ``pipeline_skeleton`` and ``model_refs``.

        ``JITModelWrapper.deserialize(pipeline_skeleton, model_refs)`` makes a wrapper of them.
        """
        return {"pipeline_skeleton": self._skeleton, "model_refs": self.model_refs}


class JITTaskWrapper(Generic[T]):
    """For TorchScript models in Ray tasks. Not part of this version: raises `NotImplementedYetError`."""

    def __init__(self, pipeline_or_script_module: T, method_names: Sequence[str] = ("__call__", "forward")) -> None:
        raise _no_tasks("JITTaskWrapper")


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


def _no_tasks(what: str) -> errors.NotImplementedYetError:
    return errors.NotImplementedYetError(
        f"{what} is not part of this version of ray-zerocopy: calls as Ray tasks come in a later one. "
        "Until then use mode='actor' and call .load() in an actor."
    )
