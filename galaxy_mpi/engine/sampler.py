"""From logits cut over rows to the next tokens, the same on all chips.

Each row's best 32 travel over the column: values in the candidates' dtype, token numbers within
the row's slice as 16-bit integers (32-bit where a slice is longer than 65,536).

References
----------
.. [1] tt-metal, models/common/sampling/.
"""

import numpy as np

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.ccl import CCL, BufferKey
from galaxy_mpi.dtypes import DType
from galaxy_mpi.kernels import SamplingParams, choose, top_k
from galaxy_mpi.kernels.sampling import MAX_TOP_K
from galaxy_mpi.mesh import Axis

__all__ = ["Sampler"]


class Sampler:
    """Chooses tokens for the users of a batch.

    Parameters
    ----------
    ccl : CCL
    params : SamplingParams
    n_users : int
    dtype : DType
        Of the values that travel.
    """

    def __init__(self, ccl: CCL, params: SamplingParams, n_users: int, dtype: DType) -> None:
        self._ccl, self._params, self._dtype = ccl, params, dtype
        self._streams = [params.stream(user) for user in range(n_users)]

    def sample(self, logits_BV: F32, users: Ints) -> dict[int, int]:
        """Return the next token of each of ``users``.

        Parameters
        ----------
        logits_BV : ndarray of shape (B, V/R)
            This row's slice of all users' logits.
        users : ndarray of int
            Whose stream is advanced.

        Raises
        ------
        FloatingPointError
            If a user's best logit is not finite: the model diverged.
        """
        slice_size = logits_BV.shape[1]
        index_type = np.dtype(np.uint16 if slice_size <= 2**16 else np.uint32)
        best = top_k(logits_BV, MAX_TOP_K)
        values = self._ccl.all_gather(
            best.values, axis=Axis.ROWS, dtype=self._dtype, key=BufferKey.SAMPLING_VALUES
        )
        raw = self._ccl.all_gather_bytes(
            best.tokens.astype(index_type).reshape(-1).view(np.uint8),
            axis=Axis.ROWS,
            key=BufferKey.SAMPLING_INDICES,
        )
        local = raw.view(index_type).reshape(values.shape).astype(np.int64)
        tokens = local + slice_size * np.arange(len(values))[:, None, None]
        of_users = np.s_[:, users]
        values_UC = values[of_users].swapaxes(0, 1).reshape(len(users), -1)
        tokens_UC = tokens[of_users].swapaxes(0, 1).reshape(len(users), -1)
        if not np.isfinite(values_UC.max(initial=0.0)):
            raise FloatingPointError("a logit is not finite: the weights or a kernel are broken")
        streams = [self._streams[user] for user in users]
        chosen = choose(values_UC, tokens_UC, self._params, streams)
        return dict(zip(users.tolist(), chosen.tolist(), strict=True))
