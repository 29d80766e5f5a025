"""The caller's side of calls as Ray tasks: a stand-in with a pipeline's own methods, each call of which is one task
beside the weights.

The caller knows little more than the names of the methods (`Interface`); a worker keeps what it has loaded from an
image (see `calls`), so that only the first call there loads. Attributes are read from a pipeline that is loaded, and
kept in the same way, in the caller's own process.

The image's reference goes to the task inside an argument, and the task gets the image unless it keeps the pipeline.
As an argument by itself Ray would bring it to the node first, and prefer nodes that have it; but an argument of a task
that runs when its driver ends, by whatever means, stays in the store for good (Ray's issue 64627, seen with 2.60).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field, replace
from typing import Any

import ray
import torch
import tqdm
from ray import cloudpickle
from ray.exceptions import RaySystemError

from .. import errors, traces
from ..arrival import ADVICE, Arrival
from ..graph import pipeline
from ..graph.paths import children
from ..stores import connection, loading
from ..stores.files import File
from ..stores.loading import Place
from ..stores.named import Name
from . import calls, congestion, leases, relay, signatures
from .calls import CALL, Call

# What nn.Module itself offers and only reads: done in the caller's process, over the shared weights.
# fmt: off
_READERS = {
    "buffers", "children", "extra_repr", "get_buffer", "get_extra_state", "get_parameter", "get_submodule", "modules",
    "named_buffers", "named_children", "named_modules", "named_parameters", "parameters", "state_dict",
}
# fmt: on
# Bytes of names of methods, of names of attributes and of signatures that travel with a stand-in.
_METHODS, _ATTRIBUTES, _SIGNATURES = 1800, 700, 700

# Seconds up to which a call is not cancelled. Ray (2.60, and its issue 54260) ends the process that cancels a task just
# when the task ends, and most of those that take no longer would.
_YOUNG = 0.5


@dataclass(frozen=True)
class Interface:
    """What a caller needs to know of an object in order to call it without loading it.

    Attributes:
        class_name: name of its class.
        methods: names of its methods, those of the most derived class first, as many as stay small.
        generators: those of them that yield.
        attributes: names of its public attributes, as many as stay small.
        signatures: see `signatures.text`, by method, as many as stay small.
        functions: the functions, static and class methods behind them, for documentation. Like ``documentation``, that
            of the class, it stays in this process; elsewhere the image tells.
    """

    class_name: str
    methods: tuple[str, ...]
    generators: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    signatures: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    functions: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    documentation: str | None = field(default=None, compare=False, repr=False)

    def __reduce__(self) -> Any:
        return Interface, (self.class_name, self.methods, self.generators, self.attributes, self.signatures)


def interface(part: Any, extra: Iterable[str] = ()) -> Interface:
    """The interface of a model or pipeline.

    Args:
        part: the model or pipeline.
        extra: names of methods to offer beside the public ones, as far as ``part`` has them.
    """
    cls = type(part)
    found: dict[str, Any] = {}
    if callable(part):
        # a module's documentation and signature are those of its forward
        plain = isinstance(part, torch.nn.Module) and cls.__call__ is torch.nn.Module.__call__
        found[CALL] = inspect.getattr_static(cls, "forward" if plain else CALL, None)
    for name in (*extra, *pipeline.method_names(part)):
        if callable(getattr(part, name, None)):
            found.setdefault(name, inspect.getattr_static(cls, name, None))
    names = _few(found, _METHODS)
    generators = tuple(name for name in names if _yields(signatures.plain(found[name])))
    texts = dict(zip(names, _few((signatures.text(found[name]) for name in names), _SIGNATURES)))
    attributes = _few(dict.fromkeys(_attributes(part)), _ATTRIBUTES)
    return Interface(cls.__qualname__, names, generators, attributes, texts, found, cls.__doc__)


def _few(texts: Iterable[str], most: int) -> tuple[str, ...]:
    """The first of some texts, as many as fit into so many bytes."""
    few, size = [], 0
    for text in texts:
        size += len(text) + 4
        if size > most:
            break
        few.append(text)
    return tuple(few)


def _attributes(part: Any) -> Iterator[str]:
    """The names of the public attributes of a model or pipeline that are no methods."""
    if isinstance(part, torch.nn.Module):
        for group in (part._modules, part._parameters, part._buffers):
            yield from (name for name, _ in group.items())
    if not isinstance(part, torch.jit.ScriptModule):
        yield from (label[1:] for label, _ in children(part) if label[:1] == "." and label[1:2] != "_")
        for cls in type(part).__mro__:
            if cls.__module__.partition(".")[0] != "torch":
                yield from (
                    name
                    for name, value in vars(cls).items()
                    if name[:1] != "_" and isinstance(value, (property, functools.cached_property))
                )
    if isinstance(part, torch.nn.Module):
        yield from ("training", *sorted(_READERS))


def _yields(function: Any) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


class Method:
    """One method of a pipeline; a call of it runs as one Ray task. A `StandIn` has one for each method."""

    def __init__(self, target: _Target, name: str, function: Any = None) -> None:
        self._target, self._name, self._function = target, name, function
        if function is not None:
            functools.update_wrapper(self, signatures.plain(function), updated=())
        self.__name__ = name
        self.__qualname__ = f"{target.interface.class_name}.{name}"

    @traces.holds_nothing
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the method in a task, and wait for its result. Interrupting a wait of half a second cancels the task.

        Returns:
            The result; of a method that yields, an iterator over what it yields; with ``num_returns``, a list.

        Raises:
            Exception: what the method raises, with its own type, as Ray's tasks do.
            ImageLostError: the pipeline is no longer in the store.
            PackageMissingError: the process that was to run the call does not have this package.
            ForkedProcessError, UnpicklableArgumentError: as `remote`.
        """
        started = self.remote(*args, **kwargs)
        with self._cancelled_by_interrupt(started, time.monotonic()):
            return self._result(started)

    @traces.holds_nothing
    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Start the method in a task.

        Arguments that are object references are waited for and replaced by their values, as Ray does.

        Returns:
            What Ray's ``.remote()`` gives: an ``ObjectRef``, which can be awaited too; a list of them with
            ``num_returns``; an ``ObjectRefGenerator`` for a method that yields.

        Raises:
            ForkedProcessError: this process was forked from one that uses Ray.
            ImageLostError: `ray.shutdown` has been called in this process since.
            UnpicklableArgumentError: an argument cannot be sent to another process.
        """
        self._target.image.require(f"Calling {self.__qualname__}")
        try:
            return self._target.task(self._name).remote(self._target.image, self._call, *args, **kwargs)
        except Exception as cause:
            for label, value in [*enumerate(args), *kwargs.items()]:
                try:
                    cloudpickle.dumps(value)
                except Exception as reason:
                    raise errors.UnpicklableArgumentError(
                        f"argument {label!r} of {self.__qualname__} (a {type(value).__qualname__}) cannot be sent to "
                        f"a worker: {reason}. Pass plain data (tensors, arrays, text), or make it in the pipeline."
                    ) from cause
            raise

    def options(self, *, fresh: bool | None = None, **options: Any) -> Method:
        """The same method with other settings for its tasks; see `StandIn.options`."""
        return Method(self._target.having(fresh, options), self._name, self._function)

    def map(self, *iterables: Iterable[Any], max_in_flight: int | None = None, progress: bool = False) -> Iterator[Any]:
        """Call the method for every item, several calls at once; see `StandIn.map`."""
        self._target.image.require(f"Calling {self.__qualname__}")
        if max_in_flight is None:
            cpus = self._target.options.get("num_cpus", 1)
            max_in_flight = max(2, round(2 * ray.cluster_resources().get("CPU", 1) / (cpus or 1)))
        if max_in_flight < 1:
            raise ValueError(f"max_in_flight is {max_in_flight}; it must be at least 1")
        return self._mapped(iterables, max_in_flight, progress)

    def _mapped(self, iterables: tuple[Iterable[Any], ...], max_in_flight: int, progress: bool) -> Iterator[Any]:
        bar = _bar(self.__qualname__, iterables) if progress else None
        started: deque[Any] = deque()
        times: deque[float] = deque()
        pin = connection.Pin(started)
        try:
            items = zip(*iterables)
            for item in itertools.chain(items, itertools.repeat(None)):
                if item is not None:
                    started.append(self.remote(*item))
                    times.append(time.monotonic())
                    if len(started) < max_in_flight:
                        continue
                elif not started:
                    return
                with self._cancelled_by_interrupt(started[0], times.popleft()):
                    result = self._result(started.popleft())
                if bar is not None:
                    bar.update(1)
                yield result
        finally:
            for call, since in zip(started, times):
                self._cancel(call, since)
            del pin
            if bar is not None:
                bar.close()

    def _result(self, started: Any) -> Any:
        if started is not None and not isinstance(started, (list, ray.ObjectRef)):
            return self._items(started)
        self._target.image.require(f"Waiting for {self.__qualname__}")
        try:
            return None if started is None else connection.fetch(started, late=self._late)
        except RaySystemError as cause:
            if "No module named 'ray_zerocopy'" in str(cause):
                raise errors.PackageMissingError(f"{cause}\n{ADVICE}") from cause
            raise

    def _items(self, started: Any) -> Iterator[Any]:
        with self._cancelled_by_interrupt(started, time.monotonic()):
            for reference in started:
                yield self._result(reference)

    @contextlib.contextmanager
    def _cancelled_by_interrupt(self, started: Any, since: float) -> Iterator[None]:
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            self._cancel(started, since)
            raise

    def _cancel(self, started: Any, since: float) -> None:
        if time.monotonic() - since < _YOUNG:
            return
        if started and self._target.image.usable() and not inspect.isgenerator(started):  # as Ray Client's
            ray.cancel(started[0] if isinstance(started, list) else started)

    def _late(self, seconds: float) -> None:
        congestion.warn_if_stuck(self.__qualname__, self._target.options.get("num_cpus", 1), seconds)

    @property
    def _call(self) -> Call:
        return self._target.image.key, self._target.path, self._name, self._target.fresh

    @property
    def __signature__(self) -> inspect.Signature:
        if self._function is None:  # it came from another process
            return signatures.read(self._target.interface.signatures.get(self._name, ""))
        return signatures.of(self._function)

    def __repr__(self) -> str:
        return f"<{self.__qualname__}, each call a Ray task>"

    def __reduce__(self) -> Any:
        return Method, (self._target, self._name)


def _bar(name: str, iterables: tuple[Iterable[Any], ...]) -> Any:
    lengths = [len(each) for each in iterables if isinstance(each, Sized)]
    if ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        from ray.experimental import tqdm_ray

        bar: Any = tqdm_ray.tqdm  # so that the driver shows it
    else:
        bar = tqdm.tqdm
    return bar(total=min(lengths, default=None), desc=name)


@dataclass(frozen=True, eq=False)
class _Target:
    """What the calls of a stand-in go to: a part of an image, and how."""

    image: Place
    interface: Interface
    path: tuple[str, ...] = ()
    fresh: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    lease: leases.Lease | None = None
    tasks: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def task(self, method: str) -> Any:
        """The Ray task that calls a method: made once, which takes longer than all else that a call does here."""
        task = self.tasks.get(method)
        if task is None:
            described = self.interface
            returns = self.options.get("num_returns", "streaming" if method in described.generators else 1)
            kind = calls.streaming_task if returns in ("streaming", "dynamic") else calls.task
            name = described.class_name if method == CALL else f"{described.class_name}.{method}"
            options = {"name": name, "num_returns": returns, **self.options}
            through_relay = returns == "streaming" and connection.is_client()
            task = self.tasks[method] = relay.Streaming(options) if through_relay else kind.options(**options)
        return task

    def elsewhere(self, name: str) -> Any:
        """As `attribute`, of an attribute that a task in the cluster looks at: a process that has no store cannot."""
        self.image.require(f"Reading {name!r} of a {self.interface.class_name}")
        task = relay.look_task.options(**{**self.options, "num_cpus": 0, "num_returns": 1})
        call: Call = (self.image.key, self.path, name, False)
        found = ray.get(task.remote(self.image, call, self))
        if found is None:
            raise errors.RayClientError(f"Reading {name!r} of a {self.interface.class_name}")
        if found == relay.METHOD:
            return Method(self, name)
        return _made(StandIn, replace(self, interface=found, path=(*self.path, name)))

    def having(self, fresh: bool | None, options: dict[str, Any]) -> _Target:
        merged = {**self.options, **options}
        calls.task.options(**merged)  # Ray says what it does not take
        return replace(self, fresh=self.fresh if fresh is None else fresh, options=merged)

    def here(self) -> Any:
        """What the stand-in stands for, loaded in this process."""
        self.image.require(f"Reading an attribute of a {self.interface.class_name}")
        loaded = calls.here.get(self.image.key, lambda: loading.load(self.image)[0])
        return functools.reduce(getattr, self.path, loaded)

    def __reduce__(self) -> Any:
        return _Target, (self.image, self.interface, self.path, self.fresh, self.options)


class StandIn:
    """Stands for a pipeline in Ray's object store: each call of a method runs as one Ray task.

    A model among the pipeline's attributes is a stand-in too. Other attributes can be read, as they were when the
    pipeline was wrapped, and none can be set. A stand-in is small and can be pickled: into tasks, actors, Ray Data.
    Where the pipeline itself has a method ``remote``, ``options``, ``map`` or ``release``, that one is meant; each
    method has the first three of its own.
    """

    __slots__ = ("__target", "__weakref__")
    __target: _Target

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Start a call of the pipeline itself in a task; see `Method.remote`."""
        return self.__itself("remote").remote(*args, **kwargs)

    def options(self, *, fresh: bool | None = None, **options: Any) -> StandIn:
        """The same pipeline with other settings for its tasks.

        Args:
            fresh: True: each call gets an object of its own, as it was wrapped, over the same weights. False (at
                first): a worker keeps the object, and whatever a call changes in it is there in the next call that
                happens to run in that worker.
            **options: Ray's own: ``num_cpus``, ``resources``, ``runtime_env``, ``max_retries``, ``num_returns``,
                ``scheduling_strategy`` and so on.

        Raises:
            ValueError: Ray does not know an option, or does not take its value.
        """
        made: StandIn = _aimed(type(self), self.__target.having(fresh, options))
        return made

    def map(self, *iterables: Iterable[Any], max_in_flight: int | None = None, progress: bool = False) -> Iterator[Any]:
        """Call the pipeline for every item, several calls at once.

        Args:
            *iterables: the items; of several, each call takes one of each, as in Python's ``map``. They are read no
                further than calls are started.
            max_in_flight: how many calls may be started whose results have not been taken; None: twice as many as
                the cluster can run at once.
            progress: show a ``tqdm`` bar (in a worker, Ray's, which the driver shows).

        Yields:
            The results, in the order of the items. The error of a call is raised in its place. Calls that are
            under way then, or when the iterator is closed, are cancelled, but for the youngest (half a second).

        Raises:
            ValueError: ``max_in_flight`` is less than 1.
        """
        return self.__itself("map").map(*iterables, max_in_flight=max_in_flight, progress=progress)

    def release(self) -> None:
        """Give the store its memory back now; see `ray_zerocopy.ModelWrapper.release`."""
        release(self.__target.image)

    def __itself(self, action: str) -> Method:
        described = self.__target.interface
        if CALL not in described.methods:
            one = next(iter(described.methods), "method")
            raise AttributeError(
                f"a {described.class_name} cannot be called by itself: use .{one}.{action}(...), or {action} of "
                "another of its methods"
            )
        method: Method = getattr(self, CALL)
        return method

    @traces.holds_nothing
    def __getattr__(self, name: str) -> Any:
        if (name.endswith("_") and name.startswith(("__", "_repr_", "_ipython_"))) or name == "getdoc":
            raise AttributeError(name)  # a question of Python's, of a library's (__array__), or of a notebook's
        target = self.__target
        return target.elsewhere(name) if connection.is_client() else attribute(target, target.here(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise errors.TaskStateError(
            f"{name!r} of a {self.__target.interface.class_name} cannot be set: its methods run in other processes, "
            "which would not see it. Set it before the pipeline is wrapped, pass it as an argument, or use "
            "mode='actor'."
        )

    def __delattr__(self, name: str) -> None:
        setattr(self, name, None)

    def __repr__(self) -> str:
        return f"<{'.'.join((self.__target.interface.class_name, *self.__target.path))}, each call a Ray task>"

    def __reduce__(self) -> Any:
        return _MADE, (type(self).__bases__[0], self.__target)

    def _method(self, name: str, function: Any) -> Method:
        return Method(self.__target, name, function)


def release(place: Place) -> None:
    """See `ray_zerocopy.ModelWrapper.release`."""
    if isinstance(place, Name):
        raise ValueError(
            f"{place.name!r} is a named model, which nobody holds by a reference: release() is for models without a "
            f"name. ModelWrapper.delete({place.name!r}) ends it"
        )
    if isinstance(place, File):
        raise ValueError(f"{place} is in no store, which could be given memory back: release() is for models there")
    place.give_back()
    calls.here.drop(place.key)
    leases.end(place.key)


def attribute(target: _Target, part: Any, name: str) -> Any:
    """What a stand-in gives for an attribute: a method, a stand-in for a model, or the value itself.

    Args:
        target: what the stand-in's calls go to.
        part: what the stand-in stands for, loaded in this process.
        name: the attribute.
    """
    value = getattr(part, name)
    static = inspect.getattr_static(type(part), name, None)
    if isinstance(value, torch.ScriptMethod) or (inspect.isroutine(value) and static is not None):
        if static is None or static is not inspect.getattr_static(torch.nn.Module, name, None):
            return Method(target, name, static)
        if name in _READERS:
            return value
        raise errors.TaskStateError(
            f"{name}() changes a {target.interface.class_name}, and in a task it would change one worker's only: "
            "do it before the model is wrapped, or use mode='actor' and do it to what load() gives"
        )
    if pipeline.is_model(value):
        return _made(StandIn, replace(target, interface=interface(value), path=(*target.path, name)))
    return value


class _Offer:
    """A method in the class of a stand-in."""

    def __init__(self, name: str, function: Any) -> None:
        self._name, self._function = name, function

    def __get__(self, instance: StandIn | None, owner: type) -> Any:
        if instance is None:
            return signatures.plain(self._function) or self  # for help()
        return instance._method(self._name, self._function)


class _Attribute:
    """An attribute in the class of a stand-in. Completion asks for the values of all that it does not find there, and
    would load the pipeline for them."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: StandIn | None, owner: type) -> Any:
        return self if instance is None else instance.__getattr__(self._name)


def stand_in(base: type[StandIn], place: Place, described: Interface, lease: leases.Lease | None) -> Any:
    """A stand-in for the object in an image.

    Args:
        base: `StandIn` or a subclass.
        place: the image.
        described: what `interface` says of the object.
        lease: kept as long as the stand-in.
    """
    return _made(base, _Target(place, described, lease=lease))


def _made(base: type[StandIn], target: _Target) -> Any:
    described = target.interface
    # a class of its own: callable() and help() ask the class
    cls = type(described.class_name.rpartition(".")[2], (base,), {
        **{name: _Attribute(name) for name in described.attributes if not hasattr(base, name)},
        **{name: _Offer(name, described.functions.get(name)) for name in described.methods},
        **({"__signature__": _OF_CALL} if CALL in described.methods else {}),
        "__slots__": (),
        "__doc__": "\n\n".join(filter(None, [described.documentation, base.__doc__])),
        "__module__": base.__module__,
    })  # fmt: skip
    return _aimed(cls, target)


_OF_CALL = property(lambda made: getattr(made, CALL).__signature__)
_MADE = Arrival(_made)


def _aimed(cls: type[StandIn], target: _Target) -> Any:
    made = object.__new__(cls)
    object.__setattr__(made, "_StandIn__target", target)
    return made
