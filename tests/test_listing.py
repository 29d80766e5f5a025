"""`list_models`: what there is, without torch and without starting anything."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import subprocess
import sys

import pytest
import ray
import torch

from helpers import Worker
from ray_zerocopy import ModelInfo, ModelWrapper, errors, list_models
from ray_zerocopy.stores import keeper, named, records

SPACE = "listing"


@pytest.fixture(autouse=True)
def no_names(cluster):
    yield
    for name in {model.name for model in list_models(SPACE)}:
        with contextlib.suppress(errors.ModelNotFoundError):  # it ended with its process
            ModelWrapper.delete(name, SPACE)


def test_a_model_is_listed_with_all_that_is_known():
    wrapper = ModelWrapper.from_model(torch.nn.Linear(300, 300), name="a", namespace=SPACE, lifetime="detached")
    (model,) = list_models(SPACE)
    assert (model.name, model.namespace, model.version, model.class_name) == ("a", SPACE, 1, "Linear")
    assert (model.nbytes, model.tensors, model.detached, model.state) == (wrapper.nbytes, 2, True, "ready")
    assert model.nodes == (ray.get_runtime_context().get_node_id(),)
    assert 0 <= model.age < 60
    assert model.maker.startswith("driver ")
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.name = "b"
    assert isinstance(model, ModelInfo)


def test_its_object_id_is_that_of_the_image():
    wrapper = ModelWrapper.from_model(torch.nn.Linear(300, 300), name="a", namespace=SPACE, lifetime="detached")
    (model,) = list_models(SPACE)
    assert model.object_id == wrapper.model_refs["model"].hex()


def test_a_model_that_ends_with_its_process_says_so():
    actor = Worker.options(num_cpus=0, name="the-maker").remote()

    def make():
        return ModelWrapper.from_model(torch.nn.Linear(300, 300), name="bound", namespace=SPACE)

    ray.get(actor.keep.remote("wrapper", make))
    (model,) = list_models(SPACE)
    assert not model.detached
    assert model.maker.startswith("actor the-maker")
    ray.kill(actor)


def test_namespaces_are_told_apart():
    ModelWrapper.from_model(torch.nn.Linear(9, 9), name="a", namespace=SPACE, lifetime="detached")
    assert [model.name for model in list_models(SPACE)] == ["a"]
    assert list_models("listing-nothing") == []
    assert ("a", SPACE) in [(model.name, model.namespace) for model in list_models()]


def test_both_versions_are_listed_while_both_can_be_loaded():
    ModelWrapper.from_model(torch.nn.Linear(9, 9), name="a", namespace=SPACE, lifetime="detached")
    ModelWrapper.from_model(torch.nn.Linear(9, 9), name="a", namespace=SPACE, lifetime="detached", replace=True)
    versions = [model.version for model in list_models(SPACE)]
    assert versions[-1] == 2 and versions[:-1] in ([1], [])


def test_where_nothing_has_a_name_no_keeper_is_started(monkeypatch):
    monkeypatch.setattr(records, "any_names", lambda: False)
    monkeypatch.setattr(named, "ask", None)
    assert list_models() == []


def test_listing_imports_no_torch():
    program = (
        "import sys, ray_zerocopy; ray_zerocopy.list_models, ray_zerocopy.ModelInfo; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_task_of_a_factory_bears_the_models_name(monkeypatch):
    given = {}

    class Task:
        def options(self, **options):
            given.update(options)
            raise ValueError("seen")

    monkeypatch.setattr(keeper, "building", Task())
    answer = asyncio.run(keeper._made((SPACE, "a"), records.Source(repeatable=True), records.About()))[2]
    assert answer.outcome == "failed"
    assert given["name"] == f"ray_zerocopy {SPACE}/a"


def test_an_objects_id_starts_with_that_of_its_task():
    ModelWrapper.from_model(torch.nn.Linear(300, 300), name="a", namespace=SPACE, lifetime="detached")
    (model,) = list_models(SPACE)
    assert ray.ObjectRef(bytes.fromhex(model.object_id)).task_id().hex() == model.object_id[:48]
