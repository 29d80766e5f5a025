"""NumPy's dtypes, and arrays whose axes were permuted: described by the order of the axes, so that their memory is not
copied."""

from __future__ import annotations

from typing import Any

import numpy as np

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
    """NumPy hands out the memory of C- and Fortran-ordered arrays as it is, and copies every other into the
    pickle. An array that only has its axes in another order is dense too: describe it by the order."""
    if array.dtype.hasobject or array.flags.c_contiguous or array.flags.f_contiguous:
        return NotImplemented
    order = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    dense = array.transpose(order)
    if not dense.flags.c_contiguous:
        return NotImplemented
    return rebuild._transposed, (dense, tuple(sorted(range(array.ndim), key=order.__getitem__)))
