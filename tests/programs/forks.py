"""Processes made by every means, from one that has threads, Ray and a loaded model: forks.py ROUNDS [SEED]

DataLoader, `multiprocessing` with its three ways to start, and `os.fork` while other threads load and call. Children
load, call, drop, rebind, write and end: a right result or the typed error, in time, and the parent's weights stay.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import random
import sys
import threading
import time

import torch

from forked_children import forked
from helpers import ray_cluster, settles, store_mappings
from ray_zerocopy import ModelWrapper, errors

MB = 1 << 20
SECONDS = 120  # a child's, until it is said to hang
X = torch.ones(2, 300)


# made once: torch's random generator has a lock, which a child of a fork may find held
MODEL = torch.nn.Linear(300, 300)


class Encoded(torch.utils.data.Dataset):
    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        with torch.no_grad():
            return self.model(torch.full((300,), float(index)))


class Held:
    """What the children use: a loaded model, its wrapper and a stand-in."""

    def __init__(self) -> None:
        self.wrapper, self.standin = ModelWrapper.from_model(MODEL), ModelWrapper.for_tasks(MODEL)
        self.loaded = self.wrapper.load()
        self.expected = MODEL(X).detach()
        assert torch.equal(self.standin(X), self.expected)

    def check(self) -> None:
        for name, value in MODEL.state_dict().items():
            assert torch.equal(value, self.loaded.state_dict()[name]), f"the parent's {name} has changed"

    # what a child does

    def load(self) -> None:
        refused(self.wrapper.load)

    def put(self) -> None:
        refused(lambda: ModelWrapper.from_model(MODEL))

    def call(self) -> None:
        refused(lambda: self.standin(X))

    def ask(self) -> None:
        refused(lambda: self.standin.weight)

    def compute(self) -> None:
        assert torch.equal(self.loaded(X).detach(), self.expected)

    def write(self) -> None:
        with torch.no_grad():
            self.loaded.weight.zero_()
        assert not self.loaded.weight.any()

    def drop(self) -> None:
        del self.loaded, self.wrapper, self.standin
        gc.collect()

    def rebind(self) -> None:
        self.loaded.weight.data = torch.zeros(300, 300)
        self.wrapper = self.standin = None
        gc.collect()

    def end(self) -> None:
        pass


ACTIONS = ["load", "put", "call", "ask", "compute", "write", "drop", "rebind", "end"]


def refused(action) -> None:
    with contextlib.suppress(errors.ForkedProcessError):
        action()
        raise AssertionError("not refused")


def act(held: Held, action: str) -> None:
    torch.set_num_threads(1)  # a pool of torch's threads does not pass through a fork: torch's own rule
    getattr(held, action)()


def use(loaded: torch.nn.Module, expected: torch.Tensor, action: str) -> None:
    """In a process that got the model by torch's own pickling."""
    torch.set_num_threads(1)
    assert torch.equal(loaded(X).detach(), expected)
    if action == "write":
        loaded.weight.data = torch.zeros(300, 300)
    elif action == "drop":
        del loaded
        gc.collect()


def joined(process: multiprocessing.process.BaseProcess, what: str) -> None:
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"hangs: {what}")
    assert process.exitcode == 0, f"exit {process.exitcode}: {what}"


def bare_forks(rounds: int, held: Held, dice: random.Random) -> None:
    """`os.fork` while two threads load, put and call."""
    ended = threading.Event()

    def load() -> None:
        while not ended.is_set():
            held.wrapper.load()
            ModelWrapper.from_model(MODEL)

    def call() -> None:
        while not ended.is_set():
            assert torch.equal(held.standin(X), held.expected)

    threads = [threading.Thread(target=each) for each in (load, call)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(rounds):
            time.sleep(dice.random() * 0.02)
            action = dice.choice(ACTIONS)
            forked(lambda action=action: act(held, action))
            held.check()
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def forked_processes(rounds: int, held: Held, dice: random.Random) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(rounds):
        action = dice.choice(ACTIONS)
        process = context.Process(target=act, args=(held, action))
        process.start()
        joined(process, f"multiprocessing by fork, {action}")
        held.check()


def other_processes(rounds: int, held: Held, dice: random.Random, how: str) -> None:
    """By forkserver or spawn: the loaded model goes there as torch sends any, through memory that both share."""
    context = multiprocessing.get_context(how)
    if how == "forkserver":
        context.set_forkserver_preload(["torch"])
    for _ in range(rounds):
        sent = held.wrapper.load()
        process = context.Process(target=use, args=(sent, held.expected, dice.choice(["write", "drop", "end"])))
        process.start()
        joined(process, f"multiprocessing by {how}")
        assert torch.equal(sent.weight, held.loaded.weight)  # `.data =` there is no write into what is shared
        held.check()


def data_loaders(rounds: int, held: Held) -> None:
    with torch.no_grad():
        expected = torch.stack([MODEL(torch.full((300,), float(index))) for index in range(8)])
    for number in range(rounds):
        loader = torch.utils.data.DataLoader(
            Encoded(held.loaded), batch_size=2, num_workers=2, persistent_workers=bool(number % 2), timeout=SECONDS
        )
        assert torch.equal(torch.cat(list(loader)), expected)
        if number % 10 == 0:
            del loader
        held.check()


def main(rounds: int, seed: int) -> None:
    print("seed", seed, flush=True)
    dice, held = random.Random(seed), Held()
    gc.collect()
    before = store_mappings()
    for name, action in {
        "DataLoader": lambda: data_loaders(rounds, held),
        "os.fork beside threads": lambda: bare_forks(rounds, held, dice),
        "multiprocessing, fork": lambda: forked_processes(rounds, held, dice),
        "multiprocessing, forkserver": lambda: other_processes(rounds, held, dice, "forkserver"),
        "multiprocessing, spawn": lambda: other_processes(rounds, held, dice, "spawn"),
    }.items():
        start = time.monotonic()
        action()
        assert torch.equal(held.wrapper.load()(X).detach(), held.expected)
        assert torch.equal(held.standin(X), held.expected)
        gc.collect()
        assert settles(lambda: store_mappings() <= before), f"{store_mappings() - before} mappings left"
        print(f"{rounds} rounds of {name}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with ray_cluster(object_store_memory=200 * MB):
        main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time()))
