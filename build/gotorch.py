"""Builds gotorch's C++ half against the torch of this Python, and runs a command with which Go finds both.

python build/gotorch.py go test -tags gotorch ./gozc/torch

What it builds is in _build/gotorch: libcgotorch.so, anew for another torch, another gotorch or another text of
gozc/torch/cpp. Programs that were linked with it find it, and torch's libraries, by their paths.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import toolchain

MODULE = "github.com/wangkuiyi/gotorch"
OUTPUT = toolchain.ROOT / "_build" / "gotorch"
OURS = toolchain.ROOT / "gozc" / "torch" / "cpp"

# gotorch's sources become one unit, which is compiled in half a minute: each includes all of torch. Before main begins,
# gotorch asks for half as many threads as there are processors, and torch refuses 0 of them.
UNIT = """#define SetNumThreads gotorch_SetNumThreads
{}
#undef SetNumThreads
extern "C" void SetNumThreads(int32_t n) {{ gotorch_SetNumThreads(n < 1 ? 1 : n); }}
#include "{}"
"""

NO_CXX = """no C++ compiler (looked for {}); install
    Debian, Ubuntu:  apt-get install g++
    Fedora, RHEL:    dnf install gcc-c++
or name another one in CXX"""


def find_torch() -> Path:
    """The folder of this Python's torch, which is not imported: that takes seconds."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise toolchain.Missing(f"{sys.executable} has no torch, whose headers are needed: pip install torch")
    return Path(found.origin).parent


def find_cxx() -> list[str]:
    choices = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++", "clang++"]
    for choice in choices:
        words = shlex.split(choice)
        if words and shutil.which(words[0]):
            return words
    raise toolchain.Missing(NO_CXX.format(", ".join(choices)))


def build(go: str, torch: Path) -> Path:
    """Build the library of gotorch's C++ half, unless it is there; returns the folder of gotorch's sources."""
    subprocess.run([go, "mod", "download", MODULE], cwd=toolchain.ROOT, check=True)
    found = [go, "list", "-m", "-f", "{{.Dir}}", MODULE]
    sources = Path(subprocess.run(found, cwd=toolchain.ROOT, check=True, capture_output=True, text=True).stdout.strip())
    names = sorted(path.name for path in (sources / "cgotorch").glob("*.cc"))
    unit = UNIT.format("\n".join(f'#include "cgotorch/{name}"' for name in names), OURS / "operations.cc")
    include, libraries = torch / "include", torch / "lib"
    command = [
        *find_cxx(), "-std=c++20", "-O1", "-w", "-fPIC", "-shared", "-x", "c++", "-",
        f"-I{sources}", f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}",
        f"-L{libraries}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{libraries}",
    ]  # fmt: skip
    version = importlib.metadata.version("torch")
    about = [*command, unit, version, *(path.read_text() for path in sorted(OURS.iterdir()))]
    now = hashlib.sha256("\0".join(about).encode()).hexdigest()
    library, built = OUTPUT / "libcgotorch.so", OUTPUT / "built"
    if library.exists() and built.exists() and built.read_text() == now:
        return sources
    OUTPUT.mkdir(parents=True, exist_ok=True)
    print("compiling gotorch against torch", version, file=sys.stderr)
    new = OUTPUT / f"new.{os.getpid()}.so"
    subprocess.run([*command, "-o", str(new)], input=unit, text=True, check=True)
    new.replace(library)
    # gotorch asks the linker for libtorch.so too, which would bring the CUDA half: 250 MB of memory in every process
    (OUTPUT / "libtorch.so").write_text("INPUT(-lcgotorch)\n")
    built.write_text(now)
    return sources


def environment(sources: Path, torch: Path) -> dict[str, str]:
    """What Go needs in its environment to compile and link with gotorch."""
    flags = [f"-L{OUTPUT}", f"-L{torch / 'lib'}", f"-Wl,-rpath,{OUTPUT}"]
    return {
        **os.environ,
        "CGO_ENABLED": "1",
        "CGO_CFLAGS": f"{os.environ.get('CGO_CFLAGS', '-O2 -g')} -I{shlex.quote(str(sources))}",
        "CGO_LDFLAGS": f"{os.environ.get('CGO_LDFLAGS', '-O2 -g')} {shlex.join(flags)}",
    }


def main() -> int:
    go = toolchain.find_go()
    try:
        if go is None:
            raise toolchain.Missing(toolchain.NO_GO.format(toolchain.go_requirement()))
        torch = find_torch()
        sources = build(go, torch)
    except toolchain.Missing as missing:
        sys.exit(f"error: {missing}")
    except subprocess.CalledProcessError as failed:
        sys.exit(f"error: {shlex.join(failed.cmd[:3])} ... ended with {failed.returncode}")
    return subprocess.run(sys.argv[1:], env=environment(sources, torch)).returncode if sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
