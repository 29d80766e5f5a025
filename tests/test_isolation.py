"""Loaded weights are writable, and a write stays in the process that made it."""

from __future__ import annotations

import copy
import errno
import io

import pytest
import ray
import torch

import ray_zerocopy
from helpers import Worker, mapped_bytes, mappings, private_bytes, run_script
from ray_zerocopy import ModelWrapper, core, errors
from ray_zerocopy.stores import objects

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


def half(model):
    return model.half().float()


def other_data(model):
    for parameter in model.parameters():
        parameter.data = torch.zeros_like(parameter)
    return model


def set_elsewhere(model):
    with torch.no_grad():
        model[0].weight.set_(torch.ones(3, 3))
    return model


def resized(model):
    model[0].weight.data.resize_(5, 5).fill_(3)
    return model


def load_state(model):
    model.load_state_dict({name: torch.zeros_like(value) for name, value in model.state_dict().items()})
    return model


def moved(model):
    return model.share_memory()


def copied(model):
    return add_one(copy.deepcopy(model)) and model


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return add_one(torch.load(file, weights_only=False)) and model


def trained(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        model(torch.ones(1, 1024)).square().mean().backward()
        optimizer.step()
    return model


def initialized(model):
    torch.nn.init.normal_(model[0].weight)
    torch.nn.utils.vector_to_parameters(torch.ones(sum(p.numel() for p in model.parameters())), model.parameters())
    return model


ABUSES = [half, other_data, set_elsewhere, resized, load_state, moved, copied, saved, trained, initialized]


def test_whatever_is_done_to_a_loaded_model_reaches_nobody_else(cluster, worker):
    model = big_model()
    wrapper = ModelWrapper.from_model(model)
    here, before = wrapper.load(), digest(model)

    def abused(abuse):
        loaded, other = wrapper.load(), wrapper.load()
        abuse(loaded)
        return digest(other)

    for abuse in ABUSES:
        assert worker(abused, abuse) == before, abuse
        assert abused(abuse) == digest(here) == digest(wrapper.load()) == before, abuse


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


def test_read_only_where_it_is_asked_for(cluster):
    """And a write says, before it ends the process, by whom and what for."""
    done = run_script("programs/read_only.py", RAY_ZEROCOPY_ISOLATION="read-only")
    assert "a write to the weights of a loaded model, which can only be read in this process" in done.stderr
    assert "RAY_ZEROCOPY_ISOLATION" in done.stderr
    assert "IsolationWarning" not in done.stderr  # it was asked for


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
    with pytest.raises(errors.IsolationError, match=r"'copy' is unknown.*'copy-on-write' or 'read-only'"):
        ray_zerocopy.isolation()


@pytest.fixture
def failing():
    """Has system calls of the Go core fail: ``failing(place, errno)``."""
    objects._warned.clear()
    yield lambda place, code: core.failpoint(place, 0, code)
    core.failpoint()
    objects._warned.clear()


class Counting(torch.nn.Module):
    """Writes, in its forward, to what forwards write to."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(512, 512)
        self.norm = torch.nn.BatchNorm1d(512)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("cache", torch.zeros(16, 1024))

    def forward(self, x):
        self.calls += 1
        self.cache[0] = 1
        return self.norm(self.linear(x))


def test_falls_back_to_read_only_where_copy_on_write_is_refused(cluster, failing, monkeypatch):
    model = Counting()
    wrapper = ModelWrapper.from_model(model)
    writable = wrapper.load()
    failing("mmap", errno.EACCES)
    with pytest.warns(
        errors.IsolationWarning, match=r"permission denied.*RAY_ZEROCOPY_ISOLATION=copy-on-write"
    ) as told:
        loaded = wrapper.load()
        other = wrapper.load()
    assert len(told) == 1
    assert ray_zerocopy.isolation() == "read-only"
    assert ray_zerocopy.isolation(loaded) == "read-only"
    assert ray_zerocopy.isolation(writable) == "copy-on-write"
    (line,) = mappings(loaded.linear.weight.data_ptr())
    assert line.split()[1] == "r--s"
    x = torch.randn(4, 512)
    assert torch.equal(loaded(x), writable(x))
    assert loaded.calls.item() == loaded.norm.num_batches_tracked.item() == 1
    assert torch.equal(loaded.norm.running_mean, writable.norm.running_mean)
    assert other.calls.item() == model.calls.item() == wrapper.load().calls.item() == 0
    assert not other.cache.any()
    monkeypatch.setenv("RAY_ZEROCOPY_ISOLATION", "copy-on-write")
    for refused in (ray_zerocopy.isolation, wrapper.load):
        with pytest.raises(errors.IsolationError, match=r"RAY_ZEROCOPY_ISOLATION=copy-on-write .* permission denied"):
            refused()


@pytest.mark.parametrize("place", ["mremap", "mprotect"])
def test_a_machine_that_refuses_both_gets_a_copy(cluster, failing, monkeypatch, place):
    really, model = core.Mapping.map, big_model()

    def refuses(mapping, address, length, raylet, mode):
        if mode == core.COPY_ON_WRITE:
            raise errors.MappingError("no file")
        return really(mapping, address, length, raylet, mode)

    wrapper = ModelWrapper.from_model(model)
    monkeypatch.setattr(core.Mapping, "map", refuses)
    failing(place, errno.EPERM)
    with pytest.warns(errors.IsolationWarning, match="are copies"):
        loaded = wrapper.load()
    assert ray_zerocopy.isolation(loaded) == ray_zerocopy.isolation() == "copy"
    assert digest(loaded) == digest(model)
    assert add_one(loaded) != digest(wrapper.load())
    monkeypatch.setenv("RAY_ZEROCOPY_ISOLATION", "read-only")
    with pytest.raises(errors.IsolationError, match="RAY_ZEROCOPY_ISOLATION=read-only cannot be had"):
        wrapper.load()


def test_the_mode_of_something_that_is_no_model(cluster):
    with pytest.raises(TypeError, match=r"a dict holds no model"):
        ray_zerocopy.isolation({})
    assert ray_zerocopy.isolation(torch.nn.Linear(2, 2)) == "copy"


def test_a_passing_lack_of_descriptors_does_not_make_a_model_read_only(cluster, monkeypatch):
    def lacks(mapping, address, length, raylet, mode):
        raise core.Scarce("open /proc/self/maps: too many open files")

    wrapper = ModelWrapper.from_model(big_model())
    monkeypatch.setattr(core.Mapping, "map", lacks)
    with pytest.raises(errors.MappingError, match="too many open files"):
        wrapper.load()
    monkeypatch.undo()
    loaded = wrapper.load()
    (line,) = mappings(loaded[0].weight.data_ptr())
    assert line.split()[1] == "rw-p"
