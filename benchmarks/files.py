"""Model files: loads and forwards beside the store, a private copy on the heap, torch.load(mmap=True) and safetensors;
saves beside plain writes, verifying beside memcpy, and families beside what they cost without.

python benchmarks/files.py [--folder FOLDER] [--small]

The folder should be on a file system with large folios, and have room for three times the largest model. Every load is
one of a fresh process with its libraries imported; one thread computes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import ray
import torch

import models
from measure import clock
from ray_zerocopy import ModelWrapper, core, huge_pages
from ways import WAYS

ROUNDS = 3
FORWARDS = 5
WAYS_HERE = ("a file", "the store", "a private copy on the heap", "torch.load(mmap=True)", "safetensors")
PIECE = 16 << 20


def measured(way: str, name: str, given: Any, batches: list[int]) -> dict[str, float]:
    """In a fresh process: milliseconds of a first and of later loads, of a first forward, and of steady ones."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    models.warm(name)
    code = {"torch.load(mmap=True)": WAYS["mmap"].code, "safetensors": WAYS["safetensors"].code}.get(way)
    (code or WAYS["ours"].code).prepare()
    core.preload()

    def load() -> Any:
        if code:
            return code.load((name, Path(given)))
        if way == "the store":
            return given.load()
        opened = ModelWrapper.open(given)
        return opened.load() if way == "a file" else pickle.loads(pickle.dumps(opened.load()))

    found = {"first load": clock(load)[0]}
    found["later load"] = median(clock(load)[0] for _ in range(5))
    models.run(load(), models.spec(name).inputs())  # torch prepares its kernels at the first use
    for batch in batches:
        inputs = {
            key: value.repeat(batch, *[1] * (value.dim() - 1)) for key, value in models.spec(name).inputs().items()
        }
        model = load()
        found[f"first forward, batch {batch}"], _ = clock(lambda model=model, inputs=inputs: models.run(model, inputs))
        steady = [clock(lambda model=model, inputs=inputs: models.run(model, inputs))[0] for _ in range(FORWARDS)]
        found[f"steady forward, batch {batch}"] = median(steady)
        if way in WAYS_HERE[:2] and batch == batches[-1]:
            found["on huge pages, %"] = huge_pages(model) / 10
        del model
        gc.collect()
    return {key: 1e3 * value for key, value in found.items()}


@ray.remote(num_cpus=0)
class Actor:
    """A fresh process with a store."""

    def measure(self, *arguments: Any) -> dict[str, float]:
        return measured(*arguments)


def apart(way: str, name: str, path: str, batches: list[int]) -> dict[str, float]:
    """`measured` in a fresh process without Ray."""
    command = [sys.executable, __file__, "--worker", json.dumps([way, name, path, batches])]
    result: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return result


def loads(name: str, folder: Path, rounds: int, batches: list[int]) -> None:
    """Print a table of one model."""
    model = models.build(name)
    stored = ModelWrapper.from_model(model)
    file = str(folder / "model.rzc")
    stored.save(file)
    paths = {
        way: str(WAYS[key].code.put(model, name, folder)[1])
        for way, key in (("torch.load(mmap=True)", "mmap"), ("safetensors", "safetensors"))
    }
    del model
    figures: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS_HERE}
    for _ in range(rounds):
        for way in WAYS_HERE:
            if way == "the store":
                actor = Actor.remote()
                figures[way].append(ray.get(actor.measure.remote(way, name, stored, batches)))
                ray.kill(actor)
            else:
                figures[way].append(apart(way, name, paths.get(way, file), batches))
            time.sleep(0.3)
    columns = list(figures["a file"][0])
    print(f"\n{models.spec(name).title}, {stored.nbytes / 1e6:,.0f} MB\n")
    print("| | " + " | ".join(f"{column}" + ("" if "%" in column else ", ms") for column in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for way, found in figures.items():
        print(
            f"| {way} | " + " | ".join(spread([each[c] for each in found if c in each]) for c in columns) + " |",
            flush=True,
        )
    for path in {file, *paths.values()}:
        os.unlink(path)


def spread(values: list[float]) -> str:
    """Median (least-most)."""
    return f"{median(values):.1f} ({min(values):.1f}-{max(values):.1f})" if values else "-"


def saves(name: str, folder: Path, rounds: int) -> None:
    """Print what a save takes beside writing the same bytes, and a verify beside memcpy of them."""
    stored = ModelWrapper.from_model(models.build(name))
    path, plain = folder / "model.rzc", folder / "plain"
    stored.save(path)
    content = np.fromfile(path, np.uint8)
    target = np.ones_like(content)
    figures: dict[str, list[float]] = {}

    def write() -> None:
        with open(plain, "wb", buffering=0) as file:
            for start in range(0, content.nbytes, PIECE):
                file.write(content[start : start + PIECE])
            os.fsync(file.fileno())

    def save() -> None:
        stored.save(path)

    for number in range(2 * rounds):
        for what, action, made in [("save", save, path), ("write the same bytes", write, plain)][
            :: 1 - 2 * (number % 2)
        ]:
            made.unlink(missing_ok=True)  # to remove the last one takes time, too
            os.sync()
            figures.setdefault(what, []).append(1e3 * clock(action)[0])
        for what, action in {
            "verify, two threads": lambda: ModelWrapper.open(path).verify(),
            "memcpy, one thread": lambda: np.copyto(target, content),
        }.items():
            figures.setdefault(what, []).append(1e3 * clock(action)[0])
    print(f"\n{models.spec(name).title}, {content.nbytes / 1e6:,.0f} MB: milliseconds\n")
    for what, values in figures.items():
        print(f"* {what}: {spread(values)}", flush=True)
    os.unlink(path)
    os.unlink(plain)


def families(small: bool, rounds: int) -> None:
    """Print what fine-tunes of a base cost, with and without it."""
    size, count = (16 << 20, 20) if small else (800 << 20, 20)
    base = models.Layers(size, count)
    root = ModelWrapper.from_model(base)
    tuned = pickle.loads(pickle.dumps(base))
    with torch.no_grad():
        tuned.layers[3].weight += 1
    weights = [layer.weight.detach().numpy() for layer in tuned.layers]
    blocks = np.array([(core.address(each), each.nbytes) for each in weights], np.int64)
    room = np.ones_like(weights[3])
    figures: dict[str, list[float]] = {}
    for _ in range(rounds):
        for what, action in {
            "put with share_with": lambda: ModelWrapper.from_model(tuned, share_with=root),
            "put without": lambda: ModelWrapper.from_model(tuned),
            "hash all": lambda: core.sums(blocks),
            "copy what differs": lambda: np.copyto(room, weights[3]),
        }.items():
            duration, made = clock(action)
            del made
            figures.setdefault(what, []).append(1e3 * duration)
            time.sleep(0.2)
    print(f"\nA fine-tune that differs in one of {count} tensors, {size / 1e6:,.0f} MB: milliseconds\n")
    for what, values in figures.items():
        print(f"* {what}: {spread(values)}", flush=True)
    base = models.Layers(44 << 20, 20)
    root = ModelWrapper.from_model(base)
    held, total = [root], root.nbytes
    for number in range(20):
        tuned = pickle.loads(pickle.dumps(base))
        with torch.no_grad():
            tuned.layers[number].weight += 1
        held.append(ModelWrapper.from_model(tuned, share_with=root))
        total += held[-1].nbytes
    print(f"* 20 fine-tunes of {root.nbytes / 1e6:.0f} MB that differ in 5% each, and their base: {total / 1e6:.0f} MB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="for the files; default: the temporary one")
    parser.add_argument("--small", action="store_true", help="models of nothing, to see that it runs")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.worker:
        print(json.dumps(measured(*json.loads(given.worker))))
        return
    names = ["tiny"] if given.small else [f"layers:{12 << 26}:12", "bert-base", "llama-1.1b"]
    rounds = 1 if given.small else ROUNDS
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=(1 if given.small else 5) * 10**9,
        include_dashboard=False,
        log_to_driver=False,
    )
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        families(given.small, rounds)
        for name in names:
            loads(name, Path(folder), rounds, [1, 8] if name.startswith("layers") else [1])
            saves(name, Path(folder), rounds)
    ray.shutdown()


if __name__ == "__main__":
    main()
