"""The wrappers for TorchScript, for code that wants to be told when there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast

from .graph import pipeline
from .tasks import standin
from .wrappers import Mode, ModelWrapper

T = TypeVar("T")


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


class JITTaskWrapper(standin.StandIn):
    """A TorchScript module, or a pipeline that holds one, for Ray tasks: what `ModelWrapper.for_tasks` gives.

    Example:
        >>> wrapped = JITTaskWrapper(torch.jit.trace(pipeline, example))
        >>> result = wrapped(data)  # one Ray task
    """

    __slots__ = ()

    def __new__(
        cls, pipeline_or_script_module: Any, method_names: Sequence[str] = ("__call__", "forward")
    ) -> JITTaskWrapper:
        """Put it into the object store; arguments and errors as in `JITModelWrapper.from_model`."""
        outline = JITModelWrapper.from_model(pipeline_or_script_module, "task", method_names=method_names)._skeleton
        assert outline.interface is not None
        made: JITTaskWrapper = standin.stand_in(cls, outline.image, outline.interface, outline.lease)
        return made
