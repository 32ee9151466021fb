"""Keys and values of this chip's users and kv heads, packed."""

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.dtypes import DType

__all__ = ["KVCache"]


class KVCache:
    """Cache of one layer on one chip.

    Row r of the mesh holds the kv heads of row r, column c the users of column c. A position is a
    packed row of H values (bfp8: exponents, then data); pages of memory are touched only as
    positions are written.

    Parameters
    ----------
    n_users, n_kv_heads, head_dim : int
        Of this chip.
    n_positions : int
        Room of each user.
    dtype : DType
    """

    def __init__(
        self, n_users: int, n_kv_heads: int, head_dim: int, *, n_positions: int, dtype: DType
    ) -> None:
        self.head_dim, self.n_positions, self._dtype = head_dim, n_positions, dtype
        # Keys and values side by side: one op packs both, one unpacks both.
        shape = (n_users, n_kv_heads, n_positions, 2, dtype.row_bytes(head_dim))
        self._rows = np.zeros(shape, np.uint8)

    @property
    def n_bytes(self) -> int:
        """Bytes reserved for keys and values."""
        return self._rows.nbytes

    def write(self, k_BKH: F32, v_BKH: F32, positions_B: Ints) -> None:
        """Write one position of each user, k and v in one op; position -1 skips the user.

        Raises
        ------
        IndexError
            If a position is beyond the cache: the engine ends a user before that.
        """
        users = np.flatnonzero(positions_B >= 0)
        both = np.stack([k_BKH, v_BKH], axis=2)[users]
        self._rows[users, :, positions_B[users]] = self._dtype.pack_rows(both)

    def read(self, n_positions: int) -> tuple[F32, F32]:
        """Return the first positions of all users, two arrays of shape (B, K, T, H)."""
        both = self._dtype.unpack_rows(self._rows[:, :, :n_positions], self.head_dim)
        return both[..., 0, :], both[..., 1, :]
