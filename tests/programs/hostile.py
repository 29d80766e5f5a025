"""Loads images whose bytes say what they should not, under a checksum that fits: an error of ours each time, or a load.

    python hostile.py SECONDS [SEED]

What is not so, it prints, with how to make the image again; and it ends with 1. An image is changed in one to three
places: a bit, a byte, a number or a stretch of its tables, of its references or of its pickle, of its data, or an
opcode's argument. No image may take more than 100 MB above what the process has; what stays of a million of them, which
set attributes of classes and the like, is in the last line.
"""

from __future__ import annotations

import pickletools
import random
import resource
import struct
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch

import zoo
from make_golden import example, fine_tuned, resealed, written
from ray_zerocopy import CompiledModel, errors, image, reading
from ray_zerocopy.graph import skeleton

ALLOWED = (errors.ImageError, errors.ClassNotFoundError)
HEADROOM = 100 << 20


def corpus() -> dict[str, tuple[np.ndarray, list[np.ndarray]]]:
    """Images, each with those that it shares blocks with."""
    # not the images in tests/golden: before dtypes had a function of ours, pickle set their state, and NumPy (2.4) ends
    # the process where that is not what NumPy wrote
    base = written(example())
    found = {"example": (base, []), "shared": (written(fine_tuned(), lambda *_: {"class": "dict"}, [base]), [base])}
    for name, make in zoo.ZOO.items():
        root = make()[0]
        whole = written(root)
        if whole.nbytes < 1 << 20:
            found[name] = whole, []
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU()).eval()
    found["compiled"] = written(CompiledModel.compile(model, (torch.ones(2, 4),))), []
    return found


READERS = [
    *[lambda whole, bases: reading.load(whole, [], bases=bases)] * 7,
    reading.named_tensors,
    reading.verify,
    lambda whole, bases: image.again(whole, bases, bases),
]


def layout(whole: np.ndarray) -> tuple[int, int, int]:
    """Where the skeleton starts and ends, and the head."""
    head, _, _, start, length = (int(n) for n in whole[24:64].view(np.uint64))
    return start, start + length, head


def changed(original: np.ndarray, dice: random.Random) -> np.ndarray:
    whole = original.copy()
    start, end, head = layout(whole)
    count = int(whole[start : start + 4].view(np.uint32)[0])
    pickled = start + 4 + 4 * count
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        kind = dice.random()
        if kind < 0.05:
            at = dice.randrange(end, head)
        elif kind < 0.15:
            at = dice.randrange(16, pickled)
        elif kind < 0.9 or head == whole.nbytes:
            at = dice.randrange(pickled, end)
        else:
            at = dice.randrange(head, whole.nbytes)
        how = dice.randrange(6)
        if how == 0:
            whole[at] ^= 1 << dice.randrange(8)
        elif how == 1:
            whole[at] = dice.randrange(256)
        elif how == 2:
            whole[at] = dice.choice(OPCODES)
        elif how == 3:
            number = dice.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**20, 2**27, 255, 65536))
            data = struct.pack("<I", number)[: whole.nbytes - at]
            whole[at : at + len(data)] = np.frombuffer(data, np.uint8)
        elif how == 4:  # a stretch of the pickle in another place of it
            size = dice.randrange(1, 40)
            source = dice.randrange(pickled, max(pickled + 1, end - size))
            size = min(size, end - source, whole.nbytes - at)
            whole[at : at + size] = original[source : source + size].copy()
        elif dice.random() < 0.5:
            opcode = dice.choice(OPCODES)
            whole[at : at + 1] = opcode
        else:
            size = min(dice.randrange(1, 9), whole.nbytes - at)
            whole[at : at + size] = 0
    return resealed(whole) if head == layout(whole)[2] else whole


OPCODES = [ord(opcode.code) for opcode in pickletools.opcodes]


def main(seconds: float, seed: int) -> int:
    warnings.simplefilter("ignore")
    images = corpus()
    for whole, bases in images.values():
        reading.load(whole.copy(), [], bases=bases)
    start = bounded()
    names = sorted(images)
    outcomes: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    end, number = time.monotonic() + seconds, seed
    while time.monotonic() < end:
        used = bounded()
        for _ in range(1000):
            number += 1
            dice = random.Random(number)
            name = dice.choice(names)
            if TRACE:
                print(name, number, file=TRACE, flush=True)
            original, bases = images[name]
            whole = changed(original, dice)
            outcome = "loaded"
            try:
                dice.choice(READERS)(whole, bases)
            except ALLOWED as error:
                outcome = type(error).__name__
            except BaseException as error:
                # by code of a pipeline's own, or of a library's, which is given what is in the bytes
                outcome = "raised by others" if skeleton._by_others(error) else "FAULT"
                text = f"{name}: {type(error).__qualname__}: {error}"[:150]
                faults[text] += outcome == "FAULT"
                if faults[text] == 1:
                    print(f"seed {number}: {text}", flush=True)
            outcomes[outcome] += 1
    print(
        f"{sum(outcomes.values())} images, seeds {seed + 1} to {number}: {dict(outcomes)}; "
        f"{(used - start) >> 20} MB more at the end",
        flush=True,
    )
    return 1 if outcomes["FAULT"] else 0


def bounded() -> int:
    """Bound the memory of this process by what it has now and the headroom; give what it has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, resource.RLIM_INFINITY))
    return used


TRACE = None
if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 3:
        TRACE = open(sys.argv[3], "w")  # noqa: SIM115  for as long as the process lives
    sys.exit(main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())))
