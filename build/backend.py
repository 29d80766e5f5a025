"""setuptools' PEP 517 backend, and the Go toolchain as a build requirement where there is none."""

from __future__ import annotations

import shutil

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  the other hooks, unchanged

import toolchain


def get_requires_for_build_wheel(config_settings=None):
    return _requires(build_meta.get_requires_for_build_wheel, config_settings)


def get_requires_for_build_editable(config_settings=None):
    return _requires(build_meta.get_requires_for_build_editable, config_settings)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    # setuptools never empties this folder: a module deleted since the last build would still ship.
    shutil.rmtree(toolchain.ROOT / "_build" / "lib", ignore_errors=True)
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def _requires(hook, config_settings):
    """What a build needs, once it is known that what no package can bring is here: torch alone is a gigabyte."""
    try:
        toolchain.check()
    except toolchain.Missing as missing:
        raise SystemExit(f"error: {missing}") from None  # a front end shows a traceback of anything else
    return hook(config_settings) + ([] if toolchain.find_go() else [toolchain.go_requirement()])
