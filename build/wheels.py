"""Builds what is published: two wheels, x86_64 and aarch64, for every Python from 3.8 on, and the sdist.

    python build/wheels.py [folder]        folder: dist

The C compiler is the package ziglang, whose `zig cc` compiles for either processor and for an old glibc. Every
wheel is checked: auditwheel and abi3audit agree, the binary has no path of this machine, the licenses are inside.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import toolchain

GLIBC = "2.17"  # which manylinux2014 has, as Ray's own wheels
PROCESSORS = {"x86_64": "amd64", "aarch64": "arm64"}  # and what Go calls them
MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine in the ELF header


def zig() -> str:
    """The compiler itself: a Python in between would be started for every file."""
    found = importlib.util.find_spec("ziglang")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the package ziglang is not installed: pip install ziglang")
    return str(Path(found.submodule_search_locations[0], "zig"))


def build(processor: str, folder: Path) -> Path:
    """Builds the wheel for a processor, whichever this machine has."""
    platform = f"manylinux2014_{processor}"
    env = {
        **os.environ,
        "CC": f"{shlex.quote(zig())} cc -target {processor}-linux-gnu.{GLIBC}",
        "GOOS": "linux",
        "GOARCH": PROCESSORS[processor],
    }
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", f"--outdir={folder}"]
    command += [f"-C--build-option=--plat-name={platform}", str(toolchain.ROOT)]
    subprocess.run(command, env=env, check=True)
    return next(folder.glob(f"*{platform}.whl"))


def check(wheel: Path, processor: str) -> str:
    """What is wrong with a wheel, or nothing."""
    with zipfile.ZipFile(wheel) as z, tempfile.TemporaryDirectory() as tmp:
        names = z.namelist()
        binary = Path(z.extract("ray_zerocopy/_gozc.abi3.so", tmp))
        wrong = inspect(binary, MACHINES[processor])
    licenses = sorted(path.name for path in (toolchain.ROOT / "LICENSES").iterdir())
    wrong += [f"no LICENSES/{name}" for name in licenses if not any(n.endswith(f"LICENSES/{name}") for n in names)]
    wrong += audit(wheel)
    return "; ".join(wrong)


def inspect(binary: Path, machine: int) -> list[str]:
    """What is wrong with an extension: its kind, a search path for libraries, or a path of this machine."""
    data = binary.read_bytes()
    wrong = []
    if data[:4] != b"\x7fELF" or int.from_bytes(data[18:20], "little") != machine:
        wrong.append("the extension is for another kind of processor")
    dynamic = subprocess.run(["readelf", "-d", binary], capture_output=True, text=True, check=True).stdout
    wrong += [f"the extension has a {kind}" for kind in ("RUNPATH", "RPATH") if f"({kind})" in dynamic]
    go = toolchain.find_go() or "go"
    places = {str(toolchain.ROOT), str(Path.home()), sys.prefix, sys.base_prefix, str(Path(go).parent.parent)}
    wrong += [f"the extension names {place}" for place in places if len(place) > 4 and place.encode() in data]
    return wrong


def audit(wheel: Path) -> list[str]:
    """What auditwheel and abi3audit say against a wheel."""
    tools = Path(sys.executable).parent
    show = subprocess.run([tools / "auditwheel", "show", wheel], capture_output=True, text=True)
    verdict = re.search(r'platform tag:\s+"manylinux_2_(\d+)\w+', show.stdout)
    wrong = [] if verdict and int(verdict[1]) <= 17 else [f"auditwheel: {show.stdout}{show.stderr}"]
    print("auditwheel:", verdict[0] + '"' if verdict else "?")
    report = [tools / "abi3audit", "--strict", "--report", wheel]
    abi = subprocess.run(report, capture_output=True, text=True)
    print("abi3audit:", "passed" if abi.returncode == 0 else "failed")
    if abi.returncode != 0 or not json.loads(abi.stdout)["specs"]:
        wrong.append(f"abi3audit: {abi.stdout}{abi.stderr}")
    return wrong


def main() -> int:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else toolchain.ROOT / "dist").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sdist = [sys.executable, "-m", "build", "--sdist", "--no-isolation", f"--outdir={folder}", str(toolchain.ROOT)]
    subprocess.run(sdist, check=True)
    failed = 0
    for processor in PROCESSORS:
        wheel = build(processor, folder)
        wrong = check(wheel, processor)
        failed += bool(wrong)
        print(wheel.name, f"{wheel.stat().st_size / 1e6:.2f} MB", wrong or "sound")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
