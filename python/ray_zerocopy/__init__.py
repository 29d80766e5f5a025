"""Many Ray workers, one copy of the model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import errors

if TYPE_CHECKING:
    from .graph.compiled_model import CompiledModel
    from .jit import JITActorWrapper, JITModelWrapper, JITTaskWrapper
    from .stores.listing import ModelInfo, list_models
    from .stores.node import huge_pages, isolation
    from .tasks.standin import StandIn
    from .wrappers import ModelWrapper

__version__ = "1.0.0"  # here, not in pyproject.toml: a copied folder has no metadata

__all__ = [
    "CompiledModel",
    "JITActorWrapper",
    "JITModelWrapper",
    "JITTaskWrapper",
    "ModelInfo",
    "ModelWrapper",
    "StandIn",
    "__version__",
    "errors",
    "huge_pages",
    "isolation",
    "list_models",
]

# Imported when they are asked for: parts of this package run in processes that have no use for torch, and torch takes
# seconds and 200 MB.
_HOMES = {
    "CompiledModel": "graph.compiled_model",
    "JITActorWrapper": "jit",
    "JITModelWrapper": "jit",
    "JITTaskWrapper": "jit",
    "ModelInfo": "stores.listing",
    "ModelWrapper": "wrappers",
    "StandIn": "tasks.standin",
    "huge_pages": "stores.node",
    "isolation": "stores.node",
    "list_models": "stores.listing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
