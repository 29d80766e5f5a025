"""setuptools' PEP 517 backend, and the Go toolchain as a build requirement where there is none."""

import shutil

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403  the other hooks, unchanged

import toolchain


def get_requires_for_build_wheel(config_settings=None):
    return build_meta.get_requires_for_build_wheel(config_settings) + _go()


def get_requires_for_build_editable(config_settings=None):
    return build_meta.get_requires_for_build_editable(config_settings) + _go()


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    # setuptools never empties this folder: a module deleted since the last build would still ship.
    shutil.rmtree(toolchain.ROOT / "_build" / "lib", ignore_errors=True)
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def _go():
    return [] if toolchain.find_go() else [toolchain.go_requirement()]
