"""From logits cut over rows to the next tokens, the same on all chips.

Each row's best 32 travel over the column: values in the candidates' dtype, token numbers within
the row's slice as 16-bit integers (32-bit where a slice is longer than 65,536).

References
----------
.. [1] tt-metal, models/common/sampling/.
"""

from collections.abc import Sequence

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl import CCL, BufferKey
from galaxy_mpi.dtypes import DType
from galaxy_mpi.kernels import SamplingParams, choose, top_k
from galaxy_mpi.kernels.sampling import MAX_TOP_K
from galaxy_mpi.mesh import Axis

__all__ = ["Sampler"]


class Sampler:
    """Chooses tokens for the requests of a run.

    Parameters
    ----------
    params : SamplingParams
    dtype : DType
        Of the values that travel.
    n_valid : int, optional
        Tokens of this row's slice that exist; the rest is padding.
    """

    def __init__(self, params: SamplingParams, dtype: DType, n_valid: int | None = None) -> None:
        self._params, self._dtype, self._n_valid = params, dtype, n_valid
        self._streams: dict[int, np.random.Generator] = {}

    def sample(
        self, ccl: CCL, logits_BV: F32, rows: Sequence[int], requests: Sequence[int]
    ) -> dict[int, int]:
        """Return the next token of each of ``requests``.

        Parameters
        ----------
        ccl : CCL
            Of the mode.
        logits_BV : ndarray of shape (B, V/R)
            This row's slice of the logits; padding is overwritten.
        rows : sequence of int
            Which row belongs to each request.
        requests : sequence of int
            Their numbers: whose stream is advanced.

        Raises
        ------
        FloatingPointError
            If a request's best logit is not finite: the model diverged.
        """
        slice_size = logits_BV.shape[1]
        index_type = np.dtype(np.uint16 if slice_size <= 2**16 else np.uint32)
        if self._n_valid is not None and self._n_valid < slice_size:
            logits_BV[:, self._n_valid :] = -np.inf
        best = top_k(logits_BV, MAX_TOP_K)
        values = ccl.all_gather(
            best.values, axis=Axis.ROWS, dtype=self._dtype, key=BufferKey.SAMPLING_VALUES
        )
        raw = ccl.all_gather_bytes(
            best.tokens.astype(index_type).reshape(-1).view(np.uint8),
            axis=Axis.ROWS,
            key=BufferKey.SAMPLING_INDICES,
        )
        local = raw.view(index_type).reshape(values.shape).astype(np.int64)
        tokens = local + slice_size * np.arange(len(values))[:, None, None]
        values_UC = values[:, list(rows)].swapaxes(0, 1).reshape(len(rows), -1)
        tokens_UC = tokens[:, list(rows)].swapaxes(0, 1).reshape(len(rows), -1)
        if not np.isfinite(values_UC.max(initial=0.0)):
            raise FloatingPointError("a logit is not finite: the weights or a kernel are broken")
        chosen = choose(values_UC, tokens_UC, self._params, [self._stream(n) for n in requests])
        return dict(zip(requests, chosen.tolist(), strict=True))

    def forget(self, request: int) -> None:
        """Drop the stream of a request that has ended."""
        self._streams.pop(request, None)

    def _stream(self, request: int) -> np.random.Generator:
        if request not in self._streams:
            self._streams[request] = self._params.stream(request)
        return self._streams[request]
