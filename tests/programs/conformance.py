"""Every module of torch's own module database, in training and in evaluation: what loads is the same, and computes the
same, here and in a worker. Prints how many were tried, and what differs.

Private names of torch used here, tried with 2.15: `torch.testing._internal.common_modules.module_db`.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import ray
import torch

import helpers
from compare import assert_same
from ray_zerocopy import ModelWrapper

Call = tuple[tuple[Any, ...], dict[str, Any]]


def cases() -> tuple[dict[str, torch.nn.Module], dict[str, Call]]:
    """The modules by name, and what each is called with."""
    from torch.testing._internal.common_modules import module_db

    modules, calls = {}, {}
    for info in module_db:
        for training in (True, False):
            torch.manual_seed(0)
            inputs = info.module_inputs_func(
                info, device="cpu", dtype=torch.float64, requires_grad=False, training=training
            )
            for number, each in enumerate(inputs):
                name = f"{info.name} {number}{' training' if training else ''}"
                given = each.constructor_input
                modules[name] = info.module_cls(*given.args, **given.kwargs).double().train(training)
                if each.forward_input is not None:
                    calls[name] = each.forward_input.args, each.forward_input.kwargs
    return modules, calls


def output(module: torch.nn.Module, call: Call) -> Any:
    torch.manual_seed(1)
    with torch.no_grad():
        return module(*call[0], **call[1])


def require_equal(left: Any, right: Any) -> None:
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor) and not left.is_nested:
        torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True, check_stride=True)
        assert left.requires_grad == right.requires_grad


def differing(wrapper: Any, expected: dict[str, Any]) -> dict[str, str]:
    """The modules whose output, state or inputs after it are others than expected."""
    torch.set_num_threads(1)
    (loaded, calls), found = wrapper.load(), {}
    for name, call in calls.items():
        try:
            here = torch.utils._pytree.tree_leaves((output(loaded[name], call), loaded[name].state_dict(), call))
            there = torch.utils._pytree.tree_leaves(expected[name])
            assert len(here) == len(there)
            for left, right in zip(here, there, strict=True):
                require_equal(left, right)
        except Exception as error:
            found[name] = repr(error)
    return found


def main() -> None:
    modules, calls = cases()
    # the inputs, too: what torch computes depends on where they lie, to the last bit
    wrapper = ModelWrapper.from_model([modules, calls])
    there = helpers.Worker.options(num_cpus=0).remote()
    found: dict[str, str] = {}
    loaded, _ = wrapper.load()
    for name, module in modules.items():
        try:
            assert_same(module, loaded[name])
        except AssertionError as error:
            found[name] = str(error)
    torch.set_num_threads(1)
    expected = {}
    for name, call in calls.items():
        expected[name] = output(modules[name], call), modules[name].state_dict(), call
    found.update(differing(wrapper, expected))
    found.update(ray.get(there.run.remote(differing, wrapper, expected)))
    print(json.dumps({"modules": len(modules), "calls": len(calls), "differ": found}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with helpers.ray_cluster():
        main()
