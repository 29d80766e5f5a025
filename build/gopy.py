"""The setuptools command that lets gopy build ./gozc as a Python extension."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, PlatformError

import toolchain

SUFFIX = ".abi3.so"


class BuildGo(build_ext):
    """Builds the extension, for every Python from 3.8 on, and ships it alone.

    Not gopy's gozc.py and go.py: they change the working directory at import.
    """

    def build_extension(self, ext: Extension) -> None:
        # One folder for each kind of processor, so that they never mix.
        module = toolchain.ROOT / "_build" / "gopy" / (os.environ.get("GOARCH") or "native")
        library = module / "out" / f"_gozc{SUFFIX}"
        try:
            toolchain.check()
            env = toolchain.environment()
        except toolchain.Missing as missing:
            raise PlatformError(str(missing)) from None
        copy_module(module)
        library.unlink(missing_ok=True)
        write_python(module / "python")
        env["GOFLAGS"] = f"{os.environ.get('GOFLAGS', '')} -buildvcs=false -trimpath"
        gopy = ["gopy", "build", f"-vm={module / 'python'}", "-output=out", "-name=gozc"]
        # Linking libpython instead would bring a second interpreter under a statically linked Python.
        gopy += ["-dynamic-link=true", "-symbols=false", "-no-make", "./gozc"]
        built = subprocess.run(gopy, executable=shutil.which("gopy", path=env["PATH"]), cwd=module, env=env)
        if built.returncode != 0 or not library.exists():
            raise CompileError("gopy could not build ./gozc; its messages are above")
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        for other in target.parent.glob("_gozc*.so"):  # one for a single Python, of an earlier build, would go first
            other.unlink()
        shutil.copy(library, target)


def copy_module(to: Path) -> None:
    """Copies the Go module: gopy builds with -mod=mod, which rewrites go.mod, and puts its own code inside.

    Go's build cache goes by content, so a new copy costs no new compilation.
    """
    shutil.rmtree(to / "gozc", ignore_errors=True)
    shutil.copytree(toolchain.ROOT / "gozc", to / "gozc")
    for name in ("go.mod", "go.sum"):
        shutil.copyfile(toolchain.ROOT / name, to / name)


def write_python(path: Path) -> None:
    """Writes the command that gopy takes for Python: this one, but for the flags that it was built with.

    gopy asks for them with -c and hands them to cgo, which refuses many that distributions use; those of others put
    paths of this machine into the extension. It needs none: where the headers are, the environment says.
    """
    undefined = " -undefined dynamic_lookup" if sys.platform == "darwin" else ""
    flags = {"incdir": ".", "libdir": ".", "libpy": "", "shlibs": "", "syslibs": "", "shflags": undefined}
    answer = {"version": 3, "minor": sys.version_info[1], "extsuffix": SUFFIX, **flags}
    answered = f'case "$2" in *extsuffix*) exec echo {shlex.quote(json.dumps(answer))} ;; esac'
    path.write_text(f'#!/bin/sh\n{answered}\nexec {shlex.quote(sys.executable)} "$@"\n')
    path.chmod(0o755)
