"""ModelWrapper: a model or pipeline, put into Ray's object store once, and loaded from there by any number of
workers."""

from __future__ import annotations

import asyncio
import difflib
import functools
import logging
import os
import pickle
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Mapping, NoReturn, Protocol, TypedDict, TypeVar, Union, cast, overload

import ray
import torch

from . import core, errors, filing, traces
from .arrival import Arrival
from .core import Bytes
from .description import NOTHING, Description, Mode, about_of, taken_apart
from .graph import compiled_model, filling, pipeline
from .graph.compiled_model import CompiledModel, Fallback
from .graph.private import PrivateBytes
from .stores import checkpoints, connection, files, loading, named, node, objects
from .stores.files import File
from .stores.loading import Place
from .stores.named import Lifetime, Name
from .stores.objects import Reference
from .stores.records import About
from .tasks import leases, standin

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from typing_extensions import Self, Unpack

_log = logging.getLogger("ray_zerocopy")
_SHOWN = 5  # models in a repr

T = TypeVar("T")
M = TypeVar("M")  # of a class method: pyright does not infer the class's own there
W = TypeVar("W", bound="ModelWrapper[Any]")
Module = TypeVar("Module", bound=torch.nn.Module)

# of each model the image (a reference, or a name), in task mode with the names of its methods that were asked for
ModelInfo = Mapping[str, "Any | tuple[Any, set[str]]"]


# what a model is compiled for: example inputs by position or by name; True for an exported program, which has its own
Inputs = Union["tuple[Any, ...]", Mapping[str, Any], bool]


class NamingArguments(TypedDict, total=False):
    """The arguments of `ModelWrapper.from_model` that give a model a name."""

    name: str | None
    lifetime: Lifetime
    namespace: str | None
    get_if_exists: bool
    replace: bool
    share_with: ModelWrapper[Any] | Sequence[ModelWrapper[Any]]


class CompilingArguments(NamingArguments, total=False):
    """Those, and the arguments beside ``compile`` (see `CompiledModel.compile`)."""

    dynamic_shapes: Any
    inductor_configs: Mapping[str, Any] | None
    fallback: Fallback


@dataclass(frozen=True)
class Outline:
    """What a wrapper itself knows of what it wraps; everything else is in the image.

    Attributes:
        image: the image: in the object store, by reference or by name, or in a file.
        class_name: name of the wrapped object's class.
        nbytes: length of the image in bytes.
        interface: in task mode, the wrapped object's methods.
        single: block of the image with the skeleton of the first model by itself, those of the others follow; None:
            there are none.
        private: bytes that each process that loads it holds by itself.
        lease: in the process that wrapped the object, in task mode, where the image has no name.
    """

    image: Place
    class_name: str
    nbytes: int
    interface: standin.Interface | None = None
    single: int | None = None
    private: PrivateBytes = field(default=NOTHING, compare=False, repr=False)
    lease: leases.Lease | None = field(default=None, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Outline, (self.image, self.class_name, self.nbytes, self.interface, self.single, self.private)


class _DeleteByName(Protocol):
    def __call__(self, name: str, namespace: str | None = None) -> None: ...


class _Delete:
    """``ModelWrapper.delete(name)`` and ``wrapper.delete()``."""

    @overload
    def __get__(self, wrapper: None, owner: type) -> _DeleteByName: ...

    @overload
    def __get__(self, wrapper: ModelWrapper[Any], owner: type) -> Callable[[], None]: ...

    def __get__(self, wrapper: ModelWrapper[Any] | None, owner: type) -> Callable[..., None]:
        return delete if wrapper is None else wrapper._delete


def delete(name: str, namespace: str | None = None) -> None:
    """Forget a named model, and its image. Who has loaded it keeps what was loaded.

    Args:
        name, namespace: as in `ModelWrapper.from_model`.

    Raises:
        ModelNotFoundError: there is no model of this name.
        RayNotInitializedError, ForkedProcessError: Ray cannot be used in this process.
    """
    named.delete(named.key(name, namespace))


class _Class(type):
    """The class of the wrappers, for what people look for in it."""

    if not TYPE_CHECKING:

        def __getattr__(cls, name: str) -> Any:
            hint = ""
            if name.startswith(("from_", "load")):
                hint = (
                    "; it wraps what is loaded already: make the model, by AutoModel.from_pretrained(...) or "
                    f"torch.load(...), and then {cls.__name__}.from_model(model)"
                )
            raise AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}{hint}")


class ModelWrapper(Generic[T], metaclass=_Class):
    """A model or pipeline in Ray's object store, one copy for all workers of a node.

    The wrapper is small and can be pickled: pass it to actors, tasks, Ray Data (``fn_constructor_kwargs``) or Ray Serve
    (``.bind(wrapper)``), and call `load` there. The image stays in the store as long as the wrapper, a copy of it or
    something loaded from it is alive, and the process that made it; or, with a name and ``lifetime="detached"``, until
    `delete` (docs/lifetimes.md).

    Example:
        >>> wrapper = ModelWrapper.from_model(pipeline, mode="actor")
        >>> class InferenceActor:
        ...     def __init__(self, model_wrapper):
        ...         self.pipeline = model_wrapper.load()
        ...     def __call__(self, batch):
        ...         return self.pipeline(batch)
        >>> ds.map_batches(
        ...     InferenceActor,
        ...     fn_constructor_kwargs={"model_wrapper": wrapper},
        ...     compute=ActorPoolStrategy(size=4),
        ... )
    """

    def __init__(
        self,
        skeleton: Outline,
        model_info: ModelInfo | None = None,
        is_standalone_module: bool = False,
        mode: Mode = "actor",
    ) -> None:
        """See `from_model`, which makes wrappers, and `deserialize`, which takes these very arguments."""
        if not isinstance(skeleton, Outline) or model_info is None:
            raise TypeError(
                f"use {type(self).__name__}.from_model(model) to wrap a model, and {type(self).__name__}.deserialize("
                f"**serialized) to undo serialize(): the constructor takes what serialize() gave, not a "
                f"{type(skeleton).__qualname__}"
            )
        _require_mode(mode)
        self._skeleton = skeleton
        self._models = {name: info[1] if isinstance(info, tuple) else None for name, info in model_info.items()}
        self._is_standalone_module = is_standalone_module
        self._mode: Mode = mode
        core.preload()  # in a worker, the wrapper arrives some time before it is asked to load

    @overload
    @classmethod
    def from_model(
        cls,
        model_or_pipeline: M,
        mode: Mode = "actor",
        model_attr_names: Sequence[str] | None = None,
        method_names: Sequence[str] | None = None,
        *,
        compile: None = None,
        **naming: Unpack[NamingArguments],
    ) -> ModelWrapper[M]: ...

    @overload
    @classmethod
    def from_model(
        cls,
        model_or_pipeline: torch.nn.Module | ExportedProgram,
        mode: Mode = "actor",
        model_attr_names: Sequence[str] | None = None,
        method_names: Sequence[str] | None = None,
        *,
        compile: Inputs,
        **options: Unpack[CompilingArguments],
    ) -> ModelWrapper[CompiledModel]: ...

    @classmethod
    def from_model(
        cls,
        model_or_pipeline: Any,
        mode: Mode = "actor",
        model_attr_names: Sequence[str] | None = None,
        method_names: Sequence[str] | None = None,
        *,
        name: str | None = None,
        lifetime: Lifetime = None,
        namespace: str | None = None,
        get_if_exists: bool = False,
        replace: bool = False,
        share_with: ModelWrapper[Any] | Sequence[ModelWrapper[Any]] = (),
        compile: Inputs | None = None,
        dynamic_shapes: Any = None,
        inductor_configs: Mapping[str, Any] | None = None,
        fallback: Fallback = None,
    ) -> ModelWrapper[Any]:
        """Put a model or pipeline into the object store.

        Ray is started, or connected to, if this process has not done so: by the rule of Ray's own calls
        (``RAY_ADDRESS``; ``RAY_ENABLE_AUTO_CONNECT=0`` turns it off).

        Args:
            model_or_pipeline: an ``nn.Module``, or any object that holds some, wherever they hang. All tensors in CPU
                memory.
            mode: ``"actor"``: workers call `load`. ``"task"``: `load` gives a stand-in, as `for_tasks` does.
            model_attr_names: the pipeline's attributes to name in `model_refs`; found if None. Sharing is not limited
                to them.
            method_names: in task mode, methods to offer beside the public ones, such as private ones.
            name: a name under which every process of the cluster can `get` the model.
            lifetime: None: the model ends with this process (and without a name, with the last wrapper of it).
                ``"detached"``: the cluster keeps it until `delete`, whoever ends; needs a name.
            namespace: keeps the names of several teams apart; None is the one that all share, whatever namespace Ray
                was initialized with.
            get_if_exists: if the name is in use, give the model that has it and put none.
            replace: if the name is in use, publish the next version of it; see `latest`.
            share_with: a wrapper of a model in the store, or several, such as the base that this one was fine-tuned
                from. Weights whose bytes one of them has are not stored again (whole storages, found by their
                checksums and compared byte by byte); they stay as long as this model.
            compile: example inputs: the model is compiled for them, here and once, and what `load` gives is a
                `CompiledModel` over the shared weights. A tuple of those that are given by position, or a dictionary of
                those that are given by name. (In a pipeline, put ``CompiledModel.compile(model, inputs)`` where the
                model is.)
            dynamic_shapes, inductor_configs, fallback: for that; see `CompiledModel.compile`.

        Returns:
            The wrapper. The model itself is not changed and no longer needed.

        Raises:
            ValueError: an unknown mode or lifetime, a name in ``model_attr_names`` that is no attribute
                (`NotAModelError`), one in ``method_names`` that is no method (`NotAMethodError`), a name that is in
                use (`NameTakenError`), or a model in ``share_with`` that is in a file, or ends before this one.
            RayNotInitializedError: there is no connection to Ray, and ``RAY_ENABLE_AUTO_CONNECT=0`` forbids to start
                one, as Ray's own calls would.
            ForkedProcessError: in a process that was forked from one that uses Ray.
            StoreTooSmallError: the image does not fit into this node's store; nothing was copied.
            StoreFullError: it would, but the store and the disk behind it are full of what is in use.
            PublishError: the copy that the cluster was to own could not be made.
            UnpicklableError: something in the pipeline cannot be pickled; the message has its path.
            DeviceError: a tensor is not in CPU memory; the message has its path.
            CompileError: with ``compile``, torch refused the model, or there is no C++ compiler.
        """
        _require_mode(mode)
        naming = named.Naming(name, namespace, lifetime, get_if_exists, replace)
        cls._require_kind(model_or_pipeline)
        connection.ensure("Wrapping a model")
        existing = naming.existing()
        if existing is not None:
            return cls._of_name(*existing, mode)
        model_or_pipeline = compiled_model.requested(
            model_or_pipeline, compile, dynamic_shapes, inductor_configs, fallback
        )
        start = time.perf_counter()
        # stand-ins load no single models, and who gets a named one may want them
        single = mode == "actor" or name is not None
        bases, references = filing.stored_bases(_places(share_with), lifetime is not None)
        built, description = taken_apart(model_or_pipeline, mode, model_attr_names, method_names, single, bases)
        parts = built.parts, [*built.carried, *(references[number] for number in built.bases)], built.size
        if lifetime is None:
            _warn_of_short_life()
        if name is None:
            wrapper = cls._described(Reference(objects.put(*parts)), built.size, description, mode)
        else:
            about = about_of(description, built.size, built.tensors)
            wrapper = cls._of_name(*naming.publish(naming.put(*parts), about), mode)
        if wrapper._skeleton.class_name == description.class_name:  # and not another model, that was there meanwhile
            wrapper._document(type(model_or_pipeline))
            milliseconds = 1e3 * (time.perf_counter() - start)
            where = wrapper._skeleton.image
            shared = f" beside {built.shared:,} shared ones" if share_with else ""
            _log.info(
                f"put a {description.class_name}, now {where}: {built.size:,} bytes{shared} in {milliseconds:.1f} ms"
            )
        return wrapper

    @overload
    @classmethod
    def for_tasks(
        cls,
        model_or_pipeline: M,
        method_names: Sequence[str] | None = None,
        *,
        compile: None = None,
        **naming: Unpack[NamingArguments],
    ) -> M: ...

    @overload
    @classmethod
    def for_tasks(
        cls,
        model_or_pipeline: torch.nn.Module | ExportedProgram,
        method_names: Sequence[str] | None = None,
        *,
        compile: Inputs,
        **options: Unpack[CompilingArguments],
    ) -> CompiledModel: ...

    @classmethod
    def for_tasks(
        cls,
        model_or_pipeline: Any,
        method_names: Sequence[str] | None = None,
        *,
        name: str | None = None,
        lifetime: Lifetime = None,
        namespace: str | None = None,
        get_if_exists: bool = False,
        replace: bool = False,
        share_with: ModelWrapper[Any] | Sequence[ModelWrapper[Any]] = (),
        compile: Inputs | None = None,
        dynamic_shapes: Any = None,
        inductor_configs: Mapping[str, Any] | None = None,
        fallback: Fallback = None,
    ) -> Any:
        """Put a model or pipeline into the object store, and call it in Ray tasks.

        The result has the methods of what was wrapped, and each call of one runs as a single Ray task on a node that
        has the weights; a worker loads the pipeline at its first call and keeps it for the next ones.

        Example:
            >>> wrapped = ModelWrapper.for_tasks(pipeline)
            >>> result = wrapped(data)  # waits
            >>> reference = wrapped.encode.remote(data)  # does not wait; each method has .remote, .options, .map
            >>> results = list(wrapped.map(batches, progress=True))

        Args:
            model_or_pipeline, method_names, name, lifetime, namespace, get_if_exists, replace, share_with: as in
                `from_model`.
            compile, dynamic_shapes, inductor_configs, fallback: as there.

        Returns:
            A `ray_zerocopy.tasks.standin.StandIn`, which says more about ``remote``, ``options`` and ``map``.

        Raises:
            Exception: what `from_model` raises.
        """
        # no overload takes what this one has been given, which is one of them
        wrapper = cast("Callable[..., ModelWrapper[Any]]", cls.from_model)(
            model_or_pipeline,
            "task",
            method_names=method_names,
            compile=compile,
            dynamic_shapes=dynamic_shapes,
            inductor_configs=inductor_configs,
            fallback=fallback,
            name=name,
            lifetime=lifetime,
            namespace=namespace,
            get_if_exists=get_if_exists,
            replace=replace,
            share_with=share_with,
        )
        return wrapper.load()

    @overload
    @classmethod
    def from_factory(
        cls,
        make_model: Callable[..., M] | str | os.PathLike[str],
        *args: Any,
        name: str | None = None,
        lifetime: Lifetime = None,
        namespace: str | None = None,
        get_if_exists: bool = False,
        replace: bool = False,
        mode: Mode = "actor",
        model_attr_names: Sequence[str] | None = None,
        method_names: Sequence[str] | None = None,
        compile: None = None,
        **options: Any,
    ) -> ModelWrapper[M]: ...

    @overload
    @classmethod
    def from_factory(
        cls,
        make_model: Callable[..., torch.nn.Module | ExportedProgram],
        *args: Any,
        name: str | None = None,
        lifetime: Lifetime = None,
        namespace: str | None = None,
        get_if_exists: bool = False,
        replace: bool = False,
        mode: Mode = "actor",
        model_attr_names: Sequence[str] | None = None,
        method_names: Sequence[str] | None = None,
        compile: Inputs,
        dynamic_shapes: Any = None,
        inductor_configs: Mapping[str, Any] | None = None,
        fallback: Fallback = None,
        **options: Any,
    ) -> ModelWrapper[CompiledModel]: ...

    @classmethod
    def from_factory(
        cls,
        make_model: Callable[..., Any] | str | os.PathLike[str],
        *args: Any,
        name: str | None = None,
        lifetime: Lifetime = None,
        namespace: str | None = None,
        get_if_exists: bool = False,
        replace: bool = False,
        mode: Mode = "actor",
        model_attr_names: Sequence[str] | None = None,
        method_names: Sequence[str] | None = None,
        compile: Inputs | None = None,
        dynamic_shapes: Any = None,
        inductor_configs: Mapping[str, Any] | None = None,
        fallback: Fallback = None,
        **options: Any,
    ) -> ModelWrapper[Any]:
        """Have a task of the cluster make a model and put it into the object store, and wait for it.

        The weights never pass through this process. The image comes back by itself, made by another call, when all
        nodes that held it are lost. With ``get_if_exists=True`` it is what an actor or a replica writes in its
        constructor: the first one has the model made, and all others, also those that ask meanwhile, share it.

        Example:
            >>> wrapper = ModelWrapper.from_factory(
            ...     load_encoder, "s3://...", name="encoder", lifetime="detached", get_if_exists=True, num_cpus=2
            ... )

        Args:
            make_model: gives the model or pipeline; called in a process of its own, with this process's ``sys.path``
                and runtime environment. Or the path of a model file (see `save`), which is read where the task runs.
            *args: its arguments. Plain data or named wrappers, not Ray's references, which end with their owners.
            name, lifetime, namespace, get_if_exists, replace: as in `from_model`.
            mode, model_attr_names, method_names: as in `from_model`.
            compile, dynamic_shapes, inductor_configs, fallback: as there; the model is compiled in the task, for the
                processor of its node and for the ``num_cpus`` that it has.
            **options: Ray's own for the task: ``num_cpus``, ``resources``, ``runtime_env``, ``memory`` and so on.

        Raises:
            Exception: what the factory raises, in every process that waits for it; whoever asks next tries again.
            FactoryError: the task came to nothing: its process was killed, or no node has the resources.
            UnpicklableArgumentError: the factory, or an argument, cannot be sent to another process.
            ValueError, StoreTooSmallError, UnpicklableError, DeviceError, RayNotInitializedError, ForkedProcessError:
                as `from_model`.
        """
        _require_mode(mode)
        naming = named.Naming(name, namespace, lifetime, get_if_exists, replace)
        connection.ensure("Having a model made")
        existing = naming.existing()
        if existing is not None:
            return cls._of_name(*existing, mode)
        making: Callable[..., Any]
        if isinstance(make_model, (str, os.PathLike)):
            if args or model_attr_names or method_names or compile is not None:
                raise TypeError(
                    "what is read from a model file takes no arguments, model_attr_names, method_names or compile"
                )
            making = functools.partial(filing.in_task, os.path.abspath(os.fspath(make_model)), None, mode)
        else:
            chosen = tuple(model_attr_names or ()) or None, tuple(method_names or ())
            compiling = compile, dynamic_shapes, inductor_configs, fallback
            making = functools.partial(_made_in_task, cls, make_model, args, mode, *chosen, compiling)
        source = named.called(making, options)
        if lifetime is None:
            _warn_of_short_life()
        if name is not None:
            return cls._of_name(*naming.publish(source, About()), mode)
        reference, about = named.make_here(source)
        return cls._described(Reference(reference), about.nbytes, pickle.loads(about.wrapper), mode)

    @classmethod
    def get(
        cls, name: str, namespace: str | None = None, *, version: int | None = None, mode: Mode | None = None
    ) -> Self:
        """The wrapper of a named model, in any process of any job of the cluster.

        Args:
            name, namespace: as in `from_model`.
            version: None: the newest. An older one can be had for some seconds after a newer one was published.
            mode: None: the one in which it was published.

        Raises:
            ModelNotFoundError: there is no model of this name, or this version is gone; the message says which are.
            RayNotInitializedError, ForkedProcessError: Ray cannot be used in this process.
        """
        if mode is not None:
            _require_mode(mode)
        found = named.find(named.key(name, namespace), version)
        wrapper = cast("Self", cls._of_name(*found))
        return wrapper if mode is None else wrapper.in_mode(mode)

    @classmethod
    def open(cls, path: str | os.PathLike[str], mode: Mode | None = None) -> ModelWrapper[Any]:
        """The wrapper of a model in a file that `save` has written, with Ray or without it.

        `load` maps the file: all processes of a node that do share one copy of the weights, which is the system's page
        cache, and a write stays in the process that writes. Nothing is unpickled here, and the weights are not read.
        In another process or on another node, the wrapper needs the same file under the same path.

        Example:
            >>> model = ModelWrapper.open("/models/encoder.rzc").load()  # in each worker of gunicorn, say

        Args:
            path: of the file.
            mode: None: the one in which it was wrapped.

        Raises:
            FileNotFoundError, PermissionError and other OSErrors: the file cannot be opened.
            ForeignImageError: it is no model file.
            DamagedImageError, ImageVersionError: it was cut short or changed, or is of a later version of the format.
            BaseImageError: a file that it shares weights with is not to be had.
        """
        place = files.opened(path)
        with files.naming(place.path):
            description = Description.of_json(place.about)
        mode = description.mode if mode is None else mode
        _require_mode(mode)
        return cls._described(place, place.nbytes, description, mode)

    @classmethod
    def to_file(
        cls,
        model_or_pipeline: M,
        path: str | os.PathLike[str],
        mode: Mode = "actor",
        model_attr_names: Sequence[str] | None = None,
        method_names: Sequence[str] | None = None,
        *,
        share_with: ModelWrapper[Any] | Sequence[ModelWrapper[Any]] = (),
    ) -> ModelWrapper[M]:
        """Write a model or pipeline into a file, without Ray, and `open` that. Arguments and errors as in `from_model`
        and `save`."""
        _require_mode(mode)
        cls._require_kind(model_or_pipeline)
        bases = filing.file_bases(_places(share_with), path)
        built, _ = taken_apart(model_or_pipeline, mode, model_attr_names, method_names, True, *bases)
        filing.require_nothing_carried(f"this {type(model_or_pipeline).__qualname__}", built.carried)
        filing.write(path, built.parts)
        return cls.open(path)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        share_with: ModelWrapper[Any] | Sequence[ModelWrapper[Any]] = (),
        timeout: float | None = None,
    ) -> None:
        """Write the model into one file, which `open` opens: today, tomorrow, in another cluster or in none.

        The file appears as a whole or not at all, also if this process is killed. One that was there before is
        replaced, and who has it loaded keeps it. It has checksums of all that is in it (see `verify`).

        Args:
            path: of the file; ``.rzc`` is a usual ending.
            share_with: wrappers of model files (see `open`): what they have is not written again. The file names them
                by their paths from its own folder, and cannot be opened without them.
            timeout: as in `load`.

        Raises:
            FileError: the disk is full, or the folder cannot be written to; nothing is left of the new file.
            FileNotFoundError: there is no such folder.
            CarriedObjectError: the pipeline holds object references or actor handles of Ray's.
            Exception: as `load`, for an image that cannot be had.
        """
        self._require("Saving a model")
        filing.save(self._skeleton.image, path, _places(share_with), timeout)

    def put(
        self,
        mode: Mode | None = None,
        *,
        name: str | None = None,
        lifetime: Lifetime = None,
        namespace: str | None = None,
        get_if_exists: bool = False,
        replace: bool = False,
    ) -> ModelWrapper[T]:
        """Bring a model in a file (see `open`) into the object store, from the page cache straight into shared memory.

        With ``lifetime="detached"`` a task on this node reads the file, and again if all nodes that hold the model are
        lost: the path has to lead to it then, wherever that task runs.

        Args:
            mode: None: that of this wrapper.
            name, lifetime, namespace, get_if_exists, replace: as in `from_model`.

        Returns:
            Its wrapper.

        Raises:
            TypeError: the model is in the store already.
            Exception: as `open` and `from_model`.
        """
        place = self._skeleton.image
        if not isinstance(place, File):
            raise TypeError(f"put() is for models in files, and this one is {place}, in the store already")
        mode = mode or self._mode
        _require_mode(mode)
        naming = named.Naming(name, namespace, lifetime, get_if_exists, replace)
        connection.ensure("Putting a model file into the object store")
        existing = naming.existing()
        if existing is not None:
            return type(self)._of_name(*existing, mode)
        if lifetime is None:
            _warn_of_short_life()
        if lifetime is not None and not connection.is_client():
            return type(self)._of_name(*naming.publish(filing.source(place, mode), About()), mode)
        parts, size, about, description = filing.whole(place, mode)
        if name is None:
            return type(self)._described(Reference(objects.put(parts, [], size)), size, description, mode)
        return type(self)._of_name(*naming.publish(naming.put(parts, [], size), about), mode)

    @classmethod
    def from_safetensors(
        cls,
        path: str | os.PathLike[str],
        into: Module,
        strict: bool = True,
        mode: Mode = "actor",
        model_attr_names: Sequence[str] | None = None,
        method_names: Sequence[str] | None = None,
        **naming: Any,
    ) -> ModelWrapper[Module]:
        """Put a model whose weights lie in safetensors files into the object store.

        The bytes go from the page cache straight into shared memory. The model itself is filled as `load` with ``into``
        fills one: its parameters are the file's tensors from then on, mapped copy-on-write.

        Args:
            path: of one file, of a folder with ``model.safetensors`` or ``model.safetensors.index.json``, or of such an
                index.
            into: a model whose ``state_dict`` has these names; it may be on the meta device. Buffers that the file does
                not have are kept, tied weights stay tied, and dtypes are those of the file.
            strict: whether names that are missing, or that the model does not have, are an error.
            mode, model_attr_names, method_names, **naming: as in `from_model`.

        Raises:
            FillError: names or shapes do not fit.
            CheckpointError: a file is no sound safetensors file, or one that the index names is not there.
            FileNotFoundError: there is no such file.
            Exception: what `from_model` raises.
        """
        filling.fill(into, checkpoints.read(path), strict)
        return cls.from_model(into, mode, model_attr_names, method_names, **naming)

    def save_safetensors(self, path: str | os.PathLike[str], timeout: float | None = None) -> None:
        """Write what ``state_dict`` has into one safetensors file, tensor by tensor: no copy of the whole is made.

        Tied weights are written once, under the name that the safetensors package's own ``save_model`` chooses; the
        others stand in the file's metadata, each with that name, as there.

        Raises:
            FileError: as `save`.
            CheckpointError: the format cannot hold a tensor; the message names it.
            Exception: as `load`, for an image that cannot be had.
        """
        self._require("Saving a model")
        found, _ = loading.named_tensors(self._skeleton.image, timeout)
        checkpoints.write(path, {entry["name"]: tensor for entry, tensor in found if entry["persistent"]})

    @traces.holds_nothing
    def tensors(self, timeout: float | None = None) -> dict[str, torch.Tensor]:
        """The named tensors, over the one copy of the weights on this node; nothing is unpickled.

        Names are those of ``state_dict``, behind the path of the model in the pipeline, if it is one
        (``encoder.layer.0.weight``); buffers that ``state_dict`` leaves out are among them. Sparse and quantized
        tensors are not. They are writable, and a write stays in this process. Raises as `load`.
        """
        self._require("Reading a model's tensors")
        return {entry["name"]: tensor for entry, tensor in loading.named_tensors(self._skeleton.image, timeout)[0]}

    delete = _Delete()

    @property
    def name(self) -> str | None:
        """The model's name; None if it has none."""
        return self._skeleton.image.name if isinstance(self._skeleton.image, Name) else None

    @property
    def namespace(self) -> str | None:
        """The namespace of its name; None if it has none."""
        return self._skeleton.image.namespace if isinstance(self._skeleton.image, Name) else None

    @property
    def version(self) -> int | None:
        """The version that this wrapper loads, from 1; None for a model without a name."""
        return self._skeleton.image.version if isinstance(self._skeleton.image, Name) else None

    @property
    def nbytes(self) -> int:
        """Bytes of the image: what each node's store holds of it once."""
        return self._skeleton.nbytes

    @property
    def private_bytes(self) -> PrivateBytes:
        """Bytes that each process that loads the model holds by itself, beside the image that all share.

        They are what Python makes anew: strings, numbers, objects, ``bytes``, what a class puts into them in its
        ``__getstate__``, constants of TorchScript that torch copies. Not counted is what a library makes of the weights
        when they are loaded (quantized modules repack them). It is a number that has ``.paths``: where most of them
        hang, if there is something large.
        """
        return self._skeleton.private

    def latest(self) -> Self:
        """The wrapper of the newest version of this name: this very wrapper if it is the newest. Takes a millisecond.

        Example:
            >>> newest = self.wrapper.latest()
            >>> if newest is not self.wrapper:  # or: newest.version != self.wrapper.version
            ...     self.wrapper, self.model = newest, newest.load()

        Raises:
            ModelNotFoundError: the name was deleted.
            ValueError: the model has no name.
        """
        image = self._required_name("latest()")
        found, about = named.find((image.namespace, image.name))
        return self if found == image else cast("Self", type(self)._of_name(found, about, self._mode))

    def in_mode(self, mode: Mode) -> Self:
        """The same named model for `load` in actors (``"actor"``) or for calls in tasks (``"task"``)."""
        _require_mode(mode)
        if mode == self._mode:
            return self
        image = self._required_name("in_mode()")
        found = named.find((image.namespace, image.name), image.version)
        return cast("Self", type(self)._of_name(*found, mode=mode))

    @overload
    def load(
        self, part: None = None, prefault: bool = False, timeout: float | None = None, verify: bool = False
    ) -> T: ...

    @overload
    def load(self, part: str, prefault: bool = False, timeout: float | None = None, verify: bool = False) -> Any: ...

    @overload
    def load(
        self,
        part: str | None = None,
        prefault: bool = False,
        timeout: float | None = None,
        verify: bool = False,
        *,
        into: Module,
        strict: bool = True,
    ) -> Module: ...

    @traces.holds_nothing
    def load(
        self,
        part: str | None = None,
        prefault: bool = False,
        timeout: float | None = None,
        verify: bool = False,
        *,
        into: torch.nn.Module | None = None,
        strict: bool = True,
    ) -> Any:
        """Rebuild the model or pipeline in this process, over the one copy of its weights on this node.

        Each call gives an object of its own. Its weights are writable, and a write stays in this process: the
        pages written become private memory, all others stay shared (see `isolation`). In task mode nothing is loaded
        here: the result is what `for_tasks` gives.

        It takes milliseconds. What the first load in a process takes above that is the import of what the pipeline's
        classes need (torch, transformers: seconds); the logger ``ray_zerocopy`` tells one from the other at level INFO.

        Args:
            part: the name of one of the pipeline's models, as in `model_refs`: that alone, in the time that it takes
                by itself.
            prefault: fill the page tables of the whole image now (several threads), so that the first forward does not
                have to.
            timeout: seconds in which the image has to be on this node; None: without end.
            verify: compare all bytes with the checksums that were made when the model was put, at the speed of
                reading them.
            into: a model that was built here; its parameters and buffers become those of the image with the same names,
                and it is what is returned. Otherwise the image is unpickled, which can run code: load only what you
                trust; this way nothing is. Of a pipeline, ``part`` says which model it is.
            strict: with ``into``, whether names that one has and the other has not are an error.

        Raises:
            FillError: with ``into``, names or shapes do not fit; the model was not changed.
            NotAModelError: no model of the pipeline has the name in ``part``.
            ForkedProcessError: this process was forked from one that uses Ray.
            ImageLostError: the image is no longer in the store, or `ray.shutdown` has been called in this process.
            LoadTimeoutError: the time is over.
            ClassNotFoundError: a class of the pipeline cannot be imported here.
            ImageError: the stored bytes are not a sound image; with ``verify`` a `DamagedImageError` names the first
                tensor that is not what was put.
        """
        outline = self._skeleton
        if part is not None:
            self._require_part(part)
        self._require("Loading a model")
        if into is not None:
            return self._filled(into, strict, part, prefault, timeout, verify)
        if outline.interface is not None:
            made = standin.stand_in(standin.StandIn, outline.image, outline.interface, outline.lease)
            return made if part is None or self._is_standalone_module else getattr(made, part)
        names = list(self._models)
        single = None if part is None or outline.single is None else outline.single + names.index(part)
        loaded, memories = loading.load(outline.image, timeout, verify, single)
        if prefault:
            _prefault(memories)
        if part is not None and single is None:
            models = pipeline.models(loaded, None, private=True)  # an empty one is false
            return models[part] if part in models else getattr(loaded, part)
        return loaded

    @overload
    async def load_async(
        self, part: None = None, prefault: bool = False, timeout: float | None = None, verify: bool = False
    ) -> T: ...

    @overload
    async def load_async(
        self, part: str, prefault: bool = False, timeout: float | None = None, verify: bool = False
    ) -> Any: ...

    async def load_async(
        self, part: str | None = None, prefault: bool = False, timeout: float | None = None, verify: bool = False
    ) -> Any:
        """As `load`, in a thread: an event loop, such as that of an async actor, goes on meanwhile."""
        load = functools.partial(self.load, part, prefault, timeout, verify)
        return await asyncio.get_running_loop().run_in_executor(None, load)

    @traces.holds_nothing
    def verify(self, timeout: float | None = None) -> None:
        """Compare all bytes of this node's copy with the checksums that were made when the model was put.

        Nothing is unpickled. It takes as long as reading the bytes does, with all processors.

        Args:
            timeout: as in `load`.

        Raises:
            DamagedImageError: they differ; it names the first tensor that does.
            Exception: as `load`, for an image that cannot be had.
        """
        outline = self._skeleton
        self._require("Verifying a model")
        loading.verify(outline.image, timeout)

    def release(self) -> None:
        """Give the store its memory back now, whoever in this process still holds this wrapper or a copy of it.

        For notebooks, which keep what they have shown. All wrappers and stand-ins of this image in this process raise
        `ImageLostError` from now on. A process that has been sent a copy holds the image until it drops that, and
        whoever has loaded it until they drop what was loaded.

        Raises:
            ValueError: the model has a name: `delete` ends it.
            ImageLostError: it was released before.
            ForkedProcessError: this process was forked from one that uses Ray.
        """
        standin.release(self._skeleton.image)

    @property
    def model_refs(self) -> dict[str, ray.ObjectRef[Any]]:
        """The name of each model of the pipeline (``"model"`` for a bare module) and the object that holds it.

        All models of a pipeline are in one image, so all names have the same reference. That of a named model is
        borrowed from the cluster for as long as one holds it.

        Raises:
            TypeError: the model is in a file.
        """
        image = self._skeleton.image
        if isinstance(image, File):
            raise TypeError(f"{image} is not in the object store: put() brings it there, and gives a wrapper that is")
        return dict.fromkeys(self._models, image.reference())

    def serialize(self) -> dict[str, Any]:
        """The wrapper as a dictionary that `deserialize` takes.

        Its keys are ``skeleton``, ``model_info``, ``is_standalone_module`` and ``mode``.
        """
        image = self._skeleton.image
        stored = image.reference() if isinstance(image, Reference) else image
        return {
            "skeleton": self._skeleton,
            "model_info": {
                name: stored if methods is None else (stored, methods) for name, methods in self._models.items()
            },
            "is_standalone_module": self._is_standalone_module,
            "mode": self._mode,
        }

    @classmethod
    def deserialize(
        cls,
        skeleton: Outline,
        model_info: ModelInfo,
        is_standalone_module: bool = False,
        mode: Mode = "actor",
    ) -> Self:
        """Undo `serialize`: ``ModelWrapper.deserialize(**wrapper.serialize())``."""
        return _restored(cls, skeleton, model_info, is_standalone_module, mode)

    def __reduce__(self) -> tuple[Any, ...]:
        # without the documentation taken from the wrapped class, which can be longer than everything else
        models = {name: None if methods is None else (None, methods) for name, methods in self._models.items()}
        return _RESTORED, (type(self), self._skeleton, models, self._is_standalone_module, self._mode)

    def __repr__(self) -> str:
        """One line: class, name and version or object id, mode, the first models, bytes."""
        image = self._skeleton.image
        if isinstance(image, Name):
            known = f"name={image.name!r}, version={image.version}"
        else:
            known = f"path={image.path!r}" if isinstance(image, File) else f"object={image.key.hex()}"
        names = list(self._models)
        shown = ", ".join(names[:_SHOWN]) + (f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        return (
            f"{type(self).__name__}({self._skeleton.class_name}, {known}, mode={self._mode!r}, models=[{shown}], "
            f"{self.nbytes:,} bytes)"
        )

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise a TypeError that says how to call what is wrapped."""
        loaded = "wrapper.load()(...), once in each worker" if self._mode == "actor" else "wrapper.load()(...)"
        raise TypeError(
            f"a {type(self).__name__} holds a {self._skeleton.class_name} and cannot be called itself: {loaded}; or "
            f"{type(self).__name__}.for_tasks(model)(...), where each call is a Ray task"
        )

    if not TYPE_CHECKING:  # or a type checker would take any name

        def __getattr__(self, name: str) -> Any:
            here = type(self).__name__
            if name.startswith("_"):
                raise AttributeError(f"{here!r} object has no attribute {name!r}")
            raise AttributeError(
                f"{here!r} object has no attribute {name!r}; those of the {self._skeleton.class_name} that it holds "
                f"are on what it loads: wrapper.load().{name}"
            )

    # --- inside ---

    @classmethod
    def _require_kind(cls, model_or_pipeline: Any) -> None:
        """Raise unless this class wraps such models."""

    def _require(self, action: str) -> None:
        """Raise unless this process can have the image."""
        if not isinstance(self._skeleton.image, File):  # for which it need not be connected
            self._skeleton.image.require(action)

    def _filled(
        self, into: Module, strict: bool, part: str | None, prefault: bool, timeout: float | None, verify: bool
    ) -> Module:
        found, memories = loading.named_tensors(self._skeleton.image, timeout, verify)
        prefix = ""
        if not self._is_standalone_module:
            if part is not None:
                self._require_part(part)
            elif len(self._models) != 1:
                raise errors.NotAModelError(
                    f"this {self._skeleton.class_name} has the models {', '.join(self._models)}: say which one is to "
                    "fill yours, load('...', into=model)"
                )
            name = part or next(iter(self._models))
            prefixes = f"{name}.", f"[{name!r}].", f"[{name}]."  # of an attribute, a dictionary's item, a list's
            known = [each for each in prefixes if any(entry["name"].startswith(each) for entry, _ in found)]
            prefix = known[0] if known else prefixes[0]
        state: dict[str, torch.Tensor] = {}
        beside: dict[str, torch.Tensor] = {}
        for entry, tensor in found:
            if entry["name"].startswith(prefix):
                group = state if entry["persistent"] else beside
                group[entry["name"][len(prefix) :]] = tensor
        filling.fill(into, state, strict, beside)
        if prefault:
            _prefault(memories)
        return into

    @classmethod
    def _described(cls, image: Place, nbytes: int, description: Description, mode: Mode) -> ModelWrapper[Any]:
        lease = interface = None
        if mode == "task":
            interface = description.interface
            lease = leases.Lease(image.key) if isinstance(image, Reference) else None
        models = {name: None if methods is None else (None, methods) for name, methods in description.models.items()}
        outline = Outline(
            image, description.class_name, nbytes, interface, description.single, description.private, lease
        )
        return _restored(cls, outline, models, description.standalone, mode)

    @classmethod
    def _of_name(cls, image: Name, about: About, mode: Mode | None = None) -> ModelWrapper[Any]:
        description: Description = pickle.loads(about.wrapper)
        return cls._described(image, about.nbytes, description, mode or description.mode)

    def _document(self, wrapped: type) -> None:
        if wrapped.__doc__:
            self.__doc__ = f"{type(self).__doc__}\n\nWrapped class documentation:\n{wrapped.__doc__}"
        self.__annotations__ = dict(getattr(wrapped, "__annotations__", {}))

    def _require_part(self, part: Any) -> None:
        if not isinstance(part, str):
            raise TypeError(
                f"load() takes the name of a model first, not {part!r}: load(prefault=...), load(timeout=...)"
            )
        if part not in self._models:
            near = difflib.get_close_matches(part, self._models, 3) or list(self._models)[:_SHOWN]
            raise errors.NotAModelError(
                f"this {self._skeleton.class_name} has no model {part!r} to be loaded by itself; it has "
                f"{', '.join(map(repr, near))}{' and others' if len(near) < len(self._models) else ''} (model_refs)"
            )

    def _required_name(self, what: str) -> Name:
        image = self._skeleton.image
        if not isinstance(image, Name):
            raise ValueError(
                f"{what} is for named models, and this {self._skeleton.class_name} has no name: "
                "ModelWrapper.from_model(model, name=...)"
            )
        return image

    def _delete(self) -> None:
        """Forget the model's name, and its image. Who has loaded it keeps what was loaded.

        Raises:
            ModelNotFoundError: the name was deleted already, or stands for another version.
            ValueError: the model has no name; it ends with its wrappers.
        """
        image = self._required_name("delete()")
        named.delete((image.namespace, image.name), image.token)


def _made_in_task(
    cls: type[ModelWrapper[Any]],
    make_model: Callable[..., Any],
    args: tuple[Any, ...],
    mode: Mode,
    model_attr_names: Sequence[str] | None,
    method_names: Sequence[str] | None,
    compiling: tuple[Any, ...],
) -> tuple[objects.Outgoing, dict[str, Any]]:
    """What `from_factory` has a task do: the image, and the fields of `About` that are known now."""
    model = make_model(*args)
    cls._require_kind(model)
    model = compiled_model.requested(model, *compiling)
    built, description = taken_apart(model, mode, model_attr_names, method_names)
    about = about_of(description, built.size, built.tensors)
    return objects.outgoing(built.parts, built.carried, built.size, owner=(built, model)), about.report()


def _places(wrappers: ModelWrapper[Any] | Sequence[ModelWrapper[Any]]) -> list[Place]:
    several: Sequence[Any] = wrappers if isinstance(wrappers, (list, tuple)) else [wrappers]
    for each in several:
        if not isinstance(each, ModelWrapper):
            raise TypeError(
                f"share_with takes the wrapper of a model, or a list of them, not a {type(each).__qualname__}: "
                "share_with=ModelWrapper.from_model(base)"
            )
    return [each._skeleton.image for each in several]


@node.wrapped_memory.register(ModelWrapper)
def _memory(wrapper: ModelWrapper[Any]) -> list[Bytes]:
    wrapper._require("Asking for huge pages")
    had = loading.fetched(wrapper._skeleton.image, None, "Asking for huge pages")
    return [had.memory, *had.bases]


def _prefault(memories: list[Bytes]) -> None:
    for memory in memories:
        core.prefault(core.address(memory), memory.nbytes)


def _warn_of_short_life() -> None:
    if connection.in_task():
        warnings.warn(
            "a model was wrapped in a Ray task: its image belongs to the process that runs the task, and when that "
            "ends, as those of tasks do, nobody can load it any more. Give it to the cluster instead: "
            "ModelWrapper.from_model(model, name=..., lifetime='detached'), or wrap it in a driver or an actor that "
            "outlives its users.",
            errors.ShortLivedOwnerWarning,
            stacklevel=3,
        )


def _restored(cls: type[W], skeleton: Outline, model_info: ModelInfo, is_standalone_module: bool, mode: Mode) -> W:
    wrapper = cls.__new__(cls)
    ModelWrapper.__init__(wrapper, skeleton, model_info, is_standalone_module, mode)
    return wrapper


_RESTORED = Arrival(_restored)


def _require_mode(mode: object) -> None:
    if mode not in ("actor", "task"):
        raise ValueError(
            f"mode is {mode!r}; it must be 'actor' (workers call .load()) or 'task' (calls run as Ray tasks)"
        )
