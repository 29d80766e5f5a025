"""The Python programs of the how-tos run as they stand there: the blocks of a page, one after the other, are one."""

from __future__ import annotations

import json
import shutil

import pytest

from helpers import HERE, run_script

DOCS = HERE.parent / "docs"
PAGES = ["quickstart", "ray-data", "actors", "tasks", "notebooks", "observing", "performance", "files", "serve"]
if shutil.which("g++"):  # AOTInductor compiles with it
    PAGES.append("compiled")
# need several machines, files, or a store that root has made; the recipes of lifetimes are those of examples/
FRAGMENTS = {"clusters", "coming-from", "huge-pages", "lifetimes"}


@pytest.fixture(scope="module")
def failures() -> dict[str, str | None]:
    """What went wrong in each page; all run in one process, which takes two minutes and not one for each page."""
    script = str(HERE / "programs" / "pages.py")
    output = run_script(script, *(str(DOCS / f"{page}.md") for page in PAGES), timeout=900).stdout
    outcomes = [json.loads(line[8:]) for line in output.splitlines() if line.startswith("outcome ")]
    return {page: failure for page, failure, _ in outcomes}


@pytest.mark.parametrize("page", PAGES)
def test_the_programs_of_a_page_run(page: str, failures: dict[str, str | None]) -> None:
    assert failures[page] is None, failures[page]


def test_every_page_with_programs_is_run() -> None:
    with_programs = {path.stem for path in DOCS.glob("*.md") if "\n```python\n" in path.read_text()}
    assert with_programs == {*PAGES, *FRAGMENTS, "compiled"}
