"""What is published: the wheel's tags and contents, the licenses of what is linked in, and the package as a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import ray_zerocopy
from helpers import run_script

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel for this machine, with its own compiler."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", f"--outdir={folder}", str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as z:
        z.extractall(folder)
    return folder


def test_one_wheel_is_for_every_python(wheel: Path):
    name, version, python, abi, _ = wheel.stem.split("-")
    assert (name, version, python, abi) == ("ray_zerocopy", ray_zerocopy.__version__, "cp38", "abi3")


def test_the_wheel_has_one_extension_the_types_and_no_sources(unpacked: Path):
    names = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert [name for name in names if name.endswith(".so")] == ["ray_zerocopy/_gozc.abi3.so"]
    assert {"ray_zerocopy/py.typed", "ray_zerocopy/_gozc.pyi", "ray_zerocopy/stores/named.py"} <= names
    assert not [name for name in names if name.endswith((".go", ".c")) or name.startswith(("tests", "build"))]


def test_the_wheel_has_the_licenses_of_what_is_linked_in(unpacked: Path):
    licenses = {path.name for path in unpacked.glob("*.dist-info/licenses/LICENSES/*")}
    assert licenses == {path.name for path in (ROOT / "LICENSES").iterdir()} >= {"go.txt"}
    subprocess.run([sys.executable, str(BUILD / "licenses.py"), "--check"], check=True)


def test_the_extension_is_of_the_limited_api_and_names_no_place(wheel: Path, unpacked: Path):
    inspect = "import sys, wheels, pathlib; print(wheels.inspect(pathlib.Path(sys.argv[1]), int(sys.argv[2])))"
    machine = {"x86_64": "62", "aarch64": "183"}[os.uname().machine]
    binary = unpacked / "ray_zerocopy" / "_gozc.abi3.so"
    command = [sys.executable, "-c", inspect, str(binary), machine]
    assert subprocess.check_output(command, env={**os.environ, "PYTHONPATH": str(BUILD)}, text=True).strip() == "[]"
    audit = shutil.which("abi3audit", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if audit is None:
        pytest.skip("abi3audit is not installed")
    subprocess.run([audit, "--strict", str(wheel)], check=True)


# The folder has no metadata beside it, as on a worker that got it from a runtime environment.
AS_FOLDER = """
import sys
import ray, torch
folder = sys.argv[1]
ray.init(address="local", num_cpus=1, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False,
         runtime_env={sys.argv[2]: [folder + "/ray_zerocopy"] if sys.argv[2] == "py_modules" else folder})
import ray_zerocopy

@ray.remote(num_cpus=0)
def use(wrapper):
    import ray_zerocopy
    return ray_zerocopy.__file__, ray_zerocopy.__version__, wrapper.load()(torch.ones(4))

model = torch.nn.Linear(4, 4)
file, version, result = ray.get(use.remote(ray_zerocopy.ModelWrapper.from_model(model)))
assert "runtime_resources" in file, file
assert version == ray_zerocopy.__version__
assert torch.equal(result, model(torch.ones(4)))
"""


@pytest.mark.parametrize("way", ["py_modules", "working_dir"])
def test_the_package_travels_as_a_folder(unpacked: Path, tmp_path: Path, way: str):
    shutil.copytree(unpacked / "ray_zerocopy", tmp_path / "ray_zerocopy")
    run_script(AS_FOLDER, str(tmp_path), way)


PROBES = {
    "compiler": ({"CC": "/nowhere/cc"}, "no C compiler that works"),
    "failing compiler": ({"CC": "false"}, "no C compiler that works"),
}


@pytest.mark.parametrize("case", PROBES)
def test_what_a_build_lacks_is_said_in_one_message(case: str):
    environment, message = PROBES[case]
    command = [sys.executable, str(BUILD / "toolchain.py")]
    found = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert found.returncode == 1 and found.stderr.startswith(message), found.stderr
