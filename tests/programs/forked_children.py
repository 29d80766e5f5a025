"""Forked children that drop, or end with, what they have from their parent: it must not lose anything."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import sys
import threading
import time

import numpy as np
import ray
import torch

from helpers import ray_cluster
from ray_zerocopy import ModelWrapper, errors

MB = 1 << 20


class Pair:
    def __init__(self) -> None:
        self.first = torch.nn.Linear(500, 1000, bias=False)  # 2 MB
        torch.nn.init.ones_(self.first.weight)
        self.label = "pair"

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x)


def is_sound(model: Pair) -> bool:
    return bool((model.first.weight == 1).all())


def fill_the_store() -> list[ray.ObjectRef]:
    return [ray.put(np.full(MB, 255, np.uint8)) for _ in range(60)]


def forked(action) -> None:
    """Run an action in a forked child, which must end well and in time."""
    child = os.fork()
    if not child:
        code = 1
        try:
            action()
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.02)
    os.kill(child, 9)
    raise AssertionError("the child hangs")


held: list[Pair | None] = []


def drop() -> None:
    held.clear()
    gc.collect()


def rebind() -> None:
    held[0] = None  # and not something of torch, whose threads a child does not have


def nothing() -> None:
    pass


def in_a_process(action) -> None:
    process = multiprocessing.get_context("fork").Process(target=action)
    process.start()
    process.join(30)
    assert process.exitcode == 0, process.exitcode


def a_loaded_model() -> None:
    for how, action in [
        (forked, drop),
        (forked, rebind),
        (forked, nothing),
        (in_a_process, drop),
        (in_a_process, nothing),
        (in_a_process, lambda: sys.exit(0)),
        (forked, lambda: forked(drop)),
    ]:
        held[:] = [ModelWrapper.from_model(Pair()).load()]
        how(action)
        filled = fill_the_store()
        assert is_sound(held[0]), (how, action)
        del filled


def a_wrapper_and_a_stand_in() -> None:
    wrapper, standin = ModelWrapper.from_model(Pair()), ModelWrapper.for_tasks(Pair())
    parts = [wrapper, standin, standin.first, standin.__call__, wrapper.serialize(), standin.map([torch.ones(500)] * 3)]
    next(parts[-1])
    keep = list(parts)

    def drop_all() -> None:
        nonlocal wrapper, standin
        del wrapper, standin
        parts.clear()
        keep.clear()
        gc.collect()
        time.sleep(0.5)

    forked(drop_all)
    filled = fill_the_store()
    assert is_sound(wrapper.load())
    assert standin(torch.ones(500))[0] == 500
    assert [result[0].item() for result in parts[-1]] == [500.0, 500.0]
    del filled


def refusals() -> None:
    pair, arguments = Pair(), torch.ones(500)
    wrapper, standin = ModelWrapper.from_model(pair), ModelWrapper.for_tasks(pair)
    assert standin.label == "pair"

    def ask() -> None:
        for action in (
            wrapper.load,
            lambda: ModelWrapper.from_model(pair),
            lambda: ModelWrapper.for_tasks(pair),
            lambda: standin.label,
            lambda: standin.first.weight,
            lambda: standin(arguments),
            lambda: standin.map([arguments]),
            lambda: ray.cloudpickle.dumps(wrapper),
        ):
            with contextlib.suppress(errors.ForkedProcessError):
                action()
                raise AssertionError("not refused")

    forked(ask)
    from ray_zerocopy.tasks import calls

    with calls.here._lock:  # as another thread may hold it at that moment
        forked(ask)
    assert standin.label == "pair"


def during_a_load() -> None:
    """Forked while another thread loads, for which the garbage collector pauses."""
    wrapper = ModelWrapper.from_model([torch.nn.Linear(4, 4) for _ in range(200)])
    loaded = wrapper.load()
    ended = threading.Event()

    def load() -> None:
        while not ended.is_set():
            wrapper.load()

    def check() -> None:
        assert gc.isenabled()
        loaded.clear()  # the collector is needed for what comes here
        with contextlib.suppress(errors.ForkedProcessError):
            wrapper.load()
            raise AssertionError("not refused")

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for _ in range(50):
            forked(check)
    finally:
        ended.set()
        thread.join()
    assert gc.isenabled()


if __name__ == "__main__":
    with ray_cluster(object_store_memory=80 * MB):
        globals()[sys.argv[1]]()
