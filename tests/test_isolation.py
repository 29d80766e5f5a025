"""Loaded weights are writable, and a write stays in the process that made it."""

from __future__ import annotations

import pytest
import ray
import torch

import ray_zerocopy
from helpers import Worker, mapped_bytes, mappings, private_bytes, run_script
from ray_zerocopy import ModelWrapper

PAGE = 4096


def big_model():
    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Linear(1024, 1024), torch.nn.Linear(1024, 1024))


def digest(model):
    return [float(parameter.detach().double().sum()) for parameter in model.parameters()]


def train_one_step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(torch.ones(2, 1024)).square().sum().backward()
    optimizer.step()
    return digest(model)


def add_one(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    return digest(model)


def test_this_machine_gives_copy_on_write(cluster, worker):
    assert ray_zerocopy.isolation() == "copy-on-write"
    assert worker(ray_zerocopy.isolation) == "copy-on-write"


@pytest.mark.parametrize("write", [train_one_step, add_one])
def test_a_write_in_one_actor_reaches_nobody_else(cluster, write):
    model = big_model()
    wrapper = ModelWrapper.from_model(model)
    before = digest(model)
    writer, reader = (Worker.options(num_cpus=0).remote() for _ in range(2))
    ray.get([actor.keep.remote("model", wrapper.load) for actor in (writer, reader)])
    here = wrapper.load()
    assert ray.get(writer.use.remote("model", write)) != before
    assert ray.get(reader.use.remote("model", digest)) == before
    assert digest(here) == before
    assert digest(wrapper.load()) == before
    ray.get(writer.keep.remote("later", wrapper.load))
    assert ray.get(writer.use.remote("later", digest)) == before
    for actor in (writer, reader):
        ray.kill(actor)


def test_written_pages_and_no_others_become_private(cluster):
    loaded = ModelWrapper.from_model(big_model()).load()
    weight = loaded[0].weight
    start, length = weight.data_ptr(), weight.untyped_storage().nbytes()
    assert loaded(torch.ones(1, 1024)).shape == (1, 1024)  # a forward writes nothing
    assert private_bytes(start, length) == 0
    with torch.no_grad():
        weight.view(-1)[0] = 5.0
        weight.view(-1)[500_000] = 5.0
    assert private_bytes(start, length) == 2 * PAGE


def test_a_small_model_that_ray_keeps_in_the_process_is_private_too(cluster):
    wrapper = ModelWrapper.from_model(torch.nn.Linear(2, 2))
    first, second = wrapper.load(), wrapper.load()
    with torch.no_grad():
        first.weight.zero_()
    assert not torch.equal(first.weight, second.weight)
    assert torch.equal(second.weight, wrapper.load().weight)


def test_prefault_fills_the_page_tables(cluster):
    wrapper = ModelWrapper.from_model(torch.nn.Linear(4000, 4000))

    def resident(model):
        return mapped_bytes("Rss:", model.weight.data_ptr(), 1)

    lazy, eager = wrapper.load(), wrapper.load(prefault=True)
    assert resident(lazy) < 1 << 20
    assert resident(eager) > 60_000_000


READ_ONLY = """
import faulthandler, os, sys
import torch
import ray_zerocopy
from helpers import mappings, ray_cluster

with ray_cluster():
    from ray_zerocopy import ModelWrapper
    assert ray_zerocopy.isolation() == "read-only"
    model = torch.nn.Linear(512, 512)
    wrapper = ModelWrapper.from_model(model)
    loaded = wrapper.load()
    assert torch.equal(model.weight, loaded.weight)
    line, = mappings(loaded.weight.data_ptr())
    assert line.split()[1] == "r--s", line
    child = os.fork()
    if not child:
        faulthandler.disable()
        with torch.no_grad():
            loaded.weight.zero_()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == 11
    assert torch.equal(model.weight, loaded.weight)
    assert torch.equal(model.weight, wrapper.load().weight)
"""


def test_read_only_where_it_is_asked_for(cluster):
    run_script(READ_ONLY, RAY_ZEROCOPY_ISOLATION="read-only")


def test_copy_on_write_is_a_private_mapping_of_the_stores_file(cluster):
    loaded = ModelWrapper.from_model(big_model()).load()
    (line,) = mappings(loaded[0].weight.data_ptr())
    assert line.split()[1] == "rw-p"
    assert "plasma" in line


@pytest.mark.parametrize("asked", ["copy-on-write", "read-only"])
def test_each_mode_can_be_forced(cluster, monkeypatch, asked):
    monkeypatch.setenv("RAY_ZEROCOPY_ISOLATION", asked)
    assert ray_zerocopy.isolation() == asked
    model = big_model()
    assert digest(ModelWrapper.from_model(model).load()) == digest(model)


def test_an_unknown_mode_is_refused_with_the_known_ones(cluster, monkeypatch):
    monkeypatch.setenv("RAY_ZEROCOPY_ISOLATION", "copy")
    with pytest.raises(ray_zerocopy.errors.IsolationError, match=r"'copy' is unknown.*'copy-on-write' or 'read-only'"):
        ray_zerocopy.isolation()


def test_falls_back_to_read_only_where_copy_on_write_cannot_be_had(cluster, monkeypatch):
    from ray_zerocopy import core

    really_map = core.Mapping.map

    def refuses(mapping, address, length, raylet, mode):
        if mode == core.COPY_ON_WRITE:
            raise ray_zerocopy.errors.MappingError("no file")
        return really_map(mapping, address, length, raylet, mode)

    monkeypatch.setattr(core.Mapping, "map", refuses)
    assert ray_zerocopy.isolation() == "read-only"
    model = big_model()
    assert digest(ModelWrapper.from_model(model).load()) == digest(model)
    monkeypatch.setenv("RAY_ZEROCOPY_ISOLATION", "copy-on-write")
    with pytest.raises(ray_zerocopy.errors.IsolationError, match="no file"):
        ray_zerocopy.isolation()


def test_a_passing_lack_of_descriptors_does_not_make_a_model_read_only(cluster, monkeypatch):
    from ray_zerocopy import core

    def lacks(mapping, address, length, raylet, mode):
        raise core.Scarce("open /proc/self/maps: too many open files")

    wrapper = ModelWrapper.from_model(big_model())
    monkeypatch.setattr(core.Mapping, "map", lacks)
    with pytest.raises(ray_zerocopy.errors.MappingError, match="too many open files"):
        wrapper.load()
    monkeypatch.undo()
    loaded = wrapper.load()
    (line,) = mappings(loaded[0].weight.data_ptr())
    assert line.split()[1] == "rw-p"
