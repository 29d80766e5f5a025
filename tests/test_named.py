"""Named models: they live as long as their name, whoever made them, and are never silently another model."""

from __future__ import annotations

import contextlib
import gc
import pickle
import subprocess
import sys
import threading
import time
import warnings

import pytest
import ray
import torch

import zoo
from compare import assert_same
from conftest import HERE
from helpers import Worker, about_process, run_script, settles, store_used
from ray_zerocopy import JITActorWrapper, JITModelWrapper, JITTaskWrapper, ModelWrapper, errors
from ray_zerocopy.stores import keeper, named

MB = 1 << 20
PROGRAMS = HERE / "programs"


@pytest.fixture(autouse=True)
def no_names(cluster):
    """Each test leaves no name behind, and the store as it was."""
    yield
    gc.collect()
    for row in named.listed():
        with contextlib.suppress(errors.ModelNotFoundError):  # the version before the newest
            ModelWrapper.delete(row["name"], row["namespace"])
    assert settles(lambda: store_used() < MB), store_used()


@pytest.fixture(scope="module")
def pool(cluster):
    """Actors for all tests: each takes seconds to import torch."""
    actors = [Worker.options(num_cpus=0).remote() for _ in range(4)]
    yield actors
    for each in actors:
        ray.kill(each)


@pytest.fixture
def actor(pool):
    """Gives actors of the pool; ``fresh`` ones may be killed."""
    waiting, started = list(pool), []

    def get(fresh: bool = False):
        if not fresh:
            return waiting.pop()
        started.append(Worker.options(num_cpus=0).remote())
        return started[-1]

    yield get
    for each in started:
        ray.kill(each)


def linear(value: float, size: int = 512) -> torch.nn.Linear:
    model = torch.nn.Linear(size, size)
    with torch.no_grad():
        model.weight.fill_(value)
        model.bias.fill_(value)
    return model


def value_of(model: torch.nn.Linear) -> float:
    assert model.weight.unique().numel() == 1
    return float(model.bias[0].detach())


def another_driver(program: str, *arguments: str) -> str:
    """Run a program of tests/programs as a job of its own in this cluster."""
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / program), address, *arguments], capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- names -------------------------------------------------------------------------------------------


def test_a_detached_model_outlives_the_job_and_the_actor_that_made_it(actor):
    another_driver("publish.py", "from-a-driver", "detached")
    maker = actor(fresh=True)

    def publish():
        ModelWrapper.from_model(zoo.seeded_pipeline(), name="from-an-actor", lifetime="detached")

    ray.get(maker.run.remote(publish))
    ray.kill(maker)
    for name in ("from-a-driver", "from-an-actor"):
        wrapper = ModelWrapper.get(name)
        assert_same(zoo.seeded_pipeline(), wrapper.load())
        assert (wrapper.name, wrapper.namespace, wrapper.version) == (name, "default", 1)
    assert "equal" in another_driver("compare_named.py", "from-an-actor")


def test_a_named_model_without_a_lifetime_ends_with_the_process_that_made_it(actor):
    another_driver("publish.py", "short", "None")
    with pytest.raises(errors.ModelNotFoundError, match="short"):
        ModelWrapper.get("short")
    maker = actor(fresh=True)
    ray.get(maker.run.remote(lambda: ModelWrapper.from_model(linear(1), name="actors") and None))
    time.sleep(2.5)  # longer than the keeper waits between two looks
    assert value_of(ModelWrapper.get("actors").load()) == 1
    ray.kill(maker)
    assert settles(lambda: not named.listed())


def test_every_process_of_the_cluster_gets_it_and_nothing_is_pinned_by_a_wrapper(actor):
    wrapper = ModelWrapper.from_model(linear(2, 2000), name="shared", lifetime="detached")
    again = pickle.loads(pickle.dumps(wrapper))
    assert len(pickle.dumps(wrapper)) < 1500
    workers = [actor() for _ in range(3)]
    calls = [each.run.remote(lambda w: value_of(w.load()), again) for each in workers]
    assert ray.get(calls) == [2.0] * 3
    assert settles(lambda: 15 * MB < store_used() < 17 * MB)  # the copy that this process put is gone
    wrapper.delete()  # wrappers are alive here and in the actors' arguments
    assert settles(lambda: store_used() < MB)
    with pytest.raises(errors.ModelNotFoundError):
        again.load()


def test_what_is_loaded_survives_the_deletion_of_its_name():
    wrapper = ModelWrapper.from_model(linear(3, 2000), name="gone", lifetime="detached")
    loaded = wrapper.load()
    ModelWrapper.delete("gone")
    for value in range(10):
        ray.put(bytes([value]) * (200 * MB))
    assert value_of(loaded) == 3


def test_a_name_that_is_taken_is_an_error_unless_what_has_it_will_do():
    first = ModelWrapper.from_model(linear(1), name="taken", lifetime="detached")
    with pytest.raises(
        errors.NameTakenError, match=r"'taken' in namespace 'default'.*get_if_exists.*replace"
    ) as caught:
        ModelWrapper.from_model(linear(2), name="taken", lifetime="detached")
    assert caught.value.version == 1
    same = ModelWrapper.from_model(linear(2), name="taken", lifetime="detached", get_if_exists=True)
    assert same.version == first.version == 1
    assert value_of(same.load()) == 1
    assert isinstance(caught.value, ValueError)  # as Ray's for a name of an actor


def test_a_name_that_is_not_there_lists_those_that_are_near():
    for name in ("encoder-small", "encoder-large", "ranker"):
        ModelWrapper.from_model(linear(1, 8), name=name, lifetime="detached")
    ModelWrapper.from_model(linear(1, 8), name="encoder", lifetime="detached", namespace="team")
    with pytest.raises(errors.ModelNotFoundError) as caught:
        ModelWrapper.get("encoder")
    text = str(caught.value)
    assert "'encoder-small'" in text and "'encoder-large'" in text and "'ranker'" not in text
    assert "'team'" in text
    with pytest.raises(errors.ModelNotFoundError, match="nobody"):
        ModelWrapper.delete("nobody")


def test_namespaces_keep_names_apart():
    ModelWrapper.from_model(linear(1), name="same", lifetime="detached")
    theirs = ModelWrapper.from_model(linear(2), name="same", lifetime="detached", namespace="team")
    assert value_of(ModelWrapper.get("same").load()) == 1
    assert value_of(ModelWrapper.get("same", namespace="team").load()) == 2
    theirs.delete()
    with pytest.raises(errors.ModelNotFoundError):
        ModelWrapper.get("same", namespace="team")
    assert value_of(ModelWrapper.get("same").load()) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"lifetime": "detached"}, "needs a name"),
        ({"get_if_exists": True}, "needs a name"),
        ({"replace": True}, "needs a name"),
        ({"namespace": "team"}, "needs a name"),
        ({"name": "x", "lifetime": "forever"}, "'forever'"),
        ({"name": "x", "replace": True, "get_if_exists": True}, "contradict"),
        ({"name": ""}, "not empty"),
        ({"name": 3}, "3"),
        ({"name": "x", "namespace": ""}, "not empty"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_anything_is_done(arguments, text):
    for make in (
        lambda **more: ModelWrapper.from_model(linear(1), **more),
        lambda **more: ModelWrapper.for_tasks(linear(1), **more),
        lambda **more: ModelWrapper.from_factory(linear, 1, **more),
    ):
        with pytest.raises(ValueError, match=text):
            make(**arguments)
    assert not named.listed()


def test_named_models_in_tasks_and_of_torchscript():
    x = torch.ones(512)
    called = ModelWrapper.for_tasks(linear(1), name="called", lifetime="detached")
    assert torch.equal(called(x), linear(1)(x))
    assert torch.equal(pickle.loads(pickle.dumps(called))(x), linear(1)(x))
    assert torch.equal(ModelWrapper.get("called").load()(x), linear(1)(x))  # as it was published: in tasks
    assert value_of(ModelWrapper.get("called", mode="actor").load()) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that TorchScript is deprecated
        scripted = torch.jit.script(linear(2))
    assert torch.equal(JITActorWrapper(scripted, name="jit", lifetime="detached").load()(x), scripted(x))
    assert torch.equal(JITModelWrapper.get("jit").load()(x), scripted(x))
    again = JITTaskWrapper(scripted, name="jit", lifetime="detached", get_if_exists=True)
    assert torch.equal(again(x), scripted(x))
    with pytest.raises(TypeError, match="TorchScript"):
        JITModelWrapper.from_factory(linear, 1, name="eager", lifetime="detached")
    ModelWrapper.delete("called")
    with pytest.raises(errors.ModelNotFoundError):
        called.options(fresh=True)(x)


def test_model_refs_and_serialize_of_a_named_pipeline():
    wrapper = ModelWrapper.from_model(zoo.seeded_pipeline(), name="pipeline", lifetime="detached")
    assert set(wrapper.model_refs) == {"encoder", "decoder"}
    assert all(isinstance(reference, ray.ObjectRef) for reference in wrapper.model_refs.values())
    assert_same(zoo.seeded_pipeline(), ModelWrapper.deserialize(**wrapper.serialize()).load())
    assert "name='pipeline', version=1" in repr(wrapper)
    assert wrapper.nbytes == named.listed()[0]["nbytes"] > 0


def test_a_plain_wrapper_made_in_a_task_warns_and_a_named_one_does_not():
    @ray.remote(num_cpus=0)
    def wrap(**naming):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ModelWrapper.from_model(linear(1), **naming)
        return [str(each.message) for each in caught if each.category is errors.ShortLivedOwnerWarning]

    for naming in ({}, {"name": "short"}):
        (text,) = ray.get(wrap.remote(**naming))
        assert "lifetime='detached'" in text
    assert ray.get(wrap.remote(name="kept", lifetime="detached")) == []


# --- factories ---------------------------------------------------------------------------------------


@ray.remote(num_cpus=0)
class Counter:
    def __init__(self):
        self.count = 0

    def add(self):
        self.count += 1
        return self.count

    def now(self):
        return self.count


def slow_model(counter_name: str) -> torch.nn.Linear:
    count = ray.get(ray.get_actor(counter_name, namespace="tests").add.remote())
    time.sleep(1)
    return linear(count)


def failing_model(counter_name: str) -> torch.nn.Linear:
    count = ray.get(ray.get_actor(counter_name, namespace="tests").add.remote())
    time.sleep(1)
    if count == 1:
        raise LookupError("the bucket is empty")
    return linear(count)


@pytest.fixture
def counter(cluster):
    made = Counter.options(name="counter", namespace="tests").remote()
    yield made
    ray.kill(made)


def test_of_many_that_ask_at_once_exactly_one_has_the_model_made(counter, actor):
    def load():
        wrapper = ModelWrapper.from_factory(
            slow_model, "counter", name="once", lifetime="detached", get_if_exists=True, num_cpus=0
        )
        return value_of(wrapper.load())

    calls = [actor().run.remote(load) for _ in range(4)]
    assert ray.get(calls) == [1.0] * 4
    assert load() == 1.0
    assert ray.get(counter.now.remote()) == 1


def test_a_factory_that_raises_tells_every_waiter_and_the_next_caller_tries_again(counter, actor):
    def load():
        try:
            return ModelWrapper.from_factory(
                failing_model, "counter", name="tried", lifetime="detached", get_if_exists=True, num_cpus=0
            ).version
        except LookupError as error:
            assert type(error) is LookupError and isinstance(error.__cause__, errors.FactoryError)
            assert "failing_model" in str(error.__cause__)
            return str(error)

    workers = [actor() for _ in range(3)]
    assert ray.get([each.run.remote(load) for each in workers]) == ["the bucket is empty"] * 3
    assert not named.listed()
    assert load() == 1
    assert ray.get(counter.now.remote()) == 2


def variable(name: str) -> dict[str, str | None]:
    import os

    return {"model": linear(1), "value": os.environ.get(name)}


def test_a_factorys_options_are_rays():
    wrapper = ModelWrapper.from_factory(
        variable, "WHERE", name="x", lifetime="detached", num_cpus=0.5, runtime_env={"env_vars": {"WHERE": "there"}}
    )
    assert wrapper.load()["value"] == "there"
    with pytest.raises(ValueError, match="num_cpu"):
        ModelWrapper.from_factory(linear, 1, name="y", lifetime="detached", num_cpu=2)


def test_a_factory_without_a_name_belongs_to_the_caller():
    wrapper = ModelWrapper.from_factory(linear, 5, 2000)
    assert wrapper.version is None and wrapper.name is None
    assert value_of(wrapper.load()) == 5
    assert settles(lambda: store_used() > 15 * MB)
    del wrapper
    gc.collect()
    assert settles(lambda: store_used() < MB)
    with pytest.raises(ZeroDivisionError):
        ModelWrapper.from_factory(lambda: 1 / 0)


def die():
    import os

    os._exit(1)


def test_what_can_go_wrong_with_a_factory_has_a_type():
    with pytest.raises(errors.FactoryError, match="'dying'"):
        ModelWrapper.from_factory(die, name="dying", lifetime="detached", max_retries=0)
    lock = threading.Lock()
    with pytest.raises(errors.UnpicklableArgumentError, match="lock"):
        ModelWrapper.from_factory(lambda: lock, name="locked", lifetime="detached")
    with pytest.raises(errors.UnpicklableError, match="lock"):
        ModelWrapper.from_factory(threading.Lock, name="locked", lifetime="detached")
    with pytest.raises(errors.StoreTooSmallError):
        ModelWrapper.from_factory(torch.nn.Linear, 40000, 8000, name="large", lifetime="detached")
    assert not named.listed()


def test_a_model_of_a_factory_comes_back_after_the_keeper_was_killed_and_another_says_why_it_is_lost():
    made = ModelWrapper.from_factory(linear, 6, name="made", lifetime="detached")
    put = ModelWrapper.from_model(linear(7), name="put", lifetime="detached")
    loaded = put.load()
    for no_restart in (False, True):
        ray.kill(keeper.actor(), no_restart=no_restart)
        assert value_of(made.load()) == 6
        with pytest.raises(errors.ImageLostError, match=r"'put' is lost \(the keeper's process"):
            put.load()
        with pytest.raises(errors.ImageLostError, match="'put' is lost"):
            ModelWrapper.get("put")
    assert value_of(loaded) == 7
    again = ModelWrapper.from_model(linear(8), name="put", lifetime="detached")  # a lost name is free
    assert (again.version, value_of(again.load())) == (2, 8)
    with pytest.raises(errors.ModelNotFoundError, match="version 2"):
        put.load()


# --- versions ----------------------------------------------------------------------------------------


def test_replace_publishes_the_next_version_and_latest_tells_of_it():
    first = ModelWrapper.from_model(linear(1, 2000), name="versions", lifetime="detached", replace=True)
    held = first.load()
    assert first.latest() is first
    second = ModelWrapper.from_model(linear(2, 2000), name="versions", lifetime="detached", replace=True)
    assert (first.version, second.version) == (1, 2)
    assert first.latest().version == 2
    assert value_of(first.latest().load()) == 2
    assert value_of(ModelWrapper.get("versions").load()) == 2
    assert value_of(ModelWrapper.get("versions", version=1).load()) == 1  # for a moment
    time.sleep(keeper.GRACE_SECONDS + 0.5)
    with pytest.raises(errors.ModelNotFoundError, match=r"version 1 .* gone .* version 2"):
        first.load()
    with pytest.raises(errors.ModelNotFoundError, match="version 2"):
        ModelWrapper.get("versions", version=1)
    for value in range(10):
        ray.put(bytes([value]) * (200 * MB))
    assert value_of(held) == 1
    del held
    gc.collect()
    assert settles(lambda: store_used() < 17 * MB)
    with pytest.raises(errors.ModelNotFoundError, match="version 2"):
        first.delete()
    second.delete()


def test_a_name_that_was_deleted_and_given_again_is_another_model():
    stale = ModelWrapper.from_model(linear(1), name="again", lifetime="detached")
    stale.delete()
    fresh = ModelWrapper.from_model(linear(2), name="again", lifetime="detached")
    assert fresh.version == stale.version == 1
    with pytest.raises(errors.ModelNotFoundError, match="given again"):
        stale.load()
    with pytest.raises(errors.ModelNotFoundError, match="stands for"):
        stale.delete()
    assert value_of(fresh.load()) == 2


def test_a_factory_makes_the_next_version():
    ModelWrapper.from_factory(linear, 1, name="remade", lifetime="detached")
    second = ModelWrapper.from_factory(linear, 2, name="remade", lifetime="detached", replace=True)
    assert (second.version, value_of(second.load())) == (2, 2)


# --- the keeper --------------------------------------------------------------------------------------


def test_there_is_one_keeper_however_many_ask_first(actor):
    ray.kill(keeper.actor())

    def ask():
        keeper_id = keeper.actor()._actor_id.hex()
        named.listed()
        return keeper_id

    assert len(set(ray.get([actor().run.remote(ask) for _ in range(4)]))) == 1


def test_the_keeper_is_small_and_holds_five_hundred_names(cluster):
    model = linear(1, 8)
    for number in range(500):
        ModelWrapper.from_model(model, name=f"model-{number}", lifetime="detached", namespace="many")
    assert len(named.listed()) == 500
    assert value_of(ModelWrapper.get("model-321", "many").load()) == 1
    modules, private, node = ray.get(keeper.actor().__ray_call__.remote(about_process))
    assert "torch" not in modules
    assert private < 100 * MB
    head = [each["NodeID"] for each in ray.nodes() if "node:__internal_head__" in each["Resources"]]
    assert [node] == head
    for number in range(500):
        ModelWrapper.delete(f"model-{number}", "many")


# --- nodes, and death --------------------------------------------------------------------------------


def test_loads_go_on_when_the_makers_and_the_holders_node_are_gone():
    run_script(str(PROGRAMS / "named_nodes.py"))


def test_processes_killed_at_random_leave_names_and_store_consistent():
    print(run_script(str(PROGRAMS / "named_chaos.py"), "20", timeout=900).stdout)  # make soak kills a hundred


def test_a_detached_model_needs_room_for_two_only_for_a_moment():
    run_script(str(PROGRAMS / "named_small_store.py"))
