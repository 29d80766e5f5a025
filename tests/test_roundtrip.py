"""What `load()` gives cannot be told from the original, in the driver and in another process."""

from __future__ import annotations

import pytest
import torch

import zoo
from compare import assert_same
from ray_zerocopy import ModelWrapper


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
