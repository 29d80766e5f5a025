"""Installs one wheel beside torch and Ray on every Python found here, and runs tests/smoke.py.

    python build/matrix.py [--wheel FILE] [3.12 ...]     these Pythons only

The wheel is the one that `make wheels` has put into dist for this machine. Each Python gets the newest torch and Ray
that there is for it, and the oldest that pyproject.toml allows and that has wheels for it. Everything happens in
temporary folders, one at a time: a venv with torch takes gigabytes.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMOKE = ROOT / "tests" / "smoke.py"
VERSIONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
# What pyproject.toml allows and has wheels for a Python; for a later one, the first that has.
OLDEST = {
    "3.8": ["torch==2.4.1", "ray==2.10.0", "numpy==1.24.4"],
    "3.9": ["torch==2.4.0", "ray==2.10.0", "numpy==1.24.4"],
    "3.10": ["torch==2.4.0", "ray==2.10.0", "numpy==1.24.4"],
    "3.11": ["torch==2.4.0", "ray==2.10.0", "numpy==1.24.4"],
    "3.12": ["torch==2.4.0", "ray==2.37.0", "numpy==1.26.4"],
    "3.13": ["torch==2.6.0", "ray==2.45.0", "numpy==2.1.0"],
}


def find_python(version: str) -> str | None:
    """A Python of this version: pyenv's, else one on PATH (which may be a pyenv shim that runs nothing)."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    for python in (*pyenv.glob(f"versions/{version}.*/bin/python"), shutil.which(f"python{version}")):
        if python and subprocess.run([python, "-c", "import venv"], capture_output=True).returncode == 0:
            return str(python)
    return None


def try_one(python: str, wheel: Path, requirements: list[str]) -> str:
    """Install, run; what was installed, and in how many seconds the wheel was. The first step that fails raises."""
    with tempfile.TemporaryDirectory(prefix="ray-zerocopy-") as tmp:
        venv = str(Path(tmp, "venv", "bin", "python"))
        pip = [venv, "-m", "pip", "--quiet", "install"]
        run(tmp, python, "-m", "venv", "venv")
        run(tmp, *pip, *(requirements or ["torch", "ray"]), "tqdm")
        start = time.monotonic()
        run(tmp, *pip, str(wheel))  # everything it requires is there
        seconds = time.monotonic() - start
        run(tmp, venv, str(SMOKE))
        report = "from importlib.metadata import version as v; print('torch', v('torch'), ' ray', v('ray'))"
        return f"{subprocess.check_output([venv, '-c', report], text=True).strip()}  wheel in {seconds:.1f} s"


def run(cwd: str, *command: str) -> None:
    print("+", *command, flush=True)
    subprocess.run(command, cwd=cwd, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help="instead of the one in dist")
    parser.add_argument("--only", choices=["newest", "oldest"])
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    asked = parser.parse_args()
    wheel = asked.wheel or next((ROOT / "dist").glob(f"*{platform.machine()}.whl"), None)
    if wheel is None:
        raise SystemExit("no wheel in dist: make wheels")
    pythons = {v: p for v in asked.versions if (p := find_python(v))}
    tries = [(v, "newest", []) for v in pythons] + [(v, "oldest", OLDEST[v]) for v in pythons if v in OLDEST]
    tries = sorted((t for t in tries if asked.only in (None, t[1])), key=lambda t: VERSIONS.index(t[0]))
    report, failed = [], 0
    for version, which, requirements in tries:
        start = time.monotonic()
        try:
            outcome = f"passed  {try_one(pythons[version], wheel.resolve(), requirements)}"
        except subprocess.CalledProcessError as error:
            failed += 1
            outcome = f"FAILED  {' '.join(map(str, error.cmd))}"
        report.append(f"Python {version:5} {which}  {time.monotonic() - start:5.0f} s  {outcome}")
        print(report[-1], flush=True)
    print("", wheel.name, *report, f"{len(tries) - failed} passed, {failed} failed", sep="\n")
    return 1 if failed or not tries else 0


if __name__ == "__main__":
    sys.exit(main())
