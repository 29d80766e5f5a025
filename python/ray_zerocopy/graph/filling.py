"""Tensors by name into a model that exists: its parameters and buffers become them, and no byte is copied.

`torch.nn.Module.load_state_dict(assign=True)` does it, with what modules have of their own for it: hooks,
`_load_from_state_dict`, `set_extra_state`. What it does not know is which weights were tied: it is given the same
parameter for all their names.
"""

from __future__ import annotations

import contextlib
import difflib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch.nn.parameter import is_lazy

from .. import errors
from . import rebuild
from .tensors import outside_of_modes

_FEW = 5  # names in an error


class Report(NamedTuple):
    """What did not fit, as ``load_state_dict`` returns it.

    Attributes:
        missing_keys: names of the model that got no tensor.
        unexpected_keys: names of tensors that the model does not have.
    """

    missing_keys: list[str]
    unexpected_keys: list[str]


def fill(
    model: torch.nn.Module,
    tensors: Mapping[str, torch.Tensor],
    strict: bool = True,
    beside: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> Report:
    """Make the parameters and buffers of a model the given tensors, which keep their dtype and memory.

    A parameter's class, attributes and ``requires_grad`` stay the model's. Tied weights stay tied: a tensor under one
    of their names is for all of them. Buffers that ``state_dict`` does not have stay as they are, or become what is
    given for them.

    Args:
        model: any model, also one on the meta device.
        tensors: by ``state_dict`` name. They stay as they are, too.
        strict: whether each name has to be on both sides. Otherwise the report has the others, and of tensors that
            differ, but are one in the model, the first in the model's order is used.
        beside: buffers that ``state_dict`` does not have, by path. Those that the model does not have either are left.

    Raises:
        FillError: names, shapes or dtypes do not fit, or part of the model would be left on the meta device. The model
            is as it was, but for what a module's own ``_load_from_state_dict`` has written into its tensors.
    """
    with outside_of_modes(), _swapping_off():
        known = _tensors_of(model)
        state = OrderedDict(tensors)
        metadata = getattr(tensors, "_metadata", None)  # versions of modules, for their hooks
        if metadata is not None:
            state._metadata = metadata  # type: ignore[attr-defined]
        made = _tie(model, known, state, strict)
        with _undone_if_raised(model):
            try:
                missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
            except RuntimeError as cause:
                raise _misfit(model, known, tensors, cause) from cause
            for each in known:
                if each.named:
                    continue
                if id(each.tensor) in made:
                    setattr(each.module, each.attribute, made[id(each.tensor)])
                elif each.name in beside and beside[each.name].shape == each.tensor.shape:
                    setattr(each.module, each.attribute, beside[each.name])
            if strict and (missing or unexpected):
                raise _strangers(model, missing, unexpected)
            left = [each.name for each in _tensors_of(model) if each.tensor.is_meta]
            if left:
                raise _unfilled(model, left, missing)
    return Report(missing, unexpected)


class _Known(NamedTuple):
    """A parameter or buffer under one of its names."""

    name: str
    tensor: torch.Tensor
    module: torch.nn.Module
    attribute: str
    named: bool  # whether state_dict has it


def _tensors_of(model: torch.nn.Module) -> list[_Known]:
    found = []
    for path, module in model.named_modules(remove_duplicate=False):
        prefix = path and path + "."
        for registered in (module._parameters, module._buffers):
            for name, tensor in registered.items():
                if tensor is not None:
                    named = registered is module._parameters or name not in module._non_persistent_buffers_set
                    found.append(_Known(prefix + name, tensor, module, name, named))
    return found


# --- tied weights ----------------------------------------------------------------------------------


def _tie(model: torch.nn.Module, known: list[_Known], state: dict[str, Any], strict: bool) -> dict[int, torch.Tensor]:
    """Put what the model's tensors become into the state, the same under all names of tied ones, and return it by the
    ``id`` of what is there now."""
    groups: dict[Any, list[_Known]] = {}
    for each in known:
        groups.setdefault(_memory(each.tensor), []).append(each)
    made: dict[int, torch.Tensor] = {}
    for group in groups.values():
        given = [each.name for each in group if each.named and isinstance(state.get(each.name), torch.Tensor)]
        if not given:
            continue
        source = state[given[0]]
        for name in given[1:]:
            if strict and not _same(source, state[name]):
                raise errors.FillError(
                    f"{given[0]!r} and {name!r} are one tensor in this {type(model).__qualname__}, and two that differ "
                    "are given for them. Leave one of them out, or have the first count with strict=False."
                )
        for each in group:
            if id(each.tensor) not in made:
                made[id(each.tensor)] = _like(each, source)
            if each.named:
                state[each.name] = made[id(each.tensor)]
    return made


def _memory(tensor: torch.Tensor) -> Any:
    """The same for tensors that are one, or have the same elements in memory."""
    if is_lazy(tensor) or tensor.is_meta or tensor.layout is not torch.strided or not tensor.numel():
        return id(tensor)
    with contextlib.suppress(RuntimeError):  # of a subclass that has no storage
        return tensor.data_ptr(), tensor.dtype, tensor.device, tensor.shape, tensor.stride()
    return id(tensor)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are the same bytes."""
    if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
        return False
    if one.is_meta or _memory(one) == _memory(other):
        return True
    as_bytes = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]  # NaN is NaN
    return torch.equal(*as_bytes)


def _like(known: _Known, source: torch.Tensor) -> torch.Tensor:
    """What a tensor of the model becomes."""
    old = known.tensor
    source = source.detach()
    if not is_lazy(old) and not old.shape and source.shape == (1,):
        source = source[0]  # as load_state_dict does, for files of old
    if not isinstance(old, torch.nn.Parameter):
        return source
    if old.requires_grad and not (source.is_floating_point() or source.is_complex()):
        raise errors.FillError(
            f"{known.name!r} is {_dtype(source)}, and the model trains it (requires_grad), which only floating-point "
            "tensors can be. Call requires_grad_(False) on the model's first."
        )
    kind = old.cls_to_become if is_lazy(old) else type(old)
    new: torch.Tensor = rebuild._parameter(kind, source, old.requires_grad)
    new.__dict__.update({name: value for name, value in vars(old).items() if name not in vars(new)})
    return new


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).replace("torch.", "")


# --- nothing is changed when it raises ---------------------------------------------------------------


@contextlib.contextmanager
def _undone_if_raised(model: torch.nn.Module) -> Iterator[None]:
    """Give modules back what they had in their attributes, if an exception passes by."""
    before = [(module, dict(vars(module)), _registered(module)) for module in model.modules()]
    try:
        yield
    except BaseException:
        for module, attributes, registered in before:
            for now, (own, old) in zip(_registered(module), registered):
                for name, tensor in old.items():
                    if tensor is not now[1].get(name):
                        setattr(module, name, tensor)  # recurrent modules have a list of their weights, which follows
                own.clear()
                own.update(old)
            vars(module).clear()
            vars(module).update(attributes)
        raise


def _registered(module: torch.nn.Module) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The dictionaries of a module's tensors, each with a copy."""
    return [(own, dict(own)) for own in (module._parameters, module._buffers)]


@contextlib.contextmanager
def _swapping_off() -> Iterator[None]:
    """Where torch is set so, it swaps what is assigned with what was there, and tied weights would be swapped back."""
    future = torch.__future__
    if not future.get_swap_module_params_on_conversion():
        yield
        return
    future.set_swap_module_params_on_conversion(False)
    try:
        yield
    finally:
        future.set_swap_module_params_on_conversion(True)


# --- errors ----------------------------------------------------------------------------------------


def _misfit(
    model: torch.nn.Module, known: list[_Known], tensors: Mapping[str, torch.Tensor], cause: Exception
) -> errors.FillError:
    """What load_state_dict has refused."""
    shapes = []
    for each in known:
        given = tensors.get(each.name)
        if not each.named or not isinstance(given, torch.Tensor) or is_lazy(each.tensor):
            continue
        if given.shape != each.tensor.shape and (each.tensor.shape or given.shape != (1,)):
            shapes.append((each.name, tuple(each.tensor.shape), tuple(given.shape)))
    if not shapes:
        return errors.FillError(f"{type(model).__qualname__} does not take the tensors: {cause}")
    listed = _listed([f"{name!r} has {given} and the model {own}" for name, own, given in shapes])
    return errors.FillError(
        f"{_counted(shapes, 'tensor')} of another shape than in this {type(model).__qualname__}: {listed}. Build the "
        "model with the configuration that the tensors were made with.",
        shapes=shapes,
    )


def _strangers(model: torch.nn.Module, missing: list[str], unexpected: list[str]) -> errors.FillError:
    """Names that are on one side alone."""
    parts = []
    if missing:
        parts.append(f"{_counted(missing, 'name')} of the model without a tensor: {_with_near(missing, unexpected)}")
    if unexpected:
        parts.append(f"{_counted(unexpected, 'tensor')} that it has no place for: {_with_near(unexpected, missing)}")
    return errors.FillError(
        f"the tensors do not fit into this {type(model).__qualname__}: {'; '.join(parts)}. With strict=False such "
        "names are returned.",
        missing=missing,
        unexpected=unexpected,
    )


def _unfilled(model: torch.nn.Module, left: list[str], missing: list[str]) -> errors.FillError:
    listed = _listed([repr(name) for name in left])
    return errors.FillError(
        f"{_counted(left, 'tensor')} of this {type(model).__qualname__} would be left on the meta device, without "
        f"values: {listed}. What state_dict does not have (non-persistent buffers), no file has: build the module that "
        "holds it on the CPU, or have the parameters alone on the meta device (accelerate's init_empty_weights).",
        missing=missing,
        meta=left,
    )


def _with_near(names: list[str], others: list[str]) -> str:
    described = []
    for name in names[:_FEW]:
        near = _near(name, others)
        described.append(f"{name!r} (there is {near!r})" if near else repr(name))
    return _listed(described + [""] * (len(names) - len(described)))


def _near(name: str, others: list[str]) -> str | None:
    """The name that looks most like another one, if there is one."""
    for other in others:  # in another place of a model, or without one
        if other.endswith("." + name) or name.endswith("." + other):
            return other
    most = 1000  # to compare names takes time
    last = name.rpartition(".")[2]
    alike = [other for other in others if other.rpartition(".")[2] == last] or others
    return next(iter(difflib.get_close_matches(name, alike[:most], 1, 0.5)), None)


def _listed(descriptions: list[str]) -> str:
    more = len(descriptions) - _FEW
    return ", ".join(descriptions[:_FEW]) + (f" and {more} more" if more > 0 else "")


def _counted(things: Iterable[Any], what: str) -> str:
    count = len(list(things))
    return f"{count} {what}" + "s" * (count != 1)
