"""Weights dealt out like cards: every kv head on two rows, the feed-forward in blocks of 32.

galaxy-mpi decode --layout docs/examples/dealt_out.py:DealtOut
"""

from functools import cached_property
from math import gcd

import numpy as np

from galaxy_mpi.models import Layout


class DealtOut(Layout):
    @property
    def slots_per_row(self):
        return 2 * super().slots_per_row  # so a kv head has two slots, each with half its heads

    @cached_property
    def slots(self):
        rows = self.mesh.rows
        return tuple(slot for row in range(rows) for slot in super(DealtOut, self).slots[row::rows])

    def hidden_at(self, row):
        width = gcd(self.hidden, 32)
        blocks = np.arange(self.hidden * self.mesh.rows).reshape(-1, width)
        mine = blocks[row :: self.mesh.rows].reshape(-1)
        return np.where(mine < self.config.hidden_dim, mine, -1)
