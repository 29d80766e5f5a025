"""One driver process of the benchmarks: attaches to the cluster of run.py, measures some ways in turn, and prints a
line of JSON when a step begins and when it ends. Not called by hand.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

import models
from measure import Peak, available, calm, clock, copy_time, repeat, warm_store
from ways import WAYS
from worker import Actor, Batches, Toucher

RESERVE = 2 << 30  # bytes of memory that are left alone; Ray ends workers when 5% are left
BATCH = 16  # rows
SETTLED = 1 << 20  # bytes that do not count as use of the store


def used() -> float:
    """Bytes in use in the object store."""
    return ray.cluster_resources()["object_store_memory"] - ray.available_resources().get("object_store_memory", 0)


def settle(limit: float = 15) -> None:
    """Wait until the store has all of its memory back; Ray frees, and reports, with a delay."""
    gc.collect()
    time.sleep(0.2)
    end = time.monotonic() + limit
    while used() > SETTLED and time.monotonic() < end:
        time.sleep(0.05)


class Driver:
    """The model of this process, and what is done with it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.model = models.restored(models.build(name))
        self.size = models.size(self.model)
        self.inputs = models.spec(name).inputs()

    def expected(self, threads: int) -> np.ndarray:
        """The original's output."""
        torch.set_num_threads(threads)
        return models.run(self.model, self.inputs).float().numpy()

    def put(self, way: str) -> Any:
        return WAYS[way].code.put(self.model, self.name, self.folder)

    def actors(self, way: str, count: int, threads: int) -> list[Any]:
        """Workers that have imported everything, on a machine that has come to rest."""
        actors = [Actor.remote(way, self.name, threads) for _ in range(count)]
        versions = set(ray.get([actor.ready.remote() for actor in actors]))
        if (way == "old") != (versions == {"0.2.0"}):
            raise RuntimeError(f"the workers have ray-zerocopy {versions}, which is the wrong one for {way!r}")
        calm()
        return actors

    def table(self, way: str, actors: int, puts: int) -> dict[str, Any]:
        """All figures of one way."""
        if way == "limits":
            return self.limits()
        threads = os.cpu_count() or 1
        memcpy = copy_time(self.model)
        put = None

        def put_again() -> float:
            nonlocal put
            put = None
            settle()
            seconds, put = clock(lambda: self.put(way))
            return seconds

        put_times = repeat(put_again, puts)
        put = None
        settle()
        with Peak() as peak:
            put = self.put(way)
        time.sleep(0.3)
        store = used()
        workers = self.actors(way, actors, threads)
        firsts = [ray.get(worker.load.remote(put)) for worker in workers]
        forwards = [ray.get(worker.forward.remote()) for worker in workers]
        later = ray.get(workers[0].load_again.remote(put))
        result = {
            "size": self.size,
            "tensors": len(models.tensors(self.model)),
            "memcpy": memcpy,
            "put": put_times,
            "driver_peak": peak.extra,
            "store": store,
            "first_load": [first["load"] for first in firsts],
            "later_load": later,
            "first_forward": [forward["first"] for forward in forwards],
            "steady_forward": [forward["steady"] for forward in forwards],
            "private": [first["private"] for first in firsts],
            "output": self.compare([forward["output"] for forward in forwards], threads),
            "isolation": self.isolation(workers) if actors > 1 else None,
        }
        for worker in workers:
            ray.kill(worker)
        return result

    growth = table

    def limits(self) -> dict[str, Any]:
        """What bounds every way: a copy of the bytes, one array of this size through the store, filling page tables."""
        source = np.ones(self.size, np.uint8)
        put_times, put = [], None
        for _ in range(3):
            put = None
            settle()
            seconds, put = clock(lambda: [ray.put(source)])
            put_times.append(seconds)
        worker = Toucher.remote()
        ray.get(worker.ready.remote())
        calm()
        result = ray.get(worker.get.remote(put))
        ray.kill(worker)
        return {"size": self.size, "memcpy": copy_time(self.model), "put": put_times, **result}

    def isolation(self, workers: list[Any]) -> str:
        """What a write in one worker does to another: nothing (private), or it changes its weights (shared)."""
        before = ray.get(workers[1].digest.remote())
        try:
            answer = ray.get(workers[0].write.remote())
        except ray.exceptions.RayActorError:
            answer = "ends the writer"
        if ray.get(workers[1].digest.remote()) != before:
            return "shared"
        return "private" if answer == "done" else answer.split(":")[0]

    def compare(self, outputs: list[np.ndarray], threads: int) -> str:
        """Whether outputs are the original's: equal, close or wrong."""
        expected = self.expected(threads)
        if all(np.array_equal(output, expected) for output in outputs):
            return "equal"
        return "close" if all(np.allclose(o, expected, rtol=1e-3, atol=1e-4) for o in outputs) else "wrong"

    def scale(self, way: str, groups: list[int]) -> dict[str, Any]:
        """Groups of fresh workers that are told at once to load and run: time to the outputs, and memory."""
        put, results = self.put(way), {}
        for count in groups:
            try:
                results[str(count)] = self.group(way, put, count)
            except Exception as failure:  # smaller groups have their figures
                results[str(count)] = {"failed": explained(failure)}
        return {"size": self.size, "shared": WAYS[way].shared, "groups": results}

    def group(self, way: str, put: Any, count: int) -> dict[str, Any]:
        """One of these groups."""
        workers = self.actors(way, count, threads=1)
        try:
            begin = time.monotonic()
            answers = ray.get([worker.start.remote(put) for worker in workers])
        finally:
            for worker in workers:
                ray.kill(worker)
        return {
            "first": min(answer["done"] for answer in answers) - begin,
            "all": max(answer["done"] for answer in answers) - begin,
            "private": sum(answer["private"] for answer in answers),
            "output": self.compare([answer["output"] for answer in answers], threads=1),
        }

    def data(self, way: str, rows: int, pool: int) -> dict[str, Any]:
        """A Ray Data job of its own: workers start, import, load, and run the model over all rows."""
        import ray.data  # takes a second, and no other step wants it

        ray.data.DataContext.get_current().enable_progress_bars = False
        put = self.put(way)
        ids = models.token_ids(rows, 2000).numpy()
        ids[:, 0] = np.arange(rows) % 2000

        def job() -> Any:
            batches = ray.data.from_numpy(np.split(ids, rows // BATCH)).map_batches(
                Batches,
                fn_constructor_kwargs={"way": way, "model": self.name, "put": put},
                compute=ray.data.ActorPoolStrategy(size=pool),
                batch_size=BATCH,
            )
            return batches.take_all()

        seconds, scored = clock(job)
        torch.set_num_threads(1)
        expected = [models.run(self.model, {"ids": part})[:, 0, 0] for part in torch.from_numpy(ids).split(BATCH)]
        scores = {int(row["id"]): float(row["score"]) for row in scored}
        same = np.array_equal([scores[i] for i in range(rows)], torch.cat(expected).numpy())
        return {"rows": rows, "pool": pool, "seconds": seconds, "output": "equal" if same else "wrong"}


def too_large(way: str, size: int, workers: int, built: bool) -> str | None:
    """Why there is not enough memory for a way; None if there is. The store has its memory already."""
    copies = 1  # the array of the limits
    if way in WAYS:
        copies = max(WAYS[way].driver_copies, 0 if WAYS[way].shared else workers)
    needed, left = (copies + (not built)) * size, max(0, available() - RESERVE)
    if needed <= left:
        return None
    return f"needs {needed / 1e9:.1f} GB of memory beside the store, {left / 1e9:.1f} GB are left"


def attempt(driver: Driver, job: dict[str, Any], way: str) -> dict[str, Any]:
    """A step's figures, or why there are none. A function, so that a failure's traceback keeps nothing in the store."""
    try:
        if way in WAYS:
            WAYS[way].code.prepare()
        return getattr(driver, job["step"])(way, **job["options"])
    except Exception as failure:
        return {"failed": explained(failure)}


def explained(failure: Exception) -> str:
    """A failure in a line."""
    cause = failure.cause if isinstance(failure, ray.exceptions.RayTaskError) else failure
    text = f"{type(cause).__name__}: {cause}".splitlines()[0][:300]
    return re.sub(r" \(IP: [^)]*\)", "", text)


def main() -> None:
    """Do a job: ``{"step": "table", "models": [...], "ways": [...], "folder": ..., "options": {...}}``."""
    job = json.loads(sys.argv[1])
    report = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # nothing else may print to where the results go
    environment = WAYS[job["ways"][0]].environment if job["ways"][0] in WAYS else {}
    environment = {name: os.environ[name] for name in {"PYTHONPATH", *environment} if name in os.environ}
    ray.init(log_to_driver=False, runtime_env={"env_vars": environment})
    warm_store()
    settle()
    calm()
    workers = max(job["options"].get("groups", [job["options"].get("actors", job["options"].get("pool"))]))
    for name in job["models"]:
        driver = None
        size = models.outlined_size(name)
        for way in job["ways"]:
            print(json.dumps({"begins": f"{name}, {way}"}), file=report)
            reason = too_large(way, size, workers, driver is not None)
            if reason:
                result = {"skipped": reason}
            else:
                driver = driver or Driver(name, Path(job["folder"]))
                result = attempt(driver, job, way)
                settle()
            print(json.dumps({"name": name, "way": way, "result": result}), file=report)
    ray.shutdown()


if __name__ == "__main__":
    main()
