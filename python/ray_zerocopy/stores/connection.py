"""This process's connection to Ray."""

from __future__ import annotations

import os

import ray
from ray._private.client_mode_hook import client_mode_should_convert

from .. import errors

_forked_from_ray = False


def _note_fork() -> None:
    global _forked_from_ray
    _forked_from_ray = ray.is_initialized()


os.register_at_fork(after_in_child=_note_fork)


def is_client() -> bool:
    """Whether this process uses Ray through Ray Client (``ray.init("ray://...")``): driver and store are elsewhere.

    Ray's private function, the one that its own calls go by; tried with ray 2.60."""
    return bool(client_mode_should_convert())


def require_ray(action: str) -> None:
    """Raise unless Ray can be used in this process."""
    if _forked_from_ray:
        raise errors.ForkedProcessError(action)
    if not ray.is_initialized():
        raise errors.RayNotInitializedError(action)
