"""What a reader has to know of the machine and the programs that gave the figures."""

from __future__ import annotations

import os
import platform
import shutil
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("ray-zerocopy", "torch", "ray", "numpy", "transformers", "torchvision", "safetensors")


def line(path: str, start: str) -> str:
    """The value of the first line of a file that starts with a word."""
    for text in Path(path).read_text().splitlines():
        if text.startswith(start):
            return text.split(":", 1)[1].strip()
    return "unknown"


def chosen(path: str) -> str:
    """The setting in brackets of a file like ``always [never]``."""
    try:
        return Path(path).read_text().split("[")[1].split("]")[0]
    except (OSError, IndexError):
        return "unknown"


def versions() -> dict[str, str]:
    """Of Python and the packages that take part."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def facts() -> dict[str, Any]:
    """Everything, ready for JSON."""
    return {
        "date": date.today().isoformat(),
        "processor": line("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_gb": round(int(line("/proc/meminfo", "MemTotal").split()[0]) * 1024 / 1e9, 1),
        "shared_memory_gb": round(shutil.disk_usage("/dev/shm").total / 1e9, 1),
        "kernel": platform.release().partition("-")[0],
        "huge_pages_shmem": chosen("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": versions(),
    }
