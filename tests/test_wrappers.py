"""The names and shapes of the public API, which are those of the older package of this name."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import re

import numpy as np
import pytest
import ray
import torch

import ray_zerocopy
import zoo
from compare import assert_same
from helpers import allocated, run_script, settled_allocation, settles
from ray_zerocopy import ModelWrapper, errors


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


def test_the_repr_is_one_line_that_says_what_it_holds(cluster):
    wrapper = ModelWrapper.from_model(zoo.Pipeline())
    object_id = wrapper.model_refs["encoder"].hex()
    assert repr(wrapper) == (
        f"ModelWrapper(Pipeline, object={object_id}, mode='actor', models=[encoder, decoder], {wrapper.nbytes:,} bytes)"
    )
    many = ModelWrapper.from_model({f"ft{i}": torch.nn.Linear(1, 1) for i in range(200)})
    assert "models=[ft0, ft1, ft2, ft3, ft4, and 195 more]" in repr(many)
    assert list(many.model_refs)[199] == "ft199"
    assert list(ModelWrapper.from_model([torch.nn.Linear(1, 1), {3: torch.nn.Linear(1, 1)}]).model_refs) == ["0", "1"]


def test_what_people_try_first_says_what_to_write(cluster):
    model = torch.nn.Linear(2, 2)
    wrapper = ModelWrapper.from_model(model)
    with pytest.raises(TypeError, match=r"holds a Linear and cannot be called itself: wrapper\.load\(\)\(\.\.\.\)"):
        wrapper(torch.ones(2))
    with pytest.raises(AttributeError, match=r"wrapper\.load\(\)\.eval"):
        wrapper.eval()
    assert not hasattr(wrapper, "_repr_html_")
    for name in ("from_pretrained", "from_checkpoint", "load_state_dict"):
        with pytest.raises(AttributeError, match=r"AutoModel\.from_pretrained.*ModelWrapper\.from_model\(model\)"):
            getattr(ModelWrapper, name)
    assert not hasattr(ModelWrapper, "nothing")
    for given in (model.state_dict(), {"layer.weight": torch.ones(2)}):
        with pytest.raises(TypeError, match=r"model\.load_state_dict\(state_dict\), and wrap the model"):
            ModelWrapper.from_model(given)
    shared = ModelWrapper.from_model({"state": model.state_dict()}).load()
    assert torch.equal(shared["state"]["weight"], model.weight)
    with pytest.raises(TypeError, match="A path is not loaded"):
        ModelWrapper.from_model("model.pt")
    with pytest.raises(TypeError, match=r"use ModelWrapper\.from_model\(model\)"):
        ModelWrapper(model)


def test_release_gives_the_memory_back_whoever_holds_the_wrapper(cluster):
    model = torch.nn.Linear(1024, 1024)
    before = settled_allocation()
    wrapper = ModelWrapper.from_model(model)
    out = [wrapper, copy.copy(wrapper)]
    loaded = wrapper.load()
    wrapper.release()
    assert torch.equal(loaded.weight, model.weight)
    assert allocated() > before  # as long as it is loaded
    del loaded
    assert settles(lambda: allocated() <= before)
    for again in (out[1].load, out[1].release, lambda: ray.put(out[1]), lambda: out[1].model_refs):
        with pytest.raises(errors.ImageLostError, match="release"):
            again()
    named = ModelWrapper.from_model(model, name="not released")
    with pytest.raises(ValueError, match=r"ModelWrapper\.delete\('not released'\)"):
        named.release()
    named.delete()


def test_an_error_of_a_load_holds_no_image(cluster):
    model = FailsToLoad()
    before = allocated()
    wrapper = ModelWrapper.from_model(model)
    kept = []
    for verify in (False, True):
        try:
            wrapper.load(verify=verify)
        except ValueError as error:
            kept.append(error.with_traceback(error.__traceback__.tb_next))
    assert len(kept) == 2
    del wrapper
    assert settles(lambda: allocated() <= before)


class FailsToLoad:
    def __init__(self):
        self.model = torch.nn.Linear(1024, 1024)

    def __setstate__(self, state):
        raise ValueError("not today")


def test_the_log_says_what_a_put_and_a_load_took(cluster, caplog):
    model = torch.nn.Linear(1024, 1024)
    with caplog.at_level("INFO", "ray_zerocopy"):
        wrapper = ModelWrapper.from_model(model)
        wrapper.load()
    put, load = (record.getMessage() for record in caplog.records if record.name == "ray_zerocopy")
    identity = wrapper.model_refs["model"].hex()
    assert re.fullmatch(rf"put a Linear, now object {identity}: {wrapper.nbytes:,} bytes in [\d.]+ ms", put)
    assert re.fullmatch(
        rf"loaded a Linear from object {identity}: {wrapper.nbytes:,} bytes in [\d.]+ ms, and 0\.0 s of imports", load
    )
    caplog.clear()
    wrapper.load()
    ModelWrapper.from_model(model)
    assert not caplog.records  # unless asked for


def test_the_log_tells_imports_from_loading(cluster, tmp_path):
    (tmp_path / "takes_long.py").write_text("import time, torch\ntime.sleep(0.7)\nclass Model(torch.nn.Linear): ...\n")
    (tmp_path / "needed.py").write_text("import time\ntime.sleep(0.3)\n")
    program = """
import logging, sys, ray, torch
sys.path.insert(0, FOLDER)
import needed, takes_long
from ray_zerocopy import ModelWrapper

class Pipeline:
    def __init__(self):
        self.model = takes_long.Model(2, 2)
    def use(self):
        return needed

@ray.remote
def load(wrapper):
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    wrapper.load()

ray.init(address="local", num_cpus=1, object_store_memory=80_000_000, include_dashboard=False, runtime_env=
    {"env_vars": {"PYTHONPATH": ":".join(sys.path)}})
ray.get(load.remote(ModelWrapper.from_model(Pipeline())))
import time; time.sleep(2)
"""
    output = run_script(program.replace("FOLDER", repr(str(tmp_path)))).stdout
    found = re.search(
        r"loaded a Pipeline from object \w+: [\d,]+ bytes in ([\d.]+) ms, and ([\d.]+) s of imports \((.*)\)", output
    )
    assert found, output
    assert 1.0 <= float(found[2]) < 5
    assert float(found[1]) < 500
    assert {"takes_long", "needed"} <= set(found[3].split(", "))


def test_the_public_names():
    later = {"CompiledModel", "JITActorWrapper", "JITModelWrapper", "JITTaskWrapper"}
    listing = {"ModelInfo", "list_models"}
    here = {"ModelWrapper", "StandIn", "__version__", "errors", "huge_pages", "isolation"}
    assert set(ray_zerocopy.__all__) == here | listing | later
    for name in ray_zerocopy.__all__:
        assert hasattr(ray_zerocopy, name)


# --- parts -------------------------------------------------------------------------------------------


class Parts:
    def __init__(self):
        self.encoder = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.BatchNorm1d(512)).eval()
        self.decoder = torch.nn.Linear(512, 64)
        self.tied = torch.nn.Linear(512, 64)
        self.tied.weight = self.decoder.weight
        self.heads = {"topic": torch.nn.Linear(4, 4), "again": self.decoder}
        self.table = np.arange(100_000)
        self.number = ray.put(7)


class WithReference(torch.nn.Module):
    def __init__(self, reference):
        super().__init__()
        self.linear, self.reference = torch.nn.Linear(8, 8), reference


def test_one_model_of_a_pipeline_is_what_it_is_in_the_pipeline(cluster, worker):
    pipeline = Parts()
    wrapper = ModelWrapper.from_model(pipeline)
    assert list(wrapper.model_refs) == ["encoder", "decoder", "tied", "heads"]
    for name in wrapper.model_refs:
        assert_same(getattr(pipeline, name), wrapper.load(name))
        assert_same(getattr(pipeline, name), worker(lambda w, name: w.load(name), wrapper, name))
    heads = wrapper.load("heads")
    first, second = wrapper.load("decoder"), wrapper.load("decoder", verify=True, prefault=True)
    with torch.no_grad():
        first.weight.zero_()
    assert torch.equal(second.weight, pipeline.decoder.weight)  # a write stays with it
    assert torch.equal(heads["again"].weight, pipeline.decoder.weight)
    assert torch.equal(wrapper.load().decoder.weight, pipeline.decoder.weight)
    x = torch.randn(2, 64)
    assert torch.equal(wrapper.load("encoder")(x), pipeline.encoder(x))
    assert torch.equal(asyncio.run(wrapper.load_async("encoder"))(x), pipeline.encoder(x))


def test_one_model_of_lists_dictionaries_names_and_the_like(cluster):
    many = {f"ft{i}": torch.nn.Linear(i + 1, 2) for i in range(20)}
    assert_same(many["ft13"], ModelWrapper.from_model(many).load("ft13"))
    listed = [torch.nn.Linear(2, 2), torch.nn.Linear(3, 3)]
    assert_same(listed[1], ModelWrapper.from_model(listed).load("1"))
    pipeline = Parts()
    chosen = ModelWrapper.from_model(pipeline, model_attr_names=["table", "heads"])
    assert np.array_equal(chosen.load("table"), pipeline.table)
    assert np.array_equal(ModelWrapper.from_model(pipeline, model_attr_names=["table"]).load("table"), pipeline.table)
    alone = ModelWrapper.from_model(pipeline.decoder)
    assert_same(pipeline.decoder, alone.load("model"))
    references = {"a": WithReference(ray.put("a")), "b": WithReference(ray.put("b"))}
    carried = ModelWrapper.from_model(references)
    del references
    assert ray.get(carried.load("b").reference) == "b"
    named = ModelWrapper.from_model(pipeline, name="parts")
    assert_same(pipeline.encoder, ModelWrapper.get("parts").load("encoder"))
    assert_same(pipeline.encoder, pickle.loads(pickle.dumps(named)).load("encoder"))
    made = ModelWrapper.from_factory(Parts, name="made parts")
    assert made.load("decoder").weight.shape == (64, 512)
    named.delete()
    made.delete()
    x = torch.randn(2, 64)
    in_tasks = ModelWrapper.from_model(pipeline, mode="task")
    assert torch.equal(in_tasks.load("encoder")(x), pipeline.encoder(x))


def test_parts_under_keys_that_read_the_same(cluster):
    both = {1: torch.nn.Linear(1, 1), "1": torch.nn.Linear(2, 2)}
    wrapper = ModelWrapper.from_model(both)
    assert list(wrapper.model_refs) == ["1", "['1']"]
    assert_same(both[1], wrapper.load("1"))
    assert_same(both["1"], wrapper.load("['1']"))


def test_a_part_that_is_none_says_which_there_are(cluster):
    wrapper = ModelWrapper.from_model(Parts())
    with pytest.raises(errors.NotAModelError, match=r"no model 'encodr' .* it has 'encoder', 'decoder' and others"):
        wrapper.load("encodr")
    with pytest.raises(errors.NotAModelError, match="'encoder', 'decoder', 'tied', 'heads'"):
        wrapper.load("nothing like it")
    with pytest.raises(TypeError, match=r"load\(prefault=\.\.\.\)"):
        wrapper.load(True)


def test_a_part_holds_the_image_as_long_as_it_lives(cluster):
    pipeline = Parts()
    wrapper = ModelWrapper.from_model(pipeline)
    part, size = wrapper.load("decoder"), wrapper.nbytes
    del wrapper
    gc.collect()
    assert not settles(lambda: allocated() < size, 2)
    assert_same(pipeline.decoder, part)
    before = allocated()
    del part
    assert settles(lambda: allocated() <= before - size)
