"""Disconnects from a cluster that lives on, and puts other bytes where the loaded models were."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading

import numpy as np
import ray
import torch
from ray.cluster_utils import Cluster

from helpers import mappings
from ray_zerocopy import ModelWrapper, core, errors
from ray_zerocopy.stores import connection
from ray_zerocopy.tasks import calls

MB = 1 << 20


class Pair:
    def __init__(self, fill: float) -> None:
        self.first = torch.nn.Linear(500, 1000, bias=False)  # 2 MB
        torch.nn.init.constant_(self.first.weight, fill)
        self.label = fill

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x)


def is_full_of(model: Pair, value: float) -> bool:
    return bool((model.first.weight == value).all())


def fill_the_store() -> list[ray.ObjectRef]:
    """In small pieces, which fit wherever something has gone."""
    return [ray.put(np.full(MB, 255, np.uint8)) for _ in range(70)]


def lost(action) -> None:
    try:
        action()
    except errors.ImageLostError as error:
        assert "earlier connection" in str(error), error
    else:
        raise AssertionError("no ImageLostError")


def weights_stay(connect) -> None:
    connect()
    loaded = ModelWrapper.from_model(Pair(1.0)).load()
    with torch.no_grad():
        if ISOLATION == "copy-on-write":
            loaded.first.weight[0, 0] = 5.0
    elsewhere = loaded.first.weight.detach()[3:4]
    ray.shutdown()
    assert not any("plasma" in line for line in mappings(elsewhere.data_ptr())) or ISOLATION == "copy-on-write"
    ray.shutdown()  # does nothing
    connect()
    kept = fill_the_store()
    if ISOLATION == "copy-on-write":
        assert loaded.first.weight[0, 0] == 5.0
        with torch.no_grad():
            loaded.first.weight[0, 0] = 1.0
    assert is_full_of(loaded, 1.0)
    address = elsewhere.data_ptr()
    del loaded, elsewhere, kept
    gc.collect()
    assert not mappings(address)
    ray.shutdown()


def what_belongs_to_an_earlier_connection_says_so(connect) -> None:
    connect()
    wrapper, standin = ModelWrapper.from_model(Pair(1.0)), ModelWrapper.for_tasks(Pair(2.0))
    tasks = ModelWrapper.from_model(Pair(2.0), mode="task")
    method, submodel = standin.__call__, standin.first
    standin(torch.ones(500))
    results = [standin.map([torch.ones(500)] * 5) for _ in range(2)]
    for each in results:
        next(each)
    assert standin.label == 2.0
    assert calls.here._entries
    for again in False, True:
        if again:
            connect()
            # whose ids may be the same as those of the first connection
            others = ModelWrapper.from_model(Pair(3.0)), ModelWrapper.for_tasks(Pair(4.0))
            assert is_full_of(others[0].load(), 3.0)
            assert others[1].label == 4.0
            assert others[1](torch.ones(500))[0] == 2000.0
        else:
            ray.shutdown()
            assert not calls.here._entries
        for action in (
            wrapper.load,
            tasks.load,
            lambda: standin(torch.ones(500)),
            lambda: method.remote(torch.ones(500)),
            lambda: submodel(torch.ones(500)),
            lambda: standin.options(num_cpus=0)(torch.ones(500)),
            lambda: standin.map([torch.ones(500)]),
            lambda: next(results.pop()),
            lambda: standin.label,
            lambda: ray.cloudpickle.dumps(wrapper),
            lambda: ray.cloudpickle.dumps(standin),
        ):
            lost(action)
        assert ray.is_initialized() == again
    ray.shutdown()


def a_shutdown_beside_loads_gives_them_their_bytes_or_an_error(connect) -> None:
    for _ in range(3):
        connect()
        wrapper = ModelWrapper.from_model(Pair(1.0))
        loaded: list[Pair] = []
        go_on, problems = threading.Event(), []

        def load(wrapper=wrapper, loaded=loaded, go_on=go_on, problems=problems) -> None:
            try:
                while True:
                    loaded.append(wrapper.load())
                    del loaded[:-20]
                    if len(loaded) > 5:
                        go_on.set()
            except errors.ImageLostError:
                pass
            except BaseException as error:
                problems.append(error)
                go_on.set()

        thread = threading.Thread(target=load)
        thread.start()
        assert go_on.wait(60)
        ray.shutdown()
        thread.join(60)
        assert not thread.is_alive()
        assert not problems, problems
        connect()
        kept = fill_the_store()
        assert all(is_full_of(model, 1.0) for model in loaded)
        del kept
        ray.shutdown()


def the_end_of_a_context_is_a_shutdown(connect) -> None:
    with connect():
        loaded = ModelWrapper.from_model(Pair(1.0)).load()
    with connect():
        kept = fill_the_store()
        assert is_full_of(loaded, 1.0)
        del kept


def a_failure_keeps_the_connection(connect) -> None:
    connect()
    wrapper = ModelWrapper.from_model(Pair(1.0))
    loaded = wrapper.load()
    detach = core.Mapping.detach

    def fail(mapping: core.Mapping) -> None:
        raise errors.MappingError("no memory")

    core.Mapping.detach = fail
    with contextlib.suppress(errors.MappingError):
        ray.shutdown()
        raise AssertionError("no error")
    core.Mapping.detach = detach
    assert ray.is_initialized()
    assert is_full_of(wrapper.load(), 1.0)
    ray.shutdown()
    assert is_full_of(loaded, 1.0)
    lost(wrapper.load)


def what_nobody_holds_is_not_copied(connect) -> None:
    connect()
    standin = ModelWrapper.for_tasks(Pair(1.0))
    held, count = standin.first.weight, 0  # a tensor of what is kept here
    other = ModelWrapper.for_tasks(Pair(2.0))
    assert other.label == 2.0  # keeps a pipeline, and nobody else holds it
    detach = core.Mapping.detach

    def counted(mapping: core.Mapping) -> None:
        nonlocal count
        count += 1
        detach(mapping)

    core.Mapping.detach = counted
    ray.shutdown()
    core.Mapping.detach = detach
    assert count == 1, count
    assert bool((held == 1.0).all())


if __name__ == "__main__":
    ISOLATION = sys.argv[1]
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "object_store_memory": 80 * MB, "include_dashboard": False},
    )

    def connect():
        return ray.init(address=cluster.address, log_to_driver=False)

    for name in sys.argv[2:]:
        first = connection.number()
        globals()[name](connect)
        assert connection.number() > first
        print(name, "ok", flush=True)
    cluster.shutdown()
