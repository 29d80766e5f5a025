"""The wrappers for TorchScript, for code that wants to be told when there is none."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .description import Mode
from .graph import pipeline
from .tasks import standin
from .wrappers import M, ModelWrapper, NamingArguments

if TYPE_CHECKING:
    from typing_extensions import Unpack

T = TypeVar("T")


class JITModelWrapper(ModelWrapper[T]):
    """`ModelWrapper` for TorchScript: a ScriptModule, or a pipeline that holds one.

    `ModelWrapper` takes TorchScript modules too, alone or beside eager ones; this class is for code that wants to be
    told when there is none: a TypeError.
    """

    if TYPE_CHECKING:  # these give wrappers of this class

        @classmethod
        def from_model(  # type: ignore[override]  # which is not to be compiled
            cls,
            model_or_pipeline: M,
            mode: Mode = "actor",
            model_attr_names: Sequence[str] | None = None,
            method_names: Sequence[str] | None = None,
            **naming: Unpack[NamingArguments],
        ) -> JITModelWrapper[M]: ...

        @classmethod
        def from_factory(  # type: ignore[override]
            cls, make_model: Callable[..., M] | str | os.PathLike[str], *args: Any, **options: Any
        ) -> JITModelWrapper[M]: ...

    @classmethod
    def _require_kind(cls, model_or_pipeline: Any) -> None:
        if not pipeline.has_torchscript(model_or_pipeline):
            raise TypeError(
                f"this {type(model_or_pipeline).__qualname__} is not, and does not hold, a TorchScript module "
                "(torch.jit.script, torch.jit.trace, torch.jit.load); use ModelWrapper for eager models"
            )


class JITActorWrapper(JITModelWrapper[T]):
    """A TorchScript module, or a pipeline that holds one, for Ray actors: wrapped in the driver, loaded in each actor.

    Example:
        >>> wrapper = JITActorWrapper(torch.jit.trace(pipeline, example))
        >>> pipeline = wrapper.load()  # in an actor
    """

    def __init__(
        self,
        pipeline_or_script_module: T,
        model_attr_names: Sequence[str] | None = None,
        **naming: Unpack[NamingArguments],
    ) -> None:
        """Put it into the object store.

        Args:
            pipeline_or_script_module, model_attr_names: as in `ModelWrapper.from_model`.
            **naming: ``name``, ``lifetime``, ``namespace``, ``get_if_exists``, ``replace``, as there.

        Raises:
            TypeError: nothing in the pipeline is a TorchScript module.
            Exception: what else `ModelWrapper.from_model` raises.
        """
        made = JITModelWrapper.from_model(pipeline_or_script_module, "actor", model_attr_names, **naming)
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
        cls,
        pipeline_or_script_module: Any,
        method_names: Sequence[str] = ("__call__", "forward"),
        **naming: Unpack[NamingArguments],
    ) -> JITTaskWrapper:
        """Put it into the object store; arguments and errors as in `JITActorWrapper`."""
        wrapper = JITModelWrapper.from_model(pipeline_or_script_module, "task", method_names=method_names, **naming)
        outline = wrapper._skeleton
        assert outline.interface is not None
        made: JITTaskWrapper = standin.stand_in(cls, outline.image, outline.interface, outline.lease)
        return made
