"""Reads weights that cannot be written, and ends a child by writing to them."""

from __future__ import annotations

import os

import torch

import ray_zerocopy
from helpers import mappings, ray_cluster
from ray_zerocopy import ModelWrapper

with ray_cluster():
    assert ray_zerocopy.isolation() == "read-only"
    model = torch.nn.Linear(512, 512)
    wrapper = ModelWrapper.from_model(model)
    loaded = wrapper.load()
    assert torch.equal(model.weight, loaded.weight)
    (line,) = mappings(loaded.weight.data_ptr())
    assert line.split()[1] == "r--s", line
    child = os.fork()
    if not child:
        with torch.no_grad():
            loaded.weight.zero_()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) in (6, 11)  # Ray's handler aborts
    assert torch.equal(model.weight, loaded.weight)
    assert torch.equal(model.weight, wrapper.load().weight)
