"""An all-reduce that adds in pairs.

galaxy-mpi decode --system docs/examples/tree_all_reduce.py:SYSTEM
"""

from dataclasses import replace
from math import ceil, log2, prod

import numpy as np

from galaxy_mpi.ccl.algorithms import Algorithm
from galaxy_mpi.ccl.calls import round_in_place
from galaxy_mpi.ccl.direct import DirectAllGather
from galaxy_mpi.program import Cross
from galaxy_mpi.systems import GALAXY
from galaxy_mpi.systems.ops.reduce import FusedReduce


class TreeAllReduce(DirectAllGather):
    def cross(self):
        terms = list(super().cross())
        while len(terms) > 1:
            terms = [self.add(*terms[n : n + 2]) for n in range(0, len(terms), 2)]
        return terms[0]

    def add(self, *terms):
        total = self._builder.array(*self._wire.sent)
        self._builder.call(np.add, terms[0], terms[1] if len(terms) > 1 else 0, total)
        round_in_place(self._builder, self._wire.dtype, total)
        return total


class TreeReduce(FusedReduce):
    def charges(self, costs):
        yield from self.matmul(costs, f"{self.weight}_matmul", self.weight)
        (wire,), m, size = self.wires(), costs.machine, self.site.mesh.rows
        own_s = m.collective_s + ceil(log2(size)) * costs.add_s(prod(wire.shape))
        # Round r sends 2**r chips far, so the middle link carries size - 1 blocks in total.
        wire_s = (size - 1) * wire.n_bytes / (m.links * m.link_bytes_per_s)
        yield Cross(f"tree_all_reduce_{self.weight}", wire, own_s, wire_s)


OPS = replace(GALAXY.decode, output=TreeReduce, down=TreeReduce)
TREE = replace(GALAXY.decode_algorithms, all_reduce=Algorithm("tree", TreeAllReduce))
SYSTEM = replace(GALAXY, name="tree", decode=OPS, decode_algorithms=TREE)
