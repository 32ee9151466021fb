"""The large weights of a chip, which are multiplied in pieces; see `galaxy_mpi.prefetch.pieces`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.dtypes import FLOAT32, PackedTensor
from galaxy_mpi.prefetch import prompt_rows
from galaxy_mpi.prefetch.pieces import Product, piece_rows, pieces_of
from galaxy_mpi.prefetch.prompt_rows import ProductRows, PromptProduct
from galaxy_mpi.weights import WeightId

if TYPE_CHECKING:
    from galaxy_mpi.systems.chip import ChipBinder

__all__ = ["PIECE_VALUES", "WeightStream"]

PIECE_VALUES = 2**19
"""Values of a piece in decode: 2 MiB of float32. Half and twice as many take as long."""


class _Multiplication:
    """One multiplication of few rows by a weight, bound to its arrays.

    Parameters
    ----------
    product : Product
    chip : ChipBinder
    tensor : PackedTensor
        The weight.
    x, out : ndarray
    """

    def __init__(
        self, product: Product, chip: "ChipBinder", tensor: PackedTensor, x: F32, out: F32
    ) -> None:
        self._product, self._x = product, product.factors.read(x)
        # Read by the product itself if it is float32; else a copy is.
        self._read = x if self._x is x else product.factors.rows(chip.workspace, *x.shape)
        term = chip.workspace.values("term of a product", *out.shape) if product.needs_term else out
        self._pieces = [
            (
                piece.unpack,
                product.bind(
                    self._read[:, piece.rows], piece.values, out, term, adds=piece.rows.start > 0
                ),
            )
            for piece in pieces_of(chip, tensor, product.factors, PIECE_VALUES)
        ]

    def __call__(self) -> None:
        """Multiply."""
        if self._read is not self._x:
            np.copyto(self._read, self._x)
        with self._product.ready():
            for unpack, calls in self._pieces:
                unpack()
                for call, arguments in calls:
                    call(*arguments)


class WeightStream:
    """The large weights of one chip.

    Parameters
    ----------
    tensors : mapping of WeightId to PackedTensor
        Weights of the chip that may be streamed.
    product : Product
    least : int
        Values from which on a weight is streamed.
    """

    def __init__(
        self, tensors: Mapping[WeightId, PackedTensor], product: Product, least: int
    ) -> None:
        self._product = product
        self._tensors = {
            weight: tensor
            for weight, tensor in tensors.items()
            if tensor.n_values >= least and tensor.dtype is not FLOAT32
        }
        self._known: dict[object, bytes | None] = {}

    @property
    def product(self) -> str:
        """Name of the product."""
        return self._product.name

    def has(self, weight: WeightId) -> bool:
        """Return whether a weight is streamed."""
        return weight in self._tensors

    def shape(self, weight: WeightId) -> tuple[int, ...]:
        """Return the shape of a weight, (in, out)."""
        return self._tensors[weight].shape

    def piece_bytes(self, *, prefill: bool) -> int:
        """Return the bytes of the largest unpacked piece of decode or prefill."""
        n_values = prompt_rows.PIECE_VALUES if prefill else PIECE_VALUES
        shapes = [tensor.shape for tensor in self._tensors.values()]
        size = self._product.factors.value_bytes
        return max((size * piece_rows(shape, n_values) * shape[1] for shape in shapes), default=0)

    def multiply(
        self,
        chip: "ChipBinder",
        weight: WeightId,
        x: F32,
        out: F32,
        rows: ProductRows | None = None,
        *,
        packs: bool = False,
    ) -> None:
        """Add a product to the program of a chip.

        Parameters
        ----------
        chip : ChipBinder
        weight : WeightId
        x : ndarray of shape (M, K)
            Values of bfloat16.
        out : ndarray of shape (M, N)
        rows : ProductRows, optional
            Which rows are needed; all, multiplied together, if it is not given.
        packs : bool
            Whether the rows that are needed are written one after another.
        """
        tensor, product = self._tensors[weight], self._product
        if rows is None:
            chip.call(_Multiplication(product, chip, tensor, x, out))
            return
        known = self._known
        chip.call(PromptProduct(product, chip, tensor, x, out, rows, packs=packs, known=known))
