"""The setuptools command that lets gopy build ./gozc as a Python extension."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, PlatformError

import toolchain


class BuildGo(build_ext):
    """Builds the extension and ships it alone.

    Not gopy's gozc.py and go.py: they change the working directory at import.
    """

    def build_extension(self, ext: Extension) -> None:
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        # One folder for each kind of Python, so that they never mix.
        module = toolchain.ROOT / "_build" / "gopy" / suffix.split(".")[1]
        library = module / "out" / f"_gozc{suffix}"
        copy_module(module)
        library.unlink(missing_ok=True)
        try:
            env = toolchain.environment()
        except toolchain.Missing as missing:
            raise PlatformError(str(missing)) from None
        env["GOFLAGS"] = f"{os.environ.get('GOFLAGS', '')} -buildvcs=false -trimpath"
        gopy = ["go", "tool", "gopy", "build", f"-vm={sys.executable}", "-output=out", "-name=gozc"]
        # Linking libpython instead would bring a second interpreter under a statically linked Python.
        gopy += ["-dynamic-link=true", "-symbols=false", "-no-make", "./gozc"]
        go = shutil.which("go", path=env["PATH"])
        built = subprocess.run(gopy, executable=go, cwd=module, env=env)
        if built.returncode != 0 or not library.exists():
            raise CompileError("gopy could not build ./gozc; its messages are above")
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)


def copy_module(to: Path) -> None:
    """Copies the Go module: gopy builds with -mod=mod, which rewrites go.mod, and puts its own code inside.

    Go's build cache goes by content, so a new copy costs no new compilation.
    """
    shutil.rmtree(to / "gozc", ignore_errors=True)
    shutil.copytree(toolchain.ROOT / "gozc", to / "gozc")
    for name in ("go.mod", "go.sum"):
        shutil.copyfile(toolchain.ROOT / name, to / name)
