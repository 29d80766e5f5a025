"""Ray's object store on this machine, and how its memory reaches the processes that load."""

from __future__ import annotations

import os
from collections.abc import Iterator

import ray

from .. import errors, settings
from ..stores import connection, node, objects
from .findings import Finding, note, ok, problem
from .machine import UNKNOWN, Machine
from .tables import size

_NEEDED = 64 << 20  # bytes that have to be free for what is put here to look at
_LITTLE = 0.1  # of the store


def checks(machine: Machine) -> Iterator[Finding]:
    """All that can be told of the store that this process is connected to."""
    nodes = [each for each in ray.nodes() if each.get("Alive")]
    yield ok("cluster", f"{ray.get_runtime_context().gcs_address}, {len(nodes)} node{'s' if len(nodes) != 1 else ''}")
    if connection.is_client():
        yield note(
            "store",
            f"{UNKNOWN}: this process is connected through Ray Client, and has none",
            "Run this on a node of the cluster.",
        )
        return
    total, free = objects.room()
    yield _room(total, free)
    if free is not None and free < _NEEDED:
        yield note(
            "isolation",
            f"{UNKNOWN}: the store has not the {size(_NEEDED)} free that looking takes",
            "Make room (`ray memory` shows who holds what), and run this again.",
        )
        return
    yield _isolation()
    yield _folder(machine)


def _room(total: int | None, free: int | None) -> Finding:
    if total is None:
        return ok("store", UNKNOWN)
    found = f"{size(total)}, {size(free)} of them free" if free is not None else size(total)
    advice = (
        "`ray memory` shows who holds what. Drop wrappers that are needed no longer, or start Ray with a larger "
        "object_store_memory (ray start --object-store-memory=..., in bytes)."
    )
    spilled = objects.spilled()
    if spilled:
        found += f"; {size(spilled)} of the cluster's objects went to disk, where loading them is slow"
    if spilled or (free is not None and free < _LITTLE * total):
        return note("store", found, advice)
    return ok("store", found)


def _isolation() -> Finding:
    try:
        mode, reason = node.next_isolation()
    except errors.RayZeroCopyError as error:
        return problem("isolation", str(error), "Loads fail in this process before that is put right.")
    if mode == "copy-on-write":
        return ok("isolation", "copy-on-write: workers share the weights, and a write stays in its process")
    allow = "Run workers as the raylet's user and in its PID namespace, on Linux, with /proc mounted and not hidden."
    if mode == "read-only":
        asked = settings.ISOLATION in settings.in_force()
        return note(
            "isolation",
            f"read-only: a write to loaded weights ends its process ({reason})",
            f"For copy-on-write: unset {settings.ISOLATION}." if asked else f"For copy-on-write: {allow}",
        )
    return problem(
        "isolation",
        f"copy: each process that loads has weights of its own ({reason})",
        allow,
    )


def _folder(machine: Machine) -> Finding:
    subject = "store's folder"
    file = node.store_file()
    if file is None:
        return ok(subject, UNKNOWN)
    folder = os.path.dirname(file)
    mount = machine.mount(folder)
    found = f"{folder} ({mount.kind})" if mount else folder
    if mount and mount.kind != "tmpfs":
        return problem(
            subject,
            f"{found}: on disk, so weights are read from it",
            "Ray does that where /dev/shm has less room than the store: make that larger, or the store smaller "
            "(ray start --object-store-memory=..., in bytes).",
        )
    if node.huge_pages():
        return ok(subject, f"{found}, on huge pages")
    return ok(subject, f"{found}, on pages of 4 KiB; docs/huge-pages.md spares most of a first forward's extra time")
