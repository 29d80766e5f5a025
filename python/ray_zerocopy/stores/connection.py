"""This process's connection to Ray."""

from __future__ import annotations

import os
from typing import Any

import ray

from .. import errors

_forked_from_ray = False


def _note_fork() -> None:
    global _forked_from_ray
    _forked_from_ray = ray.is_initialized()


os.register_at_fork(after_in_child=_note_fork)


def require_ray(action: str) -> None:
    """Raise unless Ray can be used in this process."""
    if _forked_from_ray:
        raise errors.ForkedProcessError(action)
    if not ray.is_initialized():
        raise errors.RayNotInitializedError(action)


def ensure(action: str) -> None:
    if not _forked_from_ray and not ray.is_initialized():
        ray.nodes()
    require_ray(action)


def number() -> int:
    return 0


def is_client() -> bool:
    return False


def in_worker() -> bool:
    """Whether this process is a worker of Ray's, which runs a task or an actor, and no driver."""
    return not is_client() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE


def in_task() -> bool:
    """Whether this process is running a task, and no actor: it will end, and nobody can say when."""
    return in_worker() and ray.get_runtime_context().get_actor_id() is None


def fetch(reference: ray.ObjectRef[Any], timeout: float | None = None) -> Any:
    return ray.get(reference, timeout=timeout)
