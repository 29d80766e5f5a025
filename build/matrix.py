"""Builds the wheel for every Python found here, installs it beside torch and Ray, and runs tests/smoke.py.

    python build/matrix.py [3.12 ...]     these Pythons only

Each Python gets the newest torch and Ray that there is for it; the oldest one also gets the oldest that
pyproject.toml allows. Everything happens in temporary folders, one at a time: a venv with torch takes
gigabytes.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMOKE = ROOT / "tests" / "smoke.py"
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
WITH_OLDEST = ("3.10", "3.11")  # later Pythons have no wheels of the oldest torch and Ray


def find_python(version: str) -> str | None:
    """A Python of this version: pyenv's, else one on PATH (which may be a pyenv shim that runs nothing)."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    for python in (*pyenv.glob(f"versions/{version}.*/bin/python"), shutil.which(f"python{version}")):
        if python and subprocess.run([python, "-c", "import venv"], capture_output=True).returncode == 0:
            return str(python)
    return None


def lower_bounds(wheel: Path) -> list[str]:
    """The wheel's own requirements, each at its lower bound."""
    with zipfile.ZipFile(wheel) as z:
        metadata = next(z.read(n).decode() for n in z.namelist() if n.endswith(".dist-info/METADATA"))
    lines = [line.removeprefix("Requires-Dist: ") for line in metadata.splitlines() if "Requires-Dist" in line]
    return [line.replace(">=", "==") for line in lines if "extra" not in line]


def try_one(python: str, oldest: bool) -> str:
    """Build, install, run; the error of the first step that fails, or what was installed."""
    with tempfile.TemporaryDirectory(prefix="ray-zerocopy-") as tmp:
        venv = Path(tmp, "venv", "bin", "python")
        pip = [str(venv), "-m", "pip", "--quiet"]
        run(tmp, python, "-m", "venv", "venv")
        run(tmp, *pip, "wheel", "--no-deps", "--wheel-dir", ".", str(ROOT))
        wheel = next(Path(tmp).glob("*.whl"))
        run(tmp, *pip, "install", str(wheel), *(lower_bounds(wheel) if oldest else []))
        run(tmp, str(venv), str(SMOKE))
        versions = "from importlib.metadata import version as v; print('torch', v('torch'), 'ray', v('ray'))"
        return subprocess.check_output([venv, "-c", versions], text=True).strip()


def run(cwd: str, *command: str) -> None:
    print("+", *command, flush=True)
    subprocess.run(command, cwd=cwd, check=True)


def main() -> int:
    if not SMOKE.exists():
        raise SystemExit(f"{SMOKE} is not there")
    pythons = {v: p for v in sys.argv[1:] or VERSIONS if (p := find_python(v))}
    tries = [(version, False) for version in pythons]
    tries += [(version, True) for version in WITH_OLDEST if version in pythons][:1]
    report, failed = [], 0
    for version, oldest in tries:
        start = time.monotonic()
        try:
            outcome = f"passed  {try_one(pythons[version], oldest)}"
        except subprocess.CalledProcessError as error:
            failed += 1
            outcome = f"FAILED  {' '.join(map(str, error.cmd))}"
        which = "oldest" if oldest else "newest"
        report.append(f"Python {version:5} {which}  {time.monotonic() - start:5.0f} s  {outcome}")
        print(report[-1], flush=True)
    print("", *report, f"{len(tries) - failed} passed, {failed} failed", sep="\n")
    return 1 if failed or not tries else 0


if __name__ == "__main__":
    sys.exit(main())
