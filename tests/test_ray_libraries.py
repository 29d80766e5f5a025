"""The wrapper in Ray Data, in Ray Serve, and on a second node."""

from __future__ import annotations

import numpy as np
import pytest
import ray
import torch

import zoo
from compare import assert_same
from helpers import private_bytes, run_script
from ray_zerocopy import ModelWrapper


class InferenceActor:
    def __init__(self, model_wrapper):
        self.pipeline = model_wrapper.load()

    def __call__(self, batch):
        with torch.no_grad():
            batch["y"] = self.pipeline(torch.from_numpy(batch["x"])).numpy()
        parameter = self.pipeline.encoder[0].weight
        batch["private"] = np.full(len(batch["x"]), private_bytes(parameter.data_ptr(), parameter.nbytes))
        return batch


def as_a_pool():
    from ray.data import ActorPoolStrategy

    return {"compute": ActorPoolStrategy(size=4)}


@pytest.mark.parametrize("options", [as_a_pool, lambda: {"concurrency": 4}], ids=["compute", "concurrency"])
def test_ray_data_with_four_actors(cluster, options):
    torch.manual_seed(0)
    pipeline = zoo.Pipeline()
    rows = np.random.default_rng(0).standard_normal((64, 8), dtype=np.float32)
    wrapper = ModelWrapper.from_model(pipeline, mode="actor")
    data = ray.data.from_numpy(rows).rename_columns({"data": "x"}).repartition(8)
    result = data.map_batches(
        InferenceActor, fn_constructor_kwargs={"model_wrapper": wrapper}, batch_size=8, **options()
    ).take_all()
    found = {tuple(row["x"]): row for row in result}
    assert len(found) == 64
    for x in rows:
        row = found[tuple(x)]
        assert row["private"] == 0
        with torch.no_grad():
            assert np.allclose(row["y"], pipeline(torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-6)


def test_ray_serve(cluster):
    from ray import serve

    @serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.1})
    class Service:
        def __init__(self, wrapper):
            self.pipeline = wrapper.load()

        def __call__(self, x):
            with torch.no_grad():
                return self.pipeline(x).numpy()

    pipeline = zoo.Pipeline()
    try:
        handle = serve.run(Service.bind(ModelWrapper.from_model(pipeline)), route_prefix=None)
        x = torch.randn(3, 8)
        with torch.no_grad():
            expected = pipeline(x).numpy()
        for _ in range(4):
            assert np.array_equal(handle.remote(x).result(timeout_s=60), expected)
    finally:
        serve.shutdown()


SECOND_NODE = """
import os, ray, torch
from ray.cluster_utils import Cluster
from helpers import Worker
import zoo
from compare import assert_same
import ray_zerocopy
from ray_zerocopy import ModelWrapper

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 200 << 20, "include_dashboard": False})
cluster.add_node(num_cpus=1, resources={"second": 1}, object_store_memory=200 << 20)
ray.init(address=cluster.address, log_to_driver=False)
cluster.wait_for_nodes()

def check(wrapper):
    loaded = wrapper.load()
    assert_same(zoo.ZOO["torchvision_channels_last"]()[0], loaded)
    with torch.no_grad():
        loaded.fc.weight.zero_()
    assert wrapper.load().fc.weight.any()
    return ray_zerocopy.isolation(), ray.get_runtime_context().get_node_id()

wrapper = ModelWrapper.from_model(zoo.ZOO["torchvision_channels_last"]()[0])
worker = Worker.options(num_cpus=0, resources={"second": 0.1}).remote()
mode, node = ray.get(worker.run.remote(check, wrapper))
assert mode == "copy-on-write"
assert node != ray.get_runtime_context().get_node_id()
ray.shutdown()
cluster.shutdown()
"""


def test_a_worker_on_a_second_node():
    run_script(SECOND_NODE)


SPILLED = """
import gc, numpy as np, ray, torch
from helpers import Worker, ray_cluster, mappings
from ray_zerocopy import ModelWrapper

with ray_cluster(object_store_memory=100 << 20):
    models = [torch.nn.Linear(3000, 3000) for _ in range(4)]  # 36 MB each: the third does not fit beside two
    wrappers = [ModelWrapper.from_model(model) for model in models]  # nothing pins them: Ray spills
    for model, wrapper in zip(models, wrappers):
        assert torch.equal(wrapper.load().weight, model.weight)
    loaded = [wrapper.load() for wrapper in wrappers]  # all pinned: Ray allocates beside the store, on disk
    for model, copy in zip(models, loaded):
        assert torch.equal(copy.weight, model.weight)
        line, = mappings(copy.weight.data_ptr())
        assert line.split()[1] == "rw-p", line
"""


def test_models_that_ray_spilled_and_that_overflowed_the_store():
    run_script(SPILLED)


def test_four_actors_share_one_copy(cluster):
    from helpers import Worker

    model = torch.nn.Linear(4000, 2000)
    wrapper = ModelWrapper.from_model(model)
    actors = [Worker.options(num_cpus=0).remote() for _ in range(4)]

    def measure(loaded):
        loaded(torch.ones(1, 4000))
        return private_bytes(loaded.weight.data_ptr(), loaded.weight.nbytes)

    ray.get([actor.keep.remote("model", wrapper.load) for actor in actors])
    assert ray.get([actor.use.remote("model", measure) for actor in actors]) == [0] * 4
    assert_same(model, ray.get(actors[0].run.remote(lambda w: w.load(), wrapper)))
    for actor in actors:
        ray.kill(actor)
