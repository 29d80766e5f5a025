"""Images on their way into files and out of them, and what they share with others there and in the store."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from . import core, errors, image, reading
from .core import Bytes
from .description import Description, Mode, about_of
from .stores import disk, files, loading, named, objects
from .stores.files import File
from .stores.loading import Place
from .stores.named import Name
from .stores.records import About, Source


def write(path: str | os.PathLike[str], parts: Sequence[Bytes]) -> None:
    """Write the parts of an image into a file; errors as `disk.write`."""
    disk.write(path, _padded(parts))


def _padded(parts: Sequence[Bytes]) -> Iterator[Bytes]:
    """The parts, each from the next multiple of 64 on."""
    end = 0
    for part in parts:
        yield np.zeros(-end % core.ALIGNMENT, np.uint8)
        yield part
        end += -end % core.ALIGNMENT + part.nbytes


def save(place: Place, path: str | os.PathLike[str], bases: Sequence[Place], timeout: float | None) -> None:
    """Write an image into a file.

    Args:
        place: of the image.
        path: of the file.
        bases: files with images that it shall share blocks with; the file will refer to them by their paths from its
            folder.
        timeout: as in `loading.fetched`.

    Raises:
        CarriedObjectError: it comes with Ray's object references or actor handles.
        ValueError: a base is no file, or the very file that is to be written.
        others as `loading.fetched` and `disk.write`.
    """
    target = os.path.abspath(os.fspath(path))
    memories, names = file_bases(bases, target)
    had = loading.fetched(place, timeout, "Saving a model")
    require_nothing_carried(f"what is in {place}", had.carried)
    with loading.naming(place):
        reading.check(had.memory, had.bases)
        if not had.bases and not memories:
            write(target, [had.memory])
            return

        write(target, image.again(had.memory, had.bases, memories, functools.partial(_with_bases, names))[0])


def require_nothing_carried(what: str, carried: list[Any]) -> None:
    """Raise a CarriedObjectError if there is something that a file cannot hold."""
    if carried:
        raise errors.CarriedObjectError(
            f"{what} holds {len(carried)} object references or actor handles of Ray's ({type(carried[0]).__name__}), "
            "which mean nothing outside of this cluster: leave them out in the class's __getstate__, or give them to "
            "the workers by other means"
        )


def file_bases(bases: Sequence[Place], path: str | os.PathLike[str]) -> tuple[list[Bytes], list[str]]:
    """Memory and names of images in files that the one in another file is to share blocks with.

    Args:
        bases: where they are.
        path: of the other file.

    Raises:
        ValueError: a base is no file, or the very file that is to be written.
        BaseImageError: it cannot be had.
    """
    target = os.path.abspath(os.fspath(path))
    known = list(_files(bases, target))
    memories = [files.based(target, base.path, functools.partial(_memory, base)) for base in known]
    return memories, [os.path.relpath(base.path, os.path.dirname(target)) for base in known]


def _memory(file: File) -> Bytes:
    return file.mapped()[0]


def _files(bases: Sequence[Place], target: str) -> Iterator[File]:
    """The files with the bases, and with what those share blocks with, each once."""
    seen: set[str] = set()
    for place in bases:
        if not isinstance(place, File):
            raise ValueError(
                f"share_with is in {place}, and a file can share weights with files only: base.save(path), and then "
                "save(..., share_with=ModelWrapper.open(path))"
            )
        for each in (place, *place.bases):
            if os.path.realpath(each.path) == os.path.realpath(target):
                raise ValueError(f"{target!r} cannot share weights with itself: choose another path")
            if each.fingerprint not in seen:
                seen.add(each.fingerprint)
                yield each


def stored_bases(bases: Sequence[Place], detached: bool) -> tuple[list[Bytes], list[ray.ObjectRef[Any]]]:
    """Memory and references of images in the store that another one is to share blocks with.

    Args:
        bases: where they are.
        detached: whether the other one is to live until it is deleted.

    Raises:
        ValueError: a base is in a file, or does not live as long.
        others as `loading.fetched`.
    """
    memories: dict[str, Bytes] = {}
    references: list[ray.ObjectRef[Any]] = []
    for place in bases:
        if isinstance(place, File):
            raise ValueError(
                f"share_with is in {place}, and a model in the store can share weights with such only: "
                "share_with=ModelWrapper.open(path).put()"
            )
        if detached and not (isinstance(place, Name) and named.is_detached(place)):
            raise ValueError(
                f"share_with is {place}, which ends with the process that made it, and a model with "
                "lifetime='detached' would lose its weights then: give the base a name and lifetime='detached', too"
            )
        had = loading.fetched(place, None, "Sharing a model's weights", in_store=True)
        found = zip([had.memory, *had.bases], [place.reference(), *had.references])
        for memory, reference in found:
            fingerprint = core.fingerprint(core.address(memory), memory.nbytes)
            if fingerprint not in memories:
                memories[fingerprint] = memory
                references.append(reference)
    return list(memories.values()), references


def whole(place: File, mode: Mode) -> tuple[list[Bytes], int, About, Description]:
    """The parts of the image in a file for the store, where it has no bases; its length; and what is known of it.

    Raises:
        as `File.mapped`.
    """
    memory, bases = place.mapped()
    with loading.naming(place):
        description = replace(Description.of_json(place.about), mode=mode)
        parts, size = (
            image.again(memory, bases, about=functools.partial(_with_bases, ())) if bases else ([memory], memory.nbytes)
        )
        about = about_of(description, size, len(reading.index(memory)))
    return parts, size, about, description


def _with_bases(names: Sequence[str], text: str, used: list[int]) -> str:
    """What an image says of itself, with other bases."""
    said = json.loads(text) if text else {}
    said["bases"] = [names[number] for number in used]
    return json.dumps(said, separators=(",", ":"))


def source(place: File, mode: Mode) -> Source:
    """A file as where a named image comes from, and comes from again when it is lost: read on this node, as long as
    there is one."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "scheduling_strategy": here}
    return named.called(functools.partial(in_task, place.path, place.fingerprint, mode), options)


def in_task(path: str, fingerprint: str | None, mode: Mode) -> tuple[objects.Outgoing, dict[str, Any]]:
    """What `from_factory` has a task do for a file; see `records.Source`.

    Raises:
        ImageLostError: the file has another image than the one with the fingerprint.
        others as `files.opened`.
    """
    place = files.opened(path)
    if fingerprint not in (None, place.fingerprint):
        raise errors.ImageLostError(f"{path!r} holds another image than the one that was put from there")
    parts, size, about, _ = whole(place, mode)
    return objects.outgoing(parts, [], size), about.report()
