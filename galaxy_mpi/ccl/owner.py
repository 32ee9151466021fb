"""The hops of a ring or a line, applied by the owner of a chunk: the same bits in one crossing.

The owner gets all terms as they are and does what the hops would do to them, in the same order.
"""

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.bench import Bench
from galaxy_mpi.ccl.calls import dtype_of
from galaxy_mpi.ccl.direct import AddTerms
from galaxy_mpi.ccl.rows import Wiring
from galaxy_mpi.ccl.topology import routes
from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.dtypes import FLOAT32

__all__ = ["by_hops"]


def by_hops(wiring: Wiring) -> AddTerms:
    """Return how the owner adds terms (size, *sent) in float32, rounding as the hops do."""

    def add(bench: Bench, terms: F32, wire: Wire, out: F32) -> None:
        dtype, index = dtype_of(wire), bench.index(wire.axis)
        round_ = None if dtype is FLOAT32 else bench.codec(dtype, wire.sent).round
        total = terms[index]
        partial = bench.array(*wire.sent)
        for first, *rest in routes(wiring(len(terms)), index):
            so_far = terms[first]
            if round_ is not None:
                bench.call(round_, so_far, partial)
                so_far = partial
            for member in rest:
                bench.call(np.add, so_far, terms[member], partial)
                so_far = partial
                if round_ is not None:
                    bench.call(round_, partial, partial)
            bench.call(np.add, so_far, total, out)
            total = out

    return add
