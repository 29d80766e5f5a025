"""The errors that ray-zerocopy raises. Each says what is wrong, with which part, and the way out."""

from __future__ import annotations

from collections.abc import Sequence


class RayZeroCopyError(Exception):
    """Base class of every error that ray-zerocopy raises on its own account."""


# --- putting a model -----------------------------------------------------------------------------


class RayNotInitializedError(RayZeroCopyError, RuntimeError):
    """Ray does not run in this process, and is not to be started unasked.

    Attributes:
        action: what needs it.
    """

    def __init__(self, action: str) -> None:
        self.action = action
        super().__init__(
            f"{action} needs Ray, which is not initialized in this process. Call ray.init() first, "
            "for example ray.init(object_store_memory=8 * 10**9): the store must have room for one copy of the model. "
            "(Wrapping a model starts Ray by itself, unless RAY_ENABLE_AUTO_CONNECT=0 is set.)"
        )

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.action,)


class StoreTooSmallError(RayZeroCopyError, MemoryError):
    """The model does not fit into this node's object store. Nothing was copied.

    Attributes:
        needed: bytes of the image.
        capacity: bytes of this node's object store.
        free: bytes of it that are not in use, or None where Ray does not tell.
    """

    def __init__(self, needed: int, capacity: int, free: int | None) -> None:
        self.needed, self.capacity, self.free = needed, capacity, free
        rest = "" if free is None else f", {free:,} of them free"
        super().__init__(
            f"the model needs {needed:,} bytes of object store, and this node's store has {capacity:,}{rest}. "
            "Give the store more memory: ray.init(object_store_memory=...) or "
            "`ray start --object-store-memory=...`, in bytes (and enough room in /dev/shm)."
        )

    def __reduce__(self) -> tuple[type, tuple[int, int, int | None]]:
        return type(self), (self.needed, self.capacity, self.free)


class StoreFullError(RayZeroCopyError, MemoryError):
    """The model would fit into this node's object store, but what is there is in use, and Ray cannot spill it to disk.

    Attributes:
        needed: bytes of the image.
    """

    def __init__(self, needed: int) -> None:
        self.needed = needed
        super().__init__(
            f"the model needs {needed:,} bytes of object store, and this node's store is full of objects that are in "
            "use, while the disk that Ray spills to is full as well, or spilling is off. `ray memory` shows who holds "
            "what; drop wrappers and loaded models that are not needed, give the store more memory "
            "(ray.init(object_store_memory=...)), or make room on the disk of Ray's temporary folder (`df`)."
        )

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.needed,)


class UnpicklableError(RayZeroCopyError, TypeError):
    """Something in the model or pipeline cannot be pickled.

    Attributes:
        path: where it hangs, such as ``pipeline.encoder.inner.lock``.
    """

    def __init__(self, path: str, kind: str, reason: str) -> None:
        self.path, self.kind, self.reason = path, kind, reason
        if " -> " in path:
            advice = (
                "It is a global (or a default) of code that travels with the pipeline, as no worker can import it: "
                "make it inside of the function, or move the class into a module that workers import"
            )
        else:
            advice = (
                "Create it lazily in the worker, leave it out in the class's __getstate__, or set it to None before "
                "the model is wrapped"
            )
        super().__init__(f"{path} (a {kind}) cannot be pickled: {reason}. {advice}.")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.path, self.kind, self.reason)


class TooDeepError(UnpicklableError):
    """A model or pipeline is nested more deeply than pickle can follow.

    Attributes:
        limit: Python's recursion limit in this process.
    """

    def __init__(self, path: str, kind: str, limit: int) -> None:
        super().__init__(path, kind, "it is nested too deeply")
        self.limit = limit
        self.args = (
            f"this {kind} is nested more deeply than Python's recursion limit ({limit:,}) lets pickle follow: raise "
            "it in this process before you wrap, by sys.setrecursionlimit(20_000), or hold what is a long chain in a "
            "list. Workers need nothing of the kind.",
        )

    def __reduce__(self) -> tuple[type, tuple[str, str, int]]:  # type: ignore[override]
        return type(self), (self.path, self.kind, self.limit)


class DeviceError(RayZeroCopyError, ValueError):
    """A tensor is not in CPU memory.

    Attributes:
        path: where the tensor hangs, such as ``pipeline.encoder.weight``.
        device: the device it is on.
    """

    def __init__(self, path: str, device: str) -> None:
        self.path, self.device = path, device
        super().__init__(
            f"{path} is on {device!r}, and only CPU memory can be shared through Ray's object store. Move the model "
            "with .cpu() before it is wrapped; a worker can move what it loads with .to(device)."
        )

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.path, self.device)


class NotAModelError(RayZeroCopyError, ValueError):
    """A name in ``model_attr_names`` is not an attribute of the pipeline."""


class NotAMethodError(RayZeroCopyError, ValueError):
    """A name in ``method_names`` is a method neither of the pipeline nor of one of its models."""


class RayClientError(RayZeroCopyError, RuntimeError):
    """Something that needs the store of this machine, in a process that is connected through Ray Client."""

    def __init__(self, action: str) -> None:
        self.action = action
        super().__init__(
            f"{action} is not possible in a process that is connected through Ray Client (ray://): the object store is "
            "in the cluster, and this process cannot map it. Do it in an actor or a task (pass the wrapper and call "
            "load() there), call the methods of a stand-in (ModelWrapper.for_tasks), which run in the cluster, or "
            "start this program on a node of the cluster, with ray.init(address='auto') or `ray job submit`."
        )

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.action,)


# --- loading a model -----------------------------------------------------------------------------


class ImageLostError(RayZeroCopyError, RuntimeError):
    """The image is no longer in the object store, or belongs to a connection to Ray that has ended."""


class LoadTimeoutError(RayZeroCopyError, TimeoutError):
    """An object did not arrive in the time given.

    Attributes:
        seconds: the time given.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(
            f"Ray has not brought the object to this node within {seconds:g} s: the node that has it may be busy, lost "
            "or out of reach. Try again, give load() a longer timeout, or look at `ray status` and `ray memory`."
        )

    def __reduce__(self) -> tuple[type, tuple[float]]:
        return type(self), (self.seconds,)


class ClassNotFoundError(RayZeroCopyError, ImportError):
    """A class, function or operator of the pipeline is not to be had in this process."""

    @classmethod
    def unregistered(cls, user: str, name: str, library: str) -> ClassNotFoundError:
        """For what exists as soon as the library that registers it has been imported."""
        return cls(
            f"the {user} uses {name!r}, which is not registered in this process: import the library that brings it "
            f"({library!r}, by its name) in the worker before load()"
        )


class ImageError(RayZeroCopyError, ValueError):
    """Bytes that are not a sound image of a model. Base class of the four below."""


class ForeignImageError(ImageError):
    """Not an image of ray-zerocopy, or one of a machine with another byte order."""


class ImageVersionError(ImageError):
    """An image in a later version of the format: upgrade ray-zerocopy where it is loaded."""


class DamagedImageError(ImageError):
    """An image whose bytes do not check out; the message says which part."""


class BaseImageError(ImageError):
    """An image that shares weights with another one (``share_with=``), and that other one is not to be had here."""


class CarriedObjectError(RayZeroCopyError, ValueError):
    """A model or pipeline holds object references or actor handles of Ray's, which no file can hold."""


class IsolationError(RayZeroCopyError, RuntimeError):
    """The isolation asked for by ``RAY_ZEROCOPY_ISOLATION`` is unknown, or this machine cannot give it."""


class IsolationWarning(UserWarning):
    """This machine does not give copy-on-write mappings: loaded weights are read-only or copies in this process."""


class NodeFilesWarning(UserWarning):
    """``RAY_ZEROCOPY_NODE_FILES`` is set, and images cannot be kept in files there; the message says what to change."""


# --- named models --------------------------------------------------------------------------------


class NameTakenError(RayZeroCopyError, ValueError):
    """A model of this name exists already.

    Attributes:
        name, namespace: the name.
        version: the version of the model that has it.
    """

    def __init__(self, name: str, namespace: str, version: int) -> None:
        self.name, self.namespace, self.version = name, namespace, version
        super().__init__(
            f"there is a model {name!r} in namespace {namespace!r} already (version {version}). Use it with "
            f"get_if_exists=True, publish the next version with replace=True, or delete it first with "
            f"ModelWrapper.delete({name!r})."
        )

    def __reduce__(self) -> tuple[type, tuple[str, str, int]]:
        return type(self), (self.name, self.namespace, self.version)


class ModelNotFoundError(RayZeroCopyError, ValueError):
    """There is no model of this name, or the version asked for has been replaced or deleted."""


class ShortLivedOwnerWarning(UserWarning):
    """A model was wrapped in a process that will soon end, and the model with it."""


class PublishError(RayZeroCopyError, RuntimeError):
    """A model could not be brought into the cluster's ownership: its maker or the store failed on the way."""


class FactoryError(RayZeroCopyError, RuntimeError):
    """The task that should have made a model came to nothing: its process was lost, or it could not be scheduled.

    What a factory itself raises is raised as it is, and has one of these as its cause, with the traceback in the task.
    """


# --- calls as tasks ------------------------------------------------------------------------------


class TaskStateError(RayZeroCopyError, AttributeError):
    """State was to be changed through a stand-in, whose methods run in other processes."""


class UnpicklableArgumentError(RayZeroCopyError, TypeError):
    """An argument of a call cannot be sent to another process."""


class PackageMissingError(RayZeroCopyError, ImportError):
    """A process that was to run a call does not have this package."""


class NoFreeCpuWarning(UserWarning):
    """A call of a stand-in has waited for long, and actors hold the CPUs that it needs."""


class StoreOverflowWarning(UserWarning):
    """A put made Ray move objects of the store to disk."""


class PrivateMemoryWarning(UserWarning):
    """Much of a pipeline cannot be shared: each process that loads it holds that by itself."""


class StaleCodeWarning(UserWarning):
    """A class or function of the user's own is other code in this process than it was where the model was wrapped."""


class SettingError(RayZeroCopyError, ValueError):
    """An environment variable of this package has a value that it does not take."""


# --- files -----------------------------------------------------------------------------------------


class FileError(RayZeroCopyError, OSError):
    """A file could not be written or read. ``errno`` and ``filename`` are those of the system's error."""

    def __init__(self, path: str, what: str, code: int | None = None) -> None:
        self._arguments = path, what, code
        super().__init__(code, f"{path!r}: {what}")
        self.filename = path

    def __str__(self) -> str:
        return str(self.args[1])

    def __reduce__(self) -> tuple[type, tuple[str, str, int | None]]:
        return type(self), self._arguments


class CheckpointError(RayZeroCopyError, ValueError):
    """Files of weights that do not check out, or tensors that such a file cannot hold.

    Attributes:
        path: of the file or folder.
    """

    def __init__(self, path: str, what: str) -> None:
        self.path, self._what = path, what
        super().__init__(f"{path!r}: {what}")

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.path, self._what)


class FillError(RayZeroCopyError, ValueError):
    """Tensors that do not fit into a model, which is left as it was.

    Attributes:
        missing: names of the model that no tensor was given for.
        unexpected: names of tensors that the model does not have.
        shapes: name, shape in the model and shape given, of those that differ.
        meta: names of what would have been left on the meta device.
    """

    def __init__(
        self,
        text: str,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        shapes: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]] = (),
        meta: Sequence[str] = (),
    ) -> None:
        self.missing, self.unexpected = list(missing), list(unexpected)
        self.shapes, self.meta = list(shapes), list(meta)
        super().__init__(text)


# --- compiled models -------------------------------------------------------------------------------


class CompileError(RayZeroCopyError, RuntimeError):
    """A model cannot be compiled; the message has torch's own."""


class CompilerMissingError(CompileError):
    """There is no C++ compiler where a model is to be compiled."""

    def __init__(self) -> None:
        super().__init__(
            "compiling a model needs a C++ compiler, and there is none here: install one (Debian, Ubuntu: apt-get "
            "install g++; Fedora, RHEL: dnf install gcc-c++), or name it by the environment variable CXX. Workers, "
            "which only load what was compiled, need none."
        )

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()


class CompiledCodeError(RayZeroCopyError, RuntimeError):
    """Compiled code cannot run in this process, or is not to be had.

    Attributes:
        reason: why.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"a compiled model cannot be used here: {reason}. Compile on the weakest kind of machine that is to run "
            "it, or for one (inductor_configs={'cpp.march': 'x86-64-v3', 'cpp.simdlen': 256}), or wrap it with "
            "fallback='eager'."
        )

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.reason,)


class CompiledInputError(RayZeroCopyError, TypeError, ValueError):
    """Inputs of another structure, type or shape than those that a model was compiled for."""


class CompiledFallbackWarning(UserWarning):
    """Compiled code cannot run in this process, and what was chosen as its fallback does."""


# --- the Go core ---------------------------------------------------------------------------------


class CoreUnavailableError(RayZeroCopyError, ImportError):
    """The compiled extension ``ray_zerocopy._gozc`` is missing or cannot be loaded."""


class CoreError(RayZeroCopyError, RuntimeError):
    """The Go core refused its arguments or panicked: a bug in ray-zerocopy. Please report the message."""


class MappingError(RayZeroCopyError, OSError):
    """The operating system refused a mapping of the store's memory."""


class ForkedProcessError(RayZeroCopyError, RuntimeError):
    """This process was forked from one that had loaded the Go core or had started Ray; neither survives a fork.

    Attributes:
        action: what is not possible here.
    """

    def __init__(self, action: str) -> None:
        self.action = action
        super().__init__(
            f"{action} is not possible in a process that was forked after Ray or the Go core had been started "
            "(a DataLoader worker, for example): neither survives a fork. Load the model before the fork, which the "
            "child may then use freely, or start the child with the 'spawn' method "
            "(DataLoader(multiprocessing_context='spawn'))."
        )

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.action,)
