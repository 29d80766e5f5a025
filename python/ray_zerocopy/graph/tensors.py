"""All knowledge of torch storages: how a tensor is described in a skeleton, and storages over mapped memory.

`reduce` describes plain tensors and parameters in a few numbers and leaves every other kind (sparse, quantized,
conjugated, subclassed, ...) to `torch.Tensor.__reduce_ex__`, which describes them in terms of storages. The storages
themselves never enter the skeleton: each use of one becomes an out-of-band buffer, which the loader fills with an
*item*: a `torch.UntypedStorage`, or, for a storage that one plain tensor has to itself, the bare memory (which is
faster to make a tensor of).

Private names of torch used here, tried with 2.4 and 2.15: `torch._utils._rebuild_tensor_v3`, `_rebuild_qtensor` and
`_rebuild_sparse_tensor` (the rebuild functions that `reduce` replaces), `UntypedStorage._cdata`,
`Tensor._backward_hooks`, `Tensor._post_accumulate_grad_hooks`, `torch._C.DisableTorchFunctionSubclass`,
`torch._C._len_torch_function_stack`, `torch._utils._get_obj_state`. `tests/test_roundtrip.py` fails when one goes.
"""

from __future__ import annotations

import contextlib
import pickle
from typing import Any, Protocol

import torch
from torch.nn.parameter import is_lazy
from torch.storage import TypedStorage, UntypedStorage

from . import rebuild

# What stands in the skeleton for one use of a storage: an out-of-band buffer, by position.
StorageSlot = pickle.PickleBuffer


class Slots(Protocol):
    """Where a skeleton's storages go."""

    def storage_slot(self, storage: UntypedStorage, bare: bool) -> StorageSlot:
        """For one use of a whole storage; ``bare``: its memory would do as well."""
        ...

    def part_slot(self, storage: UntypedStorage, first: int, end: int) -> tuple[StorageSlot, int]:
        """For a use of some bytes of a storage: a storage that has them, and where in the whole it begins."""
        ...


_PLAIN = (torch.Tensor, torch.nn.Parameter)


class OffCpuError(Exception):
    """A tensor or storage that is not in CPU memory; `skeleton.dump` turns it into a `DeviceError` with a path."""


def address(storage: UntypedStorage) -> int:
    """Where a storage's bytes are; 0 for an empty one."""
    return storage.data_ptr() if storage.nbytes() else 0


def storage_of(storage: TypedStorage | UntypedStorage) -> UntypedStorage:
    """The untyped storage behind either kind, which must be in CPU memory."""
    untyped: UntypedStorage = storage._untyped_storage if isinstance(storage, TypedStorage) else storage
    if untyped.device.type != "cpu":
        raise OffCpuError(str(untyped.device))
    return untyped


def storage_over(memory: memoryview) -> UntypedStorage:
    """A storage over mapped bytes; it keeps the mapping alive."""
    if not len(memory):
        return UntypedStorage(0)
    return torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()


def tensor_over(memory: memoryview, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """A contiguous tensor over a storage that is all of the memory, which has to be as long as they say."""
    return rebuild._dense_tensor(storage_over(memory), dtype, shape, False)


def bytes_of(tensor: torch.Tensor) -> tuple[int, int, torch.Tensor]:
    """The elements of a dense tensor, one after the other.

    Returns:
        Address and length in bytes, and what keeps them alive: the tensor's own memory if they lie so there, or else a
        copy.

    Raises:
        ValueError, RuntimeError: it has no memory.
    """
    owner = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    length = owner.numel() * owner.itemsize
    if length and (not owner.data_ptr() or owner.untyped_storage().nbytes() < length):
        raise ValueError(f"this {type(tensor).__qualname__} has a shape and no memory")
    return owner.data_ptr(), length, owner


def outside_of_modes() -> contextlib.ExitStack:
    """A context in which neither `torch.inference_mode` nor a default device is in force: they are no matter of what
    was put. The former would make inference tensors of all weights, which cannot be trained outside of it."""
    stack = contextlib.ExitStack()
    if torch.is_inference_mode_enabled():
        stack.enter_context(torch.inference_mode(False))
    if torch._C._len_torch_function_stack():  # a default device is one of these
        stack.enter_context(torch.device("cpu"))
    return stack


# --- describing ----------------------------------------------------------------------------------


def reduce(tensor: torch.Tensor, slots: Slots) -> Any:
    """What pickle's ``reducer_override`` returns for a tensor.

    Args:
        tensor: any tensor, of any subclass.
        slots: gives the slot for one use of a storage.

    Raises:
        OffCpuError: the tensor is neither in CPU memory nor on the meta device.
    """
    accumulated = tensor._post_accumulate_grad_hooks
    if not _is_plain(tensor):
        if tensor.device.type not in ("cpu", "meta"):
            raise OffCpuError(str(tensor.device))
        if is_lazy(tensor):  # torch's own description has no dtype
            extras = torch._utils._get_obj_state(tensor), tensor._backward_hooks, accumulated, None
            made = type(tensor), tensor.requires_grad, str(tensor.device), tensor.data.dtype
            return rebuild._lazy, made, extras, None, None, rebuild._set_extras
        if _is_parameter_class(type(tensor)):
            with torch._C.DisableTorchFunctionSubclass():
                data = tensor.detach()
            extras = torch._utils._get_obj_state(tensor), tensor._backward_hooks, accumulated, None
            return (
                rebuild._parameter,
                (type(tensor), data, tensor.requires_grad),
                extras,
                None,
                None,
                rebuild._set_extras,
            )
        reduced = _repaired(tensor.__reduce_ex__(pickle.HIGHEST_PROTOCOL), tensor.requires_grad)
        if accumulated:
            if len(reduced) != 2:
                raise RuntimeError("it has a hook for after its gradient is accumulated, which is not carried there")
            return (*reduced, (None, None, accumulated, None), None, None, rebuild._set_extras)
        return reduced
    if accumulated or tensor.__dict__ or _names(tensor):
        return _with_extras(tensor, _described(tensor, slots), accumulated)
    return _described(tensor, slots)


def _described(tensor: torch.Tensor, slots: Slots) -> Any:
    """A plain tensor, without what may hang on it."""
    storage = tensor.untyped_storage()
    parameter = type(tensor) is torch.nn.Parameter
    shape, offset, hooks = tuple(tensor.shape), tensor.storage_offset(), tensor._backward_hooks
    if (
        not hooks
        and offset == 0
        and 0 < tensor.numel() * tensor.itemsize == storage.nbytes()
        # not is_contiguous(), which does not look at the strides of dimensions of size 1; resize_ would choose its own
        and tensor.stride() == _contiguous_stride(shape)
    ):
        dense = rebuild._dense_parameter if parameter else rebuild._dense_tensor
        return dense, (slots.storage_slot(storage, True), tensor.dtype, shape, tensor.requires_grad)
    if tensor.numel() and not storage.nbytes():
        raise RuntimeError("its storage was resized to nothing, so it has a shape and no values")
    slot, begin = slots.part_slot(storage, *extent(tensor))
    return rebuild._strided_tensor, (
        slot,
        tensor.dtype,
        offset - begin // tensor.itemsize,
        shape,
        tensor.stride(),
        parameter,
        tensor.requires_grad,
        hooks or None,
    )


_ATOMS = (bool, int, float, str, type(None))


def _with_extras(tensor: torch.Tensor, described: Any, accumulated: Any) -> Any:
    """A plain tensor with what hangs on it."""
    attributes, names = tensor.__dict__, _names(tensor)
    if (
        described[0] is rebuild._dense_parameter
        and not accumulated
        and not names
        and all(type(value) in _ATOMS for value in attributes.values())
    ):
        # transformers leaves one on each parameter that it has loaded
        return rebuild._dense_parameter_with, (*described[1], attributes)
    return (*described, (attributes, None, accumulated, names), None, None, rebuild._set_extras)


def _names(tensor: torch.Tensor) -> Any:
    """Names of dimensions, which torch had until 2.14 or so."""
    names = getattr(tensor, "names", ())
    return names if any(names) else None


def _is_parameter_class(cls: type) -> bool:
    """Whether instances of a class of parameters are pickled by torch's own function for all of them, which makes plain
    parameters of them."""
    plain = torch.nn.Parameter
    return (
        issubclass(cls, plain)
        and cls is not plain
        and cls.__reduce_ex__ is plain.__reduce_ex__
        and cls.__reduce__ is plain.__reduce__
        and "__setstate__" not in _own_names(cls)
        and "__getstate__" not in _own_names(cls)
    )


def _own_names(cls: type) -> set[str]:
    return {name for base in cls.__mro__ if base not in torch.nn.Parameter.__mro__ for name in vars(base)}


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) in _PLAIN
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not (tensor.is_quantized or tensor.is_nested or tensor.is_conj() or tensor.is_neg())
    )


def extent(tensor: torch.Tensor) -> tuple[int, int]:
    """The bytes of its storage, from and up to, in which a tensor's elements lie."""
    first = int(tensor.storage_offset()) * tensor.itemsize
    if not tensor.numel():
        return first, first
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return first, first + (last + 1) * tensor.itemsize


def _contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    stride, step = [], 1
    for size in reversed(shape):
        stride.append(step)
        step *= size
    return tuple(reversed(stride))


def _repaired(reduced: Any, requires_grad: bool) -> Any:
    """Put our own rebuild functions in the place of torch's where those fall short, also where they are nested in the
    description of a subclass."""
    if isinstance(reduced, tuple):
        return tuple(_repaired(part, requires_grad) for part in reduced)
    # torch asks for a typed storage where its own reducer (for fp8, uint16, ...) hands out an untyped one
    if reduced is torch._utils._rebuild_tensor_v3:
        return rebuild._tensor_v3
    # torch asks a typed storage for its device, which warns that typed storages are deprecated
    if reduced is torch._utils._rebuild_qtensor:
        return rebuild._quantized_tensor
    # torch keeps what it has rebuilt in a list, and does not describe requires_grad
    if reduced is torch._utils._rebuild_sparse_tensor:
        return rebuild._sparse_leaf if requires_grad else rebuild._sparse_tensor
    return reduced
