"""The rounding of a ring or line, applied by the owner of a chunk: the same bits in one exchange.

The owner receives all terms unrounded and applies the additions and roundings of the hops in order.
"""

import numpy as np

from galaxy_mpi.arrays import F32
from galaxy_mpi.ccl.builder import Builder
from galaxy_mpi.ccl.calls import dtype_of
from galaxy_mpi.ccl.direct import AddTerms
from galaxy_mpi.ccl.rows import MakeTopology
from galaxy_mpi.ccl.topology import routes
from galaxy_mpi.ccl.wire import Wire
from galaxy_mpi.dtypes import FLOAT32

__all__ = ["by_hops"]


def by_hops(make_topology: MakeTopology) -> AddTerms:
    """Return how the owner adds terms (size, *sent) in float32, rounding as the hops do."""

    def add(builder: Builder, terms: F32, wire: Wire, out: F32) -> None:
        dtype, index = dtype_of(wire), builder.index(wire.axis)
        round_ = None if dtype is FLOAT32 else builder.codec(dtype, wire.sent).round
        total = terms[index]
        partial = builder.array(*wire.sent)
        for first, *rest in routes(make_topology(len(terms)), index):
            so_far = terms[first]
            if round_ is not None:
                builder.call(round_, so_far, partial)
                so_far = partial
            for member in rest:
                builder.call(np.add, so_far, terms[member], partial)
                so_far = partial
                if round_ is not None:
                    builder.call(round_, partial, partial)
            builder.call(np.add, so_far, total, out)
            total = out

    return add
