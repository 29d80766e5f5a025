"""Modules of torch.fx: graph and class, as copy.deepcopy keeps them.

Torch's own pickling keeps the code that was generated, and traces it again when it is loaded: the class, a second graph
(torchvision's feature extractors have one for training and one for evaluation), and what the nodes were told are gone
then.

Private names of torch used here, tried with 2.4 and 2.15: `Graph._tracer_cls`, `_tracer_extras` and `_codegen`.
`tests/test_roundtrip.py` fails when one goes.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate

from . import rebuild
from .paths import Refused


def is_module(obj: Any) -> bool:
    """Whether something is a module of torch.fx that torch's own function would pickle."""
    return isinstance(obj, fx.GraphModule) and type(obj).__reduce__ is fx.GraphModule.__reduce__


def reduce_module(module: Any) -> Any:
    """What pickle's ``reducer_override`` returns for a module; each has a class of its own, made for it."""
    cls = type(module)
    if getattr(module.__dict__.get("train"), "__module__", "").startswith("torch."):
        raise Refused(module, "it is the .module() of an exported program: wrap the program, and call .module() later")
    state = dict(module.__dict__)
    state.pop("_compiled_call_impl", None)
    return rebuild._fx_module, (cls.__bases__[0], cls.__name__), state, None, None, rebuild._set_fx_state


def reduce_graph(graph: fx.Graph) -> Any:
    """What pickle's ``reducer_override`` returns for a graph."""
    numbers = {node: number for number, node in enumerate(graph.nodes)}

    def numbered(argument: Any) -> Any:
        return rebuild._FxNode(numbers[argument]) if isinstance(argument, fx.Node) else argument

    nodes = [
        (
            node.op,
            node.name,
            node.target,
            map_aggregate(node.args, numbered),
            map_aggregate(node.kwargs, numbered),
            node.type,
            {name: value for name, value in node.meta.items() if _is_plain(value)},
        )
        for node in graph.nodes
    ]
    return rebuild._fx_graph, (graph._tracer_cls, graph._tracer_extras, graph._codegen, nodes)


_ATOMS = (str, int, float, complex, bool, bytes, type(None), type, types.FunctionType, types.BuiltinFunctionType)
_TORCH = (torch.dtype, torch.device, torch.layout, torch.memory_format)


def _is_plain(value: Any) -> bool:
    """Whether something that a node was told is data; tensors without values and such are for tools of this process."""
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(each) for key, each in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    return isinstance(value, (*_ATOMS, *_TORCH))
