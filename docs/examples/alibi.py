"""ALiBi: scores fall with the distance of a key, with one slope per head (Press et al. 2021).

galaxy-mpi decode --attention-class docs/examples/alibi.py:AlibiAttention
"""

import numpy as np

from galaxy_mpi.systems import Attention


class AlibiAttention(Attention):
    def decode(self, q_BNH, k_BKTH, v_BKTH, positions_B):
        users = zip(q_BNH[:, None], k_BKTH, v_BKTH, positions_B, strict=True)
        return np.concatenate([self.attend(*user) for user in users])

    def prefill(self, q_SNH, k_KTH, v_KTH, *, start):
        return self.attend(q_SNH, k_KTH, v_KTH, start)

    def attend(self, q_SNH, k_KTH, v_KTH, first):
        """Return attention of queries at positions ``first``, ``first + 1``, ..."""
        heads = np.array(self.heads)  # model-wide numbers of the heads on this chip
        slopes_N = 2.0 ** (-8 * (heads + 1) / self.n_heads)
        queries_S, keys_T = first + np.arange(len(q_SNH)), np.arange(k_KTH.shape[1])
        distances_ST = queries_S[:, None] - keys_T
        bias_NST = np.where(distances_ST < 0, -np.inf, -slopes_N[:, None, None] * distances_ST)
        k, v = (np.repeat(of_kv, len(heads) // len(of_kv), axis=0) for of_kv in (k_KTH, v_KTH))
        scores = np.einsum("snh,nth->nst", q_SNH, k) / np.sqrt(q_SNH.shape[2]) + bias_NST
        weights = np.exp(scores - scores.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        return np.einsum("nst,nth->snh", weights, v).astype(np.float32)
