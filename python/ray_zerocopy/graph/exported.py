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
import weakref
from typing import Any

import torch
from torch.export import ExportedProgram

from . import rebuild


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
    with rebuild.one_at_a_time:
        description = ExportedProgramSerializer().serialize(bare).exported_program
    return rebuild._program, (description, program._state_dict, program._constants, program._example_inputs)


_modules: weakref.WeakKeyDictionary[ExportedProgram, torch.nn.Module] = weakref.WeakKeyDictionary()


def module_of(program: ExportedProgram) -> torch.nn.Module:
    """What runs a program, made once for each: ``program.module()``."""
    module: torch.nn.Module | None = _modules.get(program)
    if module is None:
        module = _modules[program] = program.module()
    return module
