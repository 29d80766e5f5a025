"""Checksums of the weights: what was damaged in the store is found on request, and named."""

from __future__ import annotations

import numpy as np
import pytest
import ray
import torch

from ray_zerocopy import ModelWrapper, core, errors


def test_verify_reads_this_nodes_copy_and_names_what_is_damaged(cluster):
    model = torch.nn.Sequential(torch.nn.Linear(500, 400), torch.nn.Linear(400, 300))
    wrapper = ModelWrapper.from_model(model)
    wrapper.verify()
    assert torch.equal(wrapper.load(verify=True)[1].weight, model[1].weight)
    buffers = ray.get(wrapper.model_refs["model"]).buffers  # Ray's own mapping, which every process of the node shares
    start, length = core.address(np.frombuffer(buffers[0], np.uint8)), wrapper.nbytes
    shared = core.view(start, length, buffers)
    at = shared.tobytes().index(model[1].weight.detach().numpy().tobytes()[:64])
    shared[at + 9] ^= 1
    try:
        for verify in (wrapper.verify, lambda: wrapper.load(verify=True)):
            with pytest.raises(errors.DamagedImageError, match=r"tensor '1\.weight'"):
                verify()
        wrapper.load()  # which does not look
    finally:
        shared[at + 9] ^= 1
    wrapper.verify(timeout=5)
