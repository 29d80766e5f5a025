"""Wraps without ray.init(): Ray starts by itself, unless it is told not to, and never in a forked child."""

from __future__ import annotations

import os
import sys

import ray
import torch

from ray_zerocopy import JITModelWrapper, ModelWrapper, core, errors, isolation


def refused(action, error: type[Exception]) -> str:
    try:
        action()
    except error as caught:
        assert not ray.is_initialized()
        return str(caught)
    raise AssertionError(f"no {error.__name__}")


def starts() -> None:
    model = torch.nn.Linear(300, 300)
    assert "ray.init" in refused(isolation, errors.RayNotInitializedError)  # asks a store that is there
    wrapper = ModelWrapper.from_model(model)
    assert ray.is_initialized()
    assert ray.get_runtime_context().gcs_address == sys.argv[2]
    assert torch.equal(wrapper.load().weight, model.weight)


def starts_for_tasks() -> None:
    assert ModelWrapper.for_tasks(torch.nn.Linear(300, 4))(torch.ones(300)).shape == (4,)


def starts_for_torchscript() -> None:
    JITModelWrapper.from_model(torch.jit.script(torch.nn.Linear(300, 4)))
    assert ray.is_initialized()


def does_not_start_where_that_is_switched_off() -> None:
    for make in ModelWrapper.from_model, ModelWrapper.for_tasks:
        text = refused(lambda make=make: make(torch.nn.Linear(2, 2)), errors.RayNotInitializedError)
        assert "RAY_ENABLE_AUTO_CONNECT" in text


def does_not_start_in_a_child_of_a_process_with_the_go_core() -> None:
    core._call("FormatVersion")
    child = os.fork()
    if not child:
        refused(lambda: ModelWrapper.from_model(torch.nn.Linear(2, 2)), errors.ForkedProcessError)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


globals()[sys.argv[1]]()
