"""Choose next tokens from the candidates of all rows, identically on all chips."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from galaxy_mpi.arrays import F32, Ints
from galaxy_mpi.kernels import SamplingParams, choose

__all__ = ["Sampler"]


class Sampler:
    """Chooses tokens for the requests of a run.

    Parameters
    ----------
    params : SamplingParams
    slice_size : int
        Size of a row's shard of the vocabulary.
    """

    def __init__(self, params: SamplingParams, slice_size: int) -> None:
        self._params, self._slice_size = params, slice_size
        self._streams: dict[int, np.random.Generator] = {}

    def choose(
        self, values_RBk: F32, tokens_RBk: Ints, rows: Sequence[int], requests: Sequence[int]
    ) -> dict[int, int]:
        """Return the next token of each of ``requests``.

        Parameters
        ----------
        values_RBk, tokens_RBk : ndarray of shape (R, B, k)
            Candidates of each row of the mesh, best first: logits, and token numbers in its shard.
        rows : sequence of int
            User index of each request.
        requests : sequence of int
            Request numbers, whose random streams advance.

        Raises
        ------
        FloatingPointError
            If a request's best logit is not finite.
        """
        chosen_rows = np.array(rows, np.int64)
        best_RB = values_RBk[:, chosen_rows, 0]
        best_B = np.maximum.reduce(best_RB, 0)
        if not np.logical_and.reduce(np.isfinite(best_B)):
            raise FloatingPointError("a logit is not finite: the weights or a kernel are broken")
        if self._params.temperature == 0 or self._params.top_k == 1:
            # Of equal logits, the lowest token wins: the first row, and its first candidate.
            row_U, (_, n_users, k) = best_RB.argmax(0), tokens_RBk.shape
            tokens_U = tokens_RBk.take((row_U * n_users + chosen_rows) * k)
            tokens_U += row_U * self._slice_size
            return dict(zip(requests, tokens_U.tolist(), strict=True))
        first = self._slice_size * np.arange(len(values_RBk))[:, None, None]
        values_UC: F32 = _by_user(values_RBk[:, chosen_rows])
        tokens_UC: Ints = _by_user((tokens_RBk + first)[:, chosen_rows])
        chosen = choose(values_UC, tokens_UC, self._params, [self._stream(n) for n in requests])
        return dict(zip(requests, chosen.tolist(), strict=True))

    def forget(self, request: int) -> None:
        """Drop the random stream of a finished request."""
        self._streams.pop(request, None)

    def _stream(self, request: int) -> "np.random.Generator":
        if request not in self._streams:
            self._streams[request] = self._params.stream(request)
        return self._streams[request]


_Item = TypeVar("_Item", bound=np.generic)


def _by_user(array_RUk: NDArray[_Item]) -> NDArray[_Item]:
    """Concatenate each user's candidates of all rows: (R, U, k) to (U, R k)."""
    return array_RUk.swapaxes(0, 1).reshape(array_RUk.shape[1], -1)
