"""Calls of a stand-in in an actor, while actors hold every CPU."""

from __future__ import annotations

import threading
import warnings

import ray
import torch

from helpers import ray_cluster, settles
from ray_zerocopy import ModelWrapper, errors


@ray.remote(num_cpus=1)
class Caller:
    def __init__(self, wrapped):
        from ray_zerocopy.stores import connection

        connection._PATIENCE = 1.0, 2.0
        self.wrapped = wrapped
        self.told, self.results = [], []

    def start(self):
        def call():
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                self.told = told
                self.results.append(self.wrapped(torch.ones(1, 8)))

        threading.Thread(target=call, daemon=True).start()

    def call_without_cpus(self):
        return self.wrapped.options(num_cpus=0)(torch.ones(1, 8))

    def warnings(self):
        return [(each.category, str(each.message)) for each in self.told], len(self.results)


with ray_cluster(num_cpus=2):
    model = torch.nn.Linear(8, 8)
    wrapped = ModelWrapper.for_tasks(model)
    callers = [Caller.remote(wrapped) for _ in range(2)]
    ray.get([caller.warnings.remote() for caller in callers])
    callers[0].start.remote()
    assert settles(lambda: ray.get(callers[0].warnings.remote())[0], 30)
    assert torch.equal(ray.get(callers[0].call_without_cpus.remote()), model(torch.ones(1, 8)))
    ((category, text),), results = ray.get(callers[0].warnings.remote())
    assert category is errors.NoFreeCpuWarning and results == 0
    assert "Linear" in text and "needs 1 CPU, and actors hold 2 of the cluster's 2" in text, text
    assert "options(num_cpus=0)" in text, text
    ray.kill(callers[1])
    assert settles(lambda: ray.get(callers[0].warnings.remote())[1] == 1, 30)
    assert len(ray.get(callers[0].warnings.remote())[0]) == 1  # once
