"""Who holds what: the one place that cuts weights over the mesh.

=============  ==========  ==============  ====================================================
weight         (in, out)   rows cut        columns cut
=============  ==========  ==============  ====================================================
wqkv           D, (N+2K)H  out, by heads   in
wo             NH, D       in, by heads    out
w1, w3         D, F        out             in
w2             F, D        in              out
embedding      V, D        -               D
norm gains     D           -               D
lm_head        D, V        V               in
=============  ==========  ==============  ====================================================

Row r's slice of wqkv is [its query heads | its key heads | its value heads]. What does not divide
is padded (`galaxy_mpi.models.layout`).
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.models.layout import Layout
from galaxy_mpi.weights import Vector, Weight

__all__ = ["RowReader", "Sharding", "TensorReader"]

RowReader = Callable[[Ints], F32]
"""Returns the rows of some numbers, in their order."""


class TensorReader(Protocol):
    """An open checkpoint. Names are Meta's: wq, wk, wv, wo, w1, w2, w3, and the rest."""

    def read(self, name: str, layer: int, rows: slice, cols: slice) -> F32:
        """Return a part of a matrix, stored (out, in), reading nothing else of the file.

        Parameters
        ----------
        name : str
            ``wq`` ... ``w3``, ``bq``, ``bk``, ``bv``, ``q_norm``, ``k_norm``, ``attention_norm``,
            ``ffn_norm``, ``norm``, ``embedding``, ``output``.
        layer : int
            Layer number; ignored for tensors that belong to no layer.
        rows, cols : slice
            Of the stored matrix; a vector is read as one row.
        """

    def row_reader(self, name: str, cols: slice) -> "RowReader":
        """Return what reads single rows of a matrix that belongs to no layer."""


_Runs = list[tuple[int, slice]]
"""Where each run of stored rows or columns goes: (first place, stored ones)."""


class Sharding(NamedTuple):
    """The parts of one chip, and how to read them: what a mesh pads is zeros.

    Parameters
    ----------
    layout : Layout
    rank : int
    """

    layout: Layout
    rank: int

    @property
    def row(self) -> int:
        """This chip's row."""
        return self.layout.mesh.coord(self.rank)[0]

    @property
    def col(self) -> int:
        """This chip's column."""
        return self.layout.mesh.coord(self.rank)[1]

    @property
    def n_valid_tokens(self) -> int:
        """How many tokens of this row's slice of the vocabulary exist."""
        return self.layout.n_valid_tokens(self.row)

    def read_weight(self, reader: "TensorReader", weight: Weight, layer: int) -> F32:
        """Return this chip's part of a layer's matmul weight, (in, out)."""
        layout, dim, hidden = self.layout, self._dim(), _runs(self.layout.hidden_at(self.row))
        q_rows, kv_rows = self._q_rows(), self._kv_rows()

        def read(stored: str, out: _Runs, n_out: int, in_: _Runs, n_in: int) -> F32:
            return _read(reader, stored, layer, out, n_out, in_, n_in)

        if weight is Weight.WQKV:
            sizes = self._head_sizes()
            parts = (("wq", q_rows), ("wk", kv_rows), ("wv", kv_rows))
            stored = np.concatenate([read(n, runs, sizes[n], dim, layout.dim) for n, runs in parts])
        elif weight is Weight.WO:
            stored = read(str(weight), dim, layout.dim, q_rows, self._head_sizes()["wq"])
        elif weight is Weight.W2:
            stored = read(str(weight), dim, layout.dim, hidden, layout.hidden)
        else:
            stored = read(str(weight), hidden, layout.hidden, dim, layout.dim)
        return np.ascontiguousarray(stored.T)

    def read_qkv_bias(self, reader: "TensorReader", layer: int) -> F32:
        """Return the bias of this row's heads, for one column to add: others get zeros."""
        sizes, one = self._head_sizes(), [(0, slice(0, 1))]
        q_rows, kv_rows = self._q_rows(), self._kv_rows()
        parts = (("wq", "bq", q_rows), ("wk", "bk", kv_rows), ("wv", "bv", kv_rows))
        bias: F32 = np.concatenate(
            [_read(reader, n, layer, one, 1, runs, sizes[of])[0] for of, n, runs in parts]
        )
        return bias if self.col == 0 else np.zeros_like(bias)

    def read_gain(self, reader: "TensorReader", gain: Vector, layer: int) -> F32:
        """Return this column's part of a norm's gain, (D/C,)."""
        one = [(0, slice(0, 1))]
        found: F32 = _read(reader, str(gain), layer, one, 1, self._dim(), self.layout.dim)[0]
        return found

    def embedding(self, reader: "TensorReader") -> RowReader:
        """Return what reads this chip's part of the stream at its beginning.

        That is tokens' embeddings: (B,) to (B, D/C).
        """
        width, layout = self.layout.stream, self.layout
        stream = layout.dim_at(self.col)
        if layout.is_scattered:
            stream = stream[self.row * width : (self.row + 1) * width]
        runs = [
            (slice(first, first + cols.stop - cols.start), reader.row_reader("embedding", cols))
            for first, cols in _runs(stream)
        ]
        if [place for place, _ in runs] == [slice(0, width)]:
            return runs[0][1]

        def read(tokens_B: Ints) -> F32:
            out = np.zeros((len(tokens_B), width), np.float32)
            for place, read_rows in runs:
                out[:, place] = read_rows(tokens_B)
            return out

        return read

    def read_tokens(self, reader: "TensorReader", name: str, first: int, n: int) -> F32:
        """Return this column's part of ``n`` tokens' rows from ``first``, zeros past the last."""
        c, layout = self.layout.config, self.layout
        n_known = max(0, min(n, c.vocab_size - first))
        rows: _Runs = [(0, slice(first, first + n_known))] if n_known else []
        return _read(reader, name, -1, rows, n, self._dim(), layout.dim)

    def _head_sizes(self) -> dict[str, int]:
        head_dim, layout = self.layout.config.head_dim, self.layout
        kv = layout.slots_per_row * head_dim
        return {"wq": layout.n_heads * head_dim, "wk": kv, "wv": kv}

    def _dim(self) -> _Runs:
        return _runs(self.layout.dim_at(self.col))

    def _q_rows(self) -> _Runs:
        return self._rows_of(self.layout.head_numbers(self.row)[0])

    def _kv_rows(self) -> _Runs:
        return self._rows_of(self.layout.head_numbers(self.row)[1])

    def _rows_of(self, heads: tuple[int, ...]) -> _Runs:
        """Return the stored rows of heads; -1: zeros."""
        width = self.layout.config.head_dim
        numbers = np.array(heads, np.int64)[:, None]
        return _runs(np.where(numbers < 0, -1, numbers * width + np.arange(width)).reshape(-1))


def _runs(numbers: Ints) -> _Runs:
    """Return the runs of stored numbers that follow each other; -1 is none.

    Examples
    --------
    >>> _runs(np.array([4, 5, -1, 9]))
    [(0, slice(4, 6, None)), (3, slice(9, 10, None))]
    >>> _runs(np.array([-1, 0]))
    [(1, slice(0, 1, None))]
    """
    breaks = np.flatnonzero((np.diff(numbers) != 1) | (numbers[:-1] < 0)) + 1
    starts, stops = [0, *breaks.tolist()], [*breaks.tolist(), len(numbers)]
    return [
        (start, slice(int(numbers[start]), int(numbers[stop - 1]) + 1))
        for start, stop in zip(starts, stops, strict=True)
        if stop > start and numbers[start] >= 0
    ]


def _read(
    reader: "TensorReader",
    name: str,
    layer: int,
    rows: _Runs,
    n_rows: int,
    cols: _Runs,
    n_cols: int,
) -> F32:
    """Return a matrix of zeros with runs of a stored one in it."""
    if len(rows) == len(cols) == 1:
        (_, r), (_, c) = rows[0], cols[0]
        if (r.stop - r.start, c.stop - c.start) == (n_rows, n_cols):
            return reader.read(name, layer, r, c)
    out = np.zeros((n_rows, n_cols), np.float32)
    for to_row, r in rows:
        for to_col, c in cols:
            part = reader.read(name, layer, r, c)
            out[to_row : to_row + len(part), to_col : to_col + part.shape[1]] = part
    return out
