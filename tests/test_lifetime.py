"""The store's memory is pinned exactly as long as a tensor of a loaded model lives."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import ray
import torch

import zoo
from conftest import STORE
from helpers import mappings, settles, store_mappings, store_used
from ray_zerocopy import ModelWrapper

MB = 1 << 20


class TwoModels:
    def __init__(self) -> None:
        self.large = torch.nn.Linear(4096, 4096, bias=False)  # 64 MB
        self.small = torch.nn.Linear(64, 64)


def fill_the_store() -> None:
    """Put more than the store holds, so that everything which is not pinned is thrown out and its memory reused."""
    for value in range(10):
        ray.put(np.full(STORE // 5, value, np.uint8))


def test_dropping_everything_frees_store_and_mapping(cluster):
    gc.collect()
    assert settles(lambda: store_used() < MB)
    before = store_mappings()
    wrapper = ModelWrapper.from_model(TwoModels())
    loaded = [wrapper.load() for _ in range(3)]
    assert settles(lambda: store_used() > 60 * MB)
    assert store_mappings() >= before + 3
    del loaded
    gc.collect()
    assert store_mappings() <= before + 1  # Ray's own mapping of the store stays
    assert settles(lambda: store_used() > 60 * MB)  # the wrapper keeps the image
    del wrapper
    gc.collect()
    assert settles(lambda: store_used() < MB)


def test_one_parameter_keeps_the_memory_readable_under_pressure(cluster):
    pipeline = TwoModels()
    expected = pipeline.small.weight.detach().clone()
    kept = ModelWrapper.from_model(pipeline).load().small.weight  # wrapper, pipeline and all other tensors are gone
    gc.collect()
    fill_the_store()
    assert torch.equal(kept, expected)
    address = kept.data_ptr()
    assert len(mappings(address)) == 1
    del kept
    gc.collect()
    assert not mappings(address)
    fill_the_store()  # which a pinned object would now hinder
    assert settles(lambda: store_used() < MB)


def test_a_view_a_storage_and_an_array_keep_the_memory_too(cluster):
    def check(keep):
        model = TwoModels()
        kept = keep(ModelWrapper.from_model(model).load())
        gc.collect()
        fill_the_store()
        assert np.array_equal(np.asarray(kept), np.asarray(keep(model)))
        del kept
        gc.collect()
        assert settles(lambda: store_used() < MB)

    check(lambda pipeline: pipeline.large.weight.detach()[7])
    check(lambda pipeline: pipeline.large.weight.detach().numpy()[3:5])
    check(lambda pipeline: torch.tensor([]).set_(pipeline.small.weight.untyped_storage()))


def test_a_model_without_tensors_of_its_own_leaves_no_mapping(cluster):
    before = store_mappings()
    loaded = ModelWrapper.from_model({"note": "x" * 300_000, "model": torch.nn.Identity()}).load()
    gc.collect()
    assert loaded["note"] == "x" * 300_000
    assert type(loaded["model"]) is torch.nn.Identity
    assert store_mappings() <= before + 1


class Carrier:
    def __init__(self, reference, actor) -> None:
        self.model = torch.nn.Linear(300, 300)
        self.reference, self.again, self.actor = reference, [reference], actor


@ray.remote(num_cpus=0)
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count


def use(pipeline):
    return float(ray.get(pipeline.reference).sum()), ray.get(pipeline.actor.add.remote())


def test_object_references_and_actors_in_a_pipeline_live_as_long_as_it_does(cluster):
    from helpers import Worker

    assert settles(lambda: store_used() < MB)
    worker = Worker.options(num_cpus=0).remote()
    array = np.ones(20 * MB, np.uint8)
    wrapper = ModelWrapper.from_model(Carrier(ray.put(array), Counter.remote()))
    gc.collect()
    loaded = wrapper.load()
    assert loaded.again[0] is loaded.reference
    assert use(loaded) == (20.0 * MB, 1)
    assert ray.get(worker.run.remote(lambda w: use(w.load()), wrapper)) == (20.0 * MB, 2)
    ray.get(worker.keep.remote("pipeline", wrapper.load))
    del loaded, wrapper
    gc.collect()
    fill_the_store()
    assert ray.get(worker.use.remote("pipeline", use)) == (20.0 * MB, 3)
    ray.get(worker.drop.remote("pipeline"))
    assert settles(lambda: store_used() < MB)
    ray.kill(worker)


def test_a_copy_of_the_wrapper_keeps_the_image(cluster):
    wrapper = ModelWrapper.from_model(TwoModels())
    again = ModelWrapper.deserialize(**wrapper.serialize())
    del wrapper
    gc.collect()
    fill_the_store()
    assert again.load().large.weight.shape == (4096, 4096)


def test_loading_a_thousand_times_leaks_nothing(cluster):
    wrapper = ModelWrapper.from_model(torch.nn.Linear(512, 512))

    def resident():
        with open("/proc/self/statm") as line:
            return int(line.read().split()[1]) * 4096

    for _ in range(200):
        wrapper.load()
    before, maps = resident(), store_mappings()
    for _ in range(1000):
        wrapper.load()
    assert store_mappings() <= maps
    assert resident() - before < 4 * MB


@pytest.mark.parametrize("name", zoo.ZOO)
def test_no_cache_of_torch_keeps_a_model_that_is_gone(cluster, name):
    """Models that were loaded, used and dropped, of every kind: none leaves its mapping, and so its image, behind."""
    made, arguments = zoo.ZOO[name]()
    wrapper = ModelWrapper.from_model([made, "x" * 300_000])  # large enough for shared memory
    wrapper.load()  # what a kind needs to load at all may stay
    gc.collect()
    before = store_mappings()
    loaded = wrapper.load()[0]
    if arguments is not None and name != "compiled":  # compiling takes long, and is torch's own affair
        with torch.no_grad():
            loaded(*arguments)
    del loaded
    gc.collect()
    assert store_mappings() == before
