"""What a script hangs on its models, in workers that have nothing of the script."""

from __future__ import annotations

import json
import re

import pytest

from helpers import HERE, run_script

PROGRAM = HERE / "programs" / "kinds.py"
KINDS = re.findall(r"^@kind\ndef (\w+)", PROGRAM.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    found: dict[str, str] = json.loads(run_script(str(PROGRAM), timeout=300).stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_loads_the_same_in_a_worker(failures, kind):
    assert failures[kind] == ""


def test_all_kinds_are_tried(failures):
    assert KINDS
    assert set(failures) == set(KINDS)
