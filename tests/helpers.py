"""What several tests need: workers, memory as the kernel counts it, fresh processes."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

from ray_zerocopy import errors

HERE = Path(__file__).parent


@ray.remote
class Worker:
    """Runs functions in a process of its own, and keeps what they want kept."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    def keep(self, name: str, function: Callable[..., Any], *arguments: Any) -> None:
        self.kept[name] = function(*arguments)

    def use(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(self.kept[name], *arguments)

    def drop(self, name: str) -> None:
        del self.kept[name]
        gc.collect()


def class_not_found(wrapper: Any) -> str | None:
    """What a load says is missing in the process where this runs."""
    try:
        wrapper.load()
    except errors.ClassNotFoundError as error:
        return str(error)
    return None


def private_bytes(address: int, length: int) -> int:
    """Bytes of the mappings over a range of memory that belong to this process alone and were written."""
    return mapped_bytes("Private_Dirty:", address, length)


def anonymous_bytes() -> int:
    """This process's private memory that no file is behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def about_process(_: object) -> tuple[set[str], int, str]:
    """The modules that an actor has imported, its private memory, its node; here, since this module has no torch."""
    return set(sys.modules), anonymous_bytes(), ray.get_runtime_context().get_node_id()


def mapped_bytes(kind: str, address: int, length: int) -> int:
    """Sum of one line of /proc/self/smaps over the mappings that touch a range of memory."""
    total, inside = 0, False
    with open("/proc/self/smaps") as lines:
        for line in lines:
            head = line.split()[0]
            if "-" in head and not head.endswith(":"):
                low, high = (int(part, 16) for part in head.split("-"))
                inside = low < address + length and address < high
            elif inside and line.startswith(kind):
                total += int(line.split()[1]) << 10
    return total


def mappings(address: int) -> list[str]:
    """The lines of this process's memory map that contain an address."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(part, 16) for part in line.split()[0].split("-"))
        if low <= address < high:
            found.append(line)
    return found


def store_mappings() -> int:
    """How many mappings of Ray's store this process has."""
    return sum("plasma" in line for line in Path("/proc/self/maps").read_text().splitlines())


def store_used() -> int:
    """Bytes in use in the object store, as Ray reports it."""
    return int(ray.cluster_resources()["object_store_memory"] - ray.available_resources().get("object_store_memory", 0))


def actor_processes(name: str, folder: str) -> list[int]:
    """The processes of the actors of a class, in the cluster whose temporary folder this is."""
    found = [pid for pid in _every_process() if _proc(pid, "cmdline").startswith(f"ray::{name}")]
    return [pid for pid in found if folder in _proc(parent(pid), "cmdline")]  # the raylet's has it


def worker_processes(title: str, raylet: int) -> list[int]:
    """The workers of a raylet that run something with this title."""
    return [pid for pid in _every_process() if parent(pid) == raylet and title in _proc(pid, "cmdline")]


def _every_process() -> list[int]:
    return [int(each) for each in os.listdir("/proc") if each.isdigit()]


def parent(pid: int) -> int:
    """The process that started another one; 0 if that has ended."""
    fields = _proc(pid, "stat").rpartition(")")[2].split()
    return int(fields[1]) if fields else 0


def _proc(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:  # it has ended
        return ""


def allocated() -> int:
    """Bytes that the stores of this cluster hold, those included that nobody but their readers knows of any more."""
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    state = get_state_from_address(ray.get_runtime_context().gcs_address)  # without, any cluster on this machine
    return int(get_memory_info_reply(state).store_stats.object_store_bytes_used)


def settled_allocation() -> int:
    """`allocated()`, once what earlier tests have dropped is gone from it."""
    gc.collect()
    last, now = -1, allocated()
    while now != last:
        time.sleep(1.5)  # Ray frees once a second (free_objects_period_milliseconds)
        last, now = now, allocated()
    return now


def settles(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether a condition comes true in time; Ray reports sizes with a delay."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return condition()


def connect(address: str | None = None, **options: Any) -> None:
    """`ray.init` through Ray Client: its server gives up on a driver that takes 30 s to start, on a busy machine."""
    for _ in range(3):
        with contextlib.suppress(ConnectionError):
            ray.init(address, logging_level="ERROR", **options)
            return
    ray.init(address, logging_level="ERROR", **options)


def run_script(
    text: str, *arguments: str, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a program (its text, or its file) in a fresh interpreter; its output is in the error when it fails.

    One that takes too long is ended by a signal on which it prints where each of its threads is.
    """
    command = [sys.executable, "-X", "faulthandler", *(["-c"] if "\n" in text else []), text, *arguments]
    with subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=HERE,
    ) as process:
        try:
            output, log = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            output, log = process.communicate()
        except BaseException:
            process.kill()
            raise
    assert process.returncode == 0, f"exit {process.returncode}\n{output}\n{log}"
    return subprocess.CompletedProcess(command, process.returncode, output, log)


@contextlib.contextmanager
def ray_cluster(**options: Any) -> Any:
    """A cluster of its own for the scripts that `run_script` runs."""
    options = {
        "address": "local",
        "num_cpus": 2,
        "object_store_memory": 200 << 20,
        "include_dashboard": False,
        **options,
    }
    ray.init(log_to_driver=False, **options)
    try:
        yield
    finally:
        ray.shutdown()
