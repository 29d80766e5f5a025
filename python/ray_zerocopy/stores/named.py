"""Named images: what a process asks the cluster's keeper, and what the answers mean here (see `keeper`)."""

from __future__ import annotations

import difflib
import os
import pickle
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Optional

import ray
from ray import cloudpickle
from ray import exceptions as ray_exceptions
from ray.exceptions import ObjectLostError, RayActorError, RayError

from .. import errors
from ..core import Bytes
from . import client, connection, endings, keeper, objects, records
from .keeper import Answer
from .records import About, Source

# Ray before 2.11 has one error for an actor that died and for one that does not answer.
_ACTOR_DIED: type[RayError] = getattr(ray_exceptions, "ActorDiedError", RayActorError)

Lifetime = Optional[Literal["detached"]]

DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True)
class Name:
    """One version of a named model, as wrappers hold and pickle it: it pins nothing.

    Attributes:
        namespace, name, version: as users give them.
        token: tells this version from any other that had, or will have, the same name and number.
    """

    namespace: str
    name: str
    version: int
    token: str

    @property
    def key(self) -> bytes:
        """What processes keep a loaded pipeline under, and ask by whether it is in use."""
        return endings.key(self.token)

    def require(self, action: str) -> None:
        """Connect to Ray if need be; a name is good in every connection to its cluster.

        Raises:
            RayNotInitializedError, ForkedProcessError: Ray cannot be used in this process.
        """
        connection.ensure(action)

    def usable(self) -> bool:
        """Whether Ray can be used."""
        return connection.usable()

    def __str__(self) -> str:
        return f"version {self.version} of {self.name!r} in namespace {self.namespace!r}"

    def reference(self, timeout: float | None = None) -> ray.ObjectRef[Any]:
        """The image's reference, borrowed from the keeper; an image that can be made again is.

        Raises:
            ModelNotFoundError: there is no such name, or this version was replaced or deleted.
            ImageLostError: its image is lost, and nothing can make it again.
            FactoryError, or what the factory raises: it was to be made again.
            LoadTimeoutError.
        """
        answer = _look_up((self.namespace, self.name), self.version, self.token, True, timeout)
        if answer.outcome in ("missing", "replaced"):
            raise _gone(self, answer)
        _raise_problem(self.name, answer)
        reference: ray.ObjectRef[Any] = answer.image[0]
        return reference

    def fetch(self, timeout: float | None = None) -> Any:
        """What is in the store: an `objects.Incoming`. Raises as `reference`."""
        end = None if timeout is None else time.monotonic() + timeout
        for attempt in range(3):
            left = None if end is None else max(0.0, end - time.monotonic())
            reference = self.reference(left)
            try:
                return connection.fetch(reference, left, objects.still_waiting)
            except ObjectLostError as cause:
                reason = f"{type(cause).__name__}: the node that held it, or the process that owned it, has ended"
                ask("lose", (self.namespace, self.name), self.token, reference.hex(), reason)
                if attempt == 2:
                    raise objects.lost(cause) from cause
        raise AssertionError("unreachable")


def key(name: str, namespace: str | None) -> tuple[str, str]:
    """Namespace and name, as the keeper has them.

    Raises:
        ValueError: a name or namespace that is empty, or no string.
    """
    for label, value in (("name", name), ("namespace", DEFAULT_NAMESPACE if namespace is None else namespace)):
        if not isinstance(value, str) or not value or "\0" in value:
            raise ValueError(f"{label} is {value!r}; it must be a string that is not empty")
    return namespace or DEFAULT_NAMESPACE, name


@dataclass(frozen=True)
class Naming:
    """The name that a model shall have, and how: the arguments of `ModelWrapper.from_model`."""

    name: str | None
    namespace: str | None
    lifetime: Lifetime
    get_if_exists: bool
    replace: bool

    def __post_init__(self) -> None:
        if self.lifetime not in (None, "detached"):
            raise ValueError(f"lifetime is {self.lifetime!r}; it must be None or 'detached'")
        if self.get_if_exists and self.replace:
            raise ValueError("get_if_exists and replace contradict each other: take what has the name, or replace it")
        if self.name is not None:
            key(self.name, self.namespace)
            return
        for option in ("lifetime", "namespace", "get_if_exists", "replace"):
            if getattr(self, option):
                raise ValueError(f"{option}={getattr(self, option)!r} needs a name: without one nobody could find it")

    @property
    def key(self) -> tuple[str, str]:
        assert self.name is not None
        return key(self.name, self.namespace)

    def existing(self) -> tuple[Name, About] | None:
        """What has the name already, if that will do: asked before anything is copied.

        Raises:
            NameTakenError: it will not do.
        """
        if self.name is None or self.replace:
            return None
        answer = _look_up(self.key)
        if answer.outcome != "exists":
            return None
        if not self.get_if_exists:
            raise errors.NameTakenError(self.name, self.key[0], answer.version)
        return Name(*self.key, answer.version, answer.token), answer.about

    def put(self, parts: list[Bytes], carried: list[Any], size: int) -> Source | ray.ObjectRef[Any]:
        """Bring an image into the cluster, for `publish`; arguments and errors as `objects.put`."""
        if self.lifetime == "detached" and connection.is_client():
            return Source(pieces=client.send(parts, carried, size))
        reference = objects.put(parts, carried, size)
        return Source(_COPY, [reference]) if self.lifetime == "detached" else reference

    def publish(self, source: Source | ray.ObjectRef[Any], about: About) -> tuple[Name, About]:
        """Give an image the name.

        Args:
            source: how it gets into the keeper's ownership, or the image that this process goes on owning.
            about: what is to be said of it, but for who made it.

        Returns:
            The model that has the name now, and what is said of it.

        Raises:
            NameTakenError: neither ``replace`` nor ``get_if_exists``, and the name is another model's.
            PublishError: the image could not be copied into the keeper's ownership.
            FactoryError: the task that should have made the image came to nothing.
            Exception: what the factory raised.
        """
        about = replace(about, maker=maker(), bound=None if self.lifetime else this_process())
        method, offered = ("publish", source) if isinstance(source, Source) else ("own", [source])
        answer = ask(method, self.key, uuid.uuid4().hex, offered, about, self.replace, self.get_if_exists)
        if answer.outcome == "taken":
            raise errors.NameTakenError(self.key[1], self.key[0], answer.version)
        if answer.outcome == "failed" and not getattr(source, "repeatable", False):
            raise errors.PublishError(
                f"{self.name!r} could not be brought into the cluster's ownership: {answer.reason}"
            )
        _raise_problem(self.key[1], answer)
        return Name(*self.key, answer.version, answer.token), answer.about


def find(key: tuple[str, str], version: int | None = None) -> tuple[Name, About]:
    """The model of a name, its newest version if None.

    Raises:
        ModelNotFoundError: there is none, or this version is gone.
        ImageLostError: it is lost, and nothing can make it again.
    """
    answer = _look_up(key, version)
    if answer.outcome in ("missing", "replaced"):
        raise _gone(Name(*key, version or 0, ""), answer)
    _raise_problem(key[1], answer)
    return Name(*key, answer.version, answer.token), answer.about


def is_detached(name: Name) -> bool:
    """Whether a model lives until it is deleted. Raises as `find`."""
    return find((name.namespace, name.name), name.version)[1].bound is None


def delete(key: tuple[str, str], token: str | None = None) -> None:
    """Forget a name and its image; with a token, only if it still stands for that version.

    Raises:
        ModelNotFoundError: there is no such name, or it stands for another version.
    """
    answer = _look_up(key)
    if answer.outcome == "missing":
        raise _gone(Name(*key, 0, ""), answer)
    if token not in (None, answer.token):
        raise errors.ModelNotFoundError(
            f"{key[1]!r} in namespace {key[0]!r} stands for version {answer.version} now, which this wrapper is not: "
            f"ModelWrapper.delete({key[1]!r}) deletes whatever has the name"
        )
    ask("delete", key, token)


def listed() -> list[dict[str, Any]]:
    """See `keeper.Keeper.list`. Nothing is started for it where nothing has a name."""
    connection.ensure("Asking for named models")
    rows: list[dict[str, Any]] = ask("list") if records.any_names() else []
    return rows


def maker() -> str:
    """This process in words, for whoever asks who made a model."""
    context = ray.get_runtime_context()
    if connection.in_worker():
        actor = context.get_actor_id()
        what = f"actor {context.get_actor_name() or actor}" if actor else f"task {context.get_task_name()}"
    else:
        what = f"driver {os.path.basename(sys.argv[0]) or 'interactive'}"
    return f"{what}, job {context.get_job_id()}, pid {os.getpid()} on {os.uname().nodename}"


def this_process() -> str:
    """This process as `records.About.bound` names it."""
    context = ray.get_runtime_context()
    if connection.in_worker():
        return f"worker:{context.get_worker_id()}:{context.get_node_id()}"
    return f"job:{context.get_job_id()}"


# --- asking --------------------------------------------------------------------------------------------

_keepers: dict[int, Any] = {}  # the number of a connection -> the keeper's handle


def ask(method: str, *arguments: Any, timeout: float | None = None) -> Any:
    """Call a method of the keeper, which is started if there is none."""
    connection.ensure("Asking for named models")
    number = connection.number()
    for attempt in range(3):
        if number not in _keepers:
            _keepers.clear()
            _keepers[number] = keeper.actor()
        try:
            return connection.fetch(getattr(_keepers[number], method).remote(*arguments), timeout)
        except _ACTOR_DIED:  # killed for good: its name is free for another
            _keepers.pop(number, None)
            if attempt == 2:
                raise
    raise AssertionError("unreachable")


def _look_up(
    key: tuple[str, str],
    version: int | None = None,
    token: str | None = None,
    image: bool = False,
    timeout: float | None = None,
) -> Answer:
    """See `keeper.Keeper.look_up`."""
    answer: Answer = ask("look_up", pickle.dumps((key, version, token, image)), timeout=timeout)
    return answer


def _raise_problem(name: str, answer: Answer) -> None:
    if answer.outcome == "raised":
        error, text = pickle.loads(answer.error)
        error.__cause__ = errors.FactoryError(f"in the task that made {name!r}:\n{text}")
        raise error
    if answer.outcome == "failed":
        raise errors.FactoryError(f"the task that should have made {name!r} came to nothing: {answer.reason}")
    if answer.outcome == "lost":
        raise errors.ImageLostError(
            f"the image of {name!r} is lost ({answer.reason}), and nothing can make it again. Publish it anew under "
            "the same name; a model that is made by ModelWrapper.from_factory comes back by itself."
        )


def _gone(name: Name, answer: Answer) -> errors.ModelNotFoundError:
    if answer.outcome == "replaced":
        why = answer.reason or "an older version ends once a newer one is published and nobody has it loaded"
        return errors.ModelNotFoundError(
            f"{name} is gone ({why}); the newest is version {answer.version}: ModelWrapper.get({name.name!r}) gives it"
        )
    here = [other for namespace, other in answer.names if namespace == name.namespace]
    near = difflib.get_close_matches(name.name, here, 5, 0.5) or sorted(here)[:5]
    elsewhere = sorted(namespace for namespace, other in answer.names if other == name.name)
    text = f"there is no model {name.name!r} in namespace {name.namespace!r}"
    if near:
        text += f"; there are {', '.join(map(repr, near))}" + (" and others" if len(here) > len(near) else "")
    if elsewhere:
        text += f"; namespace {', '.join(map(repr, elsewhere))} has one of that name: pass namespace="
    if not here and not elsewhere:
        text += ", nor any other"
    return errors.ModelNotFoundError(text + ". ray_zerocopy.list_models() lists all.")


# --- sources -------------------------------------------------------------------------------------------


def _copy(reference: ray.ObjectRef[Any]) -> tuple[objects.Outgoing, dict[str, Any]]:
    """An image that another process has put, to be put by the keeper, or returned by a task of its."""
    incoming = connection.fetch(reference)
    return objects.Outgoing(list(incoming.buffers), incoming.carried, incoming.size, incoming), {}


_COPY = cloudpickle.dumps(_copy)


def called(function: Callable[[], Any], options: dict[str, Any]) -> Source:
    """A function that makes an image, to be called in a task of the cluster, and again if the image is lost.

    Args:
        function: gives an `objects.Outgoing` and a report (see `records.Source`).
        options: Ray's options of the task; its ``runtime_env`` is laid over that of this process.

    Raises:
        ValueError: Ray does not know an option, or does not take its value.
        UnpicklableArgumentError: the function, or an argument bound to it, cannot be sent to another process.
    """
    keeper.building.options(**options)  # Ray says what it does not take
    try:
        call = cloudpickle.dumps(function)
    except Exception as cause:
        raise errors.UnpicklableArgumentError(f"the factory cannot be sent to a worker: {cause}") from cause
    environment = dict(ray.get_runtime_context().runtime_env)
    given = options.get("runtime_env") or {}
    variables = {**environment.get("env_vars", {}), **given.get("env_vars", {})}
    environment = {**environment, **given, **({"env_vars": variables} if variables else {})}
    path = tuple(os.path.abspath(entry) for entry in sys.path)
    return Source(call, [], {**options, "runtime_env": environment}, path, repeatable=True)


def make_here(source: Source) -> tuple[ray.ObjectRef[Any], About]:
    """Have an image made that this process owns.

    Raises:
        FactoryError: the task came to nothing.
        Exception: what the factory raised.
    """
    image, report = keeper.building.options(**source.options).remote(source)
    try:
        found = connection.fetch(report)
    except RayError as cause:
        raise errors.FactoryError(f"the task that should have made the model came to nothing: {cause}") from cause
    _raise_problem("the model", Answer("raised" if "error" in found else "made", error=found.get("error", b"")))
    return image, About(**found)
