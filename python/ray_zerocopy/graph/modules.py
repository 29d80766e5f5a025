"""Modules: their attributes, without the ten empty dictionaries of hooks that every module has.

Private names of torch used here, tried with 2.4 and 2.15: none but `_backward_pre_hooks`, whose absence tells a module
made by an old torch. `tests/test_roundtrip.py` fails when it goes.
"""

from __future__ import annotations

import copyreg
from collections import OrderedDict
from typing import Any, cast

import torch
from torch.nn.utils import parametrize

from . import rebuild
from .paths import Refused


def reduce(module: torch.nn.Module, known: dict[Any, rebuild._Fields]) -> Any:
    """What pickle's ``reducer_override`` returns for a module.

    Args:
        module: any module that is no TorchScript module.
        known: the kinds of modules seen so far in the same skeleton; modules of one kind share their `rebuild._Fields`.
    """
    cls = type(module)
    if isinstance(module, torch.nn.parallel.DistributedDataParallel):
        raise Refused(module, "it belongs to the processes that train together; wrap its .module")
    if cls.__name__.startswith("Parametrized") and parametrize.is_parametrized(module):
        # torch refuses to pickle these, since their class is made at run time: make it again
        state = dict(module.__dict__)
        names = list(cast(torch.nn.ModuleDict, module.parametrizations))
        return rebuild._parametrized, (cls.__bases__[0],), (state, names), None, None, rebuild._set_parametrized_state
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
    for name, value in state.items():
        if type(value) is OrderedDict and not value:
            empty.append(name)
            value = None
        values.append(value)
    kind = tuple(state), tuple(empty)
    fields = known.get(kind) or known.setdefault(kind, rebuild._Fields(*kind))
    plain = cls.__setstate__ is torch.nn.Module.__setstate__
    set_state = rebuild._set_state if plain else rebuild._set_state_by_class
    return copyreg.__newobj__, (cls,), (fields, tuple(values)), None, None, set_state  # type: ignore[attr-defined]
