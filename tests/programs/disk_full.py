"""A store that is full, and the disk that Ray spills to is full too: disk_full.py. Needs root, for a small tmpfs.

A put that finds no room is a `StoreFullError`; what was put before has its bits, and once room is made, puts go on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

import torch

from helpers import ray_cluster, settles
from ray_zerocopy import ModelWrapper, errors

MB = 1 << 20
STORE, DISK = 80 * MB, 60 * MB


def model(value: int) -> torch.nn.Linear:
    made = torch.nn.Linear(1000, 25 * MB // 4 // 1000, bias=False)
    torch.nn.init.constant_(made.weight, value)
    return made


def is_sound(wrapper: ModelWrapper, value: int) -> bool:
    return bool((wrapper.load(timeout=60).weight == value).all())


def put(value: int) -> ModelWrapper | None:
    try:
        return ModelWrapper.from_model(model(value))
    except errors.StoreFullError as error:
        assert error.needed > 24 * MB
        return None


def main() -> None:
    held = {value: wrapper for value in range(12) if (wrapper := put(value))}
    print(f"{len(held)} models of 25 MB put into a store of {STORE // MB} MB and a disk of {DISK // MB} MB", flush=True)
    assert 3 <= len(held) < 12
    first = next(iter(held.values())).load(timeout=60)  # held: the others come and go in what is left
    assert all(is_sound(wrapper, value) for value, wrapper in held.items())
    for value in list(held)[1:]:
        del held[value]
    assert settles(lambda: put(100) is not None, 60), "no room though it was made"
    assert bool((first.weight == next(iter(held))).all())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], check=False).returncode:
            sys.exit("needs root")
        try:
            spilling = {"type": "filesystem", "params": {"directory_path": folder}}
            with ray_cluster(
                object_store_memory=STORE, _system_config={"object_spilling_config": json.dumps(spilling)}
            ):
                main()
        finally:
            subprocess.run(["umount", folder], check=True)
