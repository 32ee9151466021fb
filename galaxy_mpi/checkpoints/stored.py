"""Tensors in files, read part by part without touching the rest of the file.

The gguf library dequantises quantised tensors (GGUF), in whole blocks.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from galaxy_mpi.arrays import F32, Bytes, Ints
from galaxy_mpi.errors import CheckpointError

__all__ = ["PLAIN_KINDS", "FileMaps", "Stored"]

PLAIN_KINDS: dict[str, np.dtype[np.generic]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
"""Formats of plain consecutive numbers."""


class Stored(NamedTuple):
    """Location of a tensor."""

    path: Path
    name: str
    """In the file, for messages."""
    kind: str
    """One of `PLAIN_KINDS`, or a quantisation of GGUF."""
    shape: tuple[int, ...]
    offset: int
    n_bytes: int

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and columns; a vector is one row."""
        return (1, self.shape[0]) if len(self.shape) == 1 else (self.shape[0], self.shape[1])


class FileMaps:
    """The files of a checkpoint, mapped when first read."""

    def __init__(self) -> None:
        self._maps: dict[Path, Bytes] = {}

    def reader(self, stored: Stored, cols: slice) -> Callable[[slice | Ints], F32]:
        """Return what reads rows of a matrix's columns as float32, into a new array.

        Given numbers, it reads one row for each, in their order.

        Parameters
        ----------
        stored : Stored
        cols : slice

        Raises
        ------
        CheckpointError
            If the file cannot be read, or has become shorter since its header was read.
        """
        raw = self._map(stored.path)[stored.offset : stored.offset + stored.n_bytes]
        if len(raw) < stored.n_bytes:
            raise CheckpointError(
                f"{stored.path} was truncated while it was read: {stored.name} ends at byte "
                f"{stored.offset + stored.n_bytes}, the file now at "
                f"{len(self._map(stored.path))}; copy the model again"
            )
        n_rows, n_cols = stored.matrix_shape
        item = PLAIN_KINDS.get(stored.kind)
        if item is None:
            blocks = raw.reshape(n_rows, -1)
            return lambda rows: _dequantised(blocks, stored.kind, rows, cols, n_cols)
        part = raw.view(item).reshape(n_rows, n_cols)[:, cols]
        if stored.kind == "BF16":
            return lambda rows: (part[rows].astype(np.uint32) << 16).view(np.float32)
        return lambda rows: part[rows].astype(np.float32)

    def _map(self, path: Path) -> Bytes:
        if path not in self._maps:
            try:
                # As a plain array: slices of a memmap are made by a function in Python.
                self._maps[path] = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
            except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
                reason = getattr(error, "strerror", None) or "it is empty"
                raise CheckpointError(
                    f"{path} cannot be read: {reason}; all ranks need the model's files"
                ) from None
        return self._maps[path]


def _dequantised(raw: Bytes, kind: str, rows: slice | Ints, cols: slice, n_cols: int) -> F32:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType  # imported here: only for GGUF
    from gguf.quants import dequantize

    kind_id = GGMLQuantizationType[kind]
    per_block, block_bytes = GGML_QUANT_SIZES[kind_id]
    start, stop, _ = cols.indices(n_cols)
    first, last = start // per_block, -(-stop // per_block)
    blocks = np.ascontiguousarray(raw[:, first * block_bytes : last * block_bytes][rows])
    values = dequantize(blocks, kind_id)
    part: F32 = values[:, start - first * per_block : stop - first * per_block]
    return part.astype(np.float32, copy=False)
