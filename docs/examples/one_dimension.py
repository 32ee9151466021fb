"""1-D sharding: weights are sharded over all chips in one dim, and the mesh is one long ring.

galaxy-mpi estimate --model llama3-70b --system docs/examples/one_dimension.py:SYSTEM
"""

from dataclasses import replace

from galaxy_mpi.systems import TT_TRANSFORMERS_1D, Fabric

SYSTEM = replace(
    TT_TRANSFORMERS_1D,
    name="1-D ring",
    fabric=Fabric(),  # rings on all links
    is_persistent=True,
    prefetch=True,
)
