"""What pickle refuses and a pipeline may hold all the same, in this process and in a worker."""

from __future__ import annotations

import functools
import gc
import os
import weakref

import pytest
import torch

import zoo
from helpers import class_not_found, run_script
from ray_zerocopy import ModelWrapper, errors


class Child(torch.nn.Module):
    def __init__(self, parent: torch.nn.Module) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)
        self.parent = weakref.ref(parent)
        self.proxy = [weakref.proxy(parent)]  # a module asks what it is given for its class
        self.method = weakref.WeakMethod(parent.answer)


class Parent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.child = Child(self)
        self.children_by_name = weakref.WeakValueDictionary({"child": self.child})
        self.known = weakref.WeakSet([self.child, self])
        self.notes = weakref.WeakKeyDictionary({self.child: "note"})
        outside = torch.nn.Linear(2, 2)
        self.outside = weakref.ref(outside)
        self.dead = weakref.ref(torch.nn.Linear(2, 2))
        self.dead_proxy = [weakref.proxy(torch.nn.Linear(2, 2))]
        self.keeps = [outside]  # not carried: see __getstate__

    def answer(self) -> int:
        return 42

    def __getstate__(self):
        state = super().__getstate__()
        del state["keeps"]
        return state


def check_weak(wrapper: ModelWrapper[dict[str, Parent]]) -> None:
    loaded = wrapper.load()["model"]
    gc.collect()
    child = loaded.child
    assert child.parent() is loaded
    assert child.proxy[0].answer() == 42
    assert child.method()() == 42
    assert child.method().__self__ is loaded
    assert loaded.children_by_name["child"] is child
    assert set(loaded.known) == {child, loaded}
    assert loaded.notes[child] == "note"
    assert loaded.outside() is None  # nothing in the graph holds it
    assert loaded.dead() is None
    with pytest.raises(ReferenceError):
        loaded.dead_proxy[0].weight  # noqa: B018
    del loaded
    gc.collect()
    assert child.parent() is None


def test_weak_references_point_into_what_is_loaded(cluster, worker):
    model = Parent()
    wrapper = ModelWrapper.from_model({"child first": model.child, "model": model})
    check_weak(wrapper)
    worker(check_weak, ModelWrapper.from_model({"model": model}))


def check_operators(wrapper: ModelWrapper[torch.nn.Linear]) -> None:
    aten, loaded = torch.ops.aten, wrapper.load()
    assert loaded.operators == {"packet": aten.relu, "overload": aten.add.Tensor, "default": aten.relu.default}
    assert loaded.operators["overload"](torch.ones(2), torch.ones(2)).tolist() == [2, 2]


def test_operators_travel_by_name(cluster, worker):
    aten = torch.ops.aten
    model = torch.nn.Linear(2, 2)
    model.operators = {"packet": aten.relu, "overload": aten.add.Tensor, "default": aten.relu.default}
    wrapper = ModelWrapper.from_model(model)
    check_operators(wrapper)
    worker(check_operators, wrapper)


def test_an_operator_whose_library_is_not_here_says_so(cluster, worker):
    library = torch.library.Library("rzc_tests", "DEF")
    library.define("double(Tensor x) -> Tensor")
    library.impl("double", lambda x: 2 * x, "CompositeImplicitAutograd")
    model = torch.nn.Linear(2, 2)
    model.operator = torch.ops.rzc_tests.double
    wrapper = ModelWrapper.from_model(model)
    assert wrapper.load().operator(torch.ones(1)).item() == 2

    assert "rzc_tests::double" in (worker(class_not_found, wrapper) or "")


CACHED = """
import functools
import ray, torch
from helpers import ray_cluster
from ray_zerocopy import ModelWrapper

class Pipeline:
    made = 0

    def __init__(self):
        self.model = torch.nn.Linear(2, 2)

    @functools.cached_property
    def table(self):
        "Made once."
        type(self).made += 1
        return list(range(5))

    def __call__(self, i):
        return self.table[i]

@ray.remote
def use(wrapper):
    loaded = wrapper.load()
    again = loaded.table is loaded.table
    return loaded.table, again, type(loaded).__dict__["table"].__doc__

with ray_cluster():
    pipeline = Pipeline()
    assert ray.get(use.remote(ModelWrapper.from_model(pipeline))) == ([0, 1, 2, 3, 4], True, "Made once.")
    assert ModelWrapper.for_tasks(pipeline)(3) == 3
    assert Pipeline.made == 0  # nothing was evaluated here
"""


def test_cached_properties_of_a_class_of_the_script():
    run_script(CACHED)


def test_a_model_that_is_still_trained_in_parallel_is_refused_with_its_path(cluster, tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
        with pytest.raises(errors.UnpicklableError, match=r"pipeline\['model'\].*wrap its \.module"):
            ModelWrapper.from_model({"model": parallel})
        with pytest.raises(errors.UnpicklableError, match=r"wrap its \.module"):
            ModelWrapper.from_model(parallel)
        assert ModelWrapper.from_model(parallel.module).load().weight.shape == (2, 2)
    finally:
        torch.distributed.destroy_process_group()


class Lazily:
    """Keeps what it computes."""

    def __init__(self) -> None:
        self.model = torch.nn.Linear(2, 2)

    @functools.cached_property
    def process(self) -> int:
        return os.getpid()


def test_wrapping_for_tasks_evaluates_no_cached_property(cluster):
    pipeline = Lazily()
    wrapped = ModelWrapper.for_tasks(pipeline)
    assert "process" not in vars(pipeline)
    assert "process" in dir(wrapped)


DEEP = """
import sys
import torch
from helpers import ray_cluster
from ray_zerocopy import ModelWrapper, errors

class Link:
    def __init__(self, next):
        self.next = next

deep = torch.nn.Linear(2, 2)
for _ in range(400):
    deep = torch.nn.Sequential(deep)
chain = Link(torch.nn.Linear(2, 2))
for _ in range(2000):
    chain = Link(chain)

with ray_cluster():
    for model in (deep, chain):
        try:
            ModelWrapper.from_model(model)
        except errors.TooDeepError as error:
            assert len(str(error)) < 400 and "sys.setrecursionlimit" in str(error), error
        else:
            raise AssertionError
    sys.setrecursionlimit(20_000)
    wrappers = [ModelWrapper.from_model(model) for model in (deep, chain)]
    sys.setrecursionlimit(1000)
    deep, chain = [wrapper.load() for wrapper in wrappers]
    assert sum(isinstance(module, torch.nn.Sequential) for module in deep.modules()) == 400
    links = 0
    while isinstance(chain, Link):
        chain, links = chain.next, links + 1
    assert links == 2001
"""


def test_what_is_nested_too_deeply_is_refused_in_a_few_words():
    run_script(DEEP)


GLOBALS = """
import threading
import torch
from helpers import ray_cluster
from ray_zerocopy import ModelWrapper, errors

LOCK = threading.Lock()

def helper():
    return LOCK

class Pipeline:
    def __init__(self):
        self.model = torch.nn.Linear(2, 2)

    def __call__(self, x):
        with LOCK:
            return self.model(x)

class Deeper(Pipeline):
    @property
    def value(self):
        return (lambda: helper())()

    __call__ = None

def failure(pipeline):
    try:
        ModelWrapper.from_model(pipeline)
    except errors.UnpicklableError as error:
        return str(error)

with ray_cluster():
    said = failure(Pipeline())
    assert said.startswith("Pipeline.__call__ -> LOCK (a lock)") and "global" in said, said
    said = failure({"pipelines": [Pipeline()]})
    assert said.startswith("Pipeline.__call__ -> LOCK (a lock)"), said
    said = failure(Deeper())
    assert said.startswith(("Deeper.value -> helper -> LOCK", "Pipeline.__call__ -> LOCK")), said
    model = torch.nn.Linear(2, 2)
    model.hook = helper
    said = failure(model)
    assert said.startswith("model.hook -> LOCK"), said
"""


def test_an_unpicklable_global_of_the_script_is_named():
    run_script(GLOBALS)


class Twice(zoo.Forwarding):
    def twice(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.model(x)


def test_a_class_that_forwards_what_it_does_not_have_is_called_in_tasks(cluster):
    model, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    wrapped = ModelWrapper.for_tasks(Twice(model))
    assert torch.equal(wrapped.twice(x), 2 * model(x))
    assert wrapped.in_features == 2


def test_the_module_of_an_exported_program_is_refused_with_the_way_out(cluster):
    module = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)).module()
    with pytest.raises(errors.UnpicklableError, match="wrap the program"):
        ModelWrapper.from_model({"model": module})
