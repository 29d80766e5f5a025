"""Images in files: a process maps one, with Ray or without it; all on a node that do share the page cache's copy."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .. import core, errors, reading
from ..core import Bytes
from . import connection, disk


@dataclass(frozen=True)
class File:
    """An image in a file, as `opened` found it. It can be pickled: on another node the same path has to lead to the
    same image.

    Attributes:
        path: absolute.
        fingerprint: tells the image from all others (`core.fingerprint`).
        nbytes: length of the file.
        bases: the files of the images that it shares blocks with.
    """

    path: str
    fingerprint: str
    nbytes: int
    bases: tuple[File, ...] = ()

    @property
    def key(self) -> bytes:
        """What processes keep a loaded pipeline under."""
        return b"file" + bytes.fromhex(self.fingerprint)

    def require(self, action: str) -> None:
        """Connect to Ray if need be, for what needs it; loading does not."""
        connection.ensure(action)

    def usable(self) -> bool:
        """Whether Ray can be used."""
        return connection.usable()

    def mapped(self) -> tuple[Bytes, list[Bytes]]:
        """The image, and those that it shares blocks with, mapped copy-on-write.

        Raises:
            FileNotFoundError, PermissionError and other OSErrors: the file cannot be opened.
            ImageLostError: there is another image in it now.
            DamagedImageError, ForeignImageError: it was cut short or overwritten.
            BaseImageError: a file that it shares blocks with is gone, or another one.
            others as `disk.mapped`.
        """
        return self._own(), [based(self.path, base.path, base._own) for base in self.bases]

    def _own(self) -> Bytes:
        memory, fingerprint = _mapped(self.path)
        if fingerprint != self.fingerprint:
            raise errors.ImageLostError(
                f"{self.path!r} holds another image than when it was opened; ModelWrapper.open(path) opens that"
            )
        return memory

    def index(self) -> list[dict[str, Any]]:
        """The entries of the index (docs/format.md). Raises as `mapped`."""
        with naming(self.path):
            return reading.index(self._own())

    @property
    def about(self) -> dict[str, Any]:
        """What the image says of itself (`description.as_json`); empty in images from before they did. Raises as
        `mapped`."""
        return _about(self.path, self._own())

    def __str__(self) -> str:
        return f"file {self.path!r}"


def opened(path: str | os.PathLike[str]) -> File:
    """The image in a file. Nothing is unpickled, and the weights are not read.

    Raises:
        as `File.mapped`.
    """
    target = os.path.abspath(os.fspath(path))
    found, memory = _opened(target)
    names = _about(target, memory).get("bases", [])
    count = reading.header(memory).base_count
    if len(names) != count:
        raise errors.BaseImageError(
            f"{target!r} shares weights with {count} other images, and names the files of {len(names)}: wrapper.save() "
            "writes files that can be opened"
        )
    folder = os.path.dirname(target)
    bases = tuple(based(target, name, lambda name=name: _opened(os.path.join(folder, name))[0]) for name in names)
    return File(found.path, found.fingerprint, found.nbytes, bases)


def based(path: str, base: str, read: Any) -> Any:
    """What is read of the file of a base; the error says whose it is."""
    try:
        return read()
    except (OSError, errors.ImageError, errors.ImageLostError) as cause:
        raise errors.BaseImageError(
            f"{path!r} shares weights with {base!r} (share_with=), which cannot be had: {cause}"
        ) from cause


def _opened(path: str) -> tuple[File, Bytes]:
    memory, fingerprint = _mapped(path)
    return File(path, fingerprint, memory.nbytes), memory


def _mapped(path: str) -> tuple[Bytes, str]:
    """A file with an image, checked, and the image's fingerprint."""
    memory = disk.mapped(path)
    with naming(path):
        return memory, checked(memory)


def checked(memory: Bytes) -> str:
    """The fingerprint of the image that a file is.

    Raises:
        ForeignImageError, ImageVersionError, DamagedImageError: it is none, or not a sound one.
    """
    fingerprint = core.fingerprint(core.address(memory), memory.nbytes)  # which checks the head
    size = reading.header(memory).image_size
    if size != memory.nbytes:
        what = "it was cut short" if size > memory.nbytes else "something was appended to it"
        raise errors.DamagedImageError(f"it has {memory.nbytes:,} bytes, and the image in it {size:,}: {what}")
    return fingerprint


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Errors about an image's bytes name the file."""
    try:
        yield
    except errors.ImageError as cause:
        raise type(cause)(f"{path!r}: {cause}") from cause


def _about(path: str, memory: Bytes) -> dict[str, Any]:
    with naming(path):
        text = reading.about_text(memory)
        try:
            about: Any = json.loads(text) if text else {}
        except ValueError as cause:
            raise errors.DamagedImageError(f"what it says of itself is no JSON: {cause}") from cause
        bases = about.get("bases", []) if isinstance(about, dict) else None
        if not isinstance(bases, list) or not all(isinstance(name, str) for name in bases):
            raise errors.DamagedImageError("what it says of itself is not what a writer of images writes")
        return dict(about)
