"""NumPy's dtypes, and the arrays whose memory NumPy would copy into the pickle."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import core
from . import rebuild


def reduce_dtype(dtype: np.dtype[Any]) -> Any:
    """What pickle's ``reducer_override`` returns for a dtype.

    NumPy's own way has pickle set the state of a dtype, and ends the process where a byte of that is wrong (2.4).
    """
    plain = dtype.names is None and dtype.subdtype is None and dtype.metadata is None
    if plain and dtype.char in np.typecodes["All"] and np.dtype(dtype.str) == dtype:
        return rebuild._dtype, (dtype.str,)
    reduced = dtype.__reduce__()
    if len(reduced) == 3 and reduced[0] is np.dtype:
        return rebuild._dtype_of_state, reduced[1:]
    return NotImplemented


def reduce(array: np.ndarray[Any, Any]) -> Any:
    """What pickle's ``reducer_override`` returns for an array.

    NumPy hands out the memory of plain arrays that are C- or Fortran-ordered, and copies all others into the pickle.
    Those are described here over memory that is handed out: arrays whose axes have another order, arrays with gaps, and
    arrays of classes that have nothing but attributes of their own. A memmap becomes a plain array: its file is another
    process's affair, its numbers are in the image.
    """
    if array.dtype.hasobject:
        return _objects(array)
    cls = type(array)
    if cls is not np.ndarray:
        if cls.__reduce_ex__ is not np.ndarray.__reduce_ex__ or cls.__reduce__ not in _KNOWN:
            return NotImplemented
        plain = np.ndarray.view(array, np.ndarray)
        if isinstance(array, np.memmap):
            return rebuild._itself, (plain,)
        attributes = getattr(array, "__dict__", None) or None
        return rebuild._array_of, (cls, plain), attributes, None, None, rebuild._set_attributes
    if array.flags.c_contiguous or array.flags.f_contiguous:
        return NotImplemented
    order = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    dense = array.transpose(order)
    if dense.flags.c_contiguous:
        return rebuild._transposed, (dense, tuple(sorted(range(array.ndim), key=order.__getitem__)))
    steps = [(size - 1) * stride for size, stride in zip(array.shape, array.strides)]
    before, after = -sum(step for step in steps if step < 0), sum(step for step in steps if step > 0)
    length = before + after + array.itemsize
    if length > _GAPS * array.nbytes:
        copy = np.ascontiguousarray(array)
        copy.flags.writeable = array.flags.writeable  # as all arrays come back
        return rebuild._itself, (copy,)
    memory = core.view(core.address(array) - before, length, array)
    if not array.flags.writeable:
        memory.flags.writeable = False
    return rebuild._strided_array, (memory, array.dtype, before, array.shape, array.strides)


def _objects(array: np.ndarray[Any, Any]) -> Any:
    """NumPy sets the state of such an array from a list, and reads beyond its end where the shape says so (2.4)."""
    if type(array) is not np.ndarray:
        return NotImplemented
    if array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous:
        return rebuild._transposed, (array.T, tuple(reversed(range(array.ndim))))
    state = array.shape, array.reshape(-1).tolist(), array.flags.writeable
    return rebuild._no_objects, (array.dtype,), state, None, None, rebuild._set_objects


# An array with gaps is stored with them, as long as it is no more than so many times its own bytes.
_GAPS = 2
_KNOWN = (np.ndarray.__reduce__, np.ma.MaskedArray.__reduce__)
