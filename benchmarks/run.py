"""Compare the ways to share a model among workers: figures as JSON, tables as Markdown, plots.

python benchmarks/run.py                      # everything, up to 40 minutes
python benchmarks/run.py --plan quick         # up to 5
python benchmarks/report.py RESULT.json       # tables and plots again

Ways take turns, in several rounds, on one Ray cluster whose store is warm. Each gets fresh workers that have imported
what they need before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from tqdm import tqdm

import machine
import models
import report
from measure import STEP, available, warm_store
from plans import PLANS, Plan
from ways import WAYS

HERE = Path(__file__).parent
ROOM = 0.9  # of the store, for the largest model
PATIENCE = 600  # seconds for one process of measurements

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the workers have it from here
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

STEPS = ["table", "scale", "data", "growth"]
Results = dict[str, dict[str, dict[str, list[dict[str, Any]]]]]  # step, model, way, rounds


@contextmanager
def cluster(store: int, directory: str | None = None) -> Iterator[str]:
    """A Ray cluster of its own, whose store (in a directory other than /dev/shm, perhaps) is warm; its address."""
    spilling = {"object_spilling_threshold": 1.0}  # or filling the store would write a part of it to disk
    context = ray.init(
        address="local",
        num_cpus=3,
        object_store_memory=store,
        include_dashboard=False,
        log_to_driver=False,
        _plasma_directory=directory,
        _system_config=spilling,
    )
    try:
        warm_store()
        yield context.address_info["gcs_address"]
    finally:
        ray.shutdown()


@dataclass
class Job:
    """What one driver process measures."""

    step: str
    models: list[str]
    ways: list[str]
    options: dict[str, Any]

    def __len__(self) -> int:
        return len(self.models) * len(self.ways)


def grouped(ways: list[str], turn: int = 0) -> list[list[str]]:
    """Ways that can share a process, since they want the same environment; each turn begins with another one."""
    groups: dict[str, list[str]] = {}
    for way in ways:
        environment = WAYS[way].environment if way in WAYS else {}
        groups.setdefault(repr(sorted(environment.items())), []).append(way)

    def turned(items: list[Any]) -> list[Any]:
        return items[turn % len(items) :] + items[: turn % len(items)]

    return turned([turned(group) for group in groups.values()])


def table_jobs(plan: Plan, ways: list[str], turns: Iterable[int]) -> list[Job]:
    """All models in each round, not all rounds of a model: what disturbs the machine for a while hits all."""
    options = {"actors": plan.actors, "puts": plan.puts}
    return [
        Job("table", [name], group, options)
        for turn in turns
        for name, rounds in plan.rounds.items()
        if turn < rounds
        for group in grouped([*ways, "limits"], turn)
    ]


def other_jobs(plan: Plan, ways: list[str]) -> list[Job]:
    """Many workers at once, and Ray Data."""
    options: dict[str, dict[str, Any]] = {"scale": {"groups": plan.groups}, "data": {"rows": plan.rows, "pool": 2}}
    return [
        Job(step, [plan.scaled], group, chosen)
        for step, chosen in options.items()
        for group in grouped([way for way in ways if way in plan.ways[step]])
    ]


def growth_jobs(plan: Plan, ways: list[str], names: list[str]) -> list[Job]:
    """Models of many sizes."""
    chosen = [way for way in ways if way in plan.ways["growth"]]
    return [Job("growth", names, group, {"actors": 1, "puts": plan.puts}) for group in grouped(chosen)]


def run(job: Job, address: str, folder: Path, log: Path, results: dict[str, Any], progress: Any) -> None:
    """Do a job in a process of its own, and collect what it prints."""
    files = folder / "files"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir(parents=True)
    description = json.dumps({**vars(job), "folder": str(files)})
    environment = WAYS[job.ways[0]].environment if job.ways[0] in WAYS else {}
    missing = [(name, way) for name in job.models for way in job.ways]
    with log.open("a") as errors:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "driver.py"), description],
            env={**os.environ, **environment, "RAY_ADDRESS": address},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        watchdog = threading.Timer(PATIENCE, process.kill)
        watchdog.start()
        assert process.stdout
        for text in process.stdout:
            line = json.loads(text)
            if "begins" in line:
                progress.set_description(f"{job.step}: {line['begins']}")
                continue
            missing.remove((line["name"], line["way"]))
            results.setdefault(line["name"], {}).setdefault(line["way"], []).append(line["result"])
            progress.update()
        process.wait()
        watchdog.cancel()
    shutil.rmtree(files, ignore_errors=True)
    for name, way in missing:
        failure = {"failed": f"the driver ended with {process.returncode}, see {log.name}"}
        results.setdefault(name, {}).setdefault(way, []).append(failure)
        progress.update()


def fitting(names: list[str], limit: float) -> tuple[list[str], dict[str, str]]:
    """The models that a store of a size can hold beside the original, and why not the others."""
    fit, reasons = [], {}
    for name in names:
        size = models.outlined_size(name)
        if size + size / ROOM <= limit:
            fit.append(name)
        else:
            reasons[name] = (
                f"{size / 1e9:.1f} GB in the store and {size / 1e9:.1f} GB in the driver: {limit / 1e9:.1f} GB are left"
            )
    return fit, reasons


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", default="full", choices=list(PLANS))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), help="default: all that are installed")
    parser.add_argument("--steps", nargs="+", default=STEPS, choices=STEPS)
    parser.add_argument("--models", nargs="+", help="for the main tables; default: the plan's")
    parser.add_argument("--rounds", type=int, help="for the main tables; default: the plan's")
    parser.add_argument("--minutes", type=float, help="begin nothing after that; default: the plan's")
    parser.add_argument("--old", type=Path, help="folder with ray-zerocopy==0.2.0 (make bench-old): it takes part too")
    parser.add_argument("--output", type=Path, default=HERE.parent / "_build" / "bench")
    options = parser.parse_args()

    plan = PLANS[options.plan]
    if options.models or options.rounds:
        names = options.models or list(plan.rounds)
        plan.rounds = {name: options.rounds or plan.rounds.get(name, 1) for name in names}
    options.minutes = options.minutes or plan.minutes
    if options.old:
        first = [str(options.old.resolve()), os.environ.get("PYTHONPATH", "")]
        WAYS["old"].environment["PYTHONPATH"] = os.pathsep.join(filter(None, first))
    ways = options.ways or [way for way in WAYS if way != "old" or options.old]
    options.output.mkdir(parents=True, exist_ok=True)
    log = options.output / "drivers.log"
    log.unlink(missing_ok=True)

    path = options.output / "result.json"
    facts = {**machine.facts(), "plan": options.plan, "seconds": 0, "steps_left_out": 0}
    steps: Results = {step: {} for step in STEPS}
    room = min(shutil.disk_usage("/dev/shm").free, available() - (3 << 30))
    grown, skipped = fitting(plan.growth if "growth" in options.steps else [], room)
    rest = range(1, max(plan.rounds.values()))
    jobs = [*table_jobs(plan, ways, [0]), *other_jobs(plan, ways), *growth_jobs(plan, ways, grown)]
    jobs = [job for job in [*jobs, *table_jobs(plan, ways, rest)] if job.step in options.steps]
    store = max([plan.store, *(int(models.outlined_size(name) / ROOM) + STEP for name in grown)])
    begin = time.monotonic()
    with tqdm(total=sum(map(len, jobs)), dynamic_ncols=True) as progress, cluster(store) as address:
        for job in jobs:
            if time.monotonic() - begin > 60 * options.minutes:
                facts["steps_left_out"] += len(job)
                continue
            run(job, address, options.output, log, steps[job.step], progress)
            facts["seconds"] = round(time.monotonic() - begin)
            write({"machine": facts, "skipped": skipped, "steps": steps}, path)
    print(report.write(path))


def write(result: dict[str, Any], path: Path) -> None:
    """A result so far, with the ways in one order and the models' titles."""
    order = [*WAYS, "limits"]
    steps = {
        step: {name: {way: by_way[way] for way in order if way in by_way} for name, by_way in named.items()}
        for step, named in result["steps"].items()
    }
    titles = {name: models.spec(name).title for step in steps.values() for name in step}
    path.write_text(json.dumps({**result, "titles": titles, "steps": steps}, indent=1) + "\n")


if __name__ == "__main__":
    main()
