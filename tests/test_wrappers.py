"""The names and shapes of the public API, which are those of the older package of this name."""

from __future__ import annotations

import pickle

import pytest
import ray
import torch

import ray_zerocopy
import zoo
from compare import assert_same
from ray_zerocopy import ModelWrapper


def test_serialize_gives_what_deserialize_takes(cluster):
    wrapper = ModelWrapper.from_model(zoo.Pipeline(), mode="actor")
    fields = wrapper.serialize()
    assert set(fields) == {"skeleton", "model_info", "is_standalone_module", "mode"}
    assert fields["mode"] == "actor"
    assert fields["is_standalone_module"] is False
    again = ModelWrapper.deserialize(**fields)
    assert_same(wrapper.load(), again.load())
    assert ModelWrapper.from_model(torch.nn.Linear(2, 2)).serialize()["is_standalone_module"] is True


def test_model_refs_names_public_models_that_can_be_got(cluster):
    pipeline, _ = zoo.ZOO["models_in_containers_private_attributes_and_children"]()
    wrapper = ModelWrapper.from_model(pipeline)
    assert set(wrapper.model_refs) == {"several", "named", "child"}
    assert all(isinstance(reference, ray.ObjectRef) for reference in wrapper.model_refs.values())
    assert set(ModelWrapper.from_model(pipeline, model_attr_names=["child"]).model_refs) == {"child"}
    assert set(ModelWrapper.from_model(zoo.Pipeline()).model_refs) == {"encoder", "decoder"}
    assert set(ModelWrapper.from_model(torch.nn.Linear(2, 2)).model_refs) == {"model"}


def test_model_attr_names_limit_no_sharing(cluster):
    pipeline = zoo.Pipeline()
    assert_same(pipeline, ModelWrapper.from_model(pipeline, model_attr_names=["encoder"]).load())


@pytest.mark.parametrize("dumps", [pickle.dumps, ray.cloudpickle.dumps])
def test_a_wrapper_can_be_pickled_and_stays_small(cluster, dumps):
    model = torch.nn.Linear(1000, 1000)
    wrapper = ModelWrapper.from_model(model)
    data = dumps(wrapper)
    assert len(data) < 4096
    assert_same(model, pickle.loads(data).load())


def test_a_wrapper_keeps_the_wrapped_classs_documentation(cluster):
    class Documented:
        """Encodes sentences."""

        model: torch.nn.Module

        def __init__(self):
            self.model = torch.nn.Linear(2, 2)

    wrapper = ModelWrapper.from_model(Documented())
    assert "Encodes sentences." in wrapper.__doc__
    assert "model" in wrapper.__annotations__


def test_a_wrapper_is_not_callable_and_its_repr_says_what_it_holds(cluster):
    wrapper = ModelWrapper.from_model(zoo.Pipeline())
    assert not callable(wrapper)
    assert repr(wrapper) == "ModelWrapper(Pipeline, mode='actor', models=[encoder, decoder], 4,096 bytes)"


def test_the_public_names():
    later = {"JITActorWrapper", "JITModelWrapper", "JITTaskWrapper"}
    listing = {"ModelInfo", "list_models"}
    here = {"ModelWrapper", "StandIn", "__version__", "errors", "huge_pages", "isolation"}
    assert set(ray_zerocopy.__all__) == here | listing | later
    for name in ray_zerocopy.__all__:
        assert hasattr(ray_zerocopy, name)
