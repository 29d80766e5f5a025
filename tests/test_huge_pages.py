"""A store on huge pages is recognized, and models load from it as from any other."""

from __future__ import annotations

import subprocess

import pytest
import torch

from helpers import run_script
from ray_zerocopy import ModelWrapper, huge_pages

ORDINARY = """
import ray_zerocopy
from helpers import ray_cluster

with ray_cluster(address="local"):
    print("huge pages:", ray_zerocopy.huge_pages())
"""

HUGE = """
import sys
import torch
import ray, ray_zerocopy
from helpers import Worker, mapped_bytes, private_bytes, ray_cluster
from ray_zerocopy import ModelWrapper

def use(wrapper):
    model = wrapper.load()
    weight = model.weight
    address, size = weight.data_ptr(), weight.nbytes
    total = float(weight.detach().double().sum())
    huge = mapped_bytes("ShmemPmdMapped:", address, size)
    before = private_bytes(address, size)
    with torch.no_grad():
        weight[0, 0] += 1
    return total, huge, before, private_bytes(address, size)

with ray_cluster(address="local", _plasma_directory=FOLDER):
    assert ray_zerocopy.huge_pages() is True
    model = torch.nn.Linear(4096, 4096, bias=False)
    wrapper = ModelWrapper.from_model(model)
    for worker in [Worker.remote(), Worker.remote()]:
        total, huge, before, after = ray.get(worker.run.remote(use, wrapper))
        assert total == float(model.weight.detach().double().sum())
        assert huge >= model.weight.nbytes // 2, huge
        assert before == 0 and 0 < after <= 2 << 20, (before, after)
    assert ray_zerocopy.huge_pages(wrapper) > 0.9 and ray_zerocopy.huge_pages(wrapper.load()) > 0.9
"""


def test_the_ordinary_store_is_told_apart():
    with open("/sys/kernel/mm/transparent_hugepage/shmem_enabled") as setting:
        if "[always]" in setting.read():
            pytest.skip("every shared mapping of this machine is on huge pages")
    assert "huge pages: False" in run_script(ORDINARY).stdout


@pytest.fixture
def folder(tmp_path):
    """One whose files lie on huge pages."""
    path = tmp_path / "huge"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "huge=always,size=1G", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user cannot mount a tmpfs with huge pages")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_a_store_on_huge_pages(folder):
    run_script(HUGE.replace("FOLDER", repr(str(folder))))


class Unloadable(torch.nn.Linear):
    def __setstate__(self, state):
        raise RuntimeError("it was unpickled")


def test_how_much_of_a_model_file_is_on_huge_pages(folder, tmp_path):
    model = torch.nn.Linear(2048, 2048)
    wrapper = ModelWrapper.to_file(model, folder / "model.rzc")
    assert huge_pages(wrapper) > 0.9 and huge_pages({"some": wrapper.load()}) > 0.9
    assert huge_pages(ModelWrapper.to_file(Unloadable(2048, 2048), folder / "unloadable.rzc")) > 0.9
    assert huge_pages(ModelWrapper.to_file(torch.nn.Linear(8, 8), tmp_path / "small.rzc")) == 0
    assert huge_pages(model) == 0  # its memory is no image's


def test_large_files_lie_on_huge_pages_wherever_their_parts_end(tmp_path):
    """And memory that was not touched yet is written no other way."""
    sizes = [700, 1100, 900, 300] * 4
    model = torch.nn.Sequential(*(torch.nn.Linear(size, size) for size in sizes))
    path = tmp_path / "model.rzc"
    first = huge_pages(ModelWrapper.to_file(model, path))
    if not first:
        pytest.skip("this file system has no large folios, or memory is short of them")
    assert first > 0.8
    ModelWrapper.open(path).save(tmp_path / "again.rzc")
    assert huge_pages(ModelWrapper.open(tmp_path / "again.rzc")) > 0.8


def test_what_holds_no_model_is_refused():
    for each in (3, [], "model"):
        with pytest.raises(TypeError, match=r"huge_pages\(\) takes"):
            huge_pages(each)


def test_it_needs_ray():
    run_script(
        "import pytest, ray_zerocopy\n"
        "with pytest.raises(ray_zerocopy.errors.RayNotInitializedError):\n"
        "    ray_zerocopy.huge_pages()\n"
    )
