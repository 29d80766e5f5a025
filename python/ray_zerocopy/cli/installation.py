"""What is installed: versions, the compiled core, settings."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib import metadata

import ray_zerocopy

from .. import core, errors, settings
from .findings import Finding, note, ok, problem

LEAST = {"torch": "2.4", "ray": "2.10"}  # as in pyproject.toml
_OURS = "ray-zerocopy"


def checks() -> Iterator[Finding]:
    """All that can be told of the installation. Imports neither torch nor Ray, which takes seconds."""
    yield ok("Python", f"{platform.python_version()} ({sys.executable})")
    for name in LEAST:
        yield _library(name)
    yield _ourselves()
    yield _core()
    yield _system()
    yield from _settings()


def _library(name: str) -> Finding:
    version = _version(name)
    upgrade = f"{sys.executable} -m pip install '{name}>={LEAST[name]}'"
    if version is None:
        return problem(name, "is not installed for this Python", upgrade)
    if _numbers(version) < _numbers(LEAST[name]):
        return problem(name, f"{version}, and at least {LEAST[name]} is needed", upgrade)
    return ok(name, version)


def _ourselves() -> Finding:
    here, recorded = ray_zerocopy.__version__, _version(_OURS)
    found = f"{here} ({ray_zerocopy.__path__[0]})"
    if recorded not in (None, here):
        return problem(
            "ray_zerocopy",
            f"{found}, while pip has recorded {recorded}: two installations lie over each other",
            f"{sys.executable} -m pip uninstall {_OURS}, until there is none, and install the one that is meant. Of a "
            "checkout that was moved on, pip install -e . is enough.",
        )
    return ok("ray_zerocopy", found)


def _core() -> Finding:
    try:
        version = core.format_version()
    except (errors.RayZeroCopyError, OSError, AttributeError) as error:
        return problem(
            "compiled core",
            f"does not load: {error}",
            "Nothing can be wrapped or loaded in this Python before that is put right.",
        )
    return ok("compiled core", f"loads; writes version {version} of the image format")


def _system() -> Finding:
    library, version = platform.libc_ver()
    found = f"{platform.system()} {platform.release()}, {platform.machine()}, {library} {version}".rstrip(", ")
    if platform.system() != "Linux":
        return problem(
            "system", found, "Each load is a copy on this system: use Linux for models that many processes share."
        )
    return ok("system", found)


def _settings() -> Iterator[Finding]:
    try:
        settings.isolation()
        settings.kept()
        settings.compile_turns()
    except errors.RayZeroCopyError as error:
        yield problem("settings", str(error), "Set it to such a value, or unset it (docs/settings.md).")
    else:
        given = (f"{name}={value}" for name, value in settings.in_force().items())
        yield ok("settings", ", ".join(given) or "all at their defaults")
    for name, near in settings.unknown().items():
        advice = f"Did you mean {near}?" if near else f"Known are {', '.join(settings.VARIABLES)}."
        yield note("settings", f"{name} is set, and nothing reads it", f"{advice} Unset what is not needed.")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdecimal())
