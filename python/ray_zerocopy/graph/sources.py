"""Modules made of code that a library has downloaded: transformers' and diffusers' "remote code".

The library writes that code into a folder of its own and loads it from there, under names that no other process can
import. The sources travel with the model, all those of the folder, since they import each other, some of them only when
they are called. A process that has not loaded them itself imports them from there.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import cast

PACKAGES = ("transformers_modules", "diffusers_modules")


def of(module: str) -> dict[str, str] | None:
    """The sources of a module and of all others in its folder by their names, None if it is not downloaded code."""
    if module.partition(".")[0] not in PACKAGES:
        return None
    loaded = sys.modules.get(module)
    carried = _carried.get(module)
    if carried is not None and isinstance(getattr(loaded, "__loader__", None), _Loader):
        return carried
    file = getattr(loaded, "__file__", None)
    if not file or not os.path.exists(file):
        return None
    folder, package = Path(file).parent, module.rpartition(".")[0]
    return {
        ".".join((package, *path.relative_to(folder).with_suffix("").parts)): path.read_text("utf-8")
        for path in sorted(folder.glob("*.py") if package in PACKAGES else folder.rglob("*.py"))
        if path.name != "__init__.py"
    }


def module_of(name: str, sources: dict[str, str]) -> tuple[ModuleType, bool]:
    """A module by its name, and whether it is made of these sources.

    One that this process has loaded already is taken as it is.
    """
    loaded = sys.modules.get(name)
    if loaded is None:
        with _lock:
            for each in sources:
                if each not in sys.modules:
                    _carried[each] = sources
            if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
                sys.meta_path.insert(0, cast("importlib.abc.MetaPathFinder", _Finder()))
        return importlib.import_module(name), True
    return loaded, (of(name) or {}).get(name) == sources[name]


_carried: dict[str, dict[str, str]] = {}
_lock = threading.Lock()


class _Finder:
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in PACKAGES:
            return None
        if name in _carried:
            file = name.replace(".", "/") + ".py"  # nowhere; what asks for the source gets it from the loader
            spec = importlib.machinery.ModuleSpec(name, _Loader(_carried[name][name], file), origin=file)
            spec.has_location = True
            return spec
        if not any(each.startswith(name + ".") for each in _carried):
            return None
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        # the folders of the library itself, which may load other models in this process
        cache = os.environ.get("HF_HOME") or os.path.join(os.path.expanduser("~"), ".cache", "huggingface")
        cache = os.environ.get("HF_MODULES_CACHE") or os.path.join(cache, "modules")
        spec.submodule_search_locations = [os.path.join(cache, *name.split("."))]
        return spec


class _Loader(importlib.abc.InspectLoader):
    def __init__(self, source: str, file: str) -> None:
        self._source, self._file = source, file

    def get_source(self, fullname: str) -> str:
        return self._source

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._source, self._file)

    def is_package(self, fullname: str) -> bool:
        return False
