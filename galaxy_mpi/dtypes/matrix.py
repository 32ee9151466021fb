"""Arrays seen as matrices: leading dims flattened to rows."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["matrix_shape", "readable", "writable"]


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (product of the leading dims, last dim)."""
    return math.prod(shape[:-1]), shape[-1]


def readable(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return ``array`` as a matrix with contiguous rows; a copy where no view is one.

    Raises
    ------
    ValueError
        If ``array.shape != shape``: numpy would broadcast it.
    """
    view = _view(array, shape)
    return np.ascontiguousarray(array).reshape(matrix_shape(shape)) if view is None else view


@contextmanager
def writable(array: NDArray[Any], shape: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    """Offer ``array`` as a matrix with contiguous rows; what is written arrives in ``array``."""
    view = _view(array, shape)
    matrix = np.empty(matrix_shape(shape), array.dtype) if view is None else view
    yield matrix
    if view is None:
        array[...] = matrix.reshape(shape)


def _view(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any] | None:
    if array.shape != shape:
        raise ValueError(f"got values of shape {array.shape}, the codec is bound to {shape}")
    try:
        matrix = array if len(shape) == 2 else array.reshape(matrix_shape(shape), copy=False)
    except ValueError:
        return None
    return matrix if matrix.strides[1] == matrix.itemsize else None
