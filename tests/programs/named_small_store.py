"""A detached model in a store that has no room for two of it: Ray puts one of them on disk for a moment."""

from __future__ import annotations

import gc

import torch

from helpers import ray_cluster, settles, store_used
from ray_zerocopy import ModelWrapper, errors

MB = 1 << 20

with ray_cluster(object_store_memory=100 * MB):
    model = torch.nn.Linear(4096, 4096)  # 64 MB
    wrapper = ModelWrapper.from_model(model, name="most", lifetime="detached")
    loaded = wrapper.load()
    assert torch.equal(loaded.weight, model.weight) and torch.equal(loaded.bias, model.bias)
    second = ModelWrapper.from_model(torch.nn.Linear(4096, 4096), name="most", lifetime="detached", replace=True)
    assert torch.equal(loaded.weight, model.weight)
    assert not torch.equal(second.load().weight, model.weight)
    try:
        ModelWrapper.from_model(torch.nn.Linear(8192, 4096), name="most", lifetime="detached", replace=True)
    except errors.StoreTooSmallError:
        pass
    else:
        raise AssertionError
    assert second.latest() is second  # nothing was lost
    del loaded
    gc.collect()
    second.delete()
    assert settles(lambda: store_used() < MB), store_used()
