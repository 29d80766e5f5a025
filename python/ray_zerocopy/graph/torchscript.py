"""TorchScript modules <-> archives whose tensors lie outside: ScriptModules over shared weights.

`torch.package` has the machinery: a serializer that leaves out the storages that its context knows already, and an
importer that takes them from a context of its own. What `reduce` finds (parameters, buffers, tensors in attributes,
constants of frozen or traced graphs) is announced to that context before the module is serialized, so that the
archive is code and structure only. A tensor that it does not find (inside a custom class, for example) is in the
archive: each load has a private copy of it.

Private names of torch used here, tried with 2.4 and 2.15: `torch._C.ScriptModuleSerializer`, `PyTorchFileWriter`,
`PyTorchFileReader`, `DeserializationStorageContext`, `_import_ir_module_from_package`, `CompilationUnit`,
`torch.jit._recursive.wrap_cpp_module`, `ScriptModule._c`. `tests/test_torchscript.py` fails when one goes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.storage import UntypedStorage

from . import rebuild, tensors

_C: Any = torch._C  # typed in part


def reduce(module: torch.jit.ScriptModule, slot: Callable[[UntypedStorage, bool], tensors.StorageSlot]) -> Any:
    """What pickle's ``reducer_override`` returns for a TorchScript module.

    Args:
        module: scripted, traced, frozen, or loaded by ``torch.jit.load``.
        slot: gives the slot for one use of a storage, as in `tensors.reduce`.

    Raises:
        OffCpuError: a tensor of it is not in CPU memory.
        RuntimeError: torch cannot save the module; its message says why.
    """
    archive = io.BytesIO()
    writer = _C.PyTorchFileWriter(archive)
    serializer = _C.ScriptModuleSerializer(writer)
    context = serializer.storage_context()
    slots: list[tensors.StorageSlot] = []
    for tensor in _tensors(module):
        if tensor.layout is not torch.strided:
            continue  # a sparse tensor's parts are made when it is asked for them: it stays in the archive
        storage = tensors.storage_of(tensor.untyped_storage())
        if context.get_or_add_storage(storage) == len(slots):  # numbered from 0; a known one keeps its number
            slots.append(slot(storage, False))
    serializer.serialize(module._c, 0)
    serializer.write_files()
    writer.write_end_of_file()
    # outside of the pickle, since constants that were not found make it large
    return rebuild._script_module, (np.frombuffer(bytearray(archive.getbuffer()), np.uint8), slots)


def method_names(module: torch.jit.ScriptModule) -> list[str]:
    """The methods that were compiled: ``forward`` and those exported."""
    names: list[str] = module._c._method_names()
    return [name for name in names if not name.startswith("_")]


def _tensors(module: torch.jit.ScriptModule) -> Iterator[torch.Tensor]:
    for part in module.modules():
        concrete: Any = part._c
        for name in _C.ConcreteModuleType.from_jit_type(concrete._type()).get_attributes():
            yield from _inside(concrete.getattr(name))
        for name in concrete._method_names():
            graph = concrete._get_method(name).graph
            if graph.findAllNodes("prim::ConstantMKLDNNTensor", recurse=True):
                raise RuntimeError(  # torch does save these, and fails when it loads them
                    "torch.jit.optimize_for_inference gave its weights the layout of oneDNN, which cannot be loaded "
                    "again: wrap the module before it is optimized, and optimize what is loaded"
                )
            for node in graph.findAllNodes("prim::Constant", recurse=True):
                if isinstance(node.output().type(), _C.TensorType) and node.hasAttribute("value"):
                    yield node.t("value")


def _inside(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _inside(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _inside(part)
