"""Arrays as matrices: leading dims flattened to rows without a copy, or two rows in one."""

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_pairs", "as_rows", "matrix_shape", "write_pairs"]

_Item = TypeVar("_Item", bound=np.generic)


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return (product of the leading dims, last dim)."""
    return math.prod(shape[:-1]), shape[-1]


def as_rows(array: NDArray[_Item], rows: int, width: int) -> NDArray[_Item]:
    """Return ``array`` as a matrix (rows, width), a view.

    Raises
    ------
    ValueError
        If the array has another number of rows or values a row, if the values of a row do not lie
        side by side, or if the rows are not equally far apart.
    """
    if array.ndim == 2 and array.shape == (rows, width):
        matrix = array
    elif array.shape[-1:] == (width,) and math.prod(array.shape[:-1]) == rows:
        matrix = array.reshape(rows, width, copy=False)
    else:
        raise ValueError(f"got shape {array.shape}, bound are {rows} rows of {width}")
    if matrix.strides[1] != matrix.itemsize and width > 1 and rows:
        raise ValueError(f"the values of a row must lie side by side, strides {array.strides}")
    return matrix


def as_pairs(words: NDArray[np.uint32], rows: int, width: int) -> NDArray[np.uint16]:
    """Return the halves of words that hold two rows of a matrix each, of shape (pairs, width, 2).

    Raises
    ------
    ValueError
        If the words are those of another matrix.
    """
    pairs = -(-rows // 2)
    return as_rows(words, pairs, width).view(np.uint16).reshape(pairs, width, 2, copy=False)


def write_pairs(matrix: NDArray[np.uint16], out: NDArray[np.uint16]) -> None:
    """Write a matrix, two rows in one, to what `as_pairs` returned, or some columns of it."""
    np.copyto(out[:, :, 0], matrix[0::2])
    np.copyto(out[: len(matrix) // 2, :, 1], matrix[1::2])
    out[len(matrix) // 2 :, :, 1] = 0
