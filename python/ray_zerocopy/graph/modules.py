"""Modules: their attributes, without the ten empty dictionaries of hooks that every module has.

Private names of torch used here, tried with 2.4 and 2.15: `_backward_pre_hooks`, whose absence tells a module made by
an old torch, and `_compiled_call_impl`. `tests/test_roundtrip.py` fails when one goes.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
import weakref
from collections import OrderedDict
from typing import Any, cast

import torch
from torch.nn.utils import parametrize

from . import compiled, fx, rebuild, special
from .paths import Refused


def reduce(module: torch.nn.Module, known: dict[Any, rebuild._Fields]) -> Any:
    """What pickle's ``reducer_override`` returns for a module.

    Args:
        module: any module that is no TorchScript module.
        known: the kinds of modules seen so far in the same skeleton; modules of one kind share their `rebuild._Fields`.
    """
    reduced = _reduced(module, known)
    # of slots torch's own __getstate__ knows nothing
    slots = special.slots_of(module) if type(module).__getstate__ is torch.nn.Module.__getstate__ else {}
    how = getattr(module, "_compiled_call_impl", None)
    library = "transformers" if _is_pretrained(module) else None
    if not slots and how is None and library is None:
        return reduced
    if reduced is NotImplemented:
        reduced = module.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    made, arguments, state, items, entries, set_state = (*reduced, None, None, None, None)[:6]
    if items is not None or entries is not None:
        raise Refused(module, "it has slots, is compiled or of transformers, and describes itself by items")
    state = set_state, state, slots, None if how is None else compiled.arguments(how), library
    return made, arguments, state, None, None, rebuild._set_more


def _reduced(module: torch.nn.Module, known: dict[Any, rebuild._Fields]) -> Any:
    cls = type(module)
    if isinstance(module, torch.nn.parallel.DistributedDataParallel):
        raise Refused(module, "it belongs to the processes that train together; wrap its .module")
    if cls.__name__.startswith("Parametrized") and parametrize.is_parametrized(module):
        # torch refuses to pickle these, since their class is made at run time: make it again
        state = dict(module.__dict__)
        names = list(cast(torch.nn.ModuleDict, module.parametrizations))
        return rebuild._parametrized, (cls.__bases__[0],), (state, names), None, None, rebuild._set_parametrized_state
    if fx.is_module(module):
        return fx.reduce_module(module)
    if cls.__module__.startswith("torch.ao.nn.") and cls.__getstate__ is not torch.nn.Module.__getstate__:
        # quantized convolutions leave out what every module has; copied, they are modules before they get their state
        return rebuild._initialized, (cls,), module.__getstate__()
    if (
        cls.__getstate__ is not torch.nn.Module.__getstate__
        or cls.__reduce_ex__ is not object.__reduce_ex__
        or cls.__reduce__ is not object.__reduce__
        or cls.__new__ is not object.__new__
        or "_backward_pre_hooks" not in module.__dict__  # made by an old torch: let __setstate__ complete it
    ):
        return NotImplemented
    # What object.__reduce_ex__ and the class's __setstate__ would do, but for the ten empty dictionaries of hooks that
    # every module has: they make up most of a pickled module tree, and are quicker made than unpickled.
    state = module.__getstate__()
    empty, values = [], []
    for (name, value), references in zip(state.items(), _references(state)):
        # one that something else refers to as well has to stay what it is
        if type(value) is OrderedDict and not value and references <= _ALONE and not weakref.getweakrefcount(value):
            empty.append(name)
            value = None
        values.append(value)
    kind = tuple(state), tuple(empty)
    fields = known.get(kind) or known.setdefault(kind, rebuild._Fields(*kind))
    plain = cls.__setstate__ is torch.nn.Module.__setstate__
    set_state = rebuild._set_state if plain else rebuild._set_state_by_class
    return copyreg.__newobj__, (cls,), (fields, tuple(values)), None, None, set_state  # type: ignore[attr-defined]


def _is_pretrained(module: torch.nn.Module) -> bool:
    """Whether it is a model of transformers, whose constructor notes in the process what such models can record."""
    models: Any = sys.modules.get("transformers.modeling_utils")
    return models is not None and isinstance(module, models.PreTrainedModel)


def _references(state: dict[str, Any]) -> list[int]:
    return [sys.getrefcount(value) for value in state.values()]


_attributes = {"hooks": OrderedDict()}  # type: ignore[var-annotated]
_ALONE = _references(dict(_attributes))[0]  # of what hangs in a module's dictionary, and in the copy of it
