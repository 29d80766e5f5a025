"""SIGINTs at random moments of a put, a load, a drop and a call; SIGTERMs: signals.py SIGINTS [SEED]

`interrupts.py` raises at every place of our own code, one after the other. Here the kernel chooses, also among the
places in torch's, Ray's and Go's code. Afterwards the process is usable, its collector on, no mapping and no image is
left. A SIGTERM ends a process that does nothing but load and put.
"""

from __future__ import annotations

import gc
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

import ray
import torch

from helpers import allocated, ray_cluster, settles, store_mappings
from ray_zerocopy import ModelWrapper

MB = 1 << 20
SHARES = {"load": 0.4, "put": 0.3, "drop": 0.2, "call": 0.1}
TERMS = 8
LATE = 2.0  # seconds for a signal to show: if it has not by then, somebody has swallowed it


def model() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(*(torch.nn.Linear(60, 60) for _ in range(100)))


class Sender(threading.Thread):
    """Sends this process a SIGINT a while after it was asked to."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.delays: queue.SimpleQueue[float] = queue.SimpleQueue()

    def run(self) -> None:
        while True:
            time.sleep(self.delays.get())
            os.kill(os.getpid(), signal.SIGINT)


def interrupted(action: Callable[[], object], delay: float, sender: Sender) -> str:
    """How an action ended that got a SIGINT after `delay` seconds."""
    how = "swallowed"
    try:
        sender.delays.put(delay)
        action()
        how = "after its end"
        time.sleep(LATE)
    except KeyboardInterrupt:
        return how if how == "after its end" else "interrupted"
    return "swallowed"


def main(count: int, seed: int) -> None:
    print("seed", seed, flush=True)
    dice, sender = random.Random(seed), Sender()
    sender.start()
    original = model()
    x = torch.ones(2, 60)
    expected = original(x)
    wrapper, wrapped = ModelWrapper.from_model(original), ModelWrapper.for_tasks(original)
    assert torch.equal(wrapped(x), expected)
    gc.collect()
    before, stored = store_mappings(), allocated()
    holding: list[object] = []
    actions = {
        "load": wrapper.load,
        "put": lambda: ModelWrapper.from_model(original),
        "drop": holding.clear,
        "call": lambda: wrapped(x),
    }
    for what, share in SHARES.items():
        durations = []
        for _ in range(5):
            holding[:] = [wrapper.load() for _ in range(5 if what == "drop" else 0)]
            start = time.perf_counter()
            actions[what]()
            durations.append(time.perf_counter() - start)
        longest = sorted(durations)[2] * 1.3
        outcomes: Counter[str] = Counter()
        for _ in range(round(count * share)):
            holding[:] = [wrapper.load() for _ in range(5 if what == "drop" else 0)]
            outcome = interrupted(actions[what], dice.uniform(0, longest), sender)
            assert outcome != "swallowed", f"a SIGINT during a {what}"
            outcomes[outcome] += 1
            assert gc.isenabled(), what
            holding.clear()
            if store_mappings() != before:
                gc.collect()
            assert store_mappings() == before, f"{store_mappings() - before} mappings left after a {what}"
        print(what, dict(outcomes), flush=True)
        loaded = wrapper.load()
        for name, value in original.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[name]), name
        del loaded
        assert torch.equal(wrapped(x), expected)
        # within what Ray frees late, and what it keeps of a call that was interrupted: its arguments and result
        assert settles(lambda: allocated() <= stored + MB), f"{(allocated() - stored) / MB:.1f} MB left after {what}s"


VICTIM = """
import ray, sys
sys.path.insert(0, {programs!r})
import signals
ray.init({address!r}, log_to_driver=False, logging_level="ERROR")
from ray_zerocopy import ModelWrapper
wrapper = ModelWrapper.from_model(signals.model())
while True:
    wrapper.load()
    ModelWrapper.from_model(signals.model())
    print("turn", flush=True)
"""


def terms(dice: random.Random) -> None:
    took = []
    address = ray.get_runtime_context().gcs_address
    program = VICTIM.format(programs=os.path.dirname(__file__), address=address)
    for _ in range(TERMS):
        victim = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert victim.stdout is not None and victim.stdout.readline() == b"turn\n"
        threading.Thread(target=victim.stdout.read, daemon=True).start()
        time.sleep(dice.random() * 0.2)
        start = time.monotonic()
        victim.terminate()
        victim.wait(30)
        took.append(time.monotonic() - start)
    print(f"{TERMS} SIGTERMs: ended after {sorted(took)[TERMS // 2]:.1f} s, at most {max(took):.1f} s", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has its background jobs ignore
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    with ray_cluster(object_store_memory=200 * MB):
        main(int(sys.argv[1]), seed)
        terms(random.Random(seed))
        assert settles(lambda: allocated() < MB, 30), allocated()
