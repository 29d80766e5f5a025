"""Through Ray Client: wrappers go to actors and tasks, what they load there is the same bit for bit, and all is freed."""

from __future__ import annotations

import gc
import os
import pickle
import sys
from typing import Any

import numpy as np
import pytest
import ray
import torch

import ray_zerocopy
import zoo
from compare import assert_same
from helpers import Worker, actor_processes, connect, mapped_bytes, settles, store_used
from ray_zerocopy import JITActorWrapper, JITTaskWrapper, ModelWrapper, errors
from ray_zerocopy.stores import client, connection

MB = 1 << 20
CASES = [
    "bare_module",
    "models_in_containers_private_attributes_and_children",
    "lambdas_and_partials_over_tensors",
    "float8",
    "overlapping_views_of_one_base",
    "tied_weights",
    "sparse",
    "numpy_arrays",
    "gpt2_with_tied_weights",
    "torchvision_channels_last",
]


class Large:
    """More than one piece, with parts that end and begin inside of pieces; small ones, and one block above 32 MB."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.layers = [torch.nn.Linear(size, size) for size in (1, 100, 700, 1500, 3000, 64, 1200)]
        self.array = np.arange(3_000_001)
        self.small = {str(size): torch.randn(size) for size in range(60)}


def originals() -> dict[str, Any]:
    return {"large": Large(), **{case: zoo.ZOO[case]()[0] for case in CASES}}


def check(wrapper: Any) -> tuple[int, str]:
    loaded = wrapper.load()
    assert_same(originals(), loaded)
    copy = wrapper.load()
    with torch.no_grad():
        loaded["large"].layers[4].weight.zero_()  # which must not reach the other
    assert_same(originals(), copy)
    weight = copy["large"].layers[4].weight
    written = mapped_bytes("Anonymous:", weight.data_ptr(), weight.nbytes)  # its pages may be mapped nowhere else
    return written, ray_zerocopy.isolation()


class Carrier:
    def __init__(self, reference: Any, actor: Any, function: Any) -> None:
        self.model = torch.nn.Linear(300, 300)
        self.reference, self.again, self.actor, self.function = reference, [reference], actor, function


@ray.remote(num_cpus=0)
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count


def use(pipeline: Carrier) -> Any:
    assert pipeline.again[0] is pipeline.reference
    return float(ray.get(pipeline.reference).sum()), ray.get(pipeline.actor.add.remote()), pipeline.function


def main() -> None:
    connect()
    start = store_used()
    worker = Worker.options(num_cpus=0).remote()

    # every kind of thing, bit for bit
    wrapper = ModelWrapper.from_model(originals())
    private, mode = ray.get(worker.run.remote(check, wrapper))
    assert private < MB, private
    assert mode == "copy-on-write"
    assert settles(lambda: not actor_processes("Collector", os.environ["CLUSTER_FOLDER"]))
    assert settles(lambda: store_used() - start < 160 * MB), "the store holds more than the image"

    # what a wrapper offers beside load()
    assert {"large", "bare_module"} <= set(wrapper.model_refs)
    again = ModelWrapper.deserialize(**pickle.loads(pickle.dumps(wrapper)).serialize())
    assert ray.get(worker.run.remote(lambda w: w.load()["large"].array.sum(), again)) == Large().array.sum()
    assert "dict" in repr(again)

    # what needs a store says so, and the way out
    for action in (wrapper.load, again.load, ray_zerocopy.isolation, ray_zerocopy.huge_pages):
        with pytest.raises(errors.RayClientError, match=r"Ray Client .* in an actor or a task"):
            action()
    with pytest.raises(errors.StoreTooSmallError, match="this node's store has") as caught:
        ModelWrapper.from_model({"much": torch.empty(1_000_000_000)})
    assert caught.value.needed > caught.value.capacity > 0
    with pytest.raises(errors.UnpicklableError, match=r"model\['lock'\]|lock"):
        import threading

        ModelWrapper.from_model({"lock": threading.Lock()})

    # TorchScript
    traced = torch.jit.trace(torch.nn.Linear(8, 8).eval(), torch.ones(1, 8))
    expected = traced(torch.ones(1, 8))
    jit = JITActorWrapper(traced)
    given = JITActorWrapper.deserialize(*jit.constructor_kwargs.values())
    for one in (jit, given):
        assert torch.equal(ray.get(worker.run.remote(lambda w: w.load()(torch.ones(1, 8)), one)), expected)
    assert torch.equal(JITTaskWrapper(traced)(torch.ones(1, 8)), expected)

    # references, actors and functions of this connection inside of a pipeline
    array = np.ones(20 * MB, np.uint8)
    carrier = ModelWrapper.from_model(Carrier(ray.put(array), Counter.remote(), ray.remote(lambda: 7)))
    gc.collect()
    total, count, function = ray.get(worker.run.remote(lambda w: use(w.load()), carrier))
    assert (total, count) == (20.0 * MB, 1)
    assert ray.get(worker.run.remote(lambda w: ray.get(w.load().function.remote()), carrier)) == 7
    ray.get(worker.keep.remote("pipeline", lambda w: w.load(), carrier))
    del carrier, function
    gc.collect()
    assert ray.get(worker.use.remote("pipeline", lambda pipeline: use(pipeline)[:2])) == (20.0 * MB, 2)
    ray.get(worker.drop.remote("pipeline"))

    # nothing stays behind
    del wrapper, again, jit, given, one
    ray.kill(worker)
    gc.collect()
    assert settles(lambda: store_used() - start < MB), store_used() - start

    # the actor that puts an image together has no use for torch
    class Spy(client.Collector):
        def modules(self) -> bool:
            return "torch" in sys.modules

    client._collector = connection.remote(Spy, num_cpus=0)
    part = np.zeros(100_000, np.uint8)
    pieces = client.send([part], [], part.nbytes)
    assert ray.get(pieces.collector.modules.remote()) is False
    client.assemble(pieces)
    with pytest.raises(ray.exceptions.RayError):
        client.assemble(pieces)


main()
