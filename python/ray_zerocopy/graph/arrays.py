"""NumPy arrays whose axes were permuted: described by the order of the axes, so that their memory is not copied."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import rebuild


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
