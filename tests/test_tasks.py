"""Calls as Ray tasks: the stand-in, its options, what a worker keeps, errors, and where it can be used."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import pickle
import pydoc
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from helpers import allocated, run_script, settled_allocation, settles
from ray_zerocopy import JITModelWrapper, JITTaskWrapper, ModelWrapper, errors
from ray_zerocopy.tasks import calls, leases


class Encoder(torch.nn.Module):
    """A model with methods of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(64, 64)

    def forward(self, x: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        """Encode a batch."""
        return self.linear(x) * scale

    def norm(self) -> float:
        return float(self.linear.weight.norm())


class Child:
    """An object of the pipeline that holds a model."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def process_id(self) -> int:
        return os.getpid()


class Pipeline:
    """Encodes batches."""

    def __init__(self) -> None:
        self.encoder = Encoder()
        self._private = torch.nn.Linear(64, 64)
        self.child = Child(torch.nn.Linear(64, 64))
        self.config = {"temperature": 0.5}
        self.vocabulary = np.arange(100_000)
        self.calls = 0

    @property
    def temperature(self) -> float:
        return self.config["temperature"]

    def __call__(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        """Encode, and scale.

        Args:
            x: a batch.
            scale: a factor.
        """
        return self._private(self.encoder(x)) * scale

    def encode(self, x: torch.Tensor, *, times: int = 1) -> torch.Tensor:
        """Encode only."""
        return self.encoder(x) * times

    def process_id(self) -> int:
        return os.getpid()

    def environment(self, name: str) -> str | None:
        return os.environ.get(name)

    def count(self) -> tuple[int, int]:
        """Process, and how often this object was called."""
        self.calls += 1
        return os.getpid(), self.calls

    def identity(self) -> tuple[int, int]:
        return os.getpid(), id(self)

    def change(self) -> float:
        with torch.no_grad():
            self.encoder.linear.weight.zero_()
        return self.encoder.norm()

    def parts(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[:1], x[1:]

    def stream(self, count: int):
        """Yield squares."""
        for i in range(count):
            yield i * i

    def stream_of_another(self, count: int):
        yield from range(count)

    async def wait_for(self, value: int) -> int:
        await asyncio.sleep(0.001)
        return value

    async def stream_slowly(self, count: int):
        for i in range(count):
            await asyncio.sleep(0.001)
            yield i

    @staticmethod
    def add(a: int, b: int = 1) -> int:
        return a + b

    @classmethod
    def name(cls) -> str:
        return cls.__name__

    def _hidden(self) -> str:
        return "hidden"

    def fail(self, why: str) -> None:
        raise KeyError(why)

    def die(self, marker: str) -> str:
        """End the process, but not the second time."""
        if not Path(marker).exists():
            Path(marker).touch()
            os._exit(1)
        return "survived"

    def itself(self) -> Pipeline:
        return self

    def touch(self, path: str) -> str:
        time.sleep(0.5)
        Path(path).touch()
        return path

    def sleep(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds


class Bare:
    """Not callable, with names that a stand-in has too."""

    def __init__(self) -> None:
        self.model = torch.nn.Linear(2, 2)

    def map(self, items: list[int]) -> list[int]:
        return [i + 1 for i in items]


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    return Pipeline()


@pytest.fixture(scope="module")
def wrapped(cluster, pipeline):
    return ModelWrapper.for_tasks(pipeline)


@pytest.fixture(scope="module")
def x():
    return torch.randn(3, 64)


def is_mapped(process: int, address: int) -> bool:
    """Whether an address of a process lies in a private mapping of Ray's store."""
    try:
        maps = Path(f"/proc/{process}/maps").read_text().splitlines()
    except FileNotFoundError:
        return False
    ranges = [line.split()[0].split("-") for line in maps if "plasma" in line and line.split()[1][3] == "p"]
    return any(int(low, 16) <= address < int(high, 16) for low, high in ranges)


# --- the stand-in ------------------------------------------------------------------------------------


def test_a_call_gives_what_the_pipeline_gives(wrapped, pipeline, x):
    assert torch.equal(wrapped(x), pipeline(x))
    assert torch.equal(wrapped(x, scale=2.0), pipeline(x, scale=2.0))
    assert torch.equal(wrapped.encode(x, times=3), pipeline.encode(x, times=3))


def test_a_call_runs_in_one_other_process(wrapped):
    assert wrapped.process_id() != os.getpid()


def test_methods_keep_their_signatures_and_documentation(wrapped, pipeline):
    assert inspect.signature(wrapped) == inspect.signature(pipeline)
    for name in ("encode", "stream", "add", "name", "fail"):
        method = getattr(wrapped, name)
        assert inspect.signature(method) == inspect.signature(getattr(pipeline, name)), name
        assert method.__name__ == name
        assert method.__doc__ == getattr(pipeline, name).__doc__
    assert "Encode, and scale." in wrapped.__call__.__doc__
    text = pydoc.render_doc(wrapped, renderer=pydoc.plaintext)
    for part in ("Encodes batches.", "encode(self, x", "Encode only.", "remote("):
        assert part in text
    assert "Encode only." in pydoc.render_doc(wrapped.encode)
    # elsewhere they are read from the image
    elsewhere = pickle.loads(ray.cloudpickle.dumps(wrapped))
    assert inspect.signature(elsewhere.encode) == inspect.signature(pipeline.encode)


def test_a_modules_call_is_documented_as_its_forward(cluster):
    model = Encoder()
    wrapped = ModelWrapper.for_tasks(model)
    assert inspect.signature(wrapped) == inspect.signature(model.forward)
    assert wrapped.__call__.__doc__ == "Encode a batch."
    x = torch.randn(2, 64)
    assert torch.equal(wrapped(x, scale=2.0), model(x, scale=2.0))
    assert torch.equal(wrapped.forward(x), model(x))
    assert wrapped.norm() == model.norm()


def test_questions_that_a_user_may_ask(cluster, wrapped):
    assert callable(wrapped)
    assert callable(wrapped.encode)
    assert not callable(ModelWrapper.for_tasks(Bare()))
    assert repr(wrapped) == "<Pipeline, each call a Ray task>"
    assert repr(wrapped.encoder.linear) == "<Linear.encoder.linear, each call a Ray task>"
    assert repr(wrapped.encode) == "<Pipeline.encode, each call a Ray task>"
    assert {"encode", "encoder", "config", "remote", "options", "map"} <= set(dir(wrapped))
    assert hasattr(wrapped, "encoder")
    assert not hasattr(wrapped, "nothing")
    assert type(wrapped).__name__ == "Pipeline"


def test_a_model_attribute_is_a_stand_in_too(wrapped, pipeline, x):
    assert torch.equal(wrapped.encoder(x), pipeline.encoder(x))
    assert torch.equal(wrapped.encoder.linear(x), pipeline.encoder.linear(x))
    assert wrapped.encoder.norm() == pipeline.encoder.norm()
    assert torch.equal(wrapped._private(x), pipeline._private(x))
    assert torch.equal(ray.get(wrapped.encoder.remote(x)), pipeline.encoder(x))
    assert wrapped.child.process_id() != os.getpid()
    assert torch.equal(wrapped.child.model(x), pipeline.child.model(x))


def test_other_attributes_can_be_read(wrapped, pipeline):
    assert wrapped.config == {"temperature": 0.5}
    assert wrapped.temperature == 0.5
    assert np.array_equal(wrapped.vocabulary, pipeline.vocabulary)
    assert torch.equal(wrapped.encoder.linear.weight, pipeline.encoder.linear.weight)
    assert list(wrapped.encoder.state_dict()) == list(pipeline.encoder.state_dict())
    assert sum(p.numel() for p in wrapped.encoder.parameters()) == sum(p.numel() for p in pipeline.encoder.parameters())
    with pytest.raises(AttributeError, match=r"'Pipeline' object has no attribute 'nothing'"):
        wrapped.nothing  # noqa: B018


def test_state_cannot_be_changed_through_it_and_it_says_why(wrapped, x):
    for change in (
        lambda: setattr(wrapped, "config", {}),
        lambda: setattr(wrapped.encoder, "linear", None),
        lambda: delattr(wrapped, "config"),
        lambda: wrapped.encoder.eval(),
        lambda: wrapped.encoder.to("cpu"),
        lambda: wrapped.encoder.load_state_dict({}),
        lambda: wrapped.itself(),
    ):
        with pytest.raises(errors.TaskStateError, match=r"before .* wrapped"):
            change()
    assert wrapped.config == {"temperature": 0.5}


def test_the_pipelines_own_names_come_first(cluster):
    wrapped = ModelWrapper.for_tasks(Bare())
    assert wrapped.map([1, 2]) == [2, 3]
    assert list(wrapped.map.map([[1], [2]])) == [[2], [3]]
    assert ray.get(wrapped.map.options(num_cpus=0.5).remote([5])) == [6]
    with pytest.raises(AttributeError, match=r"Bare cannot be called by itself.*\.map\.remote"):
        wrapped.remote()


def test_method_names_add_methods(cluster, pipeline):
    assert ModelWrapper.for_tasks(pipeline, method_names=["_hidden"])._hidden() == "hidden"
    # an older package limited the methods of models by them: the pipeline's own stay
    assert ModelWrapper.for_tasks(pipeline, method_names=("norm",)).add(1) == 2
    with pytest.raises(errors.NotAMethodError, match=r"'nothing'.*Pipeline.*encode"):
        ModelWrapper.for_tasks(pipeline, method_names=["nothing"])


def test_from_model_in_task_mode(cluster, pipeline, x):
    wrapper = ModelWrapper.from_model(pipeline, mode="task")
    assert set(wrapper.model_refs) == {"encoder", "_private", "child"}
    assert all(isinstance(reference, ray.ObjectRef) for reference in wrapper.model_refs.values())
    fields = wrapper.serialize()
    assert fields["mode"] == "task"
    assert fields["model_info"]["encoder"][1] == {"__call__"}
    for same in (wrapper, pickle.loads(pickle.dumps(wrapper)), ModelWrapper.deserialize(**fields)):
        assert torch.equal(same.load()(x), pipeline(x))


# --- Ray's ways --------------------------------------------------------------------------------------


def test_remote_gives_references_and_takes_them(wrapped, pipeline, x):
    references = [wrapped.remote(x, scale=float(i)) for i in range(5)]
    assert all(isinstance(reference, ray.ObjectRef) for reference in references)
    for i, result in enumerate(ray.get(references)):
        assert torch.equal(result, pipeline(x, scale=float(i)))
    chained = wrapped.encode.remote(wrapped.remote(ray.put(x)), times=ray.put(2))
    assert torch.equal(ray.get(chained), pipeline.encode(pipeline(x), times=2))


def test_options_are_rays(wrapped, x):
    free = wrapped.options(num_cpus=0, resources={"node:__internal_head__": 0.001}, max_retries=0)
    assert torch.equal(free(x), wrapped(x))
    configured = wrapped.options(runtime_env={"env_vars": {"A_VARIABLE": "seen"}})
    assert configured.environment("A_VARIABLE") == "seen"
    first, rest = wrapped.parts.options(num_returns=2).remote(x)
    assert torch.equal(torch.cat(ray.get([first, rest])), x)
    assert torch.equal(torch.cat(wrapped.options(num_returns=2).parts(x)), x)
    with pytest.raises(ValueError, match="num_cpu"):
        wrapped.options(num_cpu=1)
    with pytest.raises(ValueError, match="num_cpus"):
        wrapped.encode.options(num_cpus=-1)


class Runner:
    """Runs functions beside a model."""

    def __init__(self, *models: torch.nn.Module) -> None:
        self.models = models or (torch.nn.Linear(2, 2),)

    def run(self, function, *arguments):
        return function(*arguments)

    def where(self) -> tuple[int, int]:
        return os.getpid(), self.models[0].weight.data_ptr()


def test_methods_that_yield_stream(wrapped):
    assert list(wrapped.stream(4)) == [0, 1, 4, 9]
    assert [ray.get(reference) for reference in wrapped.stream.remote(3)] == [0, 1, 4]
    assert list(wrapped.stream_of_another(3)) == [0, 1, 2]
    assert list(wrapped.stream_slowly(3)) == [0, 1, 2]
    elsewhere = pickle.loads(ray.cloudpickle.dumps(wrapped))
    assert list(elsewhere.stream(4)) == [0, 1, 4, 9]


def test_coroutines_and_async_callers(wrapped, pipeline, x):
    async def calls():
        return await asyncio.gather(wrapped.remote(x), wrapped.wait_for.remote(7))

    result, seven = asyncio.run(calls())
    assert torch.equal(result, pipeline(x))
    assert seven == 7
    assert wrapped.wait_for(8) == 8


def test_map_keeps_the_order_and_bounds_what_is_in_flight(wrapped):
    taken = []

    def items():
        for i in range(12):
            taken.append(i)
            yield 0.3 if i == 0 else 0.0

    results = wrapped.sleep.map(items(), max_in_flight=3)
    assert next(results) == 0.3
    assert len(taken) == 3
    assert list(results) == [0.0] * 11
    assert list(wrapped.add.map([1, 2, 3], [10, 20])) == [11, 22]
    assert list(wrapped.map([])) == []
    assert [list(each) for each in wrapped.stream.map([1, 3])] == [[0], [0, 1, 4]]
    x = torch.randn(3, 64)
    assert [len(each) for each in wrapped.parts.options(num_returns=2).map([x, x])] == [2, 2]
    with pytest.raises(ValueError, match="max_in_flight is 0"):
        wrapped.add.map([1], max_in_flight=0)


def test_map_raises_in_place_and_cancels_the_rest(wrapped, tmp_path):
    results = wrapped.fail.map(["first", "second"])
    with pytest.raises(KeyError, match="first"):
        next(results)
    paths = [str(tmp_path / str(i)) for i in range(20)]
    results = wrapped.touch.options(num_cpus=8).map(paths, max_in_flight=10)  # one at a time
    assert next(results) == paths[0]
    results.close()
    assert wrapped.options(num_cpus=8).add(1) == 2  # when those that had started are through
    assert len(list(tmp_path.iterdir())) < 5


def test_map_shows_progress_on_request(wrapped, capsys):
    list(wrapped.add.map([1, 2, 3]))
    assert "Pipeline.add" not in capsys.readouterr().err
    list(wrapped.add.map([1, 2, 3], progress=True))
    assert "Pipeline.add: 100%" in capsys.readouterr().err


# --- threads -----------------------------------------------------------------------------------------


def process_and_threads() -> tuple[int, int]:
    return os.getpid(), torch.get_num_threads()


@pytest.mark.parametrize("first", [1, 4])
def test_a_call_computes_with_as_many_threads_as_its_task_has_cpus(cluster, first):
    wrapped = ModelWrapper.for_tasks(Runner())
    plain = ray.remote(process_and_threads)
    of_plain: dict[int, list[int]] = {}
    for cpus in (first, 2, 1, 4, 0, 2, 0.5):
        process, threads = wrapped.options(num_cpus=cpus).run(process_and_threads)
        assert threads == max(1, int(cpus)), cpus
        process, threads = ray.get(plain.remote())
        of_plain.setdefault(process, []).append(threads)  # what was there is put back
    assert all(len(set(threads)) <= 1 for threads in of_plain.values()), of_plain


def threads_stream(count: int):
    for _ in range(count):
        yield torch.get_num_threads()


class Threads(Runner):
    def stream(self, count: int):
        yield from threads_stream(count)

    async def later(self) -> int:
        await asyncio.sleep(0.001)
        return torch.get_num_threads()

    def after_setting(self, number: int) -> int:
        torch.set_num_threads(number)
        return torch.get_num_threads()


def test_threads_in_methods_of_all_kinds_and_as_the_environment_says(cluster):
    wrapped = ModelWrapper.for_tasks(Threads())
    assert list(wrapped.options(num_cpus=3).stream(2)) == [3, 3]
    assert wrapped.options(num_cpus=3).later() == 3
    assert wrapped.options(num_cpus=2).after_setting(5) == 5  # a method may do as it likes
    assert wrapped.options(num_cpus=2).later() == 2
    asked = wrapped.options(num_cpus=2, runtime_env={"env_vars": {"OMP_NUM_THREADS": "3"}})
    assert asked.later() == 3


# --- notebooks ---------------------------------------------------------------------------------------


def test_asking_what_it_is_loads_nothing(cluster, pipeline):
    calls.here.clear()
    other = pickle.loads(ray.cloudpickle.dumps(ModelWrapper.for_tasks(pipeline)))
    for wrapped in (ModelWrapper.for_tasks(pipeline), other):
        for name in (
            "_repr_html_",
            "_ipython_display_",
            "_repr_mimebundle_",
            "_ipython_canary_method_should_not_exist_",
        ):
            assert not hasattr(wrapped, name)
        repr(wrapped), str(wrapped), hash(wrapped)
        for name in {"encoder", "child", "config", "vocabulary", "calls", "temperature", "encode", "stream", "remote"}:
            assert name in dir(wrapped)
        assert "_private" not in dir(wrapped)
        assert list(inspect.signature(wrapped.encode).parameters) == ["x", "times"]
        assert inspect.signature(wrapped) == inspect.signature(pipeline)
        pydoc.render_doc(wrapped)
        pydoc.render_doc(wrapped.encode)
    assert not calls.here._entries


IPYTHON = """
import gc, pickle
import ray
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from helpers import allocated, ray_cluster, settles
from ray_zerocopy import ModelWrapper
from ray_zerocopy.tasks import calls
from test_tasks import Pipeline

with ray_cluster():
    shell = InteractiveShell.instance()
    wrapped = ModelWrapper.for_tasks(Pipeline())
    shell.push({"wrapped": wrapped, "other": pickle.loads(ray.cloudpickle.dumps(wrapped))})
    for name in ("wrapped", "other"):
        for line, expected in (("{}.enc", {"encode", "encoder"}), ("{}.encode.", {"map", "options", "remote"})):
            text = line.format(name)
            with provisionalcompleter():
                assert expected <= {each.text for each in shell.Completer.completions(text, len(text))}, text
        for line, expected in (("pinfo {}", "Pipeline"), ("pinfo {}.encode", "times"), ("pdef {}.encode", "times")):
            magic, _, argument = line.format(name).partition(" ")
            with capture_output() as shown:
                shell.run_line_magic(magic, argument)
            assert expected in shown.stdout, (line, shown.stdout)
        with capture_output() as shown:
            assert shell.run_cell(name).success
        assert "each call a Ray task" in shown.stdout
    assert not calls.here._entries  # nothing was loaded for all that

    before = allocated()
    shell.push({"ModelWrapper": ModelWrapper, "pipeline": Pipeline()})
    for _ in range(3):
        assert shell.run_cell("ModelWrapper.from_model(pipeline)", store_history=True).success
    assert allocated() >= before + 3 * 800_000  # Out[]
    assert shell.run_cell("for each in list(Out.values()): each.release()").success
    assert settles(lambda: allocated() <= before)
"""


def test_in_a_notebook(cluster):
    run_script(IPYTHON)


def test_a_signature_that_travels_is_the_same(cluster):
    class Many:
        def __init__(self) -> None:
            self.model = torch.nn.Linear(2, 2)

        def every(self, a, /, b: int, c: str = "c", *rest: float, d=None, e: bool = True, f=1e3, **more) -> None: ...

        def odd(self, a=torch.float32, b=(1, 2), c=float("nan")): ...

        @staticmethod
        def static(a: int = 1): ...

        @classmethod
        def of_class(cls, a): ...

    wrapped = ModelWrapper.for_tasks(Many())
    other = pickle.loads(ray.cloudpickle.dumps(wrapped))
    for name in ("every", "static", "of_class"):
        assert inspect.signature(getattr(other, name)) == inspect.signature(getattr(wrapped, name)), name
    assert str(inspect.signature(other.odd)) == "(a=Ellipsis, b=Ellipsis, c=Ellipsis)"


class Dawdler(Runner):
    def dawdle(self, marker: str) -> None:
        for _ in range(100):
            time.sleep(0.1)
        Path(marker).touch()

    def trickle(self, marker: str):
        for i in range(100):
            time.sleep(0.1)
            yield i
        Path(marker).touch()


@pytest.mark.parametrize("name", ["dawdle", "trickle"])
def test_interrupting_a_waiting_call_cancels_its_task(cluster, tmp_path, name):
    wrapped = ModelWrapper.for_tasks(Dawdler())
    wrapped.run(int)  # a worker is there
    threading.Timer(1.0, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        waited = getattr(wrapped.options(num_cpus=8), name)(str(tmp_path / "marker"))
        list(waited)
    assert wrapped.options(num_cpus=8).run(int) == 0  # the CPUs are free
    assert not (tmp_path / "marker").exists()


def test_an_exception_that_somebody_keeps_holds_no_image(cluster):
    pipeline = Pipeline()
    before = settled_allocation()
    wrapped = ModelWrapper.for_tasks(pipeline)
    assert allocated() > before
    kept: list[Exception] = []
    try:
        wrapped.fail("why")
    except KeyError as error:
        kept.append(error)
    try:
        wrapped.add(threading.Lock())
    except TypeError as error:
        kept.append(error)
    try:
        wrapped.nothing  # noqa: B018
    except AttributeError as error:
        kept.append(error)
    assert len(kept) == 3
    calls.here.clear()
    for error in kept:
        error.__traceback__ = error.__traceback__.tb_next  # what this function itself holds
    del wrapped
    assert settles(lambda: allocated() <= before)


def test_release_gives_the_memory_back_whoever_holds_a_stand_in(cluster):
    pipeline = Pipeline()
    before = allocated()
    wrapped = ModelWrapper.for_tasks(pipeline)
    out = [wrapped, wrapped.encode, wrapped.encoder, wrapped.options(num_cpus=2)]
    assert wrapped.encode(torch.ones(1, 64)).shape == (1, 64)  # kept by a worker
    assert wrapped.config  # and here
    wrapped.release()
    assert settles(lambda: allocated() <= before)
    for again in (
        lambda: wrapped.add(1),
        lambda: out[1](1),
        lambda: out[2].norm(),
        lambda: wrapped.config,
        wrapped.release,
    ):
        with pytest.raises(errors.ImageLostError, match="release"):
            again()


EDITED = """
import importlib, pathlib, sys, warnings
import ray, torch
sys.path.insert(0, FOLDER)
file = pathlib.Path(FOLDER, "edited_in_a_notebook.py")
TEXT = "import torch\\nclass Model(torch.nn.Linear):\\n    def which(self):\\n        return {!r}\\ndef helper(x):\\n    return x\\n"
sys.dont_write_bytecode = True
file.write_text(TEXT.format("first"))
import edited_in_a_notebook as module
from ray_zerocopy import ModelWrapper, errors

@ray.remote(num_cpus=0)
class Actor:
    def which(self, wrapper):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            answers = [wrapper.load()["model"].which() for _ in range(2)]
        return answers, [str(each.message) for each in caught if each.category is errors.StaleCodeWarning]

environment = {"env_vars": {"PYTHONPATH": ":".join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}}
ray.init(address="local", num_cpus=1, object_store_memory=80_000_000, include_dashboard=False, runtime_env=environment)
actor = Actor.remote()

def wrap():
    return ModelWrapper.from_model({"model": module.Model(2, 2), "function": module.helper})

answers, said = ray.get(actor.which.remote(wrap()))
assert (answers, said) == (["first", "first"], []), (answers, said)
file.write_text(TEXT.format("second"))
importlib.reload(module)
answers, said = ray.get(actor.which.remote(wrap()))
assert answers == ["first", "first"]  # the worker's
assert len(said) == 1 and "edited_in_a_notebook.Model is other code in this process" in said[0], said
assert ray.get(Actor.remote().which.remote(wrap())) == (["second", "second"], [])  # a new one
module.helper.__code__ = (lambda x: -x).__code__
answers, said = ray.get(actor.which.remote(wrap()))
assert len(said) == 1 and "edited_in_a_notebook.helper" in said[0], said
"""


def test_a_worker_that_runs_other_code_says_so(tmp_path):
    run_script(EDITED.replace("FOLDER", repr(str(tmp_path))))


# --- what a worker keeps -----------------------------------------------------------------------------


def test_a_second_call_in_a_worker_loads_nothing(cluster, pipeline):
    wrapped = ModelWrapper.for_tasks(pipeline)
    seen: dict[int, set[int]] = {}
    for _ in range(20):
        process, identity = wrapped.identity()
        seen.setdefault(process, set()).add(identity)
    assert all(len(identities) == 1 for identities in seen.values())


def test_state_stays_in_its_worker_unless_fresh(cluster, pipeline):
    wrapped = ModelWrapper.for_tasks(pipeline)
    counts: dict[int, list[int]] = {}
    for _ in range(10):
        process, count = wrapped.count()
        counts.setdefault(process, []).append(count)
    assert all(each == list(range(1, len(each) + 1)) for each in counts.values())
    fresh = wrapped.options(fresh=True)
    assert {fresh.count()[1] for _ in range(5)} == {1}
    assert {fresh.change() for _ in range(3)} == {0.0}
    assert fresh.encoder.norm() == pipeline.encoder.norm()
    assert {wrapped.options(fresh=True).options(fresh=False).count()[1] for _ in range(3)} != {1}


def test_a_changed_model_is_a_new_wrapper(cluster):
    model = torch.nn.Linear(64, 64, bias=False)
    ones = torch.ones(1, 64)
    first = ModelWrapper.for_tasks(model)
    before = first(ones)
    with torch.no_grad():
        model.weight.add_(1)
    second = ModelWrapper.for_tasks(model)
    assert torch.equal(second(ones), model(ones))
    assert torch.equal(first(ones), before)


def test_memory_comes_back_when_the_wrapper_is_gone(cluster):
    wrapped = ModelWrapper.for_tasks(Runner(torch.nn.Linear(2048, 2048)))
    process, address = wrapped.where()
    here = wrapped.models[0].weight.data_ptr()  # loads in this process, too
    time.sleep(3)
    assert is_mapped(process, address)
    assert is_mapped(os.getpid(), here)
    del wrapped
    assert settles(lambda: not is_mapped(process, address))
    assert settles(lambda: not is_mapped(os.getpid(), here))


def test_what_is_kept_is_bounded(cluster):
    def images(**settings: str):
        environment = {"env_vars": {f"RAY_ZEROCOPY_KEPT_{name}": value for name, value in settings.items()}}
        wrapped = [ModelWrapper.for_tasks(Ballast()) for _ in range(4)]
        # one worker for all, since no more than one fits
        one = {"runtime_env": environment, "num_cpus": 8}
        return wrapped, [each.options(**one) for each in wrapped]

    alive, each = images(MODELS="2")
    assert [e.count() for e in each for _ in range(2)] == [1, 2] * 4
    assert [each[3].count(), each[2].count(), each[0].count()] == [3, 3, 1]
    alive, each = images(BYTES=str(250 << 20))
    assert [e.count(100 << 20) for e in each] == [1, 1, 1, 1]
    assert each[3].count() == 2
    assert each[0].count() == 1
    alive, each = images(SECONDS="1")
    assert each[0].count() == 1
    assert settles(lambda: each[0].options(name="again").count() == 1 or time.sleep(6), 30)
    alive, each = images(MODELS="0")
    assert [each[0].count(), each[0].count()] == [1, 1]
    alive, each = images(MODELS="many")
    with pytest.raises(errors.SettingError, match=r"RAY_ZEROCOPY_KEPT_MODELS='many'"):
        each[0].count()
    del alive


def test_a_setting_that_is_no_number_is_told_and_ends_nothing(cluster, monkeypatch):
    wrapped = ModelWrapper.for_tasks(Runner(torch.nn.Linear(1024, 1024)))
    address = wrapped.models[0].weight.data_ptr()
    monkeypatch.setenv("RAY_ZEROCOPY_KEPT_SECONDS", "5m")
    other = ModelWrapper.for_tasks(Runner(torch.nn.Linear(8, 8)))
    with pytest.raises(errors.SettingError, match=r"RAY_ZEROCOPY_KEPT_SECONDS='5m' is not a number"):
        _ = other.models
    del wrapped
    assert settles(lambda: not is_mapped(os.getpid(), address))


def test_whether_an_image_is_in_use_is_asked_once(cluster, monkeypatch):
    asked = []
    ending = leases.ending
    monkeypatch.setattr(leases, "ending", lambda key: asked.append(key) or ending(key))
    wrapped = ModelWrapper.for_tasks(Runner(torch.nn.Linear(8, 8)))
    _ = wrapped.models
    time.sleep(4)
    assert settles(lambda: asked and calls.here._entries[asked[-1]].ending is not None)
    count = len(asked)
    assert count <= 4  # the actor that answers may have to start
    time.sleep(6)
    assert len(asked) == count
    del wrapped
    assert settles(lambda: asked[-1] not in calls.here._entries)


class Ballast:
    """Takes memory of its worker's own."""

    def __init__(self) -> None:
        self.model = torch.nn.Linear(300, 300)
        self.calls = 0
        self.held = b""

    def count(self, size: int = 0) -> int:
        self.calls += 1
        self.held = self.held or b"x" * size
        return self.calls


def test_two_threads_that_ask_at_once_get_one_object(cluster, pipeline):
    original = ModelWrapper.for_tasks(pipeline)  # while it is there, nothing that is kept is dropped
    wrapped = pickle.loads(ray.cloudpickle.dumps(original))
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(wrapped.config)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(config) for config in found}) == 1


def test_a_call_that_waits_for_a_cpu_that_actors_hold_says_so():
    run_script("programs/held_cpus.py")


# --- errors ------------------------------------------------------------------------------------------


def test_an_exception_arrives_with_its_type_its_traceback_and_the_methods_name(wrapped):
    with pytest.raises(KeyError, match=r"Pipeline\.fail") as caught:
        wrapped.fail("because")
    assert "because" in str(caught.value)
    assert "raise KeyError(why)" in str(caught.value)
    with pytest.raises(TypeError, match=r"encode\(\) got an unexpected keyword argument 'nothing'"):
        wrapped.encode(nothing=1)


def test_arguments_that_cannot_be_sent(wrapped):
    with pytest.raises(errors.UnpicklableArgumentError, match=r"argument 0 of Pipeline\.add \(a lock\)"):
        wrapped.add(threading.Lock())
    with pytest.raises(errors.UnpicklableArgumentError, match=r"argument 'b' of Pipeline\.add \(a lock\)"):
        wrapped.add.remote(1, b=threading.Lock())


def test_a_worker_that_dies_is_replaced_as_ray_does(wrapped, tmp_path):
    assert wrapped.die(str(tmp_path / "marker")) == "survived"
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        wrapped.options(max_retries=0).die(str(tmp_path / "other"))


def test_an_image_whose_owner_is_gone(cluster):
    @ray.remote
    class Owner:
        def wrap(self):
            return ModelWrapper.for_tasks(Runner(torch.nn.Linear(512, 512)))

    owner = Owner.options(num_cpus=0).remote()
    wrapped = ray.get(owner.wrap.remote())
    ray.kill(owner)

    image = wrapped._StandIn__target.image

    def is_lost() -> bool:  # without a load, which whoever has it keeps
        try:
            image.fetch()
        except errors.ImageLostError:
            return True
        return False

    assert settles(is_lost)  # Ray takes a while to notice that a process has ended
    with pytest.raises(errors.ImageLostError, match="outlives its users"):
        wrapped.run(abs, -1)
    with pytest.raises(errors.ImageLostError, match="outlives its users"):
        wrapped.models  # noqa: B018


@pytest.mark.parametrize("how", ["sys.exit()", "ray.shutdown()", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_driver_that_ends_while_calls_are_under_way_leaves_nothing_in_the_store(cluster, how):
    program = f"""
import os, signal, sys, time, ray, torch
ray.init({ray.get_runtime_context().gcs_address!r}, log_to_driver=False)
from ray_zerocopy import ModelWrapper

class Slow:
    def __init__(self):
        self.model = torch.nn.Linear(1500, 1500)  # 9 MB

    def __call__(self, seconds):
        time.sleep(seconds)

wrapped = ModelWrapper.for_tasks(Slow()).options(num_cpus=0)
wrapped(0)
started = [wrapped.remote(30) for _ in range(3)]
time.sleep(1)
{how}
"""
    gc.collect()
    before = allocated()
    subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120, check=False)
    assert settles(lambda: allocated() <= before), f"{allocated() - before} bytes are left in the store"


def test_a_class_that_workers_cannot_import(tmp_path):
    (tmp_path / "not_installed.py").write_text("import torch\nclass Net(torch.nn.Linear): pass\n")
    run_script(
        "import sys, pytest, ray, torch\n"
        "from helpers import ray_cluster\n"
        "from ray_zerocopy import ModelWrapper, errors\n"
        "with ray_cluster():\n"
        f"    sys.path.insert(0, {str(tmp_path)!r})\n"
        "    import not_installed\n"
        '    with pytest.raises(errors.ClassNotFoundError, match=r"not_installed.*runtime_env"):\n'
        "        ModelWrapper.for_tasks(not_installed.Net(2, 2))(torch.ones(1, 2))\n"
    )


def test_without_ray():
    run_script(
        "import pytest, torch\n"
        "from ray_zerocopy import ModelWrapper, errors\n"
        "with pytest.raises(errors.RayNotInitializedError, match='ray.init'):\n"
        "    ModelWrapper.for_tasks(torch.nn.Linear(2, 2))\n",
        RAY_ENABLE_AUTO_CONNECT="0",
    )


def test_grad_mode_is_the_users(cluster, x):
    model = Encoder()
    wrapped = ModelWrapper.for_tasks(model)
    result = wrapped(x)
    assert result.requires_grad
    result.sum().backward()
    with torch.no_grad():
        assert torch.equal(result, model(x))
    assert not ModelWrapper.for_tasks(NoGrad())(x).requires_grad


class NoGrad(Encoder):
    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


# --- where it can be used ----------------------------------------------------------------------------


def test_inside_tasks_and_actors(cluster, wrapped, pipeline, x):
    @ray.remote
    def task(wrapped, x):
        return wrapped(x), wrapped.config, ModelWrapper.for_tasks(Pipeline()).add(1)

    @ray.remote
    class Actor:
        def __init__(self, wrapped):
            self.wrapped = wrapped
            self.own = ModelWrapper.for_tasks(Pipeline())

        def call(self, x):
            return self.wrapped.encoder(x), self.own.add(2)

    result, config, two = ray.get(task.remote(wrapped, x))
    assert torch.equal(result, pipeline(x))
    assert (config, two) == ({"temperature": 0.5}, 2)
    actor = Actor.options(num_cpus=0).remote(wrapped)
    result, three = ray.get(actor.call.remote(x))
    assert torch.equal(result, pipeline.encoder(x))
    assert three == 3

    @ray.remote
    def captures(x):
        return wrapped.encode(x)

    assert torch.equal(ray.get(captures.remote(x)), pipeline.encode(x))


def test_inside_ray_data(cluster, wrapped, pipeline):
    rows = np.random.default_rng(0).standard_normal((32, 64), dtype=np.float32)
    data = ray.data.from_numpy(rows).rename_columns({"data": "x"})

    def encode(batch):
        batch["y"] = wrapped(torch.from_numpy(batch["x"])).detach().numpy()
        return batch

    for row in data.map_batches(encode, batch_size=8).take_all():
        with torch.no_grad():
            expected = pipeline(torch.from_numpy(row["x"])).numpy()
        assert np.allclose(row["y"], expected, rtol=1e-5, atol=1e-6)


def test_inside_ray_serve(cluster, wrapped, pipeline, x):
    from ray import serve

    @serve.deployment(ray_actor_options={"num_cpus": 0.1})
    class Service:
        def __init__(self, wrapped):
            self.wrapped = wrapped

        async def __call__(self, x):
            return (await self.wrapped.remote(x)).detach().numpy()

    try:
        handle = serve.run(Service.bind(wrapped), name="tasks", route_prefix=None)
        assert np.array_equal(handle.remote(x).result(), pipeline(x).detach().numpy())
    finally:
        serve.shutdown()


def test_a_stand_in_is_small_even_with_classes_of_the_main_script():
    out = run_script(
        "import pickle, ray, torch, transformers\n"
        "from helpers import ray_cluster\n"
        "from ray_zerocopy import ModelWrapper\n"
        "class Long(torch.nn.Linear):\n"
        "    '''" + "A long text. " * 1000 + "'''\n"
        "    def twice(self, x): return self(self(x))\n"
        "config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=100)\n"
        "with ray_cluster():\n"
        "    model = Long(1000, 1000)\n"
        "    wrapped = ModelWrapper.for_tasks(model)\n"
        "    x = torch.ones(1, 1000)\n"
        "    assert torch.equal(wrapped.twice(x), model.twice(x))\n"
        "    print(len(ray.cloudpickle.dumps(wrapped)), len(pickle.dumps(ModelWrapper.from_model(model, 'task'))))\n"
        "    model = transformers.GPT2LMHeadModel(config).eval()\n"
        "    wrapped = ModelWrapper.for_tasks(model)\n"
        "    ids = torch.ones(1, 3, dtype=torch.long)\n"
        "    generated = wrapped.generate(ids, max_new_tokens=3, do_sample=False)\n"
        "    assert torch.equal(generated, model.generate(ids, max_new_tokens=3, do_sample=False))\n"
        "    assert wrapped.num_parameters() == model.num_parameters()\n"
        "    assert wrapped.config.n_embd == 32\n"
        "    print(len(ray.cloudpickle.dumps(wrapped)))\n"
    ).stdout
    assert all(int(size) <= 4096 for size in out.split())


class Stateful(torch.nn.Module):
    """Has a method beside ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)

    @torch.jit.export
    def twice(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.linear(x))


@pytest.mark.parametrize("wrap", [JITTaskWrapper, JITModelWrapper.for_tasks, ModelWrapper.for_tasks])
def test_torchscript_uses_the_same_path(cluster, x, wrap):
    model = torch.jit.script(Stateful())
    for wrapped in (wrap(model), pickle.loads(ray.cloudpickle.dumps(kept := wrap(model)))):
        assert torch.equal(wrapped(x), model(x))
        assert torch.equal(wrapped.forward(x), model(x))
        assert torch.equal(wrapped.twice(x), model.twice(x))
        assert torch.equal(wrapped.linear(x), model.linear(x))
        assert isinstance(wrapped, JITTaskWrapper) == (wrap is JITTaskWrapper)
    del kept


def test_a_pipeline_around_torchscript(cluster, x):
    pipeline = Child(torch.jit.trace(torch.nn.Linear(64, 64), x))
    wrapped = JITTaskWrapper(pipeline)
    assert wrapped.process_id() != os.getpid()
    assert torch.equal(wrapped.model(x), pipeline.model(x))
    with pytest.raises(TypeError, match="TorchScript"):
        JITTaskWrapper(Encoder())


def test_exported_programs(cluster, x):
    model = torch.nn.Linear(64, 64)
    program = torch.export.export(model, (x,))
    wrapped = ModelWrapper.for_tasks(program)
    assert torch.equal(wrapped(x), model(x))
    assert torch.equal(wrapped(x), model(x))
    child = ModelWrapper.for_tasks(Child(program))
    assert child.process_id() != os.getpid()
    assert torch.equal(child.model(x), model(x))
