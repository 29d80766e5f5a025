"""Through Ray Client: named models are published, made by factories, found, called, replaced and deleted, and outlive
the connection."""

from __future__ import annotations

import gc
import time

import ray
import torch

import ray_zerocopy
import zoo
from compare import assert_same
from helpers import Worker, connect, settles, store_used
from ray_zerocopy import ModelWrapper, errors
from ray_zerocopy.stores import keeper

MB = 1 << 20


def load(wrapper: ModelWrapper) -> None:
    assert_same(zoo.seeded_pipeline(), wrapper.load())


def load_by_name(name: str) -> None:
    load(ModelWrapper.get(name))


def large(value: float) -> torch.nn.Linear:
    made = torch.nn.Linear(3000, 3000)  # 36 MB: several pieces
    with torch.no_grad():
        made.weight.fill_(value)
    return made


def value_of(wrapper: ModelWrapper) -> float:
    return float(wrapper.load().weight.detach().unique())


connect()
worker = Worker.options(num_cpus=0).remote()
wrapper = ModelWrapper.from_model(zoo.seeded_pipeline(), name="put", lifetime="detached")
assert (wrapper.name, wrapper.version) == ("put", 1)
ray.get(worker.run.remote(load, wrapper))
ray.get(worker.run.remote(load_by_name, "put"))
try:
    wrapper.load()
except errors.RayClientError as error:
    assert "ray://" in str(error)
else:
    raise AssertionError

first = ModelWrapper.from_model(large(1), name="large", lifetime="detached")
second = ModelWrapper.from_model(large(2), name="large", lifetime="detached", replace=True)
assert first.latest().version == second.version == 2
assert ray.get(worker.run.remote(value_of, second)) == 2
time.sleep(keeper.GRACE_SECONDS + 1)
assert settles(lambda: store_used() < 40 * MB), store_used()

made = ModelWrapper.from_factory(large, 3, name="made", lifetime="detached", get_if_exists=True)
assert ray.get(worker.run.remote(value_of, made)) == 3
unnamed = ModelWrapper.from_factory(large, 4)
assert ray.get(worker.run.remote(value_of, unnamed)) == 4
ModelWrapper.from_model(large(5), name="mine")  # ends with this connection

called = ModelWrapper.for_tasks(zoo.seeded_pipeline(), name="called", lifetime="detached")
x = torch.ones(8)
assert torch.equal(called(x), zoo.seeded_pipeline()(x))
assert {model.name for model in ray_zerocopy.list_models()} == {"put", "large", "made", "called", "mine"}
del unnamed, worker, called
gc.collect()
ray.shutdown()

connect()
worker = Worker.options(num_cpus=0).remote()
ray.get(worker.run.remote(load_by_name, "put"))
assert ray.get(worker.run.remote(value_of, ModelWrapper.get("made"))) == 3
assert settles(lambda: "mine" not in {model.name for model in ray_zerocopy.list_models()}, 60)
for model in ray_zerocopy.list_models():
    ModelWrapper.delete(model.name)
assert not ray_zerocopy.list_models()
assert settles(lambda: store_used() < MB), store_used()
ray.shutdown()
