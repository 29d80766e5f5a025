"""A store on huge pages is recognized, and models load from it as from any other."""

from __future__ import annotations

import subprocess

import pytest

from helpers import run_script

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
    assert ray_zerocopy.huge_pages()
    model = torch.nn.Linear(4096, 4096, bias=False)
    wrapper = ModelWrapper.from_model(model)
    for worker in [Worker.remote(), Worker.remote()]:
        total, huge, before, after = ray.get(worker.run.remote(use, wrapper))
        assert total == float(model.weight.detach().double().sum())
        assert huge >= model.weight.nbytes // 2, huge
        assert before == 0 and 0 < after <= 2 << 20, (before, after)
"""


def test_the_ordinary_store_is_told_apart():
    with open("/sys/kernel/mm/transparent_hugepage/shmem_enabled") as setting:
        if "[always]" in setting.read():
            pytest.skip("every shared mapping of this machine is on huge pages")
    assert "huge pages: False" in run_script(ORDINARY).stdout


def test_a_store_on_huge_pages(tmp_path):
    folder = tmp_path / "plasma"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "huge=always,size=1G", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user cannot mount a tmpfs with huge pages")
    try:
        run_script(HUGE.replace("FOLDER", repr(str(folder))))
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_it_needs_ray():
    run_script(
        "import pytest, ray_zerocopy\n"
        "with pytest.raises(ray_zerocopy.errors.RayNotInitializedError):\n"
        "    ray_zerocopy.huge_pages()\n"
    )
