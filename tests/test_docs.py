"""The Python programs of the how-tos run as they stand there: the blocks of a page, one after the other, are one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import HERE, run_script

DOCS = HERE.parent / "docs"
HOW_TOS = ("quickstart", "ray-data", "actors", "serve", "tasks", "notebooks", "lifetimes", "observing", "performance")

# What a page takes for granted. The other pages begin with their own imports.
IMPORTS = """
import asyncio, ray, ray_zerocopy, torch
from ray import serve
from ray_zerocopy import ModelWrapper
"""
GIVEN = {
    "tasks": """
class Pipeline:
    def __init__(self):
        self.encoder = torch.nn.Linear(64, 64)
    def __call__(self, x):
        return self.encode(x)
    def encode(self, x):
        return self.encoder(x).detach()
pipeline, data = Pipeline(), torch.ones(2, 64)
""",
    "lifetimes": """
model = torch.nn.Linear(64, 64)
def load_encoder(path):
    return torch.nn.Linear(64, 64)
""",
    "observing": "ModelWrapper.from_model(torch.nn.Linear(256, 256), name='observing-page')\n",
}


def programs(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    command = [sys.executable, str(HERE / "programs" / "small_cluster.py")]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as cluster:
        assert cluster.stdout is not None
        lines = (line.split() for line in cluster.stdout)
        yield next(line[1] for line in lines if line[:1] == ["address"])
        cluster.communicate()


@pytest.mark.parametrize("page", HOW_TOS)
def test_the_programs_of_a_page_run(page: str, address: str, tmp_path: Path) -> None:
    blocks = programs(page)
    assert blocks
    given = IMPORTS + GIVEN[page] if page in GIVEN else ""
    program = tmp_path / f"{page.replace('-', '_')}_page.py"
    program.write_text(given + "\n".join(blocks))
    run_script(str(program), timeout=120, RAY_ADDRESS=address, RAY_AUTH_MODE="disabled")


def test_every_page_with_programs_is_run() -> None:
    fragments = {"clusters", "huge-pages", "coming-from"}  # what needs a machine, a file or another package
    assert {path.stem for path in DOCS.glob("*.md") if programs(path.stem)} - fragments == set(HOW_TOS)
