"""Exported programs <-> torch's own description of them, every tensor beside it: `torch.export` over shared weights.

Torch's serializer describes the graph of a program in plain objects, and its deserializer takes the tensors (the
``state_dict``, the constants, the example inputs) in whatever way they come. So here the serializer sees the program
without its tensors, those are pickled as any others, and the deserializer gets the mapped ones. Its plain objects are
pickled as they are: making them of JSON anew takes most of the time of a ``torch.export.load``.

Private names of torch used here, tried with 2.4 and 2.15: `torch._export.serde.serialize.ExportedProgramSerializer` and
`ExportedProgramDeserializer`, `ExportedProgram._state_dict`, `_constants` and `_example_inputs`, and the texts of the
errors about what is not registered. `tests/test_exported.py` fails when one goes.
"""

from __future__ import annotations

import copy
import re
import threading
import weakref
from typing import Any

import torch
from torch.export import ExportedProgram

from . import errors

# torch keeps the serializer and the deserializer that are at work in variables of the process
_one_at_a_time = threading.Lock()

_UNREGISTERED = re.compile(
    r"(?:failed to resolve |Unsupported target type for node Node\(target=')torch\.ops\.([\w.]+)"
    r"|Deserializing (\S+) in pytree|namedtuple class (\S+) because"
)


def reduce(program: ExportedProgram) -> Any:
    """What pickle's ``reducer_override`` returns for an exported program."""
    # takes most of a second, for which whoever has no such program need not wait
    from torch._export.serde.serialize import ExportedProgramSerializer

    nothing, no_weights = torch.empty(0), torch.nn.Parameter(torch.empty(0))
    bare = copy.copy(program)
    bare._state_dict = {
        name: no_weights if isinstance(tensor, torch.nn.Parameter) else nothing
        for name, tensor in program._state_dict.items()
    }
    bare._constants = dict.fromkeys(program._constants, nothing)
    bare._example_inputs = None
    with _one_at_a_time:
        description = ExportedProgramSerializer().serialize(bare).exported_program
    return _program, (description, program._state_dict, program._constants, program._example_inputs)


_modules: weakref.WeakKeyDictionary[ExportedProgram, torch.nn.Module] = weakref.WeakKeyDictionary()


def module_of(program: ExportedProgram) -> torch.nn.Module:
    """What runs a program, made once for each: ``program.module()``."""
    module: torch.nn.Module | None = _modules.get(program)
    if module is None:
        module = _modules[program] = program.module()
    return module


def _program(
    description: Any, state_dict: dict[str, Any], constants: dict[str, Any], example_inputs: tuple[Any, ...] | None
) -> ExportedProgram:
    from torch._export.serde.serialize import ExportedProgramDeserializer

    try:
        with _one_at_a_time:
            program: ExportedProgram = ExportedProgramDeserializer().deserialize(
                description, state_dict, constants, example_inputs
            )
    except Exception as cause:
        unknown = _unregistered(cause)
        if unknown is None:
            raise
        raise errors.ClassNotFoundError.unregistered("exported program", unknown, unknown.split(".")[0]) from cause
    return program


def _unregistered(error: BaseException | None) -> str | None:
    """The operator, or type of inputs or outputs, that torch did not find."""
    while error is not None:
        found = _UNREGISTERED.search(str(error))
        if found:
            return found[1] or found[2] or found[3]
        error = error.__cause__ or error.__context__
    return None
