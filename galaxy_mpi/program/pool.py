"""Arrays of one chip's program: made while it is bound, reused as soon as nobody reads them.

A program runs in the order in which it is bound. So an array that no later op reads may be given to a
later op, and layers that are alike come to use the same few arrays.
"""

from collections import defaultdict
from math import prod
from typing import Any

import numpy as np

from galaxy_mpi.arrays import F32, Bytes

__all__ = ["ArrayPool"]

_ALIGNMENT = 64


class ArrayPool:
    """Storage that is given out and taken back while a program is bound.

    Attributes
    ----------
    n_bytes : int
        Bytes of all storage made so far.
    """

    def __init__(self) -> None:
        self._free: defaultdict[int, list[Bytes]] = defaultdict(list)
        self._out: dict[int, Bytes] = {}
        self.n_bytes = 0

    def take(self, *shape: int) -> F32:
        """Return a float32 array; what it holds is undefined."""
        values: F32 = self.take_bytes(4 * prod(shape)).view(np.float32).reshape(shape)
        return values

    def take_bytes(self, n_bytes: int) -> Bytes:
        """Return so many bytes, aligned to a cache line."""
        size = max(_ALIGNMENT, -(-n_bytes // _ALIGNMENT) * _ALIGNMENT)
        free = self._free[size]
        if free:
            storage = free.pop()
        else:
            raw = np.zeros(size + _ALIGNMENT, np.uint8)
            start = -raw.__array_interface__["data"][0] % _ALIGNMENT
            storage = raw[start : start + size]
            self.n_bytes += size
        self._out[_address(storage)] = storage
        return storage[:n_bytes]

    def owner(self, array: Any) -> int | None:
        """Return which piece of storage an array is a view of, None if of none given out."""
        if not isinstance(array, np.ndarray):
            return None
        low = _address(array)
        if low in self._out:
            return low
        root = array
        while isinstance(root.base, np.ndarray):
            root = root.base
        start = _address(root)
        aligned = start + -start % _ALIGNMENT
        return aligned if aligned in self._out else None

    def give_back(self, owner: int) -> Bytes:
        """Take storage back: no call that is bound from now on reads what it holds."""
        storage = self._out.pop(owner)
        self._free[len(storage)].append(storage)
        return storage


def _address(array: np.ndarray[Any, Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
