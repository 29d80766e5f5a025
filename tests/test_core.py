"""The Go extension: every function is there, errors are errors, and nothing blocks or dies."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest

from helpers import run_script
from ray_zerocopy import core, errors

GO_SURFACE = Path(__file__).parent.parent / "gozc" / "gozc.go"


def test_gopy_bound_every_function_of_the_go_surface():
    core._call("FormatVersion")
    bound = {name.removeprefix("gozc_") for name in dir(core._extension) if name.startswith("gozc_")}
    written = set(re.findall(r"^func ([A-Z]\w*)\(", GO_SURFACE.read_text(), re.MULTILINE))
    assert len(written) >= 12
    assert written <= bound, f"gopy dropped {written - bound}"


def test_a_panic_becomes_an_error_and_the_process_lives_on():
    with pytest.raises(errors.CoreError, match="panic: on purpose"):
        core._call("Panic", "on purpose")
    assert core._call("FormatVersion") == 2


def test_the_gil_is_released_during_a_call():
    thread = threading.Thread(target=core._call, args=("Sleep", 500))
    thread.start()
    count, end = 0, time.monotonic() + 5
    while thread.is_alive() and time.monotonic() < end:
        count += 1
    thread.join()
    assert count > 1000  # with the GIL held this loop would not have turned


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Plan", (0, 3, 0, 0)),
        ("Plan", (0, -1, 0, 0)),
        ("HeadSize", (-1, 0, 0, 0, 0, 0, 0)),
        ("HeadSize", (2**62, 0, 0, 2**62, 0, 0, 0)),
        ("CheckHead", (0, 100, 100, 0, 0)),
        ("MapFile", (-1, 100, 0)),
        ("Share", (0, 1, 0, 0, 0, 0, 0)),
        ("Map", (0, -1, 0, 1, 0)),
        ("Map", (4096, 10, 0, 9, 4096)),
        ("Detach", (0, 1)),
        ("Prefault", (0, -5)),
    ],
)
def test_bad_arguments_are_refused(name, arguments):
    with pytest.raises((errors.RayZeroCopyError, core.NotShared)):
        core._call(name, *arguments)


MISSING = """
import importlib, sys
from unittest import mock
sys.modules["ray_zerocopy._gozc"] = None
from ray_zerocopy import core, errors
try:
    core.plan(0, 0, 0, 0)
except errors.CoreUnavailableError as error:
    assert isinstance(error, ImportError)
    assert "pip install" in str(error) and sys.executable in str(error), error
else:
    raise AssertionError("a missing extension went unnoticed")
"""


def test_a_missing_extension_says_how_to_build_it():
    run_script(MISSING)


BROKEN = """
import pathlib, shutil, sys, tempfile
import ray_zerocopy
folder = pathlib.Path(tempfile.mkdtemp())
suffix = __import__("sysconfig").get_config_var("EXT_SUFFIX")
(folder / f"_gozc{suffix}").write_bytes(b"not a library")
ray_zerocopy.__path__.insert(0, str(folder))
from ray_zerocopy import core, errors
try:
    core.plan(0, 0, 0, 0)
except errors.CoreUnavailableError as error:
    assert "pip install" in str(error), error
else:
    raise AssertionError("a broken extension went unnoticed")
"""


def test_a_broken_extension_says_how_to_build_it():
    run_script(BROKEN)


def test_import_neither_loads_the_extension_nor_starts_ray():
    run_script(
        "import sys\nimport ray_zerocopy, ray\n"
        "assert 'ray_zerocopy._gozc' not in sys.modules\nassert not ray.is_initialized()"
    )
