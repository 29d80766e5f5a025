"""Writers of a model file that are killed at any moment: whoever looks finds one whole model, the old one or the new.

    python tests/programs/kill_writers.py 100

Prints how many were killed before their file was in place.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from ray_zerocopy import ModelWrapper
from ray_zerocopy.stores import disk


def model(value: float) -> torch.nn.Module:
    made = torch.nn.Linear(1500, 1500)
    torch.nn.init.constant_(made.weight, value)
    return made


def main(kills: int, named: bool) -> None:
    """``named``: as on file systems that have no files without a name."""
    if named:
        disk.os.O_TMPFILE = disk.os.O_DIRECTORY  # type: ignore[misc]  # refused, as by such a file system
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.rzc"
        images = []
        for value in (0, 1):
            ModelWrapper.to_file(model(value), path)
            images.append(path.read_bytes())
        start = time.perf_counter()
        disk.write(path, [images[0]])
        takes = time.perf_counter() - start
        old = 0
        for number in range(kills):
            before = path.read_bytes()
            writer = os.fork()
            if not writer:
                disk.write(path, [images[number % 2][:100], images[number % 2][100:]])
                os._exit(0)
            time.sleep(random.uniform(0, 1.3 * takes))
            os.kill(writer, signal.SIGKILL)
            _, status = os.waitpid(writer, 0)
            found = path.read_bytes()
            assert found in (before, images[number % 2]), f"kill {number}: {len(found)} bytes that nobody wrote"
            assert status or found == images[number % 2], f"kill {number}: it had ended, and its file is not there"
            old += found != images[number % 2]
            opened = ModelWrapper.open(path)
            opened.verify()
            assert float(opened.load().weight[7, 7].detach()) in (0, 1)
            left = sorted(set(os.listdir(folder)) - {"model.rzc"})
            assert len(left) <= 1, left  # the next writer removes it
        disk.write(path, [images[0]])
        left = sorted(set(os.listdir(folder)) - {"model.rzc"})
        assert not left, f"left behind: {left}"
    print(f"{kills} kills, {old} of them with the old model in place")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:] == ["named"])
