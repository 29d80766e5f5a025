"""The keeper: one detached actor for the cluster, which owns the named images and knows their names.

Whoever puts an object, or submits the task that returns it, owns it. So the keeper puts a copy of what another process
has put, and submits the tasks that call factories. It runs on the head node (without which there is no cluster), takes
no CPU, and does not import torch.

What it must know again after a restart (names, versions, factories) stands in a table (see `records`), written before
the maker hears of it. The images themselves go with the keeper's process, which owned them:
those that a factory has made are made again when they are asked for, others are *lost* and say why.

Relied upon, tried with ray 2.60: the resource ``node:__internal_head__``, and GCS's table of workers and jobs
(`_ended`). tests/test_named.py fails when one goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import sys
import time
import traceback
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from weakref import WeakValueDictionary

import ray
from ray import cloudpickle
from ray.exceptions import RayError

from . import connection, endings, metrics, records
from .records import About, Key, Source, Version

NAME = "keeper"  # of the actor, in `endings.NAMESPACE`

HEAD = {"node:__internal_head__": 0.001}

# For how long the version before the newest can still be loaded though it is nobody's any more: a process that has
# asked for the newest one needs a moment to load it.
GRACE_SECONDS = 3.0
_SWEEP_SECONDS = 2.0

# --- what travels to and from the keeper -------------------------------------------------------------


Outcome = Literal["made", "exists", "taken", "missing", "replaced", "lost", "raised", "failed"]


@dataclass(frozen=True)
class Answer:
    """What the keeper says.

    Attributes:
        outcome: ``made``, ``exists``: there is a model, described by the other fields; ``taken``: the name is another
            model's; ``missing``: there is no such name; ``replaced``: that version is gone; ``lost``: the image is;
            ``raised``: the factory raised; ``failed``: the task that should have made the image came to nothing.
        version, token, about: of the model.
        image: a list of the one reference, where it was asked for.
        error: for ``raised``, the pickled exception.
        reason: for the others, in words.
        names: for ``missing``: all names, as (namespace, name).
    """

    outcome: Outcome
    version: int = 0
    token: str = ""
    about: About = field(default_factory=About)
    image: list[Any] = field(default_factory=list)
    error: bytes = b""
    reason: str = ""
    names: list[tuple[str, str]] = field(default_factory=list)


# --- the task that makes an image --------------------------------------------------------------------


def make(source: Source) -> Any:
    """A task: an image, and what is to be said of it."""
    sys.path += [entry for entry in source.path if entry not in sys.path]
    try:
        outgoing, report = pickle.loads(source.call)(*source.references)
    except Exception as error:
        return None, {"error": portable(error)}
    return outgoing, report


def portable(error: Exception) -> bytes:
    """An exception as bytes; one that cannot be pickled becomes a RuntimeError with its text."""
    text = "".join(traceback.format_exception(error))
    try:
        data = cloudpickle.dumps((error, text))
        pickle.loads(data)
    except Exception:
        data = cloudpickle.dumps((RuntimeError(f"{type(error).__qualname__}: {error}"), text))
    return bytes(data)


copying = connection.remote(make, num_cpus=0, num_returns=2, max_retries=0)
# A factory leaves its imports, its module paths and its memory behind: its process does nothing else.
building = connection.remote(make, num_returns=2, max_calls=1)

# --- the actor ---------------------------------------------------------------------------------------


class Keeper:
    """See the head of this file. Its methods are called through `named` only."""

    def __init__(self) -> None:
        self._models: dict[Key, Version] = {}
        self._before: dict[Key, Version] = {}  # of each name, the version before the newest, for a moment
        self._locks: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()
        self._builds: dict[Key, asyncio.Future[Answer]] = {}  # factories at work for a new version
        self._repairs: dict[str, asyncio.Future[Answer]] = {}  # and for an image that was lost, by token
        self._sweeping: asyncio.Task[None] | None = None
        self._metrics = metrics.Names()
        self._endings = endings.Endings(self._is_over)
        for key, version in records.restored():
            version.reason = "the keeper's process, which owned it, has ended"
            self._models[key] = version
        self._show()

    async def publish(
        self, key: Key, token: str, source: Source, about: About, replaces: bool, get_if_exists: bool
    ) -> Answer:
        """Take an image over under a name; of a factory, `building` it.

        The caller makes ``token``. A call that is repeated since the keeper has restarted finds its own token."""
        while get_if_exists and key in self._builds:
            answer = await asyncio.shield(self._builds[key])
            if answer.outcome != "taken":  # which that caller minded, and this one does not
                return answer
        build = asyncio.ensure_future(self._published(key, token, source, about, replaces, get_if_exists))
        if source.repeatable:
            self._builds.setdefault(key, build)
            build.add_done_callback(lambda ended: self._builds.get(key) is ended and self._builds.pop(key))
        return await asyncio.shield(build)

    async def own(self, key: Key, token: str, image: list[Any], about: About, replaces: bool, exists: bool) -> Answer:
        """Know an image under a name that its maker goes on owning."""
        async with self._lock(key):
            found = self._found(key, token, replaces, exists)
            return found or self._add(key, token, image[0], about, None)

    async def look_up(self, question: bytes) -> Answer:
        """A version of a model.

        Args:
            question: the pickled tuple of key, number of the version (None: the newest), its token if known, and
                whether the reference of its image is wanted. One argument, since each takes Ray 0.1 ms.
        """
        key, version, token, image = pickle.loads(question)
        newest, before = self._current(key), self._before.get(key)
        if newest is None:
            return Answer("missing", names=list(self._models))
        if version is None or version == newest.number:
            found = newest
        elif before is not None and before.number == version:
            found = before
        else:
            return Answer("replaced", newest.number)
        if token not in (None, found.token):
            return Answer("replaced", newest.number, reason="the name was deleted and given again")
        if found.state == "lost":
            return _answer("lost", found)
        if not image:
            return _answer("exists", found)
        if found.image is None:
            if found.token not in self._repairs:
                repair = self._repairs[found.token] = asyncio.ensure_future(self._repaired(key, found))
                repair.add_done_callback(lambda _: self._repairs.pop(found.token))
            return await asyncio.shield(self._repairs[found.token])
        return _answer("exists", found, image=[found.image])

    async def lose(self, key: Key, token: str, image: str, reason: str) -> None:
        """Hear that somebody could not get the image with this id; believe it if no node is known to have it."""
        for version in (self._models.get(key), self._before.get(key)):
            if version is None or version.token != token or version.image is None or version.image.hex() != image:
                continue
            if not _nodes(version.image):
                version.image, version.reason = None, reason
                self._show()

    async def delete(self, key: Key, token: str | None) -> bool:
        """Forget a name, and its image; with a token, only if it still stands for that version."""
        async with self._lock(key):
            version = self._models.get(key)
            if version is None or token not in (None, version.token):
                return False
            self._forget(key)
            return True

    async def list(self) -> list[dict[str, Any]]:
        """All that can be loaded or could be, oldest first."""
        for key in list(self._models):
            self._current(key)
        rows = [(key, version) for table in (self._models, self._before) for key, version in table.items()]
        now = time.time()
        return [
            {
                "namespace": key[0],
                "name": key[1],
                "version": version.number,
                "class_name": version.about.class_name,
                "nbytes": version.about.nbytes,
                "tensors": version.about.tensors,
                "nodes": _nodes(version.image) if version.image is not None else [],
                "age": now - version.made,
                "maker": version.about.maker,
                "detached": version.about.bound is None,
                "state": version.state,
                "object_id": version.image.hex() if version.image is not None else "",
            }
            for key, version in sorted(rows, key=lambda row: row[1].made)
        ]

    async def ended(self, key: bytes) -> bool:
        """See `endings.Endings.wait`."""
        return await self._endings.wait(key)

    # --- inside ---

    def _is_over(self, image: bytes) -> bool:
        """Whether no version that can be loaded has this key."""
        versions = (*self._models.values(), *self._before.values())
        return all(endings.key(version.token) != image for version in versions)

    def _show(self) -> None:
        """Say in Ray's metrics what there is."""
        rows = [(key, version) for table in (self._models, self._before) for key, version in table.items()]
        self._metrics.show(
            (key, version.state, 0 if version.image is None else version.about.nbytes) for key, version in rows
        )

    def _lock(self, key: Key) -> asyncio.Lock:
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock

    async def _published(
        self, key: Key, token: str, source: Source, about: About, replaces: bool, exists: bool
    ) -> Answer:
        async with self._lock(key):
            found = self._found(key, token, replaces, exists)
            if found:
                return found
            image, about, problem = await _made(key, source, about)
            return problem or self._add(key, token, image, about, source if source.repeatable else None)

    def _found(self, key: Key, token: str, replaces: bool, exists: bool) -> Answer | None:
        """What to say where the name is in use, unless a next version shall be made."""
        version = self._current(key)
        if version is None or version.state == "lost":
            return None
        if version.token == token:
            return _answer("made", version) if version.image is not None else None
        if replaces:
            return None
        return _answer("exists" if exists else "taken", version)

    def _add(self, key: Key, token: str, image: Any, about: About, source: Source | None) -> Answer:
        before = self._models.get(key)
        number = 1 if before is None else before.number if before.token == token else before.number + 1
        version = Version(number, token, about, time.time(), source, image)
        records.put(key, version)
        self._models[key] = version
        if before is not None and before.token != token:
            self._retire(key, before)
        self._show()
        if about.bound is not None and self._sweeping is None:
            self._sweeping = asyncio.ensure_future(self._sweep())
        return _answer("made", version)

    def _retire(self, key: Key, version: Version) -> None:
        self._drop_before(key)
        if version.image is None:
            self._endings.tell(endings.key(version.token))
            return
        self._before[key] = version

        def end() -> None:
            if self._before.get(key) is version:
                self._drop_before(key)

        asyncio.get_running_loop().call_later(GRACE_SECONDS, end)

    def _drop_before(self, key: Key) -> None:
        version = self._before.pop(key, None)
        if version is not None:
            self._endings.tell(endings.key(version.token))
            self._show()

    def _forget(self, key: Key) -> None:
        version = self._models.pop(key)
        records.delete(key)
        self._endings.tell(endings.key(version.token))
        self._drop_before(key)
        self._show()

    def _current(self, key: Key) -> Version | None:
        version = self._models.get(key)
        if version is not None and version.about.bound is not None and _ended(version.about.bound):
            self._forget(key)
            return None
        return version

    async def _repaired(self, key: Key, version: Version) -> Answer:
        """Make a lost image again; all who ask meanwhile wait for the same one, or get the same exception."""
        assert version.source is not None
        async with self._lock(key):
            newest = self._models.get(key)
            if newest is None or (version is not newest and version is not self._before.get(key)):
                return Answer("replaced", newest.number) if newest else Answer("missing", names=list(self._models))
            image, about, problem = await _made(key, version.source, version.about)
            if problem:
                return problem
            version.image, version.about, version.reason = image, about, ""
            self._show()
            return _answer("exists", version, image=[image])

    async def _sweep(self) -> None:
        """Forget the models of processes that have ended."""
        while any(version.about.bound is not None for version in self._models.values()):
            await asyncio.sleep(_SWEEP_SECONDS)
            for key in list(self._models):
                with contextlib.suppress(RayError, RuntimeError):  # GCS does not answer: it is asked again
                    self._current(key)
        self._sweeping = None


async def _made(key: Key, source: Source, about: About) -> tuple[Any, About, Answer | None]:
    """Submit the task that makes an image, and wait for its end; it is not brought here."""
    try:
        # an object has no name in Ray; the task that made it, whose id starts the object's, has
        options = {**source.options, "name": f"ray_zerocopy {key[0]}/{key[1]}"}
        if source.pieces is not None:
            image, report = source.pieces.start()
        elif source.repeatable:
            image, report = building.options(**options).remote(source)
        elif _fits_here(about.nbytes):
            image, found = await asyncio.get_running_loop().run_in_executor(None, _put_again, source)
            return image, replace(about, **found), None
        else:
            image, report = copying.options(**options).remote(source)
        found = await report or {}
        if source.pieces is not None:
            source.pieces.end()
    except (RayError, ValueError) as error:  # the process or its node was lost, or the task cannot be scheduled
        return None, about, Answer("failed", about=about, reason=f"{type(error).__name__}: {error}")
    if "error" in found:
        return None, about, Answer("raised", about=about, error=found["error"])
    return image, replace(about, **found), None


def _put_again(source: Source) -> tuple[Any, dict[str, Any]]:
    """An image that another process has put, put again by this one.

    Not by a task: Ray ends the idle workers of a job that has ended, as the one that started the keeper will have, so
    that each would have to wait for a new process."""
    outgoing, report = pickle.loads(source.call)(*source.references)
    return ray.put(outgoing), report


def _fits_here(nbytes: int) -> bool:
    """Whether this node's store could hold an image: it is the head's, which lasts as long as the cluster."""
    here = ray.get_runtime_context().get_node_id()
    sizes = [node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["NodeID"] == here]
    return any(size > nbytes for size in sizes)


def _answer(outcome: Outcome, version: Version, image: list[Any] | None = None) -> Answer:
    return Answer(outcome, version.number, version.token, version.about, image or [], reason=version.reason)


def _nodes(image: Any) -> list[str]:
    """The living nodes that hold a copy of an image, on disk perhaps."""
    # one at a time: asked for the objects of several owners at once, Ray 2.60 ends the process ("Promise already
    # satisfied"); and it says nothing of an object whose owner has ended
    found = ray.experimental.get_object_locations([image]).get(image, {})
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return [node for node in found.get("node_ids", ()) if node in alive]


def _ended(bound: str) -> bool:
    """Whether a process has ended."""
    from ray._private import state
    from ray.core.generated import gcs_pb2

    kind, *names = bound.split(":")
    if kind == "job":
        return any(job["JobID"] == names[0] and job["IsDead"] for job in state.state.job_table())
    worker, node = names
    if all(each["NodeID"] != node or not each["Alive"] for each in ray.nodes()):
        return True  # of which the workers' table does not hear
    table: Any = gcs_pb2
    data = connection.state_accessor().get_worker_info(ray.WorkerID(bytes.fromhex(worker)))
    return data is None or not table.WorkerTableData.FromString(data).is_alive


_OPTIONS: dict[str, Any] = {
    "name": NAME,
    "namespace": endings.NAMESPACE,
    "lifetime": "detached",
    "get_if_exists": True,
    "num_cpus": 0,
    "resources": HEAD,
    "max_restarts": -1,
    "max_task_retries": -1,
    "max_concurrency": endings.CALLS,
    # which no other process has: else it may be given one that has run a task, and imported torch
    "runtime_env": {"env_vars": {"RAY_ZEROCOPY_KEEPER": "1"}},
}
_actor = connection.remote(Keeper)


def actor() -> Any:
    """The one keeper of the cluster, started if there is none."""
    return _actor.options(**_OPTIONS).remote()
