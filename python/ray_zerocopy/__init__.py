"""Many Ray workers, one copy of the model."""

from importlib.metadata import version

from . import errors
from .store import huge_pages, isolation
from .wrappers import JITActorWrapper, JITModelWrapper, JITTaskWrapper, ModelWrapper

__version__ = version("ray-zerocopy")

__all__ = [
    "JITActorWrapper",
    "JITModelWrapper",
    "JITTaskWrapper",
    "ModelWrapper",
    "__version__",
    "errors",
    "huge_pages",
    "isolation",
]
