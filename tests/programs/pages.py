"""Runs the Python programs of pages, one page after the other, in one small cluster.

    python pages.py PAGE.md ...

The blocks of a page are one program, whose names no other page sees. For each page, a line `outcome` with JSON: its name, null or
the traceback, and seconds.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import ray
import torch
from ray import serve

import ray_zerocopy
from ray_zerocopy import ModelWrapper


class Pipeline:
    """What the page about tasks calls `pipeline`."""

    def __init__(self) -> None:
        self.encoder = torch.nn.Linear(64, 64)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.encode(x)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x).detach()


def load_encoder(path: str) -> torch.nn.Module:
    return torch.nn.Linear(64, 64)


def given() -> dict[str, Any]:
    """What pages of recipes take for granted; the others begin with their own imports."""
    names = {"ray": ray, "ray_zerocopy": ray_zerocopy, "serve": serve, "torch": torch, "ModelWrapper": ModelWrapper}
    things = {"pipeline": Pipeline(), "data": torch.ones(2, 64), "batches": [torch.ones(2, 64)] * 3}
    return {"__name__": "__main__", **names, **things, "model": torch.nn.Linear(64, 64), "load_encoder": load_encoder}


def program(page: Path) -> str:
    """The Python blocks of a page, each in its own lines, so that a traceback points there."""
    text = page.read_text()
    lines = [""] * text.count("\n")
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        first = text.count("\n", 0, block.start(1))
        code = block[1].splitlines()
        lines[first : first + len(code)] = code
    return "\n".join(lines)


def main(pages: list[Path]) -> None:
    ray.init(address="local", num_cpus=4, object_store_memory=300 << 20, include_dashboard=False, log_to_driver=False)
    for page in pages:
        start, failure, code = time.monotonic(), None, program(page)
        try:
            if "serve.run" in code:
                serve.start(http_options={"location": "NoServer"})  # its port may be another's
            with contextlib.redirect_stdout(sys.stderr):
                exec(compile(code, str(page), "exec"), given())
        except BaseException:
            failure = traceback.format_exc()
        print("outcome", json.dumps([page.stem, failure, round(time.monotonic() - start, 1)]), flush=True)
        if "serve.run" in code:
            serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
