"""Write an example image of the format's present version, and what is in it: python tests/make_golden.py

Run once for each version, when it was made. The files stay as they are: they show that images of all versions can
still be read. What stands here now writes ``v2-shared``, a file that shares blocks with ``v2``.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
import xxhash

from ray_zerocopy import image
from ray_zerocopy.description import taken_apart
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


def fine_tuned():
    """The example with another weight, and two small things that are new."""
    changed = example()
    with torch.no_grad():
        changed["model"].weight[0, 0] = 100.0
        changed["list"][0].weight.requires_grad_(False)
    return {**changed, "array": np.arange(9, dtype=np.int16), "note": "shared"}


def written(root, about=None, bases=()) -> np.ndarray:
    """The image of an object as one run of bytes, at an address that is a multiple of 64."""
    built = image.build(root, "pipeline", pipeline.named_tensors(root), (), about, bases)
    return one_run(built.parts, built.size)


def one_run(parts, size: int) -> np.ndarray:
    memory = aligned(size)
    end = 0
    for part in parts:
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
    data = np.frombuffer((FOLDER / "v2.image").read_bytes(), np.uint8)
    built, _ = taken_apart(fine_tuned(), "actor", None, None, bases=[data])
    shared = one_run(built.parts, built.size)

    def about(text, used):
        return json.dumps({**json.loads(text), "bases": ["v2.image"]}, separators=(",", ":"))

    write("v2-shared", one_run(*image.again(shared, [data], [data], about)).tobytes(), data.tobytes())


def write(name: str, data: bytes, base: bytes = b"") -> None:
    """An image, and what is in it."""
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
        within, rows_at = base if "base" in tensor else data, 128 + 16 * tensor["segment"]
        start = sum(int.from_bytes(within[at : at + 8], "little") for at in (24, rows_at)) + tensor["offset"]
        tensor["sha256"] = hashlib.sha256(within[start : start + length]).hexdigest()
    (FOLDER / f"{name}.image").write_bytes(data)
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
    if base:
        start, length, count = (int.from_bytes(data[at : at + 8], "little") for at in (104, 112, 120))
        contents["about"] = json.loads(data[start : start + length])
        head = base[: int.from_bytes(base[24:32], "little")]
        contents["bases"] = [[xxhash.xxh3_128_hexdigest(head), len(base)]]
    (FOLDER / f"{name}.json").write_text(json.dumps(contents, indent=1) + "\n")


if __name__ == "__main__":
    main()
