"""What torch.compile made of a function or a module, described by how it was asked to: it compiles again when it is
called.

Private names of torch used here, tried with 2.4 and 2.15: `torch._dynamo.eval_frame._TorchDynamoContext`, its
`callback`, `fullgraph` and `dynamic`, `OptimizedModule._orig_mod` and `dynamo_ctx`, `Module._compiled_call_impl`, and
`_torchdynamo_orig_callable` and `_torchdynamo_orig_backend` of what those hold. `tests/test_roundtrip.py` and
`tests/test_kinds.py` fail when one goes.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from . import rebuild
from .paths import Refused


def is_compiled(obj: Any) -> bool:
    """Whether a function, or a module, is what torch.compile gave."""
    if isinstance(obj, types.FunctionType):
        return "_torchdynamo_orig_callable" in obj.__dict__ and not hasattr(obj, "_torchdynamo_disable")
    frames = sys.modules.get("torch._dynamo.eval_frame")
    return frames is not None and isinstance(obj, frames.OptimizedModule)


def reduce(obj: Any) -> Any:
    """What pickle's ``reducer_override`` returns for what `is_compiled` is true of."""
    if isinstance(obj, types.FunctionType):
        return rebuild._compiled, (obj._torchdynamo_orig_callable, *arguments(obj))  # type: ignore[attr-defined]
    return rebuild._compiled, (obj._orig_mod, *_arguments(obj.dynamo_ctx))


def arguments(function: Any) -> tuple[Any, bool, bool | None]:
    """Backend, ``fullgraph`` and ``dynamic`` that torch.compile was called with.

    Raises:
        Refused: this torch keeps them elsewhere.
    """
    context_class = sys.modules["torch._dynamo.eval_frame"]._TorchDynamoContext
    for cell in function.__closure__ or ():
        if isinstance(cell.cell_contents, context_class):
            return _arguments(cell.cell_contents)
    raise Refused(function, "how it was compiled is not known: compile what is loaded")


def _arguments(context: Any) -> tuple[Any, bool, bool | None]:
    inner, classes = context.callback, []
    while True:
        classes.append(type(inner).__name__)
        deeper = getattr(inner, "_torchdynamo_orig_backend", None) or getattr(inner, "_torchdynamo_orig_callable", None)
        if deeper is None:
            break
        inner = deeper
    fullgraph = getattr(context, "fullgraph", None)
    if fullgraph is None:  # an older torch
        fullgraph = "ConvertFrameAssert" in classes
    dynamic = getattr(context, "_dynamic", None)
    return inner, bool(fullgraph), dynamic
