"""Compiled models: what AOTInductor compiled once, over weights that all processes share.

A library of AOTInductor can run on constants that its user keeps. So the library is compiled without them, an image
holds its bytes beside the weights, like any other tensors, and who loads it maps both.

Private names of torch used here, tried with 2.8 and 2.15: `torch._inductor.aot_compile` and what it gives with
``aot_inductor.package_constants_in_so`` and ``package_constants_on_disk_format``;
`torch._C._aoti.AOTIModelContainerRunnerCpu`; `torch.utils._pytree` and the spec that a library has of its inputs and
outputs; `torch._inductor.exc.InvalidCxxCompiler`. `tests/test_compiled_model.py` fails when one goes.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import os
import pickle
import platform
import threading
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from .. import errors, processor
from . import code_files, exported, rebuild
from .paths import Refused

Fallback = Literal["eager", None]

_AOTI = "/data/aotinductor/"  # where a package has its libraries
_SOURCES = (".cpp", ".h", ".o", ".blob", ".cubin", ".pt2")  # what a library does not need when it runs
_SHARED = 64 << 10  # bytes: constants of a library that are shorter stay in there


class CompiledModel:
    """A model that AOTInductor has compiled for this kind of processor, over weights that processes share.

    It is called as the model is, and has the model's weights: `state_dict` gives the tensors that it runs on. There is
    nothing else of the model's in it, and no gradients. `ray_zerocopy.ModelWrapper.from_model` with ``compile=`` makes
    one, and any pipeline may hold some.

    Example:
        >>> encoder = CompiledModel.compile(model.eval(), (x,))
        >>> wrapper = ModelWrapper.from_model({"encoder": encoder, "tokenizer": tokenizer})
    """

    def __init__(self, code: Code, constants: dict[str, torch.Tensor], eager: _Eager | None) -> None:
        """See `compile` and `from_package`, which make them."""
        if not isinstance(code, Code):
            raise TypeError(
                f"use CompiledModel.compile(model, example_inputs) or CompiledModel.from_package(path); the "
                f"constructor takes no {type(code).__qualname__}"
            )
        self._code, self._constants, self._eager = code, constants, eager
        self._falls_back = False
        self._kept = _Kept()
        try:
            self._runner: Any = code.runner(self._kept)
            code.give(self._runner, constants)
            self._in_spec, self._out_spec, self._keywords = _specs(self._runner)
        except errors.CompiledCodeError as cause:
            if eager is None:
                raise
            warnings.warn(
                f"a compiled model runs as eager code in this process, as its fallback says: {cause.reason}.",
                errors.CompiledFallbackWarning,
                stacklevel=2,
            )
            self._falls_back = True

    @classmethod
    def compile(
        cls,
        model: torch.nn.Module | ExportedProgram,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        dynamic_shapes: Any = None,
        inductor_configs: Mapping[str, Any] | None = None,
        fallback: Fallback = None,
    ) -> CompiledModel:
        """Export a model and compile it, here and now: seconds to minutes, and a C++ compiler.

        Args:
            model: in CPU memory, in the state in which it is to run (``model.eval()``). An exported program is only
                compiled.
            args, kwargs: example inputs, as `torch.export.export` takes them. Their types, shapes and values that are
                no tensors are what can be given later, too.
            dynamic_shapes: the dimensions that may be others, as there.
            inductor_configs: options of inductor, as ``torch._inductor.aoti_compile_and_package`` takes them. Without
                them the code is for processors that have all that this one has, and runs with as many threads as torch
                has in each process (``cpp.dynamic_threads``).
            fallback: what runs where the code cannot: ``"eager"``, the exported program over the same weights.

        Raises:
            CompileError: torch refused to export or compile it; the message is torch's own.
            CompilerMissingError: there is no C++ compiler.
            DeviceError: a weight or an input is not in CPU memory.
        """
        if fallback not in (None, "eager"):
            raise ValueError(f"fallback is {fallback!r}; it must be None (raise an error) or 'eager'")
        _require_version()
        with _undisturbed(), torch.no_grad():
            program = _exported(model, args, kwargs, dynamic_shapes)
            options = {"cpp.dynamic_threads": True, **(inductor_configs or {})}
            files, values = _compiled(program, options)
        library = _library(files)
        code = Code(_running(files), library, _needs(_metadata(files, library), options), _inputs(program))
        return cls(code, _shared_with(program, values), _Eager.of(program) if fallback else None)

    @classmethod
    def from_package(
        cls,
        path: str | os.PathLike[str],
        weights: Mapping[str, torch.Tensor] | torch.nn.Module | None = None,
        *,
        model_name: str = "model",
    ) -> CompiledModel:
        """A model that was compiled and packaged before, by ``torch._inductor.aoti_compile_and_package``.

        Args:
            path: of the package (``.pt2``).
            weights: a model, or its ``state_dict``, whose tensors it is to run on. None: those of the package.
            model_name: in a package of several.

        Raises:
            CompiledCodeError: the package has no library that runs here.
            CompileError: it has no weights and none were given, or others than the library takes.
            FileNotFoundError and other OSErrors: there is no such file.
        """
        _require_version()
        files = _unpacked(os.fspath(path), model_name)
        library = _library(files)
        metadata = _metadata(files, library)
        needs = {
            "machine": metadata.get("AOTI_MACHINE", platform.machine()),
            "features": sorted(processor.of_units(metadata.get("AOTI_CPU_ISA", ""))),
            "torch": torch.__version__,
        }
        if metadata.get("AOTI_DEVICE_KEY", "cpu") != "cpu":
            raise errors.CompiledCodeError(f"it was compiled for {metadata['AOTI_DEVICE_KEY']!r}, and not for the CPU")
        whole = _running(files)
        code = Code(whole, library, needs, None)
        kept = _Kept()
        runner = code.runner(kept)
        held = runner.extract_constants_map(False)
        constants = _constants(runner, held, weights, os.fspath(path))
        if held:
            whole[library] = _without(files[library], held)
        del runner
        return cls(Code(whole, library, needs, None, bool(held)), constants, None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model.

        Raises:
            CompiledInputError: the inputs are of another structure, type or shape than those that it was compiled for.
        """
        if self._falls_back:
            assert self._eager is not None
            with torch.no_grad():
                return self._eager.module()(*args, **kwargs)
        inputs = self._code.accepted(args, kwargs, self._in_spec, self._keywords)
        with torch.no_grad():
            return pytree.tree_unflatten(self._runner.run(inputs), self._out_spec)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors that it runs on, by the names that they had in the model. (Constants that are no parameters or
        buffers have names of inductor's.)"""
        return dict(self._constants)

    def __repr__(self) -> str:
        how = ", as eager code" if self._falls_back else ""
        return f"CompiledModel({len(self._constants)} weights, for {self._code.needs['machine']}{how})"

    def __copy__(self) -> CompiledModel:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModel:
        constants, eager = copy.deepcopy((self._constants, self._eager), memo)
        return CompiledModel(self._code, constants, eager)

    def __reduce__(self) -> tuple[Any, ...]:
        code = self._code
        stored = code.files, code.library, code.needs, code.inputs, code.hollow
        eager = None if self._eager is None else self._eager.parts
        return rebuild._compiled_model, (stored, self._constants, eager, code.digest(self._constants, self._eager))


def requested(
    model: Any,
    compile: Any,
    dynamic_shapes: Any = None,
    inductor_configs: Mapping[str, Any] | None = None,
    fallback: Fallback = None,
) -> Any:
    """A model as it is, or compiled, if example inputs are given.

    Args:
        compile: of the arguments that are given by position, a tuple, or of those that are given by name, a dictionary.
            Of an exported program, which has its own, True.
        dynamic_shapes, inductor_configs, fallback: as `CompiledModel.compile` takes them.
    """
    if compile is None or compile is False:
        if dynamic_shapes is not None or inductor_configs is not None or fallback is not None:
            raise TypeError("dynamic_shapes, inductor_configs and fallback are for compile=example_inputs")
        return model
    if isinstance(compile, Mapping):
        args, kwargs = (), compile
    elif isinstance(compile, tuple) or (compile is True and isinstance(model, ExportedProgram)):
        args, kwargs = () if compile is True else compile, {}
    else:
        raise TypeError(
            f"compile takes example inputs: a tuple of those that are given by position, compile=(x,), or a dictionary "
            f"of those that are given by name, and not a {type(compile).__qualname__}"
        )
    return CompiledModel.compile(
        model, args, kwargs, dynamic_shapes=dynamic_shapes, inductor_configs=inductor_configs, fallback=fallback
    )


def require_no_loader(obj: Any) -> None:
    """Raise for what torch loads packages into, whose weights it does not tell."""
    if type(obj).__name__ == "AOTICompiledModel" and type(obj).__module__.startswith("torch."):
        raise Refused(obj, "its weights are not to be had of it: put CompiledModel.from_package(path) there")


def restored(
    stored: tuple[Any, ...], constants: dict[str, torch.Tensor], parts: tuple[Any, ...] | None, digest: str
) -> CompiledModel:
    """What an image has of one, put together again.

    Raises:
        DamagedImageError: it does not fit together.
        CompiledCodeError: the code does not run here, and there is no fallback.
    """
    code, eager = Code(*stored), None if parts is None else _Eager(parts)
    if code.digest(constants, eager) != digest:
        raise errors.DamagedImageError("skeleton: a compiled model whose code or weights are not those that were put")
    return CompiledModel(code, constants, eager)


class _Eager:
    """The program that was compiled, to be run as it is. It is put together when it is needed: that takes seconds.

    Attributes:
        parts: its description, pickled, and its tensors, as `exported.reduce` gives them.
    """

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self.parts = parts
        self._module: torch.nn.Module | None = None
        self._making = threading.Lock()

    @classmethod
    def of(cls, program: ExportedProgram) -> _Eager:
        description, *tensors = exported.reduce(program)[1]
        return cls((np.frombuffer(bytearray(pickle.dumps(description)), np.uint8), *tensors))

    def __deepcopy__(self, memo: dict[int, Any]) -> _Eager:
        return _Eager(copy.deepcopy(self.parts, memo))

    def module(self) -> torch.nn.Module:
        with self._making:
            if self._module is None:
                description, *tensors = self.parts
                self._module = rebuild._program(pickle.loads(description), *tensors).module()
            return self._module


class _Kept:
    """Is alive as long as a model's code is in use."""


# --- code ------------------------------------------------------------------------------------------

# An input: its dtype, its dimensions (see `Code.inputs`), and in which order they lie in memory, longest stride first.
_Dimension = Union[int, "tuple[str, int, int, int, int]"]
_Input = Any  # tuple[str, str, list[_Dimension], list[int]] or tuple[str, Any]

_UNBOUNDED = 1 << 62


@dataclass
class Code:
    """What AOTInductor made of a model, without the weights.

    Attributes:
        files: the library and what it reads, by name.
        library: its name.
        needs: where it runs: ``machine`` and ``features`` as in `processor`, and the version of ``torch`` that made it.
        inputs: of each its name, dtype, dimensions and order of strides; or its name and value, if it is no tensor. A
            dimension is a size, or a symbol, a factor, a summand and the bounds of the symbol. None: not known.
        hollow: whether the library has constants of its own, which were left out of its file, and are replaced.
    """

    files: dict[str, code_files.File]
    library: str
    needs: dict[str, Any]
    inputs: list[_Input] | None
    hollow: bool = False

    def __post_init__(self) -> None:
        self._name = code_files.digest(self.files)

    def digest(self, constants: Mapping[str, torch.Tensor], eager: _Eager | None) -> str:
        """Of all that must fit together for it to run."""
        made = hashlib.blake2b(digest_size=16)
        kinds = {name: [str(each.dtype), list(each.shape), list(each.stride())] for name, each in constants.items()}
        made.update(json.dumps([self.library, self.needs, self.inputs, self.hollow, kinds], default=str).encode())
        made.update(self._name.encode())
        if eager is not None:
            made.update(eager.parts[0].data)
        return made.hexdigest()

    def runner(self, kept: Any) -> Any:
        """The library, loaded into this process.

        Raises:
            CompiledCodeError: it does not run here; the message says why.
            FileError: it could not be written into a file.
        """
        why = processor.lacking(self.needs["machine"], self.needs["features"])
        if why is not None:
            raise errors.CompiledCodeError(why)
        path = os.path.join(code_files.placed(self._name, self.files, kept), self.library)
        try:
            return rebuild.registered("compiled model", lambda: torch._C._aoti.AOTIModelContainerRunnerCpu(path, 1))
        except (RuntimeError, AttributeError) as cause:
            raise errors.CompiledCodeError(_advice(str(cause).splitlines()[0], self.needs["torch"])) from cause

    def give(self, runner: Any, constants: Mapping[str, torch.Tensor]) -> None:
        """Have a library run on tensors, which must stay alive as long as it does."""
        names = runner.get_constant_names_to_original_fqns()
        given = {name: constants[original] for name, original in names.items()}
        if not given:
            return
        # its own ones, if it has any, are given up for good
        runner.update_constant_buffer(given, self.hollow, True, True)
        if self.hollow:
            runner.swap_constant_buffer()
            runner.free_inactive_constant_buffer()

    def accepted(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], spec: Any, keywords: list[str]
    ) -> list[torch.Tensor]:
        """The tensors that a call hands to the library, which itself checks nothing."""
        if kwargs and kwargs.keys() == set(keywords):
            kwargs = {name: kwargs[name] for name in keywords}
        leaves, found = pytree.tree_flatten((args, kwargs))
        if found != spec:
            raise errors.CompiledInputError(
                f"the inputs are {_structure(args, kwargs)}, and others in number, name or structure than those that "
                f"the model was compiled for, {_described(self.inputs, keywords)}"
            )
        if self.inputs is None:
            return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        sizes: dict[str, int] = {}
        tensors = []
        for leaf, wanted in zip(leaves, self.inputs):
            if len(wanted) == 2:
                if type(leaf) is not type(wanted[1]) or leaf != wanted[1]:
                    raise errors.CompiledInputError(
                        f"{wanted[0]} is {leaf!r}, and the model was compiled for {wanted[1]!r} alone"
                    )
            else:
                tensors.append(_fitting(leaf, wanted, sizes))
        return tensors


def _fitting(tensor: Any, wanted: Any, sizes: dict[str, int]) -> torch.Tensor:
    name, dtype, dimensions, order = wanted
    if not isinstance(tensor, torch.Tensor):
        raise errors.CompiledInputError(f"{name} is a {type(tensor).__qualname__}, expected a tensor")
    if str(tensor.dtype) != dtype or tensor.dim() != len(dimensions):
        raise errors.CompiledInputError(
            f"{name} is a tensor of {tensor.dtype} with shape {tuple(tensor.shape)}, expected {dtype} with shape "
            f"{_shape(dimensions)}"
        )
    if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
        raise errors.CompiledInputError(
            f"{name} is a {tensor.layout} tensor on {tensor.device}, expected a dense one on the CPU"
        )
    for at, (size, dimension) in enumerate(zip(tensor.shape, dimensions)):
        if isinstance(dimension, int):
            fits = size == dimension
        else:
            symbol, factor, summand, low, high = dimension
            value, rest = divmod(size - summand, factor)
            fits = not rest and low <= value <= high and sizes.setdefault(symbol, value) == value
        if not fits:
            known = [] if isinstance(dimension, int) else [f"{symbol} is {size}" for symbol, size in sizes.items()]
            also = f", where {', '.join(known)}" if known else ""
            raise errors.CompiledInputError(
                f"{name} has shape {tuple(tensor.shape)}, and its dimension {at} does not fit: the model was compiled "
                f"for {_shape(dimensions)}{also}. Others are possible with dynamic_shapes="
            )
    inner = tensor.permute(order)
    if not inner.is_contiguous():
        inner = inner.contiguous()
        back = [order.index(at) for at in range(len(order))]
        return inner.permute(back)
    return tensor


def _shape(dimensions: list[_Dimension]) -> str:
    return f"({', '.join(map(_dimension, dimensions))}{',' if len(dimensions) == 1 else ''})"


def _dimension(dimension: _Dimension) -> str:
    if isinstance(dimension, int):
        return str(dimension)
    symbol, factor, summand, low, high = dimension
    text = (f"{factor}*" if factor != 1 else "") + symbol + (f"+{summand}" if summand else "")
    return f"{text} with {symbol} from {low}" + (f" to {high}" if high < _UNBOUNDED else "")


def _described(inputs: list[_Input] | None, keywords: list[str]) -> str:
    if inputs is None:
        return (
            f"which a package does not tell (its keywords are {keywords})"
            if keywords
            else "which a package does not tell"
        )
    parts = []
    for each in inputs:
        name, *rest = each
        parts.append(f"{name}={rest[0]!r}" if len(rest) == 1 else f"{name}: {_shape(rest[1])}")
    return ", ".join(parts) or "none"


def _structure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    def kind(value: Any) -> str:
        return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value).__qualname__

    return ", ".join([*map(kind, args), *(f"{name}: {kind(value)}" for name, value in kwargs.items())]) or "none"


def _specs(runner: Any) -> tuple[Any, Any, list[str]]:
    """What inputs and outputs a library has, and the names of the inputs that are given by name."""
    serialized = runner.get_call_spec()
    loads = (functools.partial(pytree.treespec_loads, text) for text in serialized)
    specs = [rebuild.registered("compiled model", load) for load in loads]
    by_name = specs[0].child(1) if hasattr(specs[0], "child") else specs[0].children_specs[1]
    return specs[0], specs[1], list(by_name.context or [])


def _advice(reason: str, made_with: str) -> str:
    if "libgomp" in reason or "libstdc++" in reason or "libgcc" in reason:
        packages = "Debian, Ubuntu: apt-get install libgomp1 libstdc++6; Fedora, RHEL: dnf install libgomp libstdc++"
        return f"{reason}: install what C++ programs need there ({packages})"
    if "failed to map segment" in reason:
        return f"{reason}: programs cannot be run from there; set TMPDIR to a folder of another disk"
    if made_with != torch.__version__:
        return f"{reason} (it was compiled with torch {made_with}, and this process has {torch.__version__})"
    return reason


# --- compiling -------------------------------------------------------------------------------------

_compiling = threading.Lock()  # inductor's options and the environment are the process's


def _require_version() -> None:
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < (2, 8):
        raise errors.CompileError(f"compiled models need torch 2.8 or later, and this is {torch.__version__}")


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Inductor notes its folders in the environment of the process: put back what was there."""
    with _compiling:
        before = dict(os.environ)
        try:
            yield
        finally:
            for name in set(os.environ) | set(before):
                if name.startswith(("TORCHINDUCTOR_", "TRITON_")) and os.environ.get(name) != before.get(name):
                    if name in before:
                        os.environ[name] = before[name]
                    else:
                        del os.environ[name]


def _exported(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, dynamic_shapes: Any) -> Any:
    if isinstance(model, ExportedProgram):
        if args or kwargs or dynamic_shapes:
            raise TypeError("an exported program has its example inputs and dynamic shapes: give none")
        return model
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"only a torch.nn.Module or an ExportedProgram can be compiled, not a {type(model).__qualname__}"
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.device.type != "cpu":
            raise errors.DeviceError(f"model.{name}", str(tensor.device))
    args, kwargs = pytree.tree_map_only(torch.Tensor, _dense, (args, dict(kwargs or {})))
    try:
        return torch.export.export(model, args, kwargs, dynamic_shapes=dynamic_shapes)
    except Exception as cause:
        raise errors.CompileError(f"torch.export refused this {type(model).__qualname__}: {cause}") from cause


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """An example input whose elements lie in memory without gaps, as those of calls will."""
    return tensor if _is_dense(tensor) else tensor.contiguous()


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.permute(_order(tensor)).is_contiguous()


def _order(tensor: torch.Tensor) -> list[int]:
    strides = tensor.stride()
    return sorted(range(tensor.dim()), key=lambda at: (-strides[at], at))


def _compiled(program: ExportedProgram, options: dict[str, Any]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files that inductor made, and the constants that it has left out, by name."""
    import torch._inductor as inductor

    settings: Any = inductor.config.aot_inductor
    renamed = hasattr(settings, "package_constants_on_disk_format")
    outside = {"package_constants_on_disk_format": "pickle_weights"} if renamed else {"package_constants_on_disk": True}
    ours = {"package": True, "package_constants_in_so": False, **outside}
    try:
        args, kwargs = program.example_inputs
        made: Any = inductor.aot_compile(
            program.module(),
            args,
            kwargs,
            options={**options, **{f"aot_inductor.{name}": value for name, value in ours.items()}},
        )
    except Exception as cause:
        if any(type(each).__name__ == "InvalidCxxCompiler" for each in rebuild.chain(cause)):
            raise errors.CompilerMissingError() from cause
        raise errors.CompileError(f"inductor could not compile it: {cause}") from cause
    files = {os.path.basename(each): Path(each).read_bytes() for each in made if isinstance(each, str)}
    return files, {name: value for each in made if isinstance(each, dict) for name, value in each.items()}


def _running(files: Mapping[str, bytes]) -> dict[str, code_files.File]:
    """Those that a library needs when it runs."""
    return {name: _whole(data) for name, data in files.items() if not name.endswith(_SOURCES)}


def _metadata(files: Mapping[str, bytes], library: str) -> dict[str, str]:
    """What inductor says of a library."""
    said: dict[str, str] = json.loads(files.get(library[:-3] + "_metadata.json", b"{}"))
    return said


def _library(files: Mapping[str, bytes]) -> str:
    found = [name for name in files if name.endswith(".so")]
    if len(found) != 1:
        raise errors.CompiledCodeError(
            f"expected one library, found {len(found)} among {sorted(files)}: compile without package_cpp_only"
        )
    return found[0]


def _whole(data: bytes) -> code_files.File:
    return len(data), [(0, np.frombuffer(bytearray(data), np.uint8))]


def _needs(metadata: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, Any]:
    units = metadata.get("AOTI_CPU_ISA", "")
    march = options.get("cpp.march")
    target = None if march is None else processor.of_target(march)
    features = processor.features() if target is None else target | processor.of_units(units)
    return {"machine": platform.machine(), "features": sorted(features), "torch": torch.__version__}


def _inputs(program: ExportedProgram) -> list[_Input]:
    from torch.export.graph_signature import ConstantArgument, InputKind, TensorArgument

    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    examples = pytree.tree_flatten(program.example_inputs)[0]
    specs = [spec.arg for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
    found: list[_Input] = []
    for argument, example in zip(specs, examples):
        if isinstance(argument, ConstantArgument):
            found.append((argument.name, argument.value))
        elif isinstance(argument, TensorArgument):
            if not _is_dense(example):
                raise errors.CompileError(
                    f"the example input {argument.name} has gaps in memory: {argument.name}.contiguous()"
                )
            dimensions = [_dimension_of(each, program, argument.name) for each in values[argument.name].shape]
            found.append((argument.name, str(example.dtype), dimensions, _order(example)))
        else:
            raise errors.CompileError(
                f"{argument.name} is a number that may change, which compiled code cannot take: give it as a tensor"
            )
    return found


def _dimension_of(size: Any, program: ExportedProgram, name: str) -> _Dimension:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    symbols = sorted(expression.free_symbols, key=str)
    if not symbols:
        return int(expression)
    factor, summand = expression.coeff(symbols[0]), expression.subs(symbols[0], 0)
    if len(symbols) > 1 or not factor.is_Integer or not summand.is_Integer:
        raise errors.CompileError(f"a dimension of {name} is {expression}, and compiled code is only for linear ones")
    bounds = program.range_constraints.get(symbols[0])
    low, high = 0, _UNBOUNDED
    if bounds is not None:
        low = int(bounds.lower)
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            high = min(int(bounds.upper), _UNBOUNDED)
    return str(symbols[0]), int(factor), int(summand), low, high


def _shared_with(program: ExportedProgram, values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The constants, as the tensors of the model that they are, by all names that those have."""
    known: dict[Any, list[str]] = {}
    tensors = {**program.state_dict, **program.constants}
    for name, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided and tensor.numel():
            storage = tensor.untyped_storage().data_ptr()
            known.setdefault((storage, tensor.storage_offset(), *_kind(tensor)), []).append(name)
    found = {}
    for name, (value, about) in values.items():  # the value may be a copy
        place = about.storage_ptr, about.offset, value.dtype, tuple(about.shape), tuple(about.stride)
        names = known.get(place, [])
        found[name] = (tensors[names[0]] if names else value).detach()
        found.update(dict.fromkeys(names, found[name]))
    for name in _changed(program):
        if name not in found:  # torch 2.8 does that
            raise errors.CompileError(
                f"inductor (torch {torch.__version__}) takes the buffer {name!r}, which the model changes, for one "
                "that never changes: use a newer torch"
            )
    return found


def _changed(program: ExportedProgram) -> set[str]:
    """The buffers that a program changes."""
    signature = program.graph_signature
    found = set(signature.buffers_to_mutate.values())
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable and node.args:
            found.add(signature.inputs_to_buffers.get(getattr(node.args[0], "name", ""), ""))
    return found - {""}


# --- packages --------------------------------------------------------------------------------------


def _unpacked(path: str, model_name: str) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if f"{_AOTI}{model_name}/" in f"/{name}"]
            if not names:
                folders = {f"/{name}".partition(_AOTI)[2].partition("/")[0] for name in archive.namelist()}
                raise errors.CompiledCodeError(
                    f"{path!r} has no model {model_name!r} that AOTInductor compiled; it has "
                    f"{sorted(folders - {''}) or 'none'} (model_name=)"
                )
            return {os.path.basename(name): archive.read(name) for name in names}
    except zipfile.BadZipFile as cause:
        raise errors.CompiledCodeError(f"{path!r} is not a package of torch ({cause})") from cause


def _constants(runner: Any, held: Mapping[str, torch.Tensor], weights: Any, path: str) -> dict[str, torch.Tensor]:
    """What a library is to run on: the tensors given, or copies of those that it holds."""
    names = runner.get_constant_names_to_original_fqns()
    if isinstance(weights, torch.nn.Module):
        weights = {**weights.state_dict(), **dict(weights.named_buffers(remove_duplicate=False))}
    given = {name: tensor.detach() for name, tensor in (weights or {}).items()}
    missing = sorted(original for original in names.values() if original not in given and original not in held)
    if missing:
        raise errors.CompileError(
            f"{path!r} has no weights, and none were given for {', '.join(missing[:5])}"
            f"{f' and {len(missing) - 5} others' if len(missing) > 5 else ''}: give the model, from_package(path, "
            "weights=model). Constants that are no parameters or buffers have no names there: register them, or "
            "compile by ModelWrapper.from_model(model, compile=example_inputs)"
        )
    found = {}
    for original in names.values():
        own = held.get(original)
        tensor = given.get(original)
        if tensor is None:
            assert own is not None
            tensor = own.clone()  # for the runner's own go with it
        elif own is not None and _kind(own) != _kind(tensor):
            raise errors.CompileError(
                f"{original} was given as {_kind(tensor)} (dtype, shape, stride), and the package was compiled for "
                f"{_kind(own)}"
            )
        found[original] = tensor
    return found


def _kind(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], tuple[int, ...]]:
    return tensor.dtype, tuple(tensor.shape), tensor.stride()


def _without(library: bytes, constants: Mapping[str, torch.Tensor]) -> code_files.File:
    """A library without the bytes of its large constants, which are replaced wherever it is loaded."""
    gaps = []
    for tensor in constants.values():
        if tensor.nbytes >= _SHARED and tensor.is_contiguous():
            data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            at = library.find(data)
            if at >= 0:
                gaps.append((at, at + len(data)))
    pieces, start = [], 0
    for begin, end in [*sorted(gaps), (len(library), len(library))]:
        if begin > start:
            pieces.append((start, np.frombuffer(bytearray(library[start:begin]), np.uint8)))
        start = max(start, end)
    return len(library), pieces
