"""This process's connection to Ray: whether there is one, which one it is, and what has to happen before it ends.

Private names of Ray used here, tried with 2.60; `tests/test_connection.py` fails when one goes:
`auto_init_hook.auto_init_ray` (what Ray's own calls begin with), `client_mode_hook.client_mode_should_convert` (what
they go by) and `disable_client_hook`, `worker.disconnect` (which `ray.shutdown` looks up as a global: Ray has no hook
before a shutdown), `CoreWorker.current_actor_is_asyncio`, and `worker.node.session_name`, which is public in newer
versions.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray._private import worker as ray_worker
from ray._private.auto_init_hook import auto_init_ray
from ray._private.client_mode_hook import client_mode_should_convert, disable_client_hook
from ray.exceptions import GetTimeoutError
from ray.util.client import ray as client_ray

from .. import core, errors

# --- forks -------------------------------------------------------------------------------------------

_forked_from_ray = False


def _note_fork() -> None:
    global _forked_from_ray
    _forked_from_ray = _forked_from_ray or ray.is_initialized()


os.register_at_fork(after_in_child=_note_fork)


def refuse_fork(action: str) -> None:
    """Raise in a process that was forked from one that had started Ray or the Go core."""
    if _forked_from_ray or core.forked():
        raise errors.ForkedProcessError(action)


# --- is there a connection? --------------------------------------------------------------------------


def require_ray(action: str) -> None:
    """Raise unless this process is connected to Ray."""
    refuse_fork(action)
    if not ray.is_initialized():
        raise errors.RayNotInitializedError(action)


def ensure(action: str) -> None:
    """Connect to Ray, or start it, by the rule of Ray's own calls, unless this process is connected.

    Raises:
        ForkedProcessError: Ray does not survive a fork, and a child does not start one of its own unasked.
        RayNotInitializedError: ``RAY_ENABLE_AUTO_CONNECT=0`` forbids it.
    """
    refuse_fork(action)
    auto_init_ray()
    require_ray(action)


def usable() -> bool:
    """Whether this process is connected to Ray, and not by way of a fork."""
    return not _forked_from_ray and bool(ray.is_initialized())


# --- of what kind is it? -----------------------------------------------------------------------------


def is_client() -> bool:
    """Whether this process uses Ray through Ray Client (``ray.init("ray://...")``): driver and store are elsewhere."""
    return bool(client_mode_should_convert())


def remote(what: Callable[..., Any], **options: Any) -> Any:
    """As `ray.remote`. That gives something else when this process is connected through Ray Client, which works over
    that one connection only; this serves every connection, local ones and Ray Client's, before and after."""
    with disable_client_hook():
        return ray.remote(**options)(what) if options else ray.remote(what)


def in_worker() -> bool:
    """Whether this process is a worker of Ray's, which runs tasks or an actor, and no driver."""
    return not is_client() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE


def in_task() -> bool:
    """Whether this process runs tasks, and no actor: it will end, and nobody can say when."""
    return in_worker() and ray.get_runtime_context().get_actor_id() is None


def state_accessor() -> Any:
    """What Ray's own `ray.nodes` and the like ask."""
    from ray._private.state import state

    if hasattr(state, "_connect_and_get_accessor"):
        return state._connect_and_get_accessor()
    other: Any = state  # before ray 2.60
    other._check_connected()
    return other.global_state_accessor


def session() -> str:
    """The name of the cluster's session, the same on all of its nodes; no other cluster has it."""
    context = ray.get_runtime_context()
    if hasattr(context, "get_session_name"):
        return str(context.get_session_name())
    return str(context.worker.node.session_name)  # in older versions of Ray, which does the same


# --- which connection is it, and when does it end? ---------------------------------------------------

# Job and object ids repeat when a process connects again, so connections are counted here.
_number = 1
_NONE = 0
_changing = threading.RLock()  # reentrant: a signal handler may call ray.shutdown()
_before_end: list[Callable[[], None]] = []
_client: weakref.ref[Any] | None = None


def number() -> int:
    """Which of this process's connections to Ray is in force, or comes next."""
    global _number, _client
    if is_client():  # which does not disconnect by way of the function that is watched below
        worker = client_ray.get_context().client_worker
        if _client is None or _client() is not worker:
            _number += _client is not None
            _client = weakref.ref(worker)
    return _number


def before_end(action: Callable[[], None]) -> Callable[[], None]:
    """Have something done before this process disconnects from Ray and goes on; what came last is done first.

    An error in it keeps the process connected.
    """
    _before_end.append(action)
    return action


@contextlib.contextmanager
def during(expected: int, action: str) -> Iterator[None]:
    """Keep the connection from ending meanwhile.

    Raises:
        ImageLostError: it is not the connection with the number ``expected`` any more.
    """
    with _changing:
        _require_number(expected, action)
        yield
        _require_number(expected, action)


def _require_number(expected: int, action: str) -> None:
    if expected != number():
        raise errors.ImageLostError(
            f"{action} is not possible: the image belongs to an earlier connection of this process to Ray, which "
            "ray.shutdown() has ended, and the process that put an image keeps it no longer than that. What was loaded "
            "before goes on working. Wrap the model again, after ray.init()."
        )


def _watch_disconnect() -> None:
    original = ray_worker.disconnect

    @functools.wraps(original)
    def disconnect(exiting_interpreter: bool = False) -> None:
        global _number
        if ray_worker.global_worker.connected and not _forked_from_ray and not exiting_interpreter:
            with _changing:
                for action in reversed(_before_end):
                    action()
                _number += 1
        original(exiting_interpreter)

    ray_worker.disconnect = disconnect


_watch_disconnect()


# --- what is held of Ray -----------------------------------------------------------------------------


_increment = ctypes.pythonapi.Py_IncRef
_increment.argtypes, _increment.restype = [ctypes.py_object], None


class Pin:
    """Holds something of Ray's (a buffer in the store, a reference), and gives it back only in the process that it
    belongs to."""

    def __init__(self, held: Any) -> None:
        self._held, self._pid = held, os.getpid()
        # no Python code at its end: a signal's exception that came there would be lost
        _pins[id(self)] = weakref.ref(self, functools.partial(_pins.pop, id(self)))

    def release(self) -> None:
        """Give it back early."""
        self._held = None


_pins: dict[int, weakref.ref[Pin]] = {}


def pins() -> Iterator[Pin]:
    """What this process holds."""
    for reference in list(_pins.values()):
        pin = reference()
        if pin is not None:
            yield pin


def _keep_pins() -> None:
    """Keep what is held alive for good, interpreter's end included. A forked child shares its parent's connection to
    the store: what it gives back there, the parent loses."""
    for pin in pins():
        _increment(pin._held)


os.register_at_fork(after_in_child=_keep_pins)


class Claim(Pin):
    """A reference to an image, in the process and of the connection that it came to life in.

    It is never pickled: whoever unpickles a reference makes a claim of their own.
    """

    def __init__(self, reference: ray.ObjectRef[Any]) -> None:
        super().__init__(reference)
        self.number = number()

    def require(self, action: str) -> None:
        """Raise unless the reference can be used.

        Raises:
            ForkedProcessError: it belongs to the process that this one was forked from.
            ImageLostError: it belongs to an earlier connection, or was given back.
        """
        if self._pid != os.getpid():
            raise errors.ForkedProcessError(action)
        refuse_fork(action)
        _require_number(self.number if ray.is_initialized() else _NONE, action)
        if self._held is None:
            raise errors.ImageLostError(
                f"{action} is not possible: release() has given the store its memory back. Wrap the model again."
            )

    def usable(self) -> bool:
        """Whether the reference can be used."""
        return (
            self._held is not None
            and self._pid == os.getpid()
            and self.number == number()
            and bool(ray.is_initialized())
        )


# --- waiting for objects -----------------------------------------------------------------------------


_PATIENCE = 10.0, 60.0  # seconds of waiting until somebody is told, the first time and then


def fetch(
    reference: ray.ObjectRef[Any] | list[ray.ObjectRef[Any]],
    timeout: float | None = None,
    late: Callable[[float], None] | None = None,
) -> Any:
    """`ray.get`, without its warning about event loops in an async actor.

    Args:
        reference: of the object, or a list.
        timeout: seconds to wait; None: without end.
        late: called now and then while it takes long, with the seconds waited.

    Raises:
        LoadTimeoutError: the time is over.
        Exception: as `ray.get`.
    """
    waited, step = 0.0, _PATIENCE[0] if late else float("inf")
    while True:
        left = step if timeout is None else min(step, timeout - waited)
        try:
            return _got(reference, None if left == float("inf") else left)
        except (GetTimeoutError, concurrent.futures.TimeoutError) as cause:
            if left == float("inf") or isinstance(cause, ray.exceptions.RayTaskError):
                raise  # of the task whose result was asked for
            waited += left
            if timeout is not None and waited >= timeout:
                raise errors.LoadTimeoutError(timeout) from cause
        if late:
            late(waited)
        step = _PATIENCE[1]


def _got(reference: ray.ObjectRef[Any] | list[ray.ObjectRef[Any]], timeout: float | None) -> Any:
    if not _in_async_actor():
        return ray.get(reference, timeout=timeout)
    if isinstance(reference, list):
        futures = [each.future() for each in reference]
        _, late = concurrent.futures.wait(futures, timeout)
        if late:
            raise concurrent.futures.TimeoutError
        return [each.result() for each in futures]
    # 0.1 ms more than ray.get, and thus not for all
    return reference.future().result(timeout)


def _in_async_actor() -> bool:
    # there is no core worker in a process without Ray, and in one that uses Ray Client
    core_worker = getattr(ray_worker.global_worker, "core_worker", None)
    return core_worker is not None and bool(core_worker.current_actor_is_asyncio())
