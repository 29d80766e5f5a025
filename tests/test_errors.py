"""Bad input gives a typed error that names the thing, the value and the way out."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import pickle
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import zoo
from helpers import run_script, store_used
from ray_zerocopy import JITModelWrapper, ModelWrapper, errors
from ray_zerocopy.stores.objects import Reference


def test_a_store_too_small_is_found_out_before_anything_is_copied(cluster):
    used = store_used()
    too_large = torch.empty(2 << 30, dtype=torch.uint8)  # never written: costs no memory
    with pytest.raises(errors.StoreTooSmallError) as caught:
        ModelWrapper.from_model({"weights": too_large})
    error = caught.value
    assert error.needed > 2 << 30
    assert error.capacity == 1 << 30
    assert 0 < error.free <= error.capacity
    for part in (f"{error.needed:,}", f"{error.capacity:,}", f"{error.free:,}", "object_store_memory"):
        assert part in str(error)
    assert store_used() <= used + (1 << 20)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


# Ray told neither to spill nor to go beyond the store; a real disk that is full: tests/programs/disk_full.py
FULL = """
import pickle, pytest, torch
from helpers import ray_cluster, settles
from ray_zerocopy import ModelWrapper, errors
config = {"automatic_object_spilling_enabled": False, "local_fs_capacity_threshold": 0.0001}
with ray_cluster(object_store_memory=80 << 20, _system_config=config):
    model = torch.nn.Linear(2500, 2500)  # 24 MB
    held = [ModelWrapper.from_model(model) for _ in range(3)]
    with pytest.raises(errors.StoreFullError, match="the disk that Ray spills to") as caught:
        ModelWrapper.from_model(model)
    assert caught.value.needed > model.weight.nbytes
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert torch.equal(held[0].load().weight, model.weight)

    def fits():
        try:
            return torch.equal(ModelWrapper.from_model(model).load().weight, model.weight)
        except errors.StoreFullError:
            return False

    del held[1:]
    assert settles(fits)
"""


def test_a_store_that_is_full_and_cannot_spill():
    run_script(FULL)


@pytest.mark.parametrize(
    "nothing", ["model.pt", b"model.pt", Path("model.pt"), 5, None, {}, [1, {"a": "b"}], zoo.Holder(config={"a": 1})]
)
def test_what_holds_no_model_is_refused(cluster, nothing):
    is_path = isinstance(nothing, (str, bytes, Path))
    for wrap in (ModelWrapper.from_model, ModelWrapper.for_tasks):
        with pytest.raises(TypeError, match="holds no model, no tensor and no array") as caught:
            wrap(nothing)
        assert type(nothing).__qualname__ in str(caught.value)
        assert ("A path is not loaded" in str(caught.value)) == is_path


def test_a_factory_that_gives_no_model_is_refused(cluster):
    with pytest.raises(TypeError, match="A path is not loaded"):
        ModelWrapper.from_factory(lambda: "model.pt", num_cpus=0)


@pytest.mark.parametrize(
    "something",
    [torch.nn.ReLU(), torch.zeros(3), {"w": torch.zeros(3)}, [np.zeros(9)], zoo.Holder(act=[torch.nn.Identity()])],
)
def test_what_holds_something_to_share_is_not(cluster, something):
    assert type(ModelWrapper.from_model(something).load()) is type(something)


@pytest.mark.parametrize("cls", [ModelWrapper, JITModelWrapper])
@pytest.mark.parametrize("arguments", [(), (torch.nn.Linear(2, 2),), (torch.nn.Linear(2, 2), {}, False, "task")])
def test_the_constructor_says_what_to_use_instead(cls, arguments):
    with pytest.raises(TypeError, match=rf"{cls.__name__}\.from_model\(model\)" if arguments else "skeleton"):
        cls(*arguments)


WITHOUT_US = """
import os, sys
sys.path[:] = [path for path in sys.path if not os.path.exists(os.path.join(path, "ray_zerocopy"))]
"""


def test_a_process_without_this_package_says_how_to_get_it(cluster, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_US)
    without = {"env_vars": {"PYTHONPATH": str(tmp_path)}}

    @ray.remote(num_cpus=0, runtime_env=without)
    def receive(_):
        pass

    model = torch.nn.Linear(200, 200)
    wrapper, wrapped = ModelWrapper.from_model(model), ModelWrapper.for_tasks(model)
    for sent in (wrapper, [wrapper], wrapped):
        with pytest.raises(Exception, match=r"No module named 'ray_zerocopy' in .*python.* on .*'py_modules'"):
            ray.get(receive.remote(sent))
    with pytest.raises(errors.PackageMissingError, match=r"No module named 'ray_zerocopy'[^$]*'py_modules'"):
        wrapped.options(runtime_env=without)(torch.ones(1, 200))


def make_nested(leaf):
    inner = zoo.Holder(model=torch.nn.Linear(2, 2), lock=leaf)
    encoder = torch.nn.Sequential(torch.nn.Linear(2, 2))
    encoder.inner = inner
    return zoo.Holder(decoder=torch.nn.Linear(2, 2), encoder=encoder)


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: make_nested(threading.Lock()), "pipeline.encoder.inner.lock"),
        (lambda: zoo.Holder(stages=[1, {"first": threading.Lock()}]), "pipeline.stages[1]['first']"),
        (lambda: zoo.Holder(call=functools.partial(print, end=threading.Lock())), "pipeline.call.keywords['end']"),
        (lambda: torch.nn.Sequential(make_nested(threading.RLock()).encoder), "model.0.inner.lock"),
    ],
)
def test_what_cannot_be_pickled_is_named_by_its_path(cluster, make, path):
    with pytest.raises(errors.UnpicklableError) as caught:
        ModelWrapper.from_model(make())
    assert caught.value.path == path
    assert "cannot be pickled" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_lock_in_a_closure_is_named(cluster):
    lock = threading.Lock()
    with pytest.raises(errors.UnpicklableError) as caught:
        ModelWrapper.from_model(zoo.Holder(call=lambda: lock))
    assert caught.value.path == "pipeline.call.<lock>"


def test_a_tensor_on_a_gpu_is_named_with_its_device(cluster):
    with FakeTensorMode(allow_non_fake_inputs=True):
        weight = torch.nn.Parameter(torch.empty(3, device="cuda"))
    pipeline = zoo.Holder(encoder=torch.nn.Linear(3, 3))
    pipeline.encoder.weight = weight
    with pytest.raises(errors.DeviceError, match=r"pipeline\.encoder\.weight is on 'cuda:0'.*\.cpu\(\)"):
        ModelWrapper.from_model(pipeline)


def test_unknown_mode_and_unknown_names_are_value_errors(cluster):
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"mode is 'actors'.*'actor'.*'task'"):
        ModelWrapper.from_model(model, mode="actors")
    with pytest.raises(ValueError, match=r"'encodr'.*'encoder', 'decoder'"):
        ModelWrapper.from_model(zoo.Pipeline(), model_attr_names=["encodr"])
    with pytest.raises(TypeError, match="from_model"):
        ModelWrapper(model, {})


def test_an_object_that_is_no_image_is_refused(cluster):
    fields = ModelWrapper.from_model(torch.nn.Linear(2, 2)).serialize()
    outline = dataclasses.replace(fields["skeleton"], image=Reference(ray.put({"not": "an image"})))
    with pytest.raises(errors.ForeignImageError, match="dict"):
        ModelWrapper.deserialize(**{**fields, "skeleton": outline}).load()


CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.RayZeroCopyError)]
VALUES = {
    "int": 7,
    "int | None": 3,
    "float": 0.5,
    "str": "a text",
    "Sequence[str]": ["a name"],
    "Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]]": [("a name", (1,), (2,))],
}


def an_error(cls):
    """One of a class, made as its constructor wants it."""
    if "__init__" not in vars(cls):
        return cls("a text")
    parameters = list(inspect.signature(cls).parameters.values())
    return cls(*(VALUES[parameter.annotation] for parameter in parameters))


@ray.remote(num_cpus=0)
def fail(error):
    raise error


@pytest.mark.parametrize("cls", CLASSES)
def test_errors_keep_their_text_and_fields_in_another_process(cluster, cls):
    error = an_error(cls)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert (str(again), vars(again)) == (str(error), vars(error))
    with pytest.raises(cls) as caught:
        ray.get(fail.remote(error))
    assert (str(caught.value.cause), vars(caught.value.cause)) == (str(error), vars(error))


OWNER_DIED = """
import ray, torch
from helpers import Worker, ray_cluster
import ray_zerocopy
from ray_zerocopy import ModelWrapper, errors

with ray_cluster():
    owner = Worker.options(num_cpus=0).remote()
    wrapper = ray.get(owner.run.remote(lambda: ModelWrapper.from_model(torch.nn.Linear(300, 300))))
    wrapper.load()
    ray.kill(owner)
    import time
    for _ in range(100):
        try:
            wrapper.load()
        except errors.ImageLostError as error:
            assert "belongs to the process" in str(error), error
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the image outlived its owner")
"""


def test_an_image_whose_owner_died_explains_ownership():
    run_script(OWNER_DIED)


MISSING_MODULE = """
import sys, tempfile, pathlib
import ray
from helpers import Worker, ray_cluster
import ray_zerocopy
from ray_zerocopy import ModelWrapper, errors

folder = tempfile.mkdtemp()
pathlib.Path(folder, "only_here.py").write_text(
    "import torch\\nclass Net(torch.nn.Module):\\n    def __init__(self):\\n        super().__init__()\\n"
    "        self.fc = torch.nn.Linear(2, 2)\\n"
)
with ray_cluster():
    sys.path.insert(0, folder)
    import only_here
    wrapper = ModelWrapper.from_model(only_here.Net())

    def load(wrapper):
        try:
            wrapper.load()
        except errors.ClassNotFoundError as error:
            return str(error)

    sys.path.remove(folder)
    text = ray.get(Worker.options(num_cpus=0).remote().run.remote(load, wrapper))
    assert "only_here" in text and "py_modules" in text, text
"""


def test_a_class_whose_module_is_missing_in_the_worker_is_named():
    run_script(MISSING_MODULE)


def test_a_wrapper_that_arrives_keeps_nothing_of_where_it_is_unpickled(cluster):
    model = torch.nn.Linear(2, 2)
    for sent in (ModelWrapper.from_model(model), ModelWrapper.for_tasks(model)):
        data, held = ray.cloudpickle.dumps(sent), zoo.Holder()
        gone = weakref.ref(held)
        pickle.loads(data)
        del held
        assert gone() is None


OVERFLOW = """
import time, warnings
import torch
from helpers import ray_cluster
from ray_zerocopy import ModelWrapper, errors
from ray_zerocopy.stores import objects

objects._PATIENCE = 10  # seconds: Ray takes its time on a busy machine

def said(*models):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wrappers = [ModelWrapper.from_model(model) for model in models]
    return [str(each.message) for each in caught if each.category is errors.StoreOverflowWarning], wrappers

model = torch.nn.Linear(4096, 4096)  # 67 MB
with ray_cluster(object_store_memory=400 << 20):
    for _ in range(10):  # the earlier one goes, whether Ray has noticed or not: there is room for some
        nothing, wrapper = said(model)
        assert not nothing
        wrapper.clear()
    time.sleep(2)
    (warning,), kept = said(*[model] * 8)  # once
    assert "put something on disk" in warning and "object_store_memory" in warning
    for wrapper in kept:
        assert torch.equal(wrapper.load().weight, model.weight)
"""


def test_a_put_that_sends_something_to_disk_says_so():
    run_script(OVERFLOW)
