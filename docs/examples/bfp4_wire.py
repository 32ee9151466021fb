"""All-reduces within a column send bfloat4_b: half the bytes, but different tokens.

galaxy-mpi decode --system docs/examples/bfp4_wire.py:SYSTEM --against galaxy
"""

from dataclasses import replace

from galaxy_mpi.dtypes import BFP4
from galaxy_mpi.systems import GALAXY
from galaxy_mpi.systems.ops.reduce import FusedReduce


class Bfp4Reduce(FusedReduce):
    def __init__(self, site, weight):
        formats = replace(site.precision.decode, wo_sum=BFP4, w2_sum=BFP4)
        super().__init__(site.of(replace(site.precision, decode=formats)), weight)


SYSTEM = replace(
    GALAXY,
    name="bfp4 wire",
    decode=replace(GALAXY.decode, output=Bfp4Reduce, down=Bfp4Reduce),
)
