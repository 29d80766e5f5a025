"""Descriptions: what wrappers of one object have in common, and how an object is taken apart for them."""

from __future__ import annotations

import os
import pickle
import platform
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from . import __version__, errors, image
from .core import Bytes
from .graph import pipeline, private
from .graph.private import PrivateBytes
from .stores.records import About
from .tasks import calls, standin

Mode = Literal["actor", "task"]
NOTHING = PrivateBytes()


@dataclass(frozen=True)
class Description:
    """What wrappers of one object have in common, wherever its image is.

    Attributes:
        class_name, interface: as in `Outline`.
        models: the names of its models, in task mode with the methods that were asked for.
        standalone: whether it is a model itself.
        mode: how it was wrapped.
        single, private: as in `Outline`.
    """

    class_name: str
    interface: standin.Interface
    models: dict[str, set[str] | None]
    standalone: bool
    mode: Mode
    single: int | None = None
    private: PrivateBytes = NOTHING

    def as_json(self) -> dict[str, Any]:
        """For the image itself, which says what it is wherever it is found (docs/format.md)."""
        interface = self.interface
        return {
            "class": self.class_name,
            "models": {name: None if methods is None else sorted(methods) for name, methods in self.models.items()},
            "standalone": self.standalone,
            "mode": self.mode,
            "single": self.single,
            "private": {"bytes": int(self.private), "paths": self.private.paths},
            "interface": {
                "methods": interface.methods,
                "generators": interface.generators,
                "attributes": interface.attributes,
                "signatures": interface.signatures,
            },
            "made_with": {"ray_zerocopy": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }

    @classmethod
    def of_json(cls, about: dict[str, Any]) -> Description:
        """What `as_json` gave; of an image from before there was such a thing, nothing but what can be called.

        Raises:
            DamagedImageError: it is something else.
        """
        if "class" not in about:
            return cls("model", standin.Interface("model", (calls.CALL,), ()), {}, False, "actor")
        try:
            held, offered = about["private"], about["interface"]
            methods, generators, attributes = (tuple(offered[key]) for key in ("methods", "generators", "attributes"))
            return cls(
                str(about["class"]),
                standin.Interface(str(about["class"]), methods, generators, attributes, dict(offered["signatures"])),
                {str(name): None if methods is None else set(methods) for name, methods in about["models"].items()},
                bool(about["standalone"]),
                "task" if about["mode"] == "task" else "actor",
                None if about["single"] is None else int(about["single"]),
                PrivateBytes(held["bytes"], held["paths"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            raise errors.DamagedImageError(f"what the image says of itself does not make sense: {cause!r}") from cause


def taken_apart(
    model_or_pipeline: Any,
    mode: Mode,
    model_attr_names: Sequence[str] | None,
    method_names: Sequence[str] | None,
    single: bool = True,
    bases: Sequence[Bytes] = (),
    names: Sequence[str] = (),
) -> tuple[image.Image, Description]:
    """The image of a model or pipeline, whose models can be loaded by themselves, too, and what is to be said of it.

    Args:
        bases: as in `image.build`.
        names: what the image is to call them, in a file.
    """
    if pipeline.is_state_dict(model_or_pipeline):
        raise TypeError(
            "this is a state_dict, which holds no model: model.load_state_dict(state_dict), and wrap the model. To "
            "share the tensors as they are, wrap an object that holds the dictionary: from_model({'state': state_dict})"
        )
    standalone = isinstance(model_or_pipeline, pipeline.MODELS)
    models = pipeline.models(model_or_pipeline, model_attr_names, private=mode == "task")
    _require_methods([model_or_pipeline, *models.values()], method_names or ())
    parts = list(models.values()) if single and len(models) > 1 else []  # of one alone the rest is not worth sparing
    chosen = method_names or (calls.CALL,)
    named_methods = {
        name: {method for method in chosen if hasattr(model, method)} if mode == "task" else None
        for name, model in models.items()
    }
    interface = standin.interface(model_or_pipeline, method_names or ())

    def described(blocks: int, held: PrivateBytes) -> Description:
        single = blocks if parts else None
        name = type(model_or_pipeline).__qualname__
        return Description(name, interface, named_methods, standalone, mode, single, held)

    def about(blocks: int, held: PrivateBytes, used: list[int]) -> dict[str, Any]:
        said = described(blocks, held).as_json()
        return {**said, "bases": [names[number] for number in used]} if names else said

    built = image.build(
        model_or_pipeline,
        "model" if standalone else "pipeline",
        pipeline.named_tensors(model_or_pipeline),
        parts,
        about,
        bases,
    )
    if not (built.blocks or models or built.carried) and next(pipeline.named_models(model_or_pipeline), None) is None:
        raise TypeError(_nothing_in(model_or_pipeline))
    if built.private >= private.BOUND:
        warnings.warn(
            f"{_size(built.private)} of this {type(model_or_pipeline).__qualname__} cannot be shared, and each process "
            f"that loads it holds them by itself: {_where(built.private)}. Keep large data in tensors or arrays, or "
            "load it from a file in the worker; a class whose __getstate__ makes bytes of its weights shares them if "
            "it hands them out as they are.",
            errors.PrivateMemoryWarning,
            stacklevel=3,
        )
    return built, described(built.blocks, built.private)


def _size(number: int) -> str:
    return f"{number / 1e6:,.0f} MB"


def _where(held: PrivateBytes) -> str:
    places = [f"{path} ({_size(size)})" for path, size in held.paths.items()]
    return ", ".join(places) or "many small objects"


def _nothing_in(given: Any) -> str:
    """What to say of something that holds nothing to be shared."""
    text = (
        f"this {type(given).__qualname__} holds no model, no tensor and no array, so there is nothing to share: wrap "
        "an nn.Module, a TorchScript module, an ExportedProgram, or an object that holds some"
    )
    if isinstance(given, (str, bytes, os.PathLike)):
        text += (
            ". A path is not loaded: ModelWrapper.open(path) opens a model file, and CompiledModel.from_package(path) "
            "reads a package of AOTInductor; from another one, load the model first, and wrap what you get"
        )
    return text


def about_of(description: Description, nbytes: int, tensors: int) -> About:
    """What is known of an image of so many bytes and named tensors."""
    return About(pickle.dumps(description), description.class_name, nbytes, tensors)


def _require_methods(parts: Sequence[Any], names: Sequence[str]) -> None:
    for name in names:
        if name not in (calls.CALL, "forward") and not any(callable(getattr(part, name, None)) for part in parts):
            raise errors.NotAMethodError(
                f"method_names has {name!r}, which is a method neither of this {type(parts[0]).__qualname__} nor of "
                f"one of its models; it has {pipeline.method_names(parts[0])}"
            )
