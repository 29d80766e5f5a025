"""Ctrl-C at every place of a load, a drop, a put and a call where Python can notice it: nothing is left behind."""

from __future__ import annotations

import dis
import gc
import itertools
import os
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import ray
import torch

import ray_zerocopy
from helpers import ray_cluster, settles, store_mappings, store_used
from ray_zerocopy import ModelWrapper

PACKAGE = os.path.dirname(ray_zerocopy.__file__)
LOOKS_FOR_SIGNALS = ("CALL", "JUMP_BACKWARD", "RESUME")  # instructions, by how their names begin


class Interrupter:
    """Sends this process a SIGINT when its own code has come to the n-th place of that kind."""

    def __init__(self, place: int) -> None:
        self.left, self.met = place, 0
        self._places: dict[CodeType, set[int]] = {}

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and frame.f_lasti in self._after(frame.f_code):
            self.met += 1
            if self.met == self.left:
                raise KeyboardInterrupt
        return self.trace

    def _after(self, code: CodeType) -> set[int]:
        """The instructions before which an exception is as one of a signal that the instruction before has noticed."""
        if code not in self._places:
            bytecode = dis.Bytecode(code)
            every = list(bytecode)

            def handlers(offset: int) -> list[int]:
                return [entry.target for entry in bytecode.exception_entries if entry.start <= offset < entry.end]

            self._places[code] = {
                after.offset
                for looks, after in itertools.pairwise(every)
                if looks.opname.startswith(LOOKS_FOR_SIGNALS) and handlers(looks.offset) == handlers(after.offset)
            }
        return self._places[code]


def interrupted(action: Callable[[], Any], place: int) -> bool:
    """Whether there is a place with this number; if so, the action was interrupted there."""
    interrupter = Interrupter(place)
    sys.settrace(interrupter.trace)
    try:
        action()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    assert interrupter.met < place, f"an interrupt at place {place} was swallowed"
    return False


def at_every_place(action: Callable[[], Any], check: Callable[[], None]) -> int:
    place = 1
    while interrupted(action, place):
        assert gc.isenabled(), f"the collector is off after place {place}"
        check()
        place += 1
    return place - 1


def loads() -> None:
    wrapper = ModelWrapper.from_model(torch.nn.Linear(512, 512))
    wrapper.load()
    gc.collect()
    before = store_mappings()

    def check() -> None:
        if store_mappings() != before:  # which takes less than to collect
            gc.collect()
        assert store_mappings() == before, f"{store_mappings() - before} mappings are left"

    count = at_every_place(lambda: wrapper.load(), check)
    assert count > 100, count
    print(f"{count} places in a load")
    check()
    assert wrapper.load().weight.shape == (512, 512)


def puts() -> None:
    model = torch.nn.Linear(1024, 1024)
    ModelWrapper.from_model(model)
    gc.collect()
    assert settles(lambda: store_used() < 1 << 20)
    count = at_every_place(lambda: ModelWrapper.from_model(model), lambda: None)
    print(f"{count} places in a put")
    gc.collect()
    assert settles(lambda: store_used() < 1 << 20), f"{store_used()} bytes are left in the store"


def drops() -> None:
    """Nothing of ours can be interrupted when a model goes: an exception in a finalizer is swallowed, and Ctrl-C lost."""
    wrapper = ModelWrapper.from_model(torch.nn.Linear(512, 512))
    wrapper.load()
    gc.collect()
    before = store_mappings()
    loaded = [wrapper.load() for _ in range(3)]
    assert not interrupted(loaded.clear, 1)
    assert store_mappings() == before
    holding = [wrapper, ModelWrapper.from_model(torch.nn.Linear(8, 8))]
    del wrapper
    assert not interrupted(holding.clear, 1)


def calls() -> None:
    wrapped = ModelWrapper.for_tasks(torch.nn.Linear(64, 64))
    x = torch.ones(1, 64)
    expected = wrapped(x)
    count = at_every_place(lambda: wrapped(x), lambda: None)
    print(f"{count} places in a call")
    assert torch.equal(wrapped(x), expected)


with ray_cluster():
    {"loads": loads, "drops": drops, "puts": puts, "calls": calls}[sys.argv[1]]()
    assert ray.is_initialized()
