"""The models and methods of a pipeline by name: for ``model_refs``, stand-ins, and an image's index of tensors.

Names only: what is shared and how it comes back does not depend on them, since an image holds the whole object graph.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union

import torch

from .. import errors
from . import torchscript
from .compiled_model import CompiledModel
from .paths import children

STANDALONE = "model"  # what a bare model is called in ``model_refs``

Model = Union[torch.nn.Module, torch.export.ExportedProgram, CompiledModel]
MODELS = (
    torch.nn.Module,
    torch.export.ExportedProgram,
    CompiledModel,
)  # for isinstance, which takes no Union before Python 3.10

_LEAVES = (str, bytes, int, float, complex, bool, type(None), torch.Tensor, type)
_CONTAINERS = (dict, list, tuple, set, frozenset)


def models(pipeline: Any, chosen: Sequence[str] | None, private: bool) -> dict[str, Any]:
    """The attributes of a pipeline that are, or hold, models, by name.

    Args:
        pipeline: a pipeline or a bare model.
        chosen: names to use instead of those found.
        private: whether names that start with an underscore count.

    Raises:
        NotAModelError: a chosen name is not an attribute of the pipeline.
    """
    if isinstance(pipeline, MODELS):
        return {STANDALONE: pipeline}
    if chosen is not None:
        for name in chosen:
            if not hasattr(pipeline, name):
                raise errors.NotAModelError(
                    f"model_attr_names has {name!r}, which is not an attribute of this {type(pipeline).__qualname__}; "
                    f"its models are {list(models(pipeline, None, private=True))}"
                )
        return {name: getattr(pipeline, name) for name in chosen}
    found: dict[str, Any] = {}
    for label, child in children(pipeline):
        name = _as_name(label)
        if (private or not name.startswith("_")) and next(named_models(child), None) is not None:
            found[name if name not in found else label] = child  # a dictionary may have the keys 1 and "1"
    return found


def named_models(root: Any) -> Iterator[tuple[str, Model]]:
    """Every outermost model in an object graph, with its path, which is empty for ``root``."""
    seen: set[int] = set()
    waiting = [("", root)]  # the next one is the last; no recursion, which would end at Python's limit
    while waiting:
        path, part = waiting.pop()
        if isinstance(part, MODELS):
            yield _without_dot(path), part
        elif id(part) not in seen:
            seen.add(id(part))
            inside = [(path + label, child) for label, child in children(part) if not isinstance(child, _LEAVES)]
            waiting += reversed(inside)


def _as_name(label: str) -> str:
    """A label of an attribute or an item as one would name it: ``encoder`` for ``['encoder']``, too."""
    if label.startswith("["):
        key = ast.literal_eval(label[1:-1]) if label[1:2] in "'\"" else label[1:-1]
        return str(key)
    return _without_dot(label)


def _without_dot(path: str) -> str:
    return path[1:] if path.startswith(".") else path


def is_state_dict(given: Any) -> bool:
    """Whether something is what a module's ``state_dict()`` gives, or a checkpoint that holds the same."""
    if not isinstance(given, Mapping) or not given:
        return False
    if type(given) is OrderedDict and "_metadata" in vars(given):
        return True
    return all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in given.items()) and any(
        "." in name for name in given
    )


def is_model(part: Any) -> bool:
    """Whether something is a model, or an object (not a mere container) that holds some."""
    if isinstance(part, MODELS):
        return True
    return not isinstance(part, (*_LEAVES, *_CONTAINERS)) and next(named_models(part), None) is not None


def method_names(part: Any) -> list[str]:
    """The public methods of a model or pipeline, those of the most derived class first, without PyTorch's own."""
    if isinstance(part, CompiledModel):
        return []  # it can be called; the others are about it
    found = torchscript.method_names(part) if isinstance(part, torch.jit.ScriptModule) else []
    for cls in type(part).__mro__:
        if cls.__module__.partition(".")[0] != "torch":
            found += [
                name
                for name, value in vars(cls).items()
                if not name.startswith("_") and _is_method(value) and name not in found
            ]
    return found


def _is_method(value: Any) -> bool:
    # a descriptor that is none, such as functools.cached_property, would be evaluated by whoever asks for it
    wrappers = (staticmethod, classmethod, functools.partialmethod, functools.singledispatchmethod)
    return isinstance(value, wrappers) or (inspect.isroutine(value) and callable(value))


def has_torchscript(root: Any) -> bool:
    """Whether a module in an object graph is, or holds, a TorchScript module."""
    modules = (model for _, model in named_models(root) if isinstance(model, torch.nn.Module))
    return any(isinstance(part, torch.jit.ScriptModule) for module in modules for part in module.modules())


def named_tensors(root: Any) -> Iterator[tuple[str, torch.Tensor, bool]]:
    """Name, tensor, and whether ``state_dict`` has it, of all parameters, buffers and constants of all models."""
    for path, model in named_models(root):
        prefix = f"{path}." if path else ""
        if isinstance(model, CompiledModel):
            for name, tensor in model.state_dict().items():
                yield prefix + name, tensor, True
            continue
        if isinstance(model, torch.export.ExportedProgram):
            for name, tensor in model.state_dict.items():
                yield prefix + name, tensor, True
            for name, constant in model.constants.items():  # buffers that are not persistent are among them
                if isinstance(constant, torch.Tensor):
                    yield prefix + name, constant, False
            continue
        for owner, module in model.named_modules(remove_duplicate=False):
            start = f"{prefix}{owner}." if owner else prefix
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    yield start + name, parameter, True
            # a TorchScript module does not know of buffers that are not persistent
            hidden: set[str] = module.__dict__.get("_non_persistent_buffers_set", set())
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    yield start + name, buffer, name not in hidden
