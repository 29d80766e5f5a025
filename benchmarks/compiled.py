"""Compiled models: load, memory, first and steady forwards, and four workers that get ready at once, beside the eager
model over the store, torch.compile in each worker, and a package of AOTInductor with its own weights.

python benchmarks/compiled.py [--models bert-base ...] [--workers 4]

Each worker is a fresh process with its libraries imported (inductor too, where a way needs it) and computes with one
thread. Every model, and every round of torch.compile, has an empty cache of inductor's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from statistics import median
from typing import Any

import ray
import torch

import models
from files import spread
from measure import clock, private
from ray_zerocopy import CompiledModel, ModelWrapper, core

CACHE = "TORCHINDUCTOR_CACHE_DIR"
WAYS = ("compiled once, shared", "eager over the store", "torch.compile in each worker", "a package with its weights")
FORWARDS = 15
MODELS = {"bert-base": "bert-base", "resnet50": "resnet50", "llama-step": "llama-1.1b"}


def build(name: str) -> torch.nn.Module:
    """The model; of Llama's shape the first 6 layers, which compile in a minute."""
    made: Any = models.build(MODELS[name])
    if name == "llama-step":
        del made.model.layers[6:]
    return made  # type: ignore[no-any-return]


def inputs_of(name: str) -> dict[str, torch.Tensor]:
    """For `build`'s model; a step of a decoder reads one token, here without a cache."""
    found = models.spec(MODELS[name]).inputs()
    return {key: value[:, :1] for key, value in found.items()} if name == "llama-step" else found


def ran(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        output = model(**inputs)
    return output if isinstance(output, torch.Tensor) else next(iter(output.values()))


@ray.remote(num_cpus=0)
class Worker:
    """A fresh process."""

    def prepare(self, name: str, way: str, cache: str) -> None:
        """Import what a worker would have imported, and have torch prepare itself."""
        warnings.simplefilter("ignore")
        os.environ[CACHE] = cache
        torch.set_num_threads(1)
        models.warm(MODELS[name])
        core.preload()
        if way in WAYS[2:]:
            import_module("torch._inductor.compile_fx")  # seconds
            import_module("torch._inductor.package")
        torch.nn.Linear(64, 64)(torch.ones(2, 64))

    def measure(self, name: str, way: str, given: Any, steady: bool) -> dict[str, Any]:
        """Milliseconds of a load, a first forward and steady ones; private MB; the output."""
        inputs = inputs_of(name)
        before = private()
        load, model = clock(_load(way, given))
        first, output = clock(lambda: ran(model, inputs))
        found = {"load, ms": 1e3 * load, "first forward, ms": 1e3 * first, "private, MB": (private() - before) / 1e6}
        if steady:
            found["steady forward, ms"] = 1e3 * median(clock(lambda: ran(model, inputs))[0] for _ in range(FORWARDS))
        return {**found, "output": output}


def _load(way: str, given: Any) -> Callable[[], Any]:
    if way == WAYS[2]:
        return lambda: torch.compile(given.load())
    if way == WAYS[3]:
        return lambda: torch._inductor.aoti_load_package(given)
    return given.load  # type: ignore[no-any-return]


def workers(count: int, name: str, way: str, cache: str) -> list[Any]:
    made = [Worker.remote() for _ in range(count)]
    ray.get([each.prepare.remote(name, way, cache) for each in made])
    return made


def table(name: str, folder: str, count: int, rounds: int) -> None:
    """Print what there is to be said of one model."""
    model, inputs = build(name), inputs_of(name)
    os.environ[CACHE] = os.path.join(folder, "first")
    CompiledModel.compile(torch.nn.Linear(8, 8), (torch.ones(2, 8),))  # imports, and inductor's look at the compiler
    os.environ[CACHE] = os.path.join(folder, "ours")
    seconds, compiled = clock(lambda: ModelWrapper.from_model(model, compile=inputs))
    os.environ[CACHE] = os.path.join(folder, "package")
    path = os.path.join(folder, "model.pt2")

    def packaged() -> None:
        with torch.no_grad():
            program = torch.export.export(model, (), inputs)
            torch._inductor.aoti_compile_and_package(
                program, package_path=path, inductor_configs={"cpp.dynamic_threads": True}
            )

    seconds_alone, _ = clock(packaged)
    eager = ModelWrapper.from_model(model)
    size = sum(each.nbytes for each in model.parameters())
    print(f"\n{name}, {size / 1e6:,.0f} MB; wrapped in {seconds:.0f} s, a package alone in {seconds_alone:.0f} s\n")
    columns = ["load, ms", "first forward, ms", "steady forward, ms", "private, MB"]
    print(f"| | {' | '.join(columns)} | {count} workers ready, s |")
    print("|---" * (len(columns) + 2) + "|")
    outputs = []
    givens = dict(zip(WAYS, (compiled, eager, eager, path)))
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for number in range(rounds):  # in turn, so that a noisy moment is everybody's
        for way in WAYS:
            if way != WAYS[2] or not number:
                worker = workers(1, name, way, os.path.join(folder, f"single-{number}"))[0]
                found[way].append(ray.get(worker.measure.remote(name, way, givens[way], True)))
                outputs.append(found[way][-1].pop("output"))
                ray.kill(worker)
    for way in WAYS:
        together = workers(count, name, way, os.path.join(folder, "together"))
        start = time.perf_counter()
        got = ray.get([each.measure.remote(name, way, givens[way], False) for each in together])
        ready = time.perf_counter() - start
        outputs += [each["output"] for each in got]
        for each in together:
            ray.kill(each)
        values = [spread([each[column] for each in found[way]]) for column in columns]
        print(f"| {way} | {' | '.join(values)} | {ready:.2f} |", flush=True)
    worst = max(float((each.float() - outputs[0].float()).abs().max()) for each in outputs)
    print(f"\nThe outputs differ by {worst:.1e} at most.", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    here = os.path.dirname(os.path.abspath(__file__))
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=6 << 30,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}},
    )
    for name in options.models:
        folder = tempfile.mkdtemp()
        try:
            table(name, folder, options.workers, options.rounds)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        time.sleep(1)


if __name__ == "__main__":
    main()
