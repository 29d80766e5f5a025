"""Write the example image of the format's present version, and what is in it: python tests/make_golden.py

Run once for each version, when it was made. The files stay as they are: they show that images of all versions can
still be read.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from ray_zerocopy import image
from ray_zerocopy.graph import pipeline

FOLDER = Path(__file__).parent / "golden"


def example():
    """A pipeline of importable parts only, with every kind of entry that an index can have."""
    model = torch.nn.Linear(5, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.arange(15.0).view(3, 5))
    model.register_buffer("brain", torch.arange(4).to(torch.bfloat16), persistent=False)
    model.register_buffer("transposed", torch.arange(6, dtype=torch.int64).view(2, 3).t())
    model.register_buffer("empty", torch.empty(0, 7))
    model.register_buffer("tail", model.weight.detach().view(-1)[10:])
    large = torch.nn.Embedding(4096, 8)
    with torch.no_grad():
        large.weight.copy_(torch.arange(32768.0).view(4096, 8))
    return {"model": model, "list": [large, large], "array": np.arange(7, dtype=np.int32), "note": "format 1"}


def written(root) -> np.ndarray:
    """The image of an object as one run of bytes, at an address that is a multiple of 64."""
    built = image.build(root, "pipeline", pipeline.named_tensors(root))
    memory = aligned(built.size)
    end = 0
    for part in built.parts:
        start = -(-end // 64) * 64
        end = start + part.nbytes
        memory[start:end] = part
    return memory


def aligned(size: int) -> np.ndarray:
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]


def resealed(memory: np.ndarray) -> np.ndarray:
    """With a checksum that fits what the bytes say now, as a hostile writer would do."""
    head_size = int(memory[24:32].view(np.uint64)[0])
    if 2048 <= head_size <= memory.nbytes:
        head = memory[:head_size].tobytes()
        memory[80:84] = np.frombuffer(struct.pack("<I", zlib.crc32(head[:80] + bytes(4) + head[84:])), np.uint8)
    return memory


def main() -> None:
    data = written(example()).tobytes()
    head_size, segments, blocks = (int.from_bytes(data[at : at + 8], "little") for at in (24, 32, 40))

    def rows(start, count):
        return np.frombuffer(data, "<u8", 2 * count, start).reshape(count, 2).tolist()

    index_offset, index_size = (int.from_bytes(data[at : at + 8], "little") for at in (64, 72))
    tensors = json.loads(data[index_offset : index_offset + index_size])["tensors"]
    table = rows(128, segments)
    for tensor in tensors:
        length = 0
        if np.prod(tensor["shape"]):
            last = sum((n - 1) * s for n, s in zip(tensor["shape"], tensor["stride"], strict=True))
            length = (last + 1) * getattr(torch, tensor["dtype"]).itemsize
        start = head_size + table[tensor["segment"]][0] + tensor["offset"]
        tensor["sha256"] = hashlib.sha256(data[start : start + length]).hexdigest()
    version = int.from_bytes(data[8:12], "little")
    (FOLDER / f"v{version}.image").write_bytes(data)
    sums, count = (int.from_bytes(data[at : at + 8], "little") for at in (88, 96))
    contents = {
        "tensors": tensors,
        "image_size": len(data),
        "head_size": head_size,
        "segments": table,
        "blocks": rows(128 + 16 * segments, blocks),
        "crc32": int.from_bytes(data[80:84], "little"),
        "xxh3": np.frombuffer(data, "<u8", count, sums).tolist(),
    }
    (FOLDER / f"v{version}.json").write_text(json.dumps(contents, indent=1) + "\n")


if __name__ == "__main__":
    main()
