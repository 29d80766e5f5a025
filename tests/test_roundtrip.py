"""What `load()` gives cannot be told from the original, in the driver and in another process."""

from __future__ import annotations

import contextlib
import json

import pytest
import torch
from torch.nn.parameter import is_lazy

import zoo
from compare import assert_same
from helpers import HERE, run_script
from make_golden import written
from ray_zerocopy import ModelWrapper, reading
from ray_zerocopy.graph import pipeline


def outputs(model, arguments):
    torch.manual_seed(3)
    with torch.no_grad():
        return model(*arguments)


def check(name, wrapper):
    """Load, and compare with the original made anew, everything and the output; for a worker."""
    original, arguments = zoo.ZOO[name]()
    loaded = wrapper.load()
    assert_same(original, loaded)
    if arguments is not None:
        assert_same(outputs(original, arguments), outputs(loaded, arguments))


@pytest.mark.parametrize("name", zoo.ZOO)
def test_loads_the_same_in_the_driver(cluster, name, recwarn):
    original, arguments = zoo.ZOO[name]()
    recwarn.clear()
    loaded = ModelWrapper.from_model(original).load()
    assert not recwarn.list, [str(warning.message) for warning in recwarn.list]
    assert_same(original, loaded)
    if arguments is not None:
        assert_same(outputs(original, arguments), outputs(loaded, arguments))


@pytest.mark.parametrize("name", zoo.ZOO)
def test_loads_the_same_in_a_worker(worker_of_module, name):
    original, _ = zoo.ZOO[name]()
    worker_of_module(check, name, ModelWrapper.from_model(original))


def test_every_module_of_torch_loads_and_computes_the_same():
    found = json.loads(run_script(str(HERE / "programs" / "conformance.py"), timeout=300).stdout.splitlines()[-1])
    assert found["differ"] == {}
    assert found["calls"] > 3000


@pytest.fixture(scope="module")
def worker_of_module(cluster):
    import ray

    from helpers import Worker

    actor = Worker.options(num_cpus=0).remote()
    yield lambda function, *arguments: ray.get(actor.run.remote(function, *arguments))
    ray.kill(actor)


def test_the_original_is_not_changed(cluster):
    original, _ = zoo.ZOO["pipeline"]()
    again, _ = zoo.ZOO["pipeline"]()
    ModelWrapper.from_model(original)
    assert_same(again, original)


def test_two_loads_are_two_models_over_the_same_pages(cluster):
    model = torch.nn.Linear(1000, 1000)
    wrapper = ModelWrapper.from_model(model)
    first, second = wrapper.load(), wrapper.load()
    assert first is not second
    assert first.weight.data_ptr() != second.weight.data_ptr()
    with torch.no_grad():
        first.weight.add_(1)
    assert torch.equal(second.weight, model.weight)


def test_a_loaded_model_can_be_wrapped_again(cluster):
    original, _ = zoo.ZOO["bert"]()
    assert_same(original, ModelWrapper.from_model(ModelWrapper.from_model(original).load()).load())


def test_a_model_can_be_wrapped_in_a_worker(worker, cluster):
    wrapper = worker(lambda: ModelWrapper.from_model(zoo.ZOO["pipeline"]()[0]))
    assert_same(zoo.ZOO["pipeline"]()[0], wrapper.load())


def test_training_goes_on_from_a_loaded_model_as_from_the_original(cluster):
    def step(holder):
        torch.manual_seed(1)
        loss = holder.model(torch.randn(4, 5)).square().sum()
        loss.backward()
        holder.optimizer.step()
        holder.optimizer.zero_grad()
        return holder

    original, _ = zoo.ZOO["optimizer_over_the_parameters"]()
    loaded = ModelWrapper.from_model(original).load()
    assert_same(step(original), step(loaded))


@pytest.mark.parametrize("layout", ["coo", "loose", "csr", "csc", "bsr", "bsc"])
@pytest.mark.parametrize("kind", ["tensor", "leaf", "parameter", "attribute"])
def test_sparse_tensors_of_every_layout(cluster, layout, kind):
    dense = torch.arange(16.0).reshape(4, 4)
    if layout == "coo":
        tensor = dense.to_sparse()
    elif layout == "loose":
        tensor = torch.sparse_coo_tensor([[1, 1]], [2.0, 3.0], (4,))
    else:
        blocks = ((2, 2),) if layout.startswith("b") else ()
        tensor = getattr(dense, f"to_sparse_{layout}")(*blocks)
    if kind == "leaf":
        tensor.requires_grad_()
    elif kind == "parameter":
        tensor = torch.nn.Parameter(tensor)
    elif kind == "attribute":
        tensor.requires_grad_()
        tensor.label = "x"
    loaded = ModelWrapper.from_model([tensor]).load()[0]
    assert type(loaded) is type(tensor)
    assert (loaded.layout, loaded.requires_grad, loaded.is_leaf) == (tensor.layout, tensor.requires_grad, True)
    assert loaded.layout is not torch.sparse_coo or loaded.is_coalesced() == tensor.is_coalesced()
    assert vars(loaded) == vars(tensor)
    assert torch.equal(loaded.detach().to_dense(), tensor.detach().to_dense())


@contextlib.contextmanager
def default_device(name):
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "meta": lambda: torch.device("meta"),
    "default_device": lambda: default_device("meta"),
    "default_dtype": lambda: default_dtype(torch.float64),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_in_force_do_not_matter(mode):
    for name, make in zoo.ZOO.items():
        original, _ = make()
        plain = written(original)
        with MODES[mode]():
            loaded = reading.load(plain, [])
            again = written(original)
        for each in (loaded, reading.load(again, [])):
            assert_same(original, each)
            models = [model for _, model in pipeline.named_models(each) if isinstance(model, torch.nn.Module)]
            parts = [part for model in models for part in (*model.parameters(), *model.buffers())]
            assert not any(part.is_inference() for part in parts if not is_lazy(part)), name


def test_what_is_loaded_in_inference_mode_can_be_trained(cluster):
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8))
    with torch.inference_mode():
        loaded = ModelWrapper.from_model(model).load()
    loaded(torch.randn(4, 8)).sum().backward()
    torch.optim.SGD(loaded.parameters(), lr=0.1).step()
    assert loaded[0].weight.grad is not None


@pytest.mark.parametrize("name", ["what_hangs_on_parameters", "parameters_of_own_classes", "hooks"])
def test_hooks_of_parameters_are_called(cluster, name):
    original, (x,) = zoo.ZOO[name]()
    loaded = ModelWrapper.from_model(original).load()
    for model in (original, loaded):
        model(x).square().sum().backward()
    for left, right in zip(original.parameters(), loaded.parameters(), strict=True):
        assert (left.grad is None) == (right.grad is None)
        assert left.grad is None or torch.equal(left.grad, right.grad)
    assert any(parameter.grad is not None for parameter in original.parameters())
